"""The BLAS that multiplies matrices in compiled functions: its `sgemm`, called at its address.

Numba's own `np.dot` takes SciPy's BLAS. NumPy's OpenBLAS is newer and faster; so is, on processors
of Intel, MKL, where it is installed. An address is a number like any other: what Numba keeps of
compiled code serves them all.
"""

import ctypes
from importlib import metadata
import platform

from llvmlite import ir
import numba
from numba.core.cgutils import unpack_tuple
import numba.extending
import threadpoolctl

ROW_MAJOR, PLAIN, TRANSPOSED = 101, 111, 112            # as CBLAS has them
SGEMM = ('cblas_sgemm_64', 'scipy_cblas_sgemm64_')      # with sizes of 64 bits: MKL's, OpenBLAS's
SEQUENTIAL, STRICT = 1, 0x10000                         # as MKL has them


def choose():
    """Choose among the installed ones.

    Returns:
        tuple: For people, whose it is; and the address of its `sgemm`, 0 for Numba's `np.dot`.
    """
    if is_intel():
        load_mkl()
    loaded = threadpoolctl.ThreadpoolController().select(user_api='blas').info()
    whose = {'mkl': 'MKL', 'openblas': "NumPy's OpenBLAS"}
    for api in whose if is_intel() else ('openblas',):
        for library in (each for each in loaded if each['internal_api'] == api):
            for name in SGEMM:
                function = getattr(ctypes.CDLL(library['filepath']), name, None)
                if function is not None:
                    return whose[api], ctypes.cast(function, ctypes.c_void_p).value
    return "SciPy's BLAS", 0


def is_intel():
    """Tell whether this is a processor of Intel; on others MKL is no faster."""
    try:
        with open('/proc/cpuinfo') as file:
            return 'GenuineIntel' in file.read()
    except OSError:                                     # not Linux
        return 'GenuineIntel' in platform.processor()


def load_mkl():
    """Load the MKL of the package `mkl`, if there is one: on one thread, the same in every run.

    Where another one is loaded already, by NumPy say, that one stays as it is.
    """
    loaded = threadpoolctl.ThreadpoolController().select(internal_api='mkl').info()
    try:
        files = [] if loaded else metadata.files('mkl') or []
        for file in files:
            if file.name.startswith(('libmkl_rt.', 'mkl_rt.')):
                mkl = ctypes.CDLL(str(file.locate()))
                sequence, repeat, branch = (
                    mkl.MKL_Set_Threading_Layer, mkl.MKL_CBWR_Set, mkl.MKL_CBWR_Get_Auto_Branch)
                sequence(SEQUENTIAL)
                repeat(branch() | STRICT)
    except (metadata.PackageNotFoundError, OSError, AttributeError):
        pass                                            # or none that can be used


@numba.extending.intrinsic
def multiply(context, sgemm, a, b, out):
    """Multiply matrices by the `sgemm` at an address: out = a b, in compiled functions.

    Each is float32 and lies in one piece; a and b may be transposed, as `W.T` is.
    """
    if any(kind.layout == 'A' for kind in (a, b, out)):
        return None                                     # not in one piece

    def generate(context, builder, signature, args):
        kinds = signature.args[1:]
        arrays = [context.make_array(kind)(context, builder, value)
                  for kind, value in zip(kinds, args[1:], strict=True)]
        sizes = [unpack_tuple(builder, array.shape) for array in arrays]
        data = [builder.bitcast(array.data, pointer) for array in arrays]
        rows = [size[kind.layout == 'C'] for kind, size in zip(kinds, sizes, strict=True)]
        forms = [integer(TRANSPOSED if kind.layout == 'F' else PLAIN) for kind in kinds[:2]]
        (m, k), (_, n) = sizes[:2]
        values = [integer(ROW_MAJOR), *forms, m, n, k, real(1), data[0], rows[0], data[1], rows[1],
                  real(0), data[2], rows[2]]
        of_type = ir.FunctionType(ir.VoidType(), [value.type for value in values])
        builder.call(builder.inttoptr(args[0], of_type.as_pointer()), values)
        return context.get_dummy_value()

    integer, real = ir.IntType(32), ir.FloatType()
    pointer = ir.IntType(8).as_pointer()
    return numba.types.void(sgemm, a, b, out), generate
