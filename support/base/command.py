"""A command and its user: the parser, errors in one line, signals, and the exit status."""

import argparse
import contextlib
import os
import signal
import sys
import threading

import chainer
import numpy as np

SIGPIPE = 13                # Python raises BrokenPipeError instead; Windows has no such signal
ENDING = tuple(getattr(signal, name) for name in ('SIGINT', 'SIGTERM', 'SIGHUP', 'SIGPIPE')
               if hasattr(signal, name))


class UserError(Exception):
    """An error that a user can mend; the message says what is wrong and what helps."""


class Parser(argparse.ArgumentParser):
    """Parser that exits with one line on stderr, and status 2, if the flags are wrong."""

    def error(self, message):
        """Say what is wrong and exit."""
        mend = '' if ';' in message else '; see --help'
        self.exit(2, f'{self.prog}: error: {printable(message)}{mend}\n')


def status_of(prog, main, argv=None):
    """Run the command `prog`, by `main(argv)`; if it fails, say why in one line on stderr.

    Returns:
        int: The exit status: that of `main`; 2 if the user can mend the error, 1 if a loss is not
        finite; 130 for Ctrl-C, 143 for SIGTERM, 129 for SIGHUP, 141 if nobody reads stdout.
    """
    def on_signal(signum, frame):
        raise KeyboardInterrupt(signum)

    for name in ('stdout', 'stderr'):
        if getattr(sys, name) is None:                  # closed, as by `>&-`
            setattr(sys, name, open(os.devnull, 'w'))   # noqa: SIM115  (it stays open)
    if hasattr(sys.stdout, 'reconfigure'):              # a file's name may be no valid text
        sys.stdout.reconfigure(errors='backslashreplace')
    with handled(ENDING[1:], on_signal):
        try:
            if sys.flags.optimize > 1:
                raise UserError('python -OO drops the docstrings that --help shows; take -O, or '
                                'neither')
            if chainer.config.dtype != np.float32:
                raise UserError('CHAINER_DTYPE asks for other numbers than float32, the type of '
                                'digits, weights and snapshots; unset it')
            try:
                return main(argv)
            finally:
                sys.stdout.flush()
        except MemoryError as error:
            status, message = exit_status(error), f'not enough memory; try smaller sizes ({error})'
        except KeyboardInterrupt as error:
            status, message = exit_status(error), 'interrupted'
        except BrokenPipeError as error:
            return exit_status(error)
        except (UserError, OSError, FloatingPointError) as error:
            status, message = exit_status(error), error
        finally:
            try:
                sys.stdout.flush()
            except OSError:                             # Python's own last flush would fail, too
                hush(sys.stdout)
    with contextlib.suppress(OSError):
        print(f'{prog}: error: {printable(message)}', file=sys.stderr)
    return status


@contextlib.contextmanager
def handled(signums, handler):
    """Handle signals by `handler` inside a `with` block, but for those that the parent ignores."""
    is_main = threading.current_thread() is threading.main_thread()     # no other can have them
    earlier = {signum: signal.signal(signum, handler) for signum in signums
               if is_main and signal.getsignal(signum) != signal.SIG_IGN}
    try:
        yield
    finally:
        for signum, before in earlier.items():
            signal.signal(signum, before)


def hush(stream):
    """Discard all that is written to a stream from now on, also by Python's own last flush."""
    with contextlib.suppress(OSError):                  # it may have no file descriptor
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


def exit_status(error):
    """Return the exit status of a program that this exception ends, as for `status_of`."""
    if isinstance(error, SystemExit):
        return error.code
    if isinstance(error, KeyboardInterrupt):
        return 128 + (error.args or (signal.SIGINT,))[0]
    if isinstance(error, BrokenPipeError):
        return 128 + SIGPIPE
    return 2 if isinstance(error, (UserError, OSError, MemoryError)) else 1


def printable(message):
    """Return a message as one line without escape codes, which a stranger's file may contain."""
    return ''.join(char if char.isprintable() else ' ' for char in str(message))
