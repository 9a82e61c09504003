"""Let Chainer 7.8.1, the last release, import and run on today's Python, NumPy and CuPy.

Chainer was frozen in January 2022, for Python 3.9, NumPy 1.22 and CuPy 7. Every module that
imports chainer imports this one first. It makes the repairs below, each with the line of Chainer
that needs it, and imports chainer once with its import-time warnings silenced. Whatever the
installed NumPy still has is left as it is.

Below stands `unchanged`, within which a model is called for a look at it alone, and what both
commands, train_vae.py and visualize.py, need to meet their user: `get_device`, which says which
CuPy a GPU needs, `Parser` and `command`, whose errors are one line.
"""

import argparse
import contextlib
import copy
import os
import signal
import sys
import threading
import types
import warnings

COMMANDS = 'train_vae.py', 'visualize.py'
SIGPIPE = 13                # for which Python raises BrokenPipeError; Windows has none
# signals that end a command
ENDING = tuple(getattr(signal, name) for name in ('SIGINT', 'SIGTERM', 'SIGHUP', 'SIGPIPE')
               if hasattr(signal, name))
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
        import chainer
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

CUPY = ('pip install "cupy-cuda13x[ctk]" for a driver of CUDA 13, "cupy-cuda12x[ctk]" for one of '
        'CUDA 12 (nvidia-smi shows which), or leave out --gpu')


@contextlib.contextmanager
def unchanged(model):
    """Within a `with` block, call a model for a look at it alone: all is then as before.

    A call may draw random numbers, count, or set an attribute such as `model.loss`, and in training
    it moves running statistics. So for the block each link has copies of its attributes, but for
    its parameters, which no call changes, and what cannot be copied, as an open file.

    Args:
        model: A chainer.Link; of anything else, the generators alone are kept.
    """
    links = list(model.links()) if isinstance(model, chainer.Link) else []
    own = [(vars(link), dict(vars(link))) for link in links]
    same = [*links, *(value for _, before in own for value in before.values()
                      if isinstance(value, chainer.Variable))]
    copied = {id(each): each for each in same}          # as deepcopy keeps what it has copied
    xp, state = getattr(model, 'xp', np), np.random.get_state()
    generator = None if xp is np else xp.random.get_random_state()
    try:
        if generator is not None:                       # it cannot be copied: one for the block
            xp.random.set_random_state(xp.random.RandomState(seed=0))
        for now, before in own:
            for name, value in before.items():
                with contextlib.suppress(Exception):
                    now[name] = copy.deepcopy(value, copied)
        yield
    finally:
        for now, before in own:
            now.clear()
            now.update(before)
        np.random.set_state(state)
        if generator is not None:
            xp.random.set_random_state(generator)


class UserError(Exception):
    """What a user can mend; the message says what is wrong and what would mend it."""


class DeviceError(UserError):
    """The GPU asked for cannot be used."""


def get_device(gpu):
    """Return the device for `--gpu N`.

    Args:
        gpu (int): Number of the GPU; a negative one stands for the CPU.

    Returns:
        chainer.backend.Device: The CPU under NumPy, or the GPU under CuPy.

    Raises:
        DeviceError: If there is no such GPU, or no CuPy to use it with.
    """
    limit_blas()
    if gpu < 0:
        return chainer.get_device('@numpy')
    if not cuda.available:
        cause = str(cuda._resolution_error).strip(' =\n').rpartition('\n')[2].strip()
        raise DeviceError(f'--gpu {gpu} needs CuPy ({cause}): {CUPY}')
    runtime = cuda.cupy.cuda.runtime
    try:
        count = runtime.getDeviceCount()
    except runtime.CUDARuntimeError as error:
        raise DeviceError(f'--gpu {gpu}: CuPy finds no GPU ({error}); install its driver and '
                          f'the CuPy that fits: {CUPY}') from None
    if gpu >= count:
        raise DeviceError(f'--gpu {gpu}: the last GPU here has the number {count - 1}')
    try:
        with cuda.cupy.cuda.Device(gpu):
            # counts rather than steps, so that seeding it anew for each minibatch costs nothing
            cuda.cupy.random.set_random_state(cuda.cupy.random.RandomState(
                method=cuda.cupy.cuda.curand.CURAND_RNG_PSEUDO_PHILOX4_32_10))
            cuda.cupy.random.uniform(size=1)    # loads CUDA's libraries and compiles a kernel
    except Exception as error:                  # of the loader's, the compiler's or CUDA's own
        cause = ' '.join(str(error).split())
        raise DeviceError(f'--gpu {gpu}: CuPy does not run ({cause}); {CUPY}') from None
    return chainer.get_device(f'@cupy:{gpu}')


