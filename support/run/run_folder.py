"""The folder of a run: its snapshots, the lock that keeps another run out, room on the disk."""

import contextlib
import os
import re
import shlex
import shutil
import sys

from support.base import files  # lets chainer import
from support.run import record

import filelock

INTERRUPTED = 'snapshot_interrupted'
EPOCH_PREFIX = 'snapshot_epoch_'            # followed by the number of the epoch
LOCK = '.lock'                              # file that a running run holds
MEND = 'put that right, then go on with --resume, or start it again'    # where it cannot write


def make_again(out):
    """Make the folder of a run anew, with a warning, where somebody moved or deleted it."""
    with contextlib.suppress(OSError):      # writing there will tell of it
        os.mkdir(out)                       # not those above it: their disk may be gone
        print(f'warning: {out} was moved or deleted; the run goes on in a new one', file=sys.stderr)


def series_of(path):
    """Return the name of a snapshot without its number, and the number; or `('', -1)`."""
    # Chainer's `snapshot_iter_600`, the usual `snapshot_epoch-3` and `snapshot_600.npz`, and ours
    match = re.fullmatch(r'(snapshot(?:_epoch|_iter|_iteration)?[_-])([0-9]+)((?:\.npz)?)',
                         os.path.basename(path))
    return (match[1] + match[3], int(match[2])) if match else ('', -1)


def folder_of(path):
    """Return the folder that a snapshot is in; None if it is not named like a snapshot."""
    is_snapshot = path and (os.path.basename(path) == INTERRUPTED or series_of(path)[1] >= 0)
    return (os.path.dirname(path) or '.') if is_snapshot else None


def find_snapshots(out):
    """Return the paths of all snapshots in the folder `out`, by their numbers; or a FileError."""
    try:
        paths = [entry.path for entry in os.scandir(out)
                 if entry.is_file() and folder_of(entry.path)]
    except OSError as error:
        raise files.FileError(f'cannot read the folder {shlex.quote(out)} ({error.strerror}); '
                        'give another with -o') from None
    return sorted(paths, key=lambda path: series_of(path)[::-1])


@contextlib.contextmanager
def claim(out, overwrite=False, resumed=None):
    """Hold a folder for a run within a `with` block, so that no second run writes there meanwhile.

    It is made if need be, and deleted again if it stays empty. Another run's snapshots are refused,
    unless `overwrite`, or that run goes on from the one of this path.
    """
    is_new = not os.path.exists(out)
    files.make_folder(out, '' if resumed is None else f'--resume {shlex.quote(resumed)} and ')
    lock = filelock.FileLock(os.path.join(out, LOCK), timeout=0)    # the system's: dies with us
    try:
        lock.acquire()
    except filelock.Timeout:
        raise files.FileError(f'{out} is in use by another run; wait for its end, or name another '
                        'folder with -o') from None
    except (OSError, NotImplementedError) as error:
        if isinstance(error, OSError) and error.errno not in files.UNSUPPORTED:
            raise files.FileError(f'cannot lock {os.path.join(out, LOCK)} ({error}); name another '
                            'folder with -o') from None
        print(f'warning: {out} is in a file system without locks; start no second run there '
              'meanwhile', file=sys.stderr)
    try:
        is_own = resumed is not None and os.path.samefile(os.path.dirname(resumed) or '.', out)
        if find_snapshots(out) and not is_own and not overwrite:
            ways = '' if resumed else 'go on with it by --resume, replace it by --overwrite, or '
            raise files.FileError(f'{out} holds the snapshots of an earlier run; {ways}name '
                                  'another folder with -o')
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


def check_room(args, size, epochs):
    """Raise a FileError unless OUT has room for a run of so many epochs, by bytes a snapshot."""
    old, free = find_snapshots(args.out), shutil.disk_usage(args.out).free
    if args.overwrite:
        free += sum(os.path.getsize(path) for path in old)
        old = []
    more = -(-epochs // args.snapshot_every)
    new = max(1, min(args.keep + 1, len(old) + more) - len(old))    # one while it is written
    if free < new * size:
        raise files.FileError(
            f'{args.out} has {free / 1e6:.1f} MB free, and {new} new snapshots take '
            f'{new * size / 1e6:.1f} MB; make room there, give a smaller --keep, or name another '
            'folder with -o')


def clear(out):
    """Delete the snapshots, the log, its picture and the record of an earlier run in `out`."""
    recorded = record.epochs_in(os.path.join(out, record.FOLDER))
    for path in [*find_snapshots(out), *recorded.values(),
                 *(os.path.join(out, name) for name in ('log', 'loss.png'))]:
        with contextlib.suppress(FileNotFoundError):
            os.remove(path)
