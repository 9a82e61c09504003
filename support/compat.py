"""Let Chainer 7.8.1, the last release, import and run on today's Python, NumPy and CuPy.

Chainer was frozen in January 2022, for Python 3.9, NumPy 1.22 and CuPy 7. Each repair below names
the line of Chainer that needs it. What the installed NumPy still has stays as it is.
"""

import os
import sys
import types
import warnings

import numpy as np

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

with warnings.catch_warnings():             # old escapes in strings, where Python compiles Chainer
    warnings.simplefilter('ignore')
    import chainer  # noqa: F401
    from chainer.backends import cuda

# chainermn/communicators/_memory_utility.py, lines 289 and 361: the kernels of pure_nccl have the
# type `half`, which CuPy 14 no longer defines for them.
_raw = cuda.raw
cuda.raw = lambda code, name, *args, **kwargs: _raw(
    '#include <cuda_fp16.h>\n' * ('half' in code) + code, name, *args, **kwargs)
