"""Where a command computes: on which device, and on how many threads."""

from support.base import command  # lets chainer import

import chainer
from chainer.backends import cuda

CUPY = ('nvidia-smi shows the GPUs, from number 0, and their CUDA version; pip install '
        '"cupy-cuda13x[ctk]" for CUDA 13, "cupy-cuda12x[ctk]" for CUDA 12, or leave out --gpu')


def get_device(gpu):
    """Return the device for `--gpu N`; a negative N means the CPU.

    Raises:
        command.UserError: If there is no such GPU, or no CuPy.
    """
    limit_blas()
    if gpu < 0:
        return chainer.get_device('@numpy')
    if not cuda.available:
        # private to Chainer 7.8.1: why its import of CuPy failed
        cause = str(cuda._resolution_error).strip(' =\n').rpartition('\n')[2].strip()
        raise command.UserError(f'--gpu {gpu} needs CuPy ({cause}); {CUPY}')
    try:
        with cuda.cupy.cuda.Device(gpu):
            # Philox is a counter: to seed it for each minibatch costs nothing
            cuda.cupy.random.set_random_state(cuda.cupy.random.RandomState(
                method=cuda.cupy.cuda.curand.CURAND_RNG_PSEUDO_PHILOX4_32_10))
            cuda.cupy.random.uniform(size=1)    # loads CUDA's libraries and compiles a kernel
    except Exception as error:                  # the loader, the compiler and CUDA have their own
        cause = ' '.join(str(error).split())
        raise command.UserError(f'--gpu {gpu}: CuPy cannot use it ({cause}); {CUPY}') from None
    return chainer.get_device(f'@cupy:{gpu}')


def limit_blas(sharers=1):
    """Lower BLAS's threads from all cores to those that this process, one of `sharers`, may use."""
    import joblib  # here, as to import these takes a while
    import threadpoolctl

    most = max(1, joblib.cpu_count() // sharers)            # knows quotas and affinity
    for library in threadpoolctl.ThreadpoolController().select(user_api='blas').lib_controllers:
        library.set_num_threads(min(library.num_threads, most))
