"""Reading an npz without trust: nothing is unpickled, nothing takes memory before it is checked."""

import errno
import math
import os
import pickle
import re
import warnings
import zipfile
import zlib

from support.base import files  # lets chainer import

import numpy as np

MOST_HEADER = 1000          # bytes of an array's header, which NumPy parses as Python
# what zipfile, zlib and NumPy raise about damaged bytes
UNREADABLE = (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, OSError, OverflowError,
              ValueError)


def read(path, only=None, most=None):
    """Read all arrays of an npz, or `only` one; return them by name.

    They may take up to `most` bytes together; by default 1 MiB, and 4 times the file's own size, as
    random floats barely compress. `np.array(None)` is what Chainer saves where there is no value.

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
                warnings.simplefilter('ignore')         # about headers of Python 2
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
    """Read an array of an npz, once its header has been checked."""
    if member.flag_bits & 1 or member.compress_type not in (
            zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):  # LZMA may claim any memory
        raise ValueError('it is encrypted, or compressed as no npz is')
    with archive.open(member) as file:
        try:
            np.lib.format.read_magic(file)
            shape, _, dtype = np.lib.format.read_array_header_1_0(file, MOST_HEADER)
        except Exception:                               # a header that nests raises MemoryError
            raise ValueError(f'{member.filename} is no array') from None
        header = file.tell()
        if dtype.hasobject:
            if not shape and unversioned(file.read(MOST_HEADER)) in NONE:
                return np.array(None)
            raise ValueError('it holds Python objects, which could run code')
    if not dtype.itemsize or min(shape, default=1) < 0 or (
            member.file_size != header + math.prod(shape) * dtype.itemsize):
        raise ValueError(f'{member.filename} is not the array that it claims')
    with archive.open(member) as file:
        return np.lib.format.read_array(file, allow_pickle=False)


def unversioned(pickled):
    """Return a pickle without its length and its name of numpy.core, which is _core in NumPy 2."""
    return re.sub(rb'\x95.{8}|.numpy\._?core', b'', pickled, flags=re.DOTALL)


# NumPy 1.26 saves objects by protocol 3, NumPy 2.4 by protocol 4
NONE = [unversioned(pickle.dumps(np.array(None), protocol)) for protocol in (3, 4)]
