"""The four IDX files of a dataset in MNIST's format: found in a folder, and read without trust.

They have MNIST's names, also with a dot for the dash before idx, and lie in the folder or up to two
below it. Whether one is gzip, its first bytes say and not its name. Of whatever else lies there, a
line says what it is and what mends it. What a file claims is checked before memory is taken.
"""

import collections
import glob
import gzip
import itertools
import json
import math
import os
import re
import shlex
import struct
import zlib

from support.base import command, kinds  # lets chainer import

import numpy as np

SIDE = 28                   # pixels
MOST_DIGITS = 1_000_000     # a header that claims more is taken for damage,
MOST_RATIO = 50             # or more times a gzip file's own size, as digits barely reach 20
MOST_LOOKS = 1000           # at files in a folder
BYTE, INT = 8, 12
TYPES = {BYTE: 'unsigned bytes', 9: 'signed bytes', 11: '16-bit integers', INT: '32-bit integers',
         13: '32-bit floats', 14: '64-bit floats'}
NAMES = {                   # by the part of a dataset, and the dimensions of images or labels
    ('train', 3): 'train-images-idx3-ubyte', ('train', 1): 'train-labels-idx1-ubyte',
    ('test', 3): 't10k-images-idx3-ubyte', ('test', 1): 't10k-labels-idx1-ubyte'}
UNREADABLE = OSError, EOFError, zlib.error      # of the system, and of gzip about damaged bytes
TAKES = f'--data-dir takes a folder of {", ".join(NAMES.values())}, plain or as .gz'
FETCHED = f'{TAKES}; without it, MNIST is fetched'


class DatasetError(command.UserError):
    """The digits asked for cannot be had."""


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
    arrays = []
    for part in ('train', 'test'):
        pixels, labels = (read_file(folder, NAMES[part, ndim], ndim) for ndim in (3, 1))
        if len(pixels) != len(labels):
            raise DatasetError(f'{folder}: {len(pixels)} {part} images, but {len(labels)} labels; '
                               'take both files from one dataset')
        arrays += [pixels.reshape(-1, SIDE * SIDE), labels]
    return tuple(arrays)


def read_file(folder, name, ndim):
    """Read an IDX file of unsigned bytes.

    Args:
        folder (str): Where it lies.
        name (str): Its name, as in `NAMES`.
        ndim (int): Its rank: 3 for images of 28x28 pixels, 1 for labels.

    Returns:
        ndarray: (N, 28, 28) or (N,) uint8.

    Raises:
        DatasetError: If it is missing or not such a file.
    """
    path = find(folder, name)
    if path is None:
        raise DatasetError(f'{folder} has neither {name} nor {name}.gz{instead(folder, name)}')
    try:
        with unpacked(path) as file:
            shape = check_head(file.read(kinds.HEAD), path, name, ndim)
            size = math.prod(shape)
            ratio = MOST_RATIO if isinstance(file, gzip.GzipFile) else 1
            if size > 2**20 + ratio * os.path.getsize(path):
                raise DatasetError(f'{path} claims {size} bytes, too many for a file of its size; '
                                   'fetch it again, or unpack it with gunzip')
            file.seek(4 + 4 * ndim)
            body = file.read(size + 1)
    except UNREADABLE as error:
        raise DatasetError(f'{path} cannot be read ({error}); fetch it again') from None
    if len(body) != size:
        fault = 'cut short' if len(body) < size else 'longer than its header says'
        raise DatasetError(f'{path} is {fault}; fetch it again')
    return np.frombuffer(body, np.uint8).reshape(shape)


def unpacked(path):
    """Open a file for reading bytes, those packed in it where it is gzip."""
    is_packed = kinds.kind_of(kinds.read_head(path)) == kinds.GZIP
    return (gzip.open if is_packed else open)(path, 'rb')


def check_head(head, path, name, ndim):
    """Return the shape of an IDX file.

    Args:
        head (bytes): Its first `kinds.HEAD` bytes, unpacked.
        path (str): Where it lies.
        name, ndim: As for `read_file`.

    Raises:
        DatasetError: If it is not what `read_file` reads.
    """
    kind = kinds.kind_of(head)
    if kind != kinds.IDX:
        what = kind.name if kind else f'no IDX file (it begins with {head[:4].hex(" ")})'
        raise DatasetError(f'{path} is {what}; {(kind and kind.mend) or f"put {name} there"}')
    element, rank = head[2:4]
    if len(head) < 4 + 4 * rank:
        raise DatasetError(f'{path} is cut short; fetch it again')
    if element == INT and ndim == 1 and rank <= 2:
        raise DatasetError(f'{path} has labels of 32-bit integers, as QMNIST has, and not bytes; '
                           f'make these of them by: {rename(path, name)}')
    if element != BYTE:
        raise DatasetError(f'{path} has {TYPES[element]}, and not unsigned bytes; '
                           f'{"scale them to 0 ... 255 and " * (ndim == 3)}save them as such')
    if rank != ndim:
        has = {1: 'labels', 3: 'images'}.get(rank, f'arrays of {rank} dimensions')
        raise DatasetError(f'{path} has {has}, and not {"images" if ndim == 3 else "labels"}; '
                           f'put {name} there')
    n, *sides = struct.unpack_from(f'>{ndim}I', head, 4)
    if sides not in ([], [SIDE, SIDE]):
        raise DatasetError(f'{path} has images of {"x".join(map(str, sides))} pixels, and digits '
                           f'are {SIDE}x{SIDE}; crop or scale them')
    if not 0 < n <= MOST_DIGITS:
        raise DatasetError(f'{path} claims to hold {n}, and may hold from 1 to {MOST_DIGITS}; '
                           'fetch it again')
    return n, *sides


# Finding ------------------------------------------------------------------------------------


