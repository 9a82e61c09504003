"""Files that are whole or not there: each is written under another name, then renamed."""

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
STALE = 600                                 # seconds; to write a file takes less
UNSUPPORTED = errno.EINVAL, errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOLCK


class FileError(command.UserError):
    """A file or folder cannot be used."""


@contextlib.contextmanager
def replacing(path, mend='put that right, or name another folder with -o'):
    """Open a binary file that gets the name `path` once it is whole and on the disk.

    Raises:
        FileError: If it cannot be written; `mend` says what helps. What was at `path` stays.
    """
    folder, name = os.path.split(path)
    part = os.path.join(folder, f'.{name}.{os.getpid()}.part')
    try:
        with open(part, 'wb') as file:
            yield file
            file.flush()
            try:
                os.fsync(file.fileno())
            except OSError as error:
                if error.errno not in UNSUPPORTED:      # by some file systems
                    raise
        os.replace(part, path)
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
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def write_text(out, name, text, **options):
    """Write OUT/name whole, in UTF-8; `options` are for `replacing`."""
    with replacing(os.path.join(out, name), **options) as file:
        file.write(text.encode())


def write_npz(path, arrays, mend, save=np.savez):
    """Write arrays, a dict by name, as a whole npz; `save` may be `np.savez_compressed`."""
    content = io.BytesIO()      # NumPy 1 leaves its zip open and complains if the disk is full
    save(content, **arrays)
    with replacing(path, mend) as file:
        file.write(content.getbuffer())


def describe(error):
    """Return the first line of an exception's message, or its name if it has no message."""
    return command.printable((str(error).splitlines() or [type(error).__name__])[0])


def make_folder(out, mend=''):
    """Make a folder, or raise a FileError that says what helps: to `give {mend}another folder`."""
    try:
        os.makedirs(out, exist_ok=True)
        with tempfile.TemporaryFile(dir=out):
            pass
    except OSError as error:
        raise FileError(f'cannot write to {shlex.quote(out)} ({error.strerror}); '
                        f'give {mend}another folder with -o') from None


def sweep(out, names):
    """Delete half-written files of these names, or in such folders, that killed programs left."""
    for part in (part for name in names for part in (f'.{name}.*.part', f'{name}/.*.part')):
        for path in (os.path.join(out, found) for found in glob.glob(part, root_dir=out)):
            with contextlib.suppress(OSError):
                if time.time() - os.path.getmtime(path) > STALE:    # else another may write it now
                    os.remove(path)
