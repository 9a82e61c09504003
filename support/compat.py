"""Let Chainer 7.8.1, the last release, import and run on today's Python, NumPy and CuPy.

Chainer was frozen in January 2022, for Python 3.9, NumPy 1.22 and CuPy 7. Whoever imports anything
of this folder imports this first. It makes the repairs below, each with the line of Chainer that
needs it, and imports chainer once with its import-time warnings silenced. Whatever the installed
NumPy still has is left as it is.
"""

import contextlib
import os
import sys
import types
import warnings

COMMANDS = 'train_vae.py', 'visualize.py'
SCRIPT = os.path.basename(getattr(sys.modules['__main__'], '__file__', None) or '')
ADDRESS_SPACE = 2**30       # bytes that the libraries take, also on two cores
ACTIVATE = ('activate the virtual environment (. .venv/bin/activate), which the first command of '
            'README.md makes')
REINSTALL = 'install it anew, by the first command of README.md'


def _give_up(error, mend):
    """Where one of the commands cannot start, say in one line why and what to do, and exit."""
    if SCRIPT in COMMANDS:
        cause = ' '.join(str(getattr(error, '__cause__', None) or error).split())
        print(f'{SCRIPT}: error: {cause or type(error).__name__}; {mend}', file=sys.stderr)
        raise SystemExit(2) from None
    raise error


def _say_interrupted(kind, error, trace):
    if not issubclass(kind, KeyboardInterrupt):
        sys.__excepthook__(kind, error, trace)
    else:
        print('interrupted', file=sys.stderr)


# The imports take seconds on a busy machine. A Ctrl-C among them needs no traceback.
if SCRIPT in COMMANDS:
    sys.excepthook = _say_interrupted

# Under a tight `ulimit -v` each library ends in a way of its own: it aborts, or it hangs.
with contextlib.suppress(ImportError):          # Windows has no such limit
    import resource

    limit, _ = resource.getrlimit(resource.RLIMIT_AS)
    if SCRIPT in COMMANDS and 0 <= limit < ADDRESS_SPACE:
        _give_up(f'ulimit -v leaves {limit >> 20} MB of address space',
                 f'let it have {ADDRESS_SPACE >> 20} MB or more')

try:
    import numpy as np
except ModuleNotFoundError as error:
    _give_up(error, ACTIVATE)
except ImportError as error:                    # half installed, or for another Python
    _give_up(error, REINSTALL)

# chainer/functions/array/as_strided.py, lines 10 and 252: np.sctypes['int'] and ['float'].
# NumPy 2.0 removed np.sctypes.
if not hasattr(np, 'sctypes'):
    np.sctypes = {
        'int': [np.int8, np.int16, np.int32, np.int64],
        'float': [np.float16, np.float32, np.float64, np.longdouble],
    }

# chainer/_environment_check.py, lines 6 and 7: imports numpy.distutils (gone from Python 3.12)
# and pkg_resources (gone from setuptools 82). The module only warns: about Accelerate on a Mac
# with a NumPy of 2019, and about every CuPy newer than 7. An empty check stands in for it.
_environment_check = types.ModuleType('chainer._environment_check')
_environment_check.check = lambda: None
sys.modules.setdefault('chainer._environment_check', _environment_check)


# chainer/backends/cuda.py, lines 127 to 130 and 152 to 158: imports cupy.cudnn, which CuPy 14 no
# longer has, and so warns at the first use of a GPU. The VAE needs no cuDNN: it has no convolution.
os.environ.setdefault('CHAINER_CUDNN', '0')

with warnings.catch_warnings():
    warnings.simplefilter('ignore')
    try:
        import chainer  # noqa: F401  (before all others)
        from chainer.backends import cuda
    except ModuleNotFoundError as error:
        _give_up(error, ACTIVATE)
    except (TypeError, ValueError) as error:
        names = ', '.join({name for name in os.environ if name.startswith('CHAINER_')}
                          - {'CHAINER_CUDNN'})
        _give_up(error, f"mend Chainer's environment variables: {names}" if names else REINSTALL)

# chainermn/communicators/_memory_utility.py, lines 289 and 361: the kernels of pure_nccl have the
# type `half`, which CuPy 14 no longer defines for them.
_raw = cuda.raw
cuda.raw = lambda code, name, *args, **kwargs: _raw(
    '#include <cuda_fp16.h>\n' * ('half' in code) + code, name, *args, **kwargs)


