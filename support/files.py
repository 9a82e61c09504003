"""Files that are whole or not there, and the folder of a run.

A file is written under another name and renamed.
"""

import contextlib
import errno
import glob
import io
import os
import re
import shlex
import shutil
import sys
import tempfile
import time

from support import compat  # lets chainer import

import filelock
import numpy as np

INTERRUPTED = 'snapshot_interrupted'
EPOCH_PREFIX = 'snapshot_epoch_'            # followed by the number of the epoch
ITERATION_PREFIX = 'snapshot_iter_'         # Chainer's own name, by iterations
LOCK = '.lock'                              # file that a running run holds
STALE = 600                                 # seconds; no file takes as long to be written
UNSUPPORTED = errno.EINVAL, errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOLCK


class FileError(compat.UserError):
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
    return compat.printable((str(error).splitlines() or [type(error).__name__])[0])


# The folder of a run ----------------------------------------------------------------------------


def go_on(out):
    """Return what helps where a run cannot write into the folder `out`, for the message."""
    return 'put that right, then ' + (
        'go on with --resume' if os.path.isdir(out) and find_snapshots(out) else 'start it again')


def make_again(out):
    """Make the folder of a run anew, with a warning, where somebody moved or deleted it meanwhile.

    Only that folder, and not those above it: what they were on may be gone.
    """
    with contextlib.suppress(OSError):      # which writing there will tell of
        os.mkdir(out)
        print(f'warning: {out} was moved or deleted; the run goes on in a new one', file=sys.stderr)


def find_snapshots(out):
    """Return the paths of all snapshots in the folder `out`, by their numbers.

    Raises:
        FileError: If the folder cannot be read.
    """
    try:
        paths = [entry.path for entry in os.scandir(out)
                 if entry.is_file() and folder_of(entry.path)]
    except OSError as error:
        raise FileError(f'cannot read the folder {shlex.quote(out)} ({error.strerror}); '
                        'give another with -o') from None
    return sorted(paths, key=lambda path: series_of(path)[::-1])


def last_epoch(out):
    """Return the last epoch of which the folder `out` has a snapshot, -1 where it has none."""
    return max(map(epoch_of, find_snapshots(out)), default=-1) if os.path.isdir(out) else -1


def series_of(path):
    """Return the number in the name of a snapshot, after the rest of the name: `(str, int)`.

    They are `snapshot_epoch_3`, `snapshot_iter_600` as Chainer names them, and what else is usual:
    `snapshot_epoch-3`, `snapshot_600.npz`. Of another name it is `('', -1)`.
    """
    match = re.fullmatch(r'(snapshot(?:_epoch|_iter|_iteration)?[_-])([0-9]+)((?:\.npz)?)',
                         os.path.basename(path))
    return (match[1] + match[3], int(match[2])) if match else ('', -1)


def epoch_of(path):
    """Return the number of the epoch in the name of a snapshot, -1 where it has none."""
    kind, number = series_of(path)
    return number if 'epoch' in kind else -1


def folder_of(path):
    """Return the folder of a run's snapshot; None where a path does not have the name of one."""
    is_snapshot = path and (os.path.basename(path) == INTERRUPTED or series_of(path)[1] >= 0)
    return (os.path.dirname(path) or '.') if is_snapshot else None


@contextlib.contextmanager
def claim(out, overwrite=False, resumed=None):
    """Hold a folder for a run to write to, so that no second run writes there meanwhile.

    Args:
        out (str): The folder, made if need be, and deleted again where nothing comes to lie in it.
        overwrite (bool): Whether another run's snapshots in it may be lost.
        resumed (str): The snapshot that the run goes on from, if it does.

    Raises:
        FileError: If it cannot be written, is in use, or holds another run's snapshots.
    """
    is_new = not os.path.exists(out)
    make_folder(out, '' if resumed is None else f'--resume {shlex.quote(resumed)} and ')
    lock = filelock.FileLock(os.path.join(out, LOCK), timeout=0)    # the system's: dies with us
    try:
        lock.acquire()
    except filelock.Timeout:
        raise FileError(f'{out} is in use by another run; wait for its end, or name another '
                        'folder with -o') from None
    except (OSError, NotImplementedError) as error:
        if isinstance(error, OSError) and error.errno not in UNSUPPORTED:
            raise FileError(f'cannot lock {os.path.join(out, LOCK)} ({error}); name another '
                            'folder with -o') from None
        print(f'warning: {out} is in a file system without locks; start no second run there '
              'meanwhile', file=sys.stderr)
    try:
        own = resumed is not None and os.path.samefile(os.path.dirname(resumed) or '.', out)
        if find_snapshots(out) and not own and not overwrite:
            ways = '' if resumed else 'go on with it by --resume, replace it by --overwrite, or '
            raise FileError(f'{out} holds the snapshots of an earlier run; {ways}name another '
                            'folder with -o')
        for name in os.listdir(out):        # what a run killed in mid-write left
            if re.fullmatch(r'\.(snapshot_.+|log|loss\.png|args\.json|cg\.dot)\.\d+\.part', name):
                os.remove(os.path.join(out, name))
        yield
    finally:
        with contextlib.suppress(OSError):
            if is_new and os.listdir(out) == [LOCK]:
                os.remove(os.path.join(out, LOCK))
                os.rmdir(out)
        lock.release()


def check_room(out, size, keep, overwrite, more):
    """Make sure that the snapshots of a run have room on the disk.

    Args:
        out (str): The folder of the run.
        size (int): Bytes of a snapshot.
        keep (int): How many snapshots are kept, besides the one that is being written.
        overwrite (bool): Whether those that are there will be deleted.
        more (int): How many will be written.

    Raises:
        FileError: If they have not.
    """
    old = find_snapshots(out)
    free = shutil.disk_usage(out).free
    if overwrite:
        free += sum(os.path.getsize(path) for path in old)
        old = []
    new = max(1, min(keep + 1, len(old) + more) - len(old))
    needed = new * size
    if free < needed:
        raise FileError(
            f'{out} has {free / 1e6:.1f} MB free, and {new} new snapshots take '
            f'{needed / 1e6:.1f} MB; make room there, give a smaller --keep, or name another '
            'folder with -o')


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


def clear(out):
    """Delete the snapshots and the log of an earlier run from the folder `out`."""
    for path in [*find_snapshots(out), *(os.path.join(out, name) for name in ('log', 'loss.png'))]:
        with contextlib.suppress(FileNotFoundError):
            os.remove(path)
