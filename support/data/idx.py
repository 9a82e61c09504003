"""The four IDX files of a dataset in MNIST's format: found in a folder, and read without trust.

They have MNIST's names, with a dash or a dot before idx, or names with a prefix, as EMNIST's and
QMNIST's. They lie in the folder or up to two below it. Whether one is gzip, its first bytes say and
not its name. What a file claims to hold is checked before it takes memory.
"""

import glob
import gzip
import math
import os
import re
import shlex
import struct
import zlib

from support.base import command, kinds  # lets chainer import

import numpy as np

SIDE = 28                   # pixels
MOST_DIGITS = 1_000_000     # a header that claims more is damaged,
MOST_RATIO = 50             # or claims more times a gzip file's size; digits barely reach 20
FORMS = {'images': ((SIDE, SIDE), '28x28 unsigned bytes a digit'),
         'labels': ((), 'an unsigned byte a digit')}
BYTE, INT = 8, 12           # an IDX file's codes for unsigned bytes and 32-bit integers
NAMES = {'train-images': 'train-images-idx3-ubyte', 'train-labels': 'train-labels-idx1-ubyte',
         't10k-images': 't10k-images-idx3-ubyte', 't10k-labels': 't10k-labels-idx1-ubyte'}
NAME = re.compile(r'(.*?)(train|t10k|test)[-_.](images|labels)([-_.]idx\d[-_.]\w+)?(\.gz)?', re.I)
UNREADABLE = OSError, EOFError, zlib.error      # gzip raises these about damaged bytes
TAKES = (f'--data-dir takes a folder of {", ".join(NAMES.values())}, plain or as .gz; without it, '
         'MNIST is fetched')


class DatasetError(command.UserError):
    """The digits asked for cannot be had."""


def read_folder(folder):
    """Find and read the four IDX files of a dataset in MNIST's format.

    Returns:
        tuple: The folder that holds them: `folder`, or one up to two below it; and the arrays,
        uint8: pixels (N, 784) and labels (N,) to train, pixels (M, 784) and labels (M,) to test.

    Raises:
        DatasetError: If these are not there, not whole, or not alone.
    """
    if not os.path.isdir(folder):
        raise DatasetError(f'{folder} is not a folder{instead([folder], TAKES)}')
    sets = datasets_in([folder]) or datasets_in(
        path.rstrip(os.sep) for depth in ('*', '*/*')
        for path in sorted(glob.glob(os.path.join(glob.escape(folder), depth, ''))))
    whole = [key for key, paths in sets.items() if len(paths) == len(NAMES)]
    folders, prefixes = list(dict.fromkeys(found for found, _ in whole)), [own for _, own in whole]
    if len(folders) > 1:
        raise DatasetError(f'{folder} holds the digits of {len(folders)} folders; name one with '
                           f'--data-dir: {", ".join(map(shlex.quote, folders))}')
    if len(whole) > 1 and '' not in prefixes:
        raise DatasetError(f'{folders[0]} holds the files of {", ".join(prefixes)}; move those of '
                           'one into a folder of their own')
    key = max(sets, key=lambda key: (key in whole, key[1] == ''), default=(folder, ''))
    folder, paths = key[0], sets.get(key, {})
    for key, name in NAMES.items():
        if key not in paths:
            others = sorted(glob.glob(os.path.join(glob.escape(folder), '*')))
            raise DatasetError(f'{folder} has neither {name} nor {name}.gz'
                               f'{instead(others, "put it there")}')
    arrays = []
    for part in ('train', 't10k'):
        pixels, labels = (read_file(paths[f'{part}-{what}'], what) for what in FORMS)
        if len(pixels) != len(labels):
            raise DatasetError(f'{folder}: {len(pixels)} {part} images, but {len(labels)} labels; '
                               'take both files from one dataset')
        arrays += [pixels.reshape(-1, SIDE * SIDE), labels]
    return folder, arrays


