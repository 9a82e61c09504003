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

steps = itertools.count(1)


def die_at(n, what):
    """Count a step of writing; at the n-th, say which it was, and be killed."""
    if next(steps) == n:
        os.write(1, f'{what}\n'.encode())
        os.kill(os.getpid(), signal.SIGKILL)


class Half(io.BufferedWriter):
    """A file whose writes may be hit in their middle."""

    def write(self, content):
        """Write the first half of it, may be killed, and write the other."""
        middle = len(content) // 2
        super().write(content[:middle])
        self.flush()
        die_at(self.n, 'in a write')
        super().write(content[middle:])


def stand_in(n):
    """Let all steps of writing count: around a call, and within a write of files.py."""
    def counting(name):
        def count(*args, **options):
            die_at(n, f'before {name}')
            call(*args, **options)
            die_at(n, f'after {name}')

        call = getattr(os, name)
        return count

    Half.n = n
    for name in ('fsync', 'replace', 'remove'):
        setattr(os, name, counting(name))
    files.open = lambda path, mode='r': (
        Half(io.FileIO(path, 'w')) if 'w' in mode else open(path, mode))        # noqa: SIM115


def forked(function):
    """Call a function in a fork; return its exit status, negative for a signal."""
    sys.stdout.flush()
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            status = function()
        finally:
            sys.stdout.flush()
            os._exit(status)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def run(argv, n=None):
    """Train, and be killed at the n-th step of writing, if there is one."""
    if n is not None:
        stand_in(n)
    out, sys.stdout = sys.stdout, open(os.devnull, 'w')         # noqa: SIM115
    try:
        return train_vae.cli(argv)
    finally:
        sys.stdout = out


def main(folder, *flags):
    """Run all; return the exit status."""
    extensions.plot_losses = lambda trainer: None               # which takes more than the run
    n, status = 0, -signal.SIGKILL
    while status == -signal.SIGKILL:
        n += 1
        out = os.path.join(folder, str(n))
        start = [*flags, '-o', out]
        status = forked(lambda start=start, n=n: run(start, n))
        if status == 0:
            break
        has_snapshot = os.path.isdir(out) and run_folder.find_snapshots(out)
        again = forked(lambda argv=['--resume', '-o', out] if has_snapshot else start: run(argv))
        if again:
            return 1
    return status


if __name__ == '__main__':
    sys.exit(main(*sys.argv[1:]))
