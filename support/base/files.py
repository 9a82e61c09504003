"""Files that are whole or not there, and the folder of a run.

A file is written under another name and renamed.
"""

import contextlib
import errno
import glob
import io
import os
import shlex
import tempfile
import time

from support.base import command  # lets chainer import

import numpy as np

ITERATION_PREFIX = 'snapshot_iter_'         # Chainer's own name, by iterations
STALE = 600                                 # seconds; no file takes as long to be written
UNSUPPORTED = errno.EINVAL, errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOLCK


class FileError(command.UserError):
    """A file or folder cannot be used."""


# Writing ----------------------------------------------------------------------------------------


@contextlib.contextmanager
def replacing(path, mend='put that right, or name another folder with -o'):
    """Open a binary file that takes the name `path` only once it is whole and on the disk.

    Args:
        path (str): The file; until then its name is hidden, and this process's own.
        mend (str): What helps where it cannot be written, for the message.

    Raises:
        FileError: If it cannot be written; what was at `path` is then as before.
    """
    folder, name = os.path.split(path)
    part = os.path.join(folder, f'.{name}.{os.getpid()}.part')
    try:
        with open(part, 'wb') as file:
            yield file
            file.flush()
            sync(file.fileno())
        try:
            os.replace(part, path)
        except FileExistsError:             # of a network folder that cannot do that at once
            aside = os.path.join(folder, f'.{name}.{os.getpid()}.old')
            os.rename(path, aside)
            try:
                os.rename(part, path)
            except BaseException:
                os.rename(aside, path)
                raise
            os.remove(aside)
    except BaseException as error:
        with contextlib.suppress(OSError):
            os.remove(part)
        if isinstance(error, OSError):
            cause = error.strerror or error
            raise FileError(f'cannot write {path} ({cause}); {mend}') from None
        raise
    with contextlib.suppress(OSError):      # the new name, too; Windows cannot
        descriptor = os.open(folder or '.', os.O_RDONLY)
        try:
            sync(descriptor)
        finally:
            os.close(descriptor)


def sync(descriptor):
    """Bring a file to the disk, where its file system can be told to."""
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in UNSUPPORTED:
            raise


def write_text(out, name, text, **options):
    """Write OUT/name whole, in UTF-8; `options` are for `replacing`."""
    with replacing(os.path.join(out, name), **options) as file:
        file.write(text.encode())


def write_npz(path, arrays, mend, save=np.savez):
    """Write arrays as an npz, whole.

    Args:
        path (str): The file.
        arrays (dict): The arrays by name.
        mend (str): As for `replacing`.
        save (callable): `np.savez`, or `np.savez_compressed`.
    """
    content = io.BytesIO()      # where a disk is full, NumPy 1 leaves its zip open and complains
    save(content, **arrays)
    with replacing(path, mend) as file:
        file.write(content.getbuffer())


def describe(error):
    """Return the first line of an exception's message, or its name where it has none."""
    return command.printable((str(error).splitlines() or [type(error).__name__])[0])


# The folder of a run ----------------------------------------------------------------------------


def make_folder(out, mend=''):
    """Make the folder `out`, if need be, and make sure that it can be written to.

    Args:
        out (str): The folder.
        mend (str): What else to give with another folder, for the message.

    Raises:
        FileError: If it cannot.
    """
    try:
        os.makedirs(out, exist_ok=True)
        with tempfile.TemporaryFile(dir=out):
            pass
    except OSError as error:
        raise FileError(f'cannot write to {shlex.quote(out)} ({error.strerror}); '
                            f'give {mend}another folder with -o') from None


def sweep(out, names):
    """Delete what killed programs left of these files and folders in `out`, half written.

    Only what is older than `STALE`: others, on other machines too, may be writing now.
    """
    for name in names:
        for parts in (f'.{name}.*.part', os.path.join(name, '.*.part')):
            for path in glob.glob(os.path.join(glob.escape(out), parts)):
                with contextlib.suppress(OSError):
                    if time.time() - os.path.getmtime(path) > STALE:
                        os.remove(path)


