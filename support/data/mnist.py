"""Where the digits come from: a folder, Chainer's dataset cache, a mirror, or the bundled digits.

Whatever the source, digits have MNIST's format: 28x28 pixels of 256 grays, which `get_digits`
scales to float32 in [0, 1] without rounding them to black and white, and a label each.
"""

import hashlib
import os
import sys
import tempfile
import threading
import time
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
SHA256 = {
    'train-images-idx3-ubyte.gz':
        '440fcabf73cc546fa21475e81ea370265605f56be210a4024d2ca8f203523609',
    'train-labels-idx1-ubyte.gz':
        '3552534a0a558bbed6aed32b30c495cca23d567ec52cac8be1a0730e8010255c',
    't10k-images-idx3-ubyte.gz':
        '8d422c7b0a1c1c79245a5bcf07fe86e33eeafee792b84584aec276f5a2dbc4e6',
    't10k-labels-idx1-ubyte.gz':
        'f7ae60f92e00ec6debd23a6088c31dbd2371eca3ffa0defaefb259924204aec6',
}
CONTACT_SECONDS = 5         # for a mirror's first answer, name lookup included
STALL_SECONDS = 10          # without a byte, in the middle of a file


class Digits(NamedTuple):
    """A dataset of handwritten digits, N of them for training and M for testing."""

    title: str                  # for people
    dataset: str                # 'mnist' or 'digits', as --dataset would ask for it
    data_dir: str | None        # absolute path of the folder it was read from, if it was
    checksum: str               # SHA-256 of all pixels and labels, as 256 grays
    train: np.ndarray           # (N, 784) float32 in [0, 1]
    train_labels: np.ndarray    # (N,) int32
    test: np.ndarray            # (M, 784) float32 in [0, 1]
    test_labels: np.ndarray     # (M,) int32


def get_digits(dataset='auto', data_dir=None, tiny=False, binary=False):
    """Return the digits that `--dataset`, `--data-dir`, `--test` and `--binary` ask for.

    Args:
        dataset (str): 'auto' takes MNIST from Chainer's cache, or else downloads it, or else falls
            back to the bundled digits with a warning on stderr; 'mnist' fails where 'auto' would
            fall back; 'digits' takes the bundled ones and never touches the network.
        data_dir (str): A folder of four IDX files, plain or .gz, up to two below it, which is then
            the only source.
        tiny (bool): Only the first `TINY` to train and to test.
        binary (bool): Pixels rounded to 0 or 1.

    Returns:
        Digits: The training and the test set; the checksum is that of all digits, unrounded.

    Raises:
        DatasetError: If there are no such digits.
    """
    digits = from_source(dataset, data_dir)
    if tiny:
        digits = digits._replace(
            train=digits.train[:TINY], train_labels=digits.train_labels[:TINY],
            test=digits.test[:TINY], test_labels=digits.test_labels[:TINY])
    if binary:
        digits = digits._replace(**{part: (getattr(digits, part) >= 0.5).astype(np.float32)
                                    for part in ('train', 'test')})
    return digits


def from_source(dataset, data_dir):
    """Return the digits of `get_digits`, all of them, in their grays."""
    if data_dir is not None:
        folder = idx.find_folder(data_dir)
        return to_digits(f'IDX files in {folder}', 'mnist', os.path.abspath(folder),
                         idx.read_folder(folder))
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
    """Scale 256 grays to [0, 1], exactly as `chainer.datasets.get_mnist` does.

    Args:
        title, dataset, data_dir (str): As in `Digits`.
        arrays (tuple): Training pixels (N, 784), training labels (N,), test pixels (M, 784) and
            test labels (M,), all uint8.

    Returns:
        Digits: The same in its public form.
    """
    checksum = hashlib.sha256()
    for array in arrays:
        checksum.update(str(array.shape).encode())
        checksum.update(np.ascontiguousarray(array))
    scaled = [pixels.astype(np.float32) for pixels in arrays[::2]]
    for array in scaled:
        np.multiply(array, 1 / 255, out=array)
    labels = [array.astype(np.int32) for array in arrays[1::2]]
    return Digits(title, dataset, data_dir, checksum.hexdigest(),
                  scaled[0], labels[0], scaled[1], labels[1])


# The bundled digits -------------------------------------------------------------------------