def limit_blas(sharers=1):
    """Let BLAS take no more threads than cores that this process may use, nor than it does.

    Left to itself it takes one for each core of the machine, also in a container whose quota gives
    it two: most of them then wait for the others.

    Args:
        sharers (int): Processes that have these cores together.
    """
    import joblib  # here, as both take a while
    import threadpoolctl

    most = max(1, joblib.cpu_count() // sharers)            # knows quotas and affinity
    for library in threadpoolctl.ThreadpoolController().select(user_api='blas').lib_controllers:
        library.set_num_threads(min(library.num_threads, most))


class Parser(argparse.ArgumentParser):
    """Parser whose errors are one line on stderr, and exit status 2."""

    def error(self, message):
        """Say what is wrong and exit."""
        mend = '' if ';' in message else '; see --help'
        self.exit(2, f'{self.prog}: error: {printable(message)}{mend}\n')


def command(prog, main, argv=None):
    """Run the command `prog`; where it fails, say why in one line on stderr.

    Args:
        prog (str): Name of the command, for the message.
        main (callable): Of `argv`; returns the exit status.
        argv (list of str): Arguments; by default the program's own.

    Returns:
        int: The exit status: 2 for what the user can mend, 1 for a loss that is not finite; and
        130 for Ctrl-C, 143 for SIGTERM, 129 for SIGHUP, 141 where the reader of stdout is gone.
    """
    def on_signal(signum, frame):
        raise KeyboardInterrupt(signum)

    for name in ('stdout', 'stderr'):
        if getattr(sys, name) is None:                  # closed, as by `>&-`
            setattr(sys, name, open(os.devnull, 'w'))   # noqa: SIM115  (it is to stay open)
    if hasattr(sys.stdout, 'reconfigure'):              # names of files can be anything
        sys.stdout.reconfigure(errors='backslashreplace')
    with handled(ENDING[1:], on_signal):
        try:
            check_settings()
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
            except OSError:                             # Python's own last flush would tell of it
                hush(sys.stdout)
    with contextlib.suppress(OSError):
        print(f'{prog}: error: {printable(message)}', file=sys.stderr)
    return status


def check_settings():
    """Make sure that Python and Chainer are set as both commands need them.

    Raises:
        UserError: If they are not.
    """
    if sys.flags.optimize > 1:
        raise UserError('python -OO drops the docstrings that --help shows; take -O, or neither')
    if chainer.config.dtype != np.float32:
        raise UserError('CHAINER_DTYPE asks for other numbers than float32, which digits, weights '
                        'and snapshots are; unset it')


@contextlib.contextmanager
def handled(signums, handler):
    """Hand signals to a handler, within a `with` block; not those that the parent has ignored.

    Only the main thread can. In others they keep their effect.
    """
    earlier = {}
    try:
        if threading.current_thread() is threading.main_thread():
            for signum in signums:
                if signal.getsignal(signum) != signal.SIG_IGN:
                    earlier[signum] = signal.signal(signum, handler)
        yield
    finally:
        for signum, before in earlier.items():
            signal.signal(signum, before)


def hush(stream):
    """Let what is written to a stream go nowhere, Python's own last flush included."""
    with contextlib.suppress(OSError):                  # it may be no file of the system's
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


def exit_status(error):
    """Return the exit status of a program that ends by this exception, as `command` says."""
    if isinstance(error, SystemExit):
        return error.code
    if isinstance(error, KeyboardInterrupt):
        return 128 + (error.args or (signal.SIGINT,))[0]
    if isinstance(error, BrokenPipeError):
        return 128 + SIGPIPE
    return 2 if isinstance(error, (UserError, OSError, MemoryError)) else 1


def printable(message):
    """Return a message as one line, without escape codes that a stranger's file put there."""
    return ''.join(char if char.isprintable() else ' ' for char in str(message))
