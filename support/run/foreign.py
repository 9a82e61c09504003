"""What lies in the place of a run's snapshot, and what would make it one."""

import glob
import os
import shlex
import zipfile

from support.base import command, kinds
from support.run import run_folder


def instead(path, error):
    """Say what lies in the place of an npz of weights, and what mends that.

    Args:
        path (str): What `read` refused.
        error (ValueError): By which it did.
    """
    if os.path.isdir(path):
        arrays = (glob.glob(os.path.join(glob.escape(path), deep, '*.npy')) for deep in ('', '*'))
        if run_folder.find_snapshots(path) or not any(arrays):
            return ('a folder; name a snapshot in it; to go on from its newest or draw that, name '
                    'it with -o')
        name = path.rstrip(os.sep)
        return ('an unpacked npz; pack it again by: python -m zipfile -c '
                f'{shlex.quote(name + ".npz")} {shlex.quote(name)}/*')
    kind = kinds.kind_of(kinds.read_head(path))
    if kind not in (None, kinds.NPZ):
        return f'{kind.name}; {kind.mend or kinds.OURS}'
    is_npz = kind or zipfile.is_zipfile(path)
    return f'{"" if is_npz else "not a snapshot, or "}damaged ({error}); use another'


def of_another_network(arrays, lacking):
    """Say that arrays are those of another network, as they have no `lacking`, and what helps."""
    return f'of another network: it holds {names_in(arrays)}, and no {lacking}; {kinds.OURS}'


def names_in(arrays):
    """Return the names of the first of some arrays, those of weights if there are such."""
    names = sorted([name for name in arrays if name.endswith('/W')] or arrays)
    return (', '.join(command.printable(name[:60]) for name in names[:3])
            + ', ...' * (len(names) > 3))