def bundled():
    """Return scikit-learn's 1,797 handwritten digits in MNIST's format.

    Each is scaled from 8x8 pixels of 17 grays to 20x20 of 256 (bicubic), and centred in 28x28. The
    first 1,500 train and the last 297, most of them by other writers, test.
    """
    from PIL import Image
    from sklearn.datasets import load_digits

    small = load_digits()
    pixels = np.zeros((len(small.images), SIDE, SIDE), np.uint8)
    for picture, image in zip(pixels, small.images, strict=True):
        gray = Image.fromarray(np.round(image * (255 / 16)).astype(np.uint8))
        picture[4:24, 4:24] = gray.resize((20, 20), Image.Resampling.BICUBIC)
    pixels = pixels.reshape(-1, SIDE * SIDE)
    labels = small.target.astype(np.uint8)
    return to_digits("scikit-learn's bundled digits", 'digits', None,
                     (pixels[:1500], labels[:1500], pixels[1500:], labels[1500:]))


# Chainer's dataset cache and the mirrors ------------------------------------------------------


def cache_paths():
    """Return where Chainer's own `get_mnist` keeps MNIST: the paths of train.npz and test.npz."""
    root = os.path.join(chainer.dataset.get_dataset_root(), 'pfnet', 'chainer', 'mnist')
    return [os.path.join(root, name) for name in ('train.npz', 'test.npz')]


def read_cache():
    """Read MNIST from Chainer's dataset cache.

    Returns:
        tuple or None: As from `idx.read_folder`; None where the cache does not hold it, or holds a
        damaged copy, of which it warns.
    """
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
    return tuple(arrays)


def download():
    """Fetch MNIST from the first mirror that serves it whole, and keep it in Chainer's cache.

    Returns:
        tuple: As from `idx.read_folder`.

    Raises:
        DatasetError: If no mirror does, with the cause for each.
    """
    causes = []
    for mirror, silence in zip(MIRRORS, first_answers(), strict=True):
        cause = silence
        if not cause:
            with tempfile.TemporaryDirectory() as folder:
                cause = fetch(mirror, folder)
                if not cause:
                    arrays = idx.read_folder(folder)
                    keep(arrays)
                    return arrays
        causes.append(f'{mirror.split("/")[2]} {cause}')
    raise DatasetError(f'MNIST could not be downloaded ({", ".join(causes)}); try again online, '
                       'or name a folder that holds it with --data-dir')


def first_answers():
    """Ask all mirrors at once whether they are there.

    Neither a name lookup nor a host of many addresses has a time limit of its own: the threads
    give them one, so that an offline run falls back within seconds.

    Returns:
        list of str: For each mirror why it cannot be used, '' if it answered.
    """
    import requests

    silences = ['did not answer'] * len(MIRRORS)

    def ask(i):
        try:
            requests.head(MIRRORS[i], timeout=CONTACT_SECONDS)
            silences[i] = ''
        except requests.Timeout:
            pass
        except Exception:       # a bad proxy's is no RequestException; here any means no answer
            silences[i] = 'cannot be reached'

    threads = [threading.Thread(target=ask, args=(i,), daemon=True) for i in range(len(MIRRORS))]
    for thread in threads:
        thread.start()
    end = time.monotonic() + CONTACT_SECONDS
    for thread in threads:
        thread.join(max(0, end - time.monotonic()))
    return list(silences)


def fetch(mirror, folder):
    """Download the four files of MNIST, each checked against its SHA-256.

    Args:
        mirror (str): Base URL.
        folder (str): Existing folder to put them into.

    Returns:
        str: What went wrong, '' if nothing did.
    """
    import pooch
    import requests

    pooch.get_logger().setLevel('ERROR')
    print(f'Downloading MNIST from {mirror}', file=sys.stderr)
    get = pooch.HTTPDownloader(progressbar=sys.stderr.isatty(),
                               timeout=(CONTACT_SECONDS, STALL_SECONDS))
    for name, sha256 in SHA256.items():
        try:
            pooch.retrieve(mirror + name, f'sha256:{sha256}', name, folder, downloader=get)
        except requests.HTTPError as error:
            return f'answered {error.response.status_code} for {name}'
        except requests.RequestException:
            return f'broke off in {name}'
        except ValueError:
            return f'sent a {name} whose SHA-256 is wrong'
        except OSError as error:
            raise DatasetError(f'MNIST has no place in {folder} ({error.strerror}); '
                               'make room, or set TMPDIR') from None
    return ''


def keep(arrays):
    """Put MNIST into Chainer's cache, each file written whole under another name and renamed.

    Args:
        arrays (tuple): As from `idx.read_folder`.
    """
    try:
        for path, pixels, labels in zip(cache_paths(), arrays[::2], arrays[1::2], strict=True):
            os.makedirs(os.path.dirname(path), exist_ok=True)
            files.write_npz(path, {'x': pixels, 'y': labels},
                            'CHAINER_DATASET_ROOT moves the cache', np.savez_compressed)
    except (files.FileError, OSError) as error:
        print(f'warning: MNIST could not be kept in the cache ({error})', file=sys.stderr)
