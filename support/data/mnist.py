"""Where the digits come from: a folder, Chainer's dataset cache, a mirror, or the bundled digits.

All have MNIST's format: a label, and 28x28 pixels of 256 grays.
"""

import contextlib
import hashlib
import os
import sys
import tempfile
import threading
from typing import NamedTuple

from support.base import files, npz  # lets chainer import
from support.data import idx
from support.data.idx import SIDE, DatasetError

import chainer
import numpy as np

TINY = 100                  # digits to train and to test on with --test
CACHE_BYTES = 60_000 * (SIDE * SIDE + 1) + 4096     # of MNIST's training digits, labels, headers
MIRRORS = ('https://ossci-datasets.s3.amazonaws.com/mnist/',
           'https://storage.googleapis.com/cvdf-datasets/mnist/')
SHA256 = {f'{name}.gz': sha256 for name, sha256 in zip(idx.NAMES.values(), (
    '440fcabf73cc546fa21475e81ea370265605f56be210a4024d2ca8f203523609',
    '3552534a0a558bbed6aed32b30c495cca23d567ec52cac8be1a0730e8010255c',
    '8d422c7b0a1c1c79245a5bcf07fe86e33eeafee792b84584aec276f5a2dbc4e6',
    'f7ae60f92e00ec6debd23a6088c31dbd2371eca3ffa0defaefb259924204aec6'), strict=True)}
CONTACT_SECONDS = 5         # for a mirror's first answer, with the name lookup
STALL_SECONDS = 10          # without a byte, in the middle of a file


class Digits(NamedTuple):
    """A dataset of handwritten digits, N of them for training and M for testing."""

    title: str                  # for people
    dataset: str                # 'mnist' or 'digits', as --dataset would ask for it
    data_dir: str | None        # absolute path of the folder of IDX files, None for other sources
    checksum: str               # SHA-256 of all pixels and labels, as 256 grays
    train: np.ndarray           # (N, 784) float32 in [0, 1]
    train_labels: np.ndarray    # (N,) int32
    test: np.ndarray            # (M, 784) float32 in [0, 1]
    test_labels: np.ndarray     # (M,) int32


def get_digits(dataset='auto', data_dir=None, tiny=False, binary=False):
    """Return the digits that `--dataset`, `--data-dir`, `--test` and `--binary` ask for.

    'auto' takes MNIST from Chainer's cache, or else downloads it, or else takes the bundled digits
    and warns on stderr. 'mnist' never takes these, 'digits' takes them at once. If `data_dir` is
    given, a folder of four IDX files, it is the only source. `tiny` leaves the first `TINY` digits
    to train and to test, `binary` rounds pixels to 0 or 1. The checksum is that of all, unrounded.

    Raises:
        DatasetError: If there are no such digits.
    """
    digits = from_source(dataset, data_dir)
    train, train_labels, test, test_labels = (array[:TINY] if tiny else array
                                              for array in digits[4:])
    if binary:
        train, test = ((pixels >= 0.5).astype(np.float32) for pixels in (train, test))
    return Digits(*digits[:4], train, train_labels, test, test_labels)


def from_source(dataset, data_dir):
    """Return all digits that `get_digits` chooses from, in their grays."""
    if data_dir is not None:
        folder, arrays = idx.read_folder(data_dir)
        return to_digits(f'IDX files in {folder}', 'mnist', os.path.abspath(folder), arrays)
    if dataset == 'digits':
        return bundled()
    try:
        return to_digits('MNIST', 'mnist', None, read_cache() or download())
    except DatasetError as error:
        if dataset == 'mnist':
            raise
        print(f'warning: going on with the bundled digits instead of MNIST, as {error}',
              file=sys.stderr)
        return bundled()


def to_digits(title, dataset, data_dir, arrays):
    """Return the arrays of `idx.read_folder` as Digits, scaled as Chainer's `get_mnist` does."""
    checksum = hashlib.sha256()
    for array in arrays:
        checksum.update(str(array.shape).encode())
        checksum.update(np.ascontiguousarray(array))
    scaled = [array.astype(np.int32 if array.ndim == 1 else np.float32) for array in arrays]
    for pixels in scaled[::2]:
        np.multiply(pixels, 1 / 255, out=pixels)
    return Digits(title, dataset, data_dir, checksum.hexdigest(), *scaled)


def first_of_each(digits):
    """Return, by label, the place of the first test digit of each class."""
    labels, places = np.unique(digits.test_labels, return_index=True)
    return dict(zip(labels.tolist(), places.tolist(), strict=True))


