"""Runs that are killed at their n-th step of writing files, for test_resume.py.

    python killed.py FOLDER FLAG ...

A run with these flags of train_vae.py for each n = 1, 2, ..., in FOLDER/n, until one is not killed;
each is then resumed, or started anew where it has no snapshot. All are forks of this process, which
has imported everything already. For each it prints what was killed.
"""

import itertools
import os
import signal
import sys

from support.base import files
from support.run import extensions, run_folder, snapshot

import train_vae

CALLS = 'fsync', 'replace', 'remove'
steps = itertools.count(1)


def die_at(n, what):
    """Count a step of writing; at the n-th, say which it was, and be killed."""
    if next(steps) == n:
        os.write(1, f'{what}\n'.encode())
        os.kill(os.getpid(), signal.SIGKILL)


def stand_in(n):
    """Let what files.py and snapshot.py call count: around a call, and within a write."""
    class Os:
        def __getattr__(self, name):
            call = getattr(os, name)
            if name not in CALLS:
                return call

            def counting(*args):
                die_at(n, f'before {name}')
                call(*args)
                die_at(n, f'after {name}')
            return counting

    def open_counting(path, mode='r', **options):
        file = open(path, mode, **options)                      # noqa: SIM115
        if 'w' in mode:
            write = file.write

            def write_half(content):
                content = memoryview(content)
                write(content[:len(content) // 2])
                file.flush()
                die_at(n, 'in a write')
                write(content[len(content) // 2:])
            file = Half(file, write_half)
        return file

    class Half:
        def __init__(self, file, write):
            self.file, self.write = file, write

        def __getattr__(self, name):
            return getattr(self.file, name)

        def __enter__(self):
            self.file.__enter__()
            return self

        def __exit__(self, *error):
            return self.file.__exit__(*error)

    files.os = snapshot.os = Os()
    files.open = open_counting


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
