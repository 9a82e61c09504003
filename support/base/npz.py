"""Reading an npz without trust: a stranger's file is only data.

Nothing is unpickled or evaluated, and what a file claims to hold is checked before memory is taken.
"""

import contextlib
import errno
import math
import os
import pickle
import pickletools
import re
import warnings
import zipfile
import zlib

from support.base import files  # lets chainer import

import numpy as np

MOST_HEADER = 1000          # bytes of an array's header,
HEADER = re.compile(        # as NumPy writes it for numbers and text, and for objects
    rb"\x93NUMPY\x01\x00(?P<size>..)(?P<text>\{'descr': '(?P<dtype>\|O|[<>|=]?"
    rb"(b1|[iu][1248]|f[248]|c8|c16|[SUV]\d{1,9}))', 'fortran_order': (True|False), "
    rb"'shape': \((?P<shape>[\dL, ]*)\),? *\} *\n)", re.DOTALL)
# what zipfile, zlib and NumPy make of damaged bytes
UNREADABLE = zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, OSError, ValueError


def read(path, only=None, most=None):
    """Read the arrays of an npz.

    What lies in it besides arrays is passed over: folders, say, and what a Mac adds where somebody
    packs them anew.

    Args:
        path (str): The file.
        only (str): The one array to read; by default all are read.
        most (int): Bytes that the arrays may take together; by default 1 MiB, and 4 times the
            file's own size: random floats barely compress.

    Returns:
        dict: The arrays by name; `np.array(None)` is what Chainer saves where there is no value.

    Raises:
        OSError: If it cannot be opened.
        ValueError: If it is a folder or no npz, damaged, or claims too much; a line says so.
    """
    if os.path.isdir(path):
        raise ValueError('it is a folder')
    if os.path.exists(path) and not os.path.isfile(path):
        raise OSError(errno.EINVAL, 'it is no file')    # to open a pipe might wait for ever
    most = most or 2**20 + 4 * os.path.getsize(path)
    with open(path, 'rb') as file:
        if not zipfile.is_zipfile(file):
            raise ValueError('it is no whole npz file')
        try:
            with zipfile.ZipFile(file) as archive, warnings.catch_warnings():
                warnings.simplefilter('ignore')     # about odd headers, or odd pickles
                members = {member.filename.removesuffix('.npy'): member
                           for member in archive.infolist() if member.filename.endswith('.npy')
                           and not member.filename.startswith('__MACOSX/')}
                if not members:
                    raise ValueError('it holds no arrays')
                if sum(member.file_size for member in members.values()) > most:
                    raise ValueError(f'it claims more than {most} bytes')
                return {name: read_array(archive, member) for name, member in members.items()
                        if only in (None, name)}
        except UNREADABLE as error:
            raise ValueError(files.describe(error)) from None


def read_array(archive, member):
    """Read an array of an npz, once its header has been checked.

    Args:
        archive (zipfile.ZipFile): The npz.
        member (zipfile.ZipInfo): The array's.

    Returns:
        ndarray: The array.

    Raises:
        ValueError: If it is none of numbers or text, or not of the size that it claims.
    """
    if member.flag_bits & 1 or member.compress_type not in (
            zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):      # LZMA may claim any memory
        raise ValueError('it is encrypted, or compressed as no npz is')
    with archive.open(member) as file:
        start = file.read(MOST_HEADER)
    # NumPy would evaluate any header as Python's, with errors of any kind
    header = HEADER.match(start)
    if not header or int.from_bytes(header['size'], 'little') != len(header['text']):
        raise ValueError(f'{member.filename} is no array of numbers')
    shape = [int(size) for size in re.findall(rb'\d+', header['shape'])]
    if header['dtype'] == b'|O':
        if not shape and steps(start[header.end():]) in NONE:
            return np.array(None)
        raise ValueError('it holds Python objects, which could run code')
    itemsize = np.dtype(header['dtype'].decode()).itemsize
    if not itemsize or member.file_size != header.end() + math.prod(shape) * itemsize:
        raise ValueError(f'{member.filename} is not the array that it claims')
    with archive.open(member) as file:
        return np.lib.format.read_array(file, allow_pickle=False)


def steps(pickled):
    """Return what a pickle would do, step by step, without doing it; nothing if damaged."""
    with contextlib.suppress(ValueError):
        return [(code.name, str(value).replace('numpy.core', 'numpy._core'))     # NumPy 1 and 2
                for code, value, _ in pickletools.genops(pickled)
                if code.name not in ('PROTO', 'FRAME', 'MEMOIZE', 'BINPUT')]
    return []


NONE = [steps(pickle.dumps(np.array(None), protocol)) for protocol in (3, 4)]
