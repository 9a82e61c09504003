"""The BLAS that multiplies matrices in compiled functions: its `sgemm`, which they call by `NAME`.

Numba's own `np.dot` takes SciPy's BLAS. NumPy's OpenBLAS is newer and faster. On Intel's processors
MKL is, too, if it is installed. Numba keeps only the name in compiled code, which serves them all.
"""

import contextlib
import ctypes
from importlib import metadata
import platform

import llvmlite.binding
import numba.extending
import threadpoolctl

NAME = 'vae_sgemm'
SGEMM = ('sgemm_64', 'scipy_sgemm_64_')         # with sizes of 64 bits: MKL's, OpenBLAS's
SEQUENTIAL, STRICT = 1, 0x10000                 # as MKL has them


def choose():
    """Return whose BLAS is the best one here, for people, and the address of its `sgemm`."""
    best = {'openblas': "NumPy's OpenBLAS"}
    if is_intel():
        load_mkl()
        best = {'mkl': 'MKL', **best}
    loaded = threadpoolctl.ThreadpoolController().select(user_api='blas').info()
    for api, whose in best.items():
        for library in (each for each in loaded if each['internal_api'] == api):
            for name in SGEMM:
                function = getattr(ctypes.CDLL(library['filepath']), name, None)
                if function is not None:
                    return whose, ctypes.cast(function, ctypes.c_void_p).value
    return "SciPy's BLAS", numba.extending.get_cython_function_address(
        'scipy.linalg.cython_blas', 'sgemm')


def is_intel():
    """Tell whether this is a processor of Intel; on others MKL is no faster."""
    try:
        with open('/proc/cpuinfo') as file:
            return 'GenuineIntel' in file.read()
    except OSError:                                     # not Linux
        return 'GenuineIntel' in platform.processor()


def load_mkl():
    """Load the library of the package `mkl`, on one thread, if there is one and none is loaded."""
    if threadpoolctl.ThreadpoolController().select(internal_api='mkl').info():
        return
    with contextlib.suppress(metadata.PackageNotFoundError, OSError, AttributeError):
        for file in metadata.files('mkl') or []:        # or none that can be used
            if file.name.startswith(('libmkl_rt.', 'mkl_rt.')):
                mkl = ctypes.CDLL(str(file.locate()))
                mkl.MKL_Set_Threading_Layer(SEQUENTIAL)
                mkl.MKL_CBWR_Set(mkl.MKL_CBWR_Get_Auto_Branch() | STRICT)


WHOSE, ADDRESS = choose()
llvmlite.binding.add_symbol(NAME, ADDRESS)      # before any compiled function is loaded
