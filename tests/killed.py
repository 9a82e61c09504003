"""Runs that are killed at their n-th step of writing files, for test_resume.py.

    python killed.py FOLDER FLAG ...

A run with these flags of train_vae.py for each n = 1, 2, ..., in FOLDER/n, until one is not killed;
each is then resumed, or started anew where it has no snapshot. All are forks of this process, which
has imported everything already. For each it prints what was killed.
"""

import io
import itertools
import os
import signal
import sys

from support.base import files
from support.run import extensions, run_folder

import train_vae


class Half(io.BufferedWriter):
    """A file whose writes may be hit in their middle."""

    def write(self, content):
        middle = len(content) // 2
        super().write(content[:middle])
        self.flush()
        self.die('in a write')
        super().write(content[middle:])


def stand_in(n):
    """Let all steps of writing count, around a call or within a write; be killed at the n-th."""
    def die(what):
        if next(steps) == n:
            os.write(1, f'{what}\n'.encode())
            os.kill(os.getpid(), signal.SIGKILL)

    def counting(name, call):
        def count(*args, **options):
            die(f'before {name}')
            call(*args, **options)
            die(f'after {name}')

        return count

    steps, Half.die = itertools.count(1), staticmethod(die)
    for name in ('fsync', 'replace', 'remove'):
        setattr(os, name, counting(name, getattr(os, name)))
    files.open = lambda path, mode='r': (
        Half(io.FileIO(path, 'w')) if 'w' in mode else open(path, mode))        # noqa: SIM115


def forked(argv, n=None):
    """Train in a fork, and be killed at the n-th step of writing; return the exit status."""
    sys.stdout.flush()
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            if n is not None:
                stand_in(n)
            sys.stdout = open(os.devnull, 'w')                  # noqa: SIM115
            status = train_vae.cli(argv)
        finally:
            os._exit(status)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def main(folder, *flags):
    extensions.plot_losses = lambda trainer: None               # which takes more than the run
    for n in itertools.count(1):
        out = os.path.join(folder, str(n))
        start = [*flags, '-o', out]
        status = forked(start, n)
        is_killed = status == -signal.SIGKILL
        if is_killed:
            has_snapshot = os.path.isdir(out) and run_folder.find_snapshots(out)
            status = forked(['--resume', '-o', out] if has_snapshot else start)
        if status or not is_killed:
            break
    return status


if __name__ == '__main__':
    sys.exit(main(*sys.argv[1:]))