def find_folder(folder):
    """Return the folder that holds the four files: this one, or one up to two below it.

    Args:
        folder (str): Where to look.

    Returns:
        str: It; where none holds all four, the first one that holds some digits, or `folder`.

    Raises:
        DatasetError: If `folder` is none, or several below it hold digits.
    """
    if not os.path.isdir(folder):
        raise DatasetError(f'{folder} is not a folder{instead_of_folder(folder)}')
    if holds(folder, any):
        return folder
    below = [path.rstrip(os.sep) for deep in ('*', '*/*')
             for path in sorted(glob.glob(os.path.join(glob.escape(folder), deep, '')))]
    whole = [path for path in below if holds(path, all)]
    if len(whole) > 1:
        raise DatasetError(f'{folder} holds the digits of {len(whole)} folders; name one with '
                           f'--data-dir: {", ".join(map(shlex.quote, whole))}')
    partly = (path for path in (folder, *below) if holds(path, any) or misnamed(path))
    return whole[0] if whole else next(partly, folder)


def holds(folder, all_or_any):
    """Tell whether a folder holds all, or any, of the four files."""
    return all_or_any(find(folder, name) for name in NAMES.values())


def find(folder, name):
    """Return the path of a file by its name in `NAMES`, None where it is not there.

    It may lie in a folder of its own name, as some programs unpack it.
    """
    names = [start + end for start in (name, name.replace('-idx', '.idx')) for end in ('', '.gz')]
    paths = (os.path.join(folder, *parts) for depth in (1, 2)
             for parts in itertools.product(names, repeat=depth))
    return next(filter(os.path.isfile, paths), None)


def look(pattern):
    """Look at files, in their order: yield the path, the kind and the first bytes, unpacked."""
    for path in filter(os.path.isfile, sorted(glob.glob(pattern))[:MOST_LOOKS]):
        try:
            with unpacked(path) as file:
                head = file.read(kinds.HEAD)
        except UNREADABLE:
            continue
        yield path, kinds.kind_of(head), head


def misnamed(folder):
    """Find the files of digits in a folder under other names, as EMNIST's and QMNIST's.

    Returns:
        dict: Of each dataset, by what comes before `train` or `test` in its names: a dict of its
        paths, by the names that they should have.
    """
    sets = {}
    for path, kind, head in look(os.path.join(glob.escape(folder), '*')):
        part = re.match('(.*)(train|test|t10k)', os.path.basename(path), re.IGNORECASE)
        if part and kind == kinds.IDX and len(head) >= 4 + 4 * head[3]:
            ndim = 1 if (head[2], head[3]) == (INT, 2) else head[3]
            name = NAMES.get((part[2].lower().replace('t10k', 'test'), ndim))
            if name:
                sets.setdefault(part[1], {}).setdefault(name, path)
    return sets


# What lies there instead, and what mends it -----------------------------------------------------


def instead(folder, name):
    """Say what a folder holds instead of a file, and what mends that."""
    if any(os.path.isdir(os.path.join(folder, name + end)) for end in ('', '.gz')):
        return ', but a folder of that name; put the file in its place'
    lacking = [each for each in NAMES.values() if not find(folder, each)]
    sets = misnamed(folder)
    whole = {prefix: paths for prefix, paths in sets.items() if paths.keys() >= set(lacking)}
    chosen = collections.ChainMap(*(whole or sets).values())
    commands = [rename(chosen[each], each) for each in lacking if each in chosen]
    if len(whole) > 1:
        return (f', but the files of {", ".join(prefix.strip("-_. ") for prefix in whole)}; take '
                f'one of these, the first by: {" && ".join(commands)}')
    if commands:
        return f', but files of other names; rename them by: {" && ".join(commands)}'
    found = [(path, kind) for deep in ('*', '*/*', '*/*/*')
             for path, kind, _ in look(os.path.join(glob.escape(folder), deep))
             if kind not in (None, kinds.EMPTY, kinds.IDX, kinds.TEXT)]
    if found:
        path, kind = min(found, key=lambda each: not each[1].mend)
        return f', but {os.path.relpath(path, folder)}, {kind.name}; {kind.mend or FETCHED}'
    return '; put it there'


def instead_of_folder(path):
    """Say what lies in the place of a folder, and what mends that."""
    for _, kind, _ in look(glob.escape(path)):
        if kind == kinds.IDX:
            folder = shlex.quote(os.path.dirname(path) or '.')
            return f', but a file; name the folder that holds it: --data-dir {folder}'
        if kind:
            mend = f'{kind.mend}, then name the folder with --data-dir' if kind.mend else FETCHED
            return f', but {kind.name}; {mend}'
    return f'; {TAKES}'


def rename(path, name):
    """Return the command that gives a file one of MNIST's names; its labels become bytes."""
    new = os.path.join(os.path.dirname(path), name)
    with unpacked(path) as file:
        element, ndim = file.read(4)[2:]
        row = math.prod(struct.unpack(f'>{ndim}I', file.read(4 * ndim))[1:])
    if element != INT:
        return shlex.join(['mv', path, new + '.gz' * path.endswith('.gz')])
    old = path + '.int' if path == new else path
    opener = 'gzip.open' if isinstance(file, gzip.GzipFile) else 'open'
    code = (    # of the first integer in each row the last byte
        f'import gzip; d = {opener}({json.dumps(old, ensure_ascii=False)}, "rb").read(); '
        f'open({json.dumps(new, ensure_ascii=False)}, "wb").write(bytes([0, 0, 8, 1]) + d[4:8] + '
        f'd[{7 + 4 * ndim}::{4 * row}])')
    aside = [['mv', path, old]] if old != path else []
    return ' && '.join(map(shlex.join, [*aside, ['python', '-c', code]]))