def spaced_places(n, most):
    """Return up to `most` places among n, evenly spaced."""
    return np.linspace(0, n - 1, min(n, most)).round().astype(int)


def bundled():
    """Return scikit-learn's 1,797 digits, scaled from 8x8 to 20x20 pixels and centred in 28x28."""
    from PIL import Image
    from sklearn.datasets import load_digits

    small = load_digits()           # most of the last 297 are by other writers
    pixels, labels = np.zeros((1797, SIDE, SIDE), np.uint8), small.target.astype(np.uint8)
    for picture, image in zip(pixels, small.images, strict=True):
        gray = Image.fromarray(np.round(image * (255 / 16)).astype(np.uint8))
        picture[4:24, 4:24] = gray.resize((20, 20), Image.Resampling.BICUBIC)
    pixels = pixels.reshape(-1, SIDE * SIDE)
    return to_digits("scikit-learn's bundled digits", 'digits', None,
                     (pixels[:1500], labels[:1500], pixels[1500:], labels[1500:]))


def cache_paths():
    """Return where Chainer's own `get_mnist` keeps MNIST: the paths of train.npz and test.npz."""
    root = os.path.join(chainer.dataset.get_dataset_root(), 'pfnet', 'chainer', 'mnist')
    return [os.path.join(root, name) for name in ('train.npz', 'test.npz')]


def read_cache():
    """Return the arrays of Chainer's cached copy; None if it is damaged or not there."""
    arrays = []
    for path in cache_paths():
        try:
            found = npz.read(path, most=CACHE_BYTES)
            pixels, labels = (found.get(key, np.zeros(0)) for key in 'xy')
            if (pixels.dtype, labels.dtype) != (np.uint8, np.uint8) or not labels.size \
                    or labels.ndim != 1 or pixels.shape != (len(labels), SIDE * SIDE):
                raise ValueError('not the digits of MNIST')
        except FileNotFoundError:
            return None
        except (OSError, ValueError) as error:
            print(f'warning: {path} cannot be read ({files.describe(error)}); fetching MNIST again',
                  file=sys.stderr)
            return None
        arrays += [pixels, labels]
    return arrays


def download():
    """Fetch MNIST from the first mirror that sends it whole, and keep it in the cache."""
    causes = []
    for mirror in MIRRORS:
        with tempfile.TemporaryDirectory() as folder:
            cause = fetch(mirror, folder)
            if not cause:
                _, arrays = idx.read_folder(folder)
                break
        causes.append(f'{mirror.split("/")[2]} {cause}')
    else:
        raise DatasetError(f'MNIST could not be downloaded ({", ".join(causes)}); try again '
                           'online, or name a folder that holds it with --data-dir')
    try:
        for path, pixels, labels in zip(cache_paths(), arrays[::2], arrays[1::2], strict=True):
            os.makedirs(os.path.dirname(path), exist_ok=True)
            files.write_npz(path, {'x': pixels, 'y': labels},
                            'CHAINER_DATASET_ROOT moves the cache', np.savez_compressed)
    except (files.FileError, OSError) as error:
        print(f'warning: MNIST could not be kept in the cache ({error})', file=sys.stderr)
    return arrays


def fetch(mirror, folder):
    """Download the four files of MNIST into a folder; return what went wrong, '' if nothing did."""
    import pooch
    import requests

    def ask():
        with contextlib.suppress(Exception):    # a bad proxy raises what is no RequestException
            answers.append(requests.head(mirror, timeout=CONTACT_SECONDS))

    # requests takes that time for each address of a host, of which there may be eight
    answers, thread = [], threading.Thread(target=ask, daemon=True)
    thread.start()
    thread.join(CONTACT_SECONDS)
    if not answers:
        return 'does not answer'
    pooch.get_logger().setLevel('ERROR')
    print(f'Downloading MNIST from {mirror}', file=sys.stderr)
    get = pooch.HTTPDownloader(progressbar=sys.stderr.isatty(),
                               timeout=(CONTACT_SECONDS, STALL_SECONDS))
    for name, sha256 in SHA256.items():
        try:
            pooch.retrieve(mirror + name, f'sha256:{sha256}', name, folder, downloader=get)
        except requests.HTTPError as error:
            return f'answered {error.response.status_code} for {name}'
        except (requests.RequestException, ValueError):     # of pooch, about another SHA-256
            return f'sent no whole {name}'
        except OSError as error:
            raise DatasetError(f'MNIST has no place in {folder} ({error.strerror}); '
                               'make room, or set TMPDIR') from None
    return ''