def datasets_in(folders):
    """Return the paths of files of digits, by `NAMES`' keys, for each folder and names' prefix."""
    def named(folder):                          # a plain one before its .gz
        paths = sorted(glob.glob(os.path.join(glob.escape(folder), '*')))
        return [path for path in paths if NAME.fullmatch(os.path.basename(path))]

    sets = {}
    for folder in folders:
        outer = named(folder)                   # files, or folders of them, as Kaggle's unpacks
        for path in outer + [inner for each in outer for inner in named(each)]:
            prefix, part, what = NAME.fullmatch(os.path.basename(path)).groups()[:3]
            if os.path.isfile(path):
                key = f'{part}-{what}'.lower().replace('test', 't10k')
                sets.setdefault((folder, prefix), {}).setdefault(key, path)
    return sets


def instead(paths, mend):
    """Say which of these files is known and no IDX file, and what helps; or else `mend`."""
    for path in filter(os.path.isfile, paths):
        try:
            with unpacked(path) as file:
                kind = kinds.kind_of(file.read(kinds.HEAD))
        except UNREADABLE:
            continue
        if kind not in (None, kinds.EMPTY, kinds.IDX):
            return f', but {path} is {kind.name}; {kind.mend or TAKES}'
    return f'; {mend}'


def read_file(path, what):
    """Return 'images' (N, 28, 28) or 'labels' (N,), uint8; of QMNIST's rows the first."""
    try:
        with unpacked(path) as file:
            shape, dtype = check_head(file.read(kinds.HEAD), path, what)
            size = math.prod(shape) * dtype.itemsize
            ratio = MOST_RATIO if isinstance(file, gzip.GzipFile) else 1
            if size > 2**20 + ratio * os.path.getsize(path):
                raise DatasetError(f'{path} claims {size} bytes, too many for a file of its size; '
                                   'fetch it again')
            file.seek(4 + 4 * len(shape))
            body = file.read(size + 1)
    except UNREADABLE as error:
        raise DatasetError(f'{path} cannot be read ({error}); fetch it again') from None
    if len(body) != size:
        fault = 'cut short' if len(body) < size else 'longer than its header says'
        raise DatasetError(f'{path} is {fault}; fetch it again')
    array = np.frombuffer(body, dtype).reshape(shape)
    return array if dtype == np.uint8 else array.reshape(len(array), -1)[:, 0].astype(np.uint8)


def unpacked(path):
    """Open a file for reading bytes; those packed in it if it is gzip."""
    is_packed = kinds.kind_of(kinds.read_head(path)) == kinds.GZIP
    return (gzip.open if is_packed else open)(path, 'rb')


def check_head(head, path, what):
    """Return the shape and dtype of an IDX file that begins with these bytes."""
    kind = kinds.kind_of(head) or kinds.Kind(f'no IDX file (it begins with {head[:4].hex(" ")})')
    if kind != kinds.IDX:
        raise DatasetError(f'{path} is {kind.name}; {kind.mend or f"put {what} there"}')
    code, ndim = head[2:4]
    if len(head) < 4 + 4 * ndim:
        raise DatasetError(f'{path} is cut short; fetch it again')
    shape = struct.unpack_from(f'>{ndim}I', head, 4)
    size = 'x'.join(map(str, shape))
    sides, expected = FORMS[what]
    is_rows = what == 'labels' and code == INT and ndim <= 2
    if not is_rows and (code, shape[1:]) != (BYTE, sides):
        numbers = 'unsigned bytes' if code == BYTE else 'other numbers'
        raise DatasetError(f'{path} holds {size} {numbers}, and {what} are {expected}; put such '
                           'there')
    if not 0 < shape[0] <= MOST_DIGITS or 0 in shape:
        raise DatasetError(f'{path} claims to hold {size} numbers, and may hold 1 to {MOST_DIGITS} '
                           f'{what}; fetch it again')
    return shape, np.dtype('>i4' if is_rows else np.uint8)
