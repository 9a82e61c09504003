"""Says in one line why a command cannot start, where Python would print a traceback.

It imports the standard library alone, as the import of all else is what may fail.
"""

import contextlib
import os
import sys

COMMANDS = 'train_vae.py', 'visualize.py'
SCRIPT = os.path.basename(getattr(sys.modules['__main__'], '__file__', None) or '')
ADDRESS_SPACE = 2**30       # bytes that the libraries take; with less, some abort and others hang
ACTIVATE = ('activate the virtual environment (. .venv/bin/activate), which the first command of '
            'README.md makes')
REINSTALL = 'install it anew, by the first command of README.md'


@contextlib.contextmanager
def explained():
    """Import NumPy and Chainer inside this; in other scripts than the two it does nothing."""
    def hook(kind, error, trace):           # the imports take seconds, in which Ctrl-C may come
        if issubclass(kind, KeyboardInterrupt):
            print('interrupted', file=sys.stderr)
        else:
            sys.__excepthook__(kind, error, trace)

    if SCRIPT not in COMMANDS:
        yield
        return
    sys.excepthook = hook
    with contextlib.suppress(ImportError):  # Windows has no such limit
        import resource

        limit, _ = resource.getrlimit(resource.RLIMIT_AS)
        if 0 <= limit < ADDRESS_SPACE:
            give_up(f'ulimit -v leaves {limit >> 20} MB of address space',
                    f'let it have {ADDRESS_SPACE >> 20} MB or more')
    try:
        yield
    except ModuleNotFoundError as error:
        give_up(error, ACTIVATE)
    except (ImportError, TypeError, ValueError) as error:   # half installed, or for another Python
        names = ', '.join(name for name in os.environ if name.startswith('CHAINER_')
                          and name != 'CHAINER_CUDNN' and not isinstance(error, ImportError))
        give_up(error, f"mend Chainer's environment variables: {names}" if names else REINSTALL)


def give_up(error, mend):
    """Say what is wrong and what helps, and exit."""
    cause = ' '.join(str(getattr(error, '__cause__', None) or error).split())
    print(f'{SCRIPT}: error: {cause or type(error).__name__}; {mend}', file=sys.stderr)
    raise SystemExit(2) from None
