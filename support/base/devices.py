"""Where a command computes: on which device, and on how many threads."""

from support.base import command  # lets chainer import

import chainer
from chainer.backends import cuda

CUPY = ('pip install "cupy-cuda13x[ctk]" for a driver of CUDA 13, "cupy-cuda12x[ctk]" for one of '
        'CUDA 12 (nvidia-smi shows which), or leave out --gpu')


class DeviceError(command.UserError):
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
