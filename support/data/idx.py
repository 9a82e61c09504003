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
BYTE, INT = 8, 12           # an IDX file's codes for unsigned bytes and 32-bit integers
NAMES = {'train-images': 'train-images-idx3-ubyte', 'train-labels': 'train-labels-idx1-ubyte',
         't10k-images': 't10k-images-idx3-ubyte', 't10k-labels': 't10k-labels-idx1-ubyte'}
NAME = re.compile(r'(.*?)(train|t10k|test)[-_.](images|labels)([-_.]idx\d[-_.]\w+)?(\.gz)?', re.I)
UNREADABLE = OSError, EOFError, zlib.error      # gzip raises these about damaged bytes
TAKES = (f'--data-dir takes a folder of {", ".join(NAMES.values())}, plain or as .gz; without it, '
         'MNIST is fetched')


class DatasetError(command.UserError):
    """The digits asked for cannot be had."""


# Finding ------------------------------------------------------------------------------------


def find_folder(folder):
    """Return the folder that holds the four files: this one, or one up to two below it.

    Args:
        folder (str): Where to look.

    Returns:
        str: That folder; if none holds all four, the first that holds some, or else `folder`.

    Raises:
        DatasetError: If `folder` is no folder, or several below it hold all four.
    """
    if not os.path.isdir(folder):
        raise DatasetError(f'{folder} is not a folder{instead([folder], TAKES)}')
    if datasets_in(folder):
        return folder
    below = {path.rstrip(os.sep): datasets_in(path) for depth in ('*', '*/*')
             for path in sorted(glob.glob(os.path.join(glob.escape(folder), depth, '')))}
    whole = [path for path, sets in below.items() if any(map(is_whole, sets.values()))]
    if len(whole) > 1:
        raise DatasetError(f'{folder} holds the digits of {len(whole)} folders; name one with '
                           f'--data-dir: {", ".join(map(shlex.quote, whole))}')
    return next(iter([*whole, *filter(below.get, below)]), folder)


def datasets_in(folder):
    """Find the files of digits in a folder, or each in a folder of its own name.

    Returns:
        dict: By the prefix of the names, '' for MNIST's: a dict of paths by `NAMES`' keys.
    """
    sets, outer = {}, named(folder)
    for path in outer + [inner for each in outer for inner in named(each)]:
        prefix, part, what = NAME.fullmatch(os.path.basename(path)).groups()[:3]
        key = f'{part}-{what}'.lower().replace('test', 't10k')
        if os.path.isfile(path):
            sets.setdefault(prefix, {}).setdefault(key, path)
    return sets


def named(folder):
    """Return the paths in a folder with names of IDX files, a plain one before its .gz."""
    paths = sorted(glob.glob(os.path.join(glob.escape(folder), '*')))
    return [path for path in paths if NAME.fullmatch(os.path.basename(path))]


def is_whole(paths):
    """Tell whether all four files of a dataset are there."""
    return len(paths) == len(NAMES)


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


# Reading ------------------------------------------------------------------------------------


def read_folder(folder):
    """Read the four IDX files of a dataset in MNIST's format.

    Args:
        folder (str): Folder that holds them, as from `find_folder`.

    Returns:
        tuple: Pixels (N, 784) and labels (N,) to train, pixels (M, 784) and labels (M,) to test,
        all uint8.

    Raises:
        DatasetError: If a file is missing, damaged, or does not fit its pair.
    """
    sets = datasets_in(folder)
    whole = [prefix for prefix, paths in sets.items() if is_whole(paths)]
    if len(whole) > 1 and '' not in whole:
        raise DatasetError(f'{folder} holds the files of {", ".join(whole)}; move those of one '
                           'into a folder of their own')
    paths = sets[max(sets, key=lambda prefix: (prefix in whole, prefix == ''))] if sets else {}
    for key, name in NAMES.items():
        if key not in paths:
            others = sorted(glob.glob(os.path.join(glob.escape(folder), '*')))
            raise DatasetError(f'{folder} has neither {name} nor {name}.gz'
                               f'{instead(others, "put it there")}')
    arrays = []
    for part in ('train', 't10k'):
        pixels, labels = (read_file(paths[f'{part}-{what}'], what) for what in ('images', 'labels'))
        if len(pixels) != len(labels):
            raise DatasetError(f'{folder}: {len(pixels)} {part} images, but {len(labels)} labels; '
                               'take both files from one dataset')
        arrays += [pixels.reshape(-1, SIDE * SIDE), labels]
    return tuple(arrays)


def read_file(path, what):
    """Read an IDX file.

    Args:
        path (str): Where it lies.
        what (str): 'images' of 28x28 pixels, or 'labels': of rows of integers, as QMNIST's, the
            first integer is the label.

    Returns:
        ndarray: (N, 28, 28) or (N,) uint8.

    Raises:
        DatasetError: If it is not such a file.
    """
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
    kind = kinds.kind_of(head)
    if kind != kinds.IDX:
        found = kind.name if kind else f'no IDX file (it begins with {head[:4].hex(" ")})'
        raise DatasetError(f'{path} is {found}; {(kind and kind.mend) or f"put {what} there"}')
    code, ndim = head[2:4]
    if len(head) < 4 + 4 * ndim:
        raise DatasetError(f'{path} is cut short; fetch it again')
    n, *sides = struct.unpack_from(f'>{ndim}I', head, 4)
    if not 0 < n <= MOST_DIGITS or 0 in sides:
        raise DatasetError(f'{path} claims to hold {n}, and may hold from 1 to {MOST_DIGITS}; '
                           'fetch it again')
    if (what, code) == ('labels', INT) and ndim <= 2:
        return (n, *sides), np.dtype('>i4')
    if ndim != {'images': 3, 'labels': 1}[what]:
        has = {1: 'labels', 3: 'images'}.get(ndim, f'arrays of {ndim} dimensions')
        raise DatasetError(f'{path} has {has}, and not {what}; put {what} there')
    if code != BYTE:
        raise DatasetError(f'{path} has no unsigned bytes; save {what} as such')
    if sides not in ([], [SIDE, SIDE]):
        raise DatasetError(f'{path} has images of {"x".join(map(str, sides))} pixels, and digits '
                           f'are {SIDE}x{SIDE}; crop or scale them')
    return (n, *sides), np.dtype(np.uint8)
