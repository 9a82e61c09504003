"""blas.py: each BLAS's products against NumPy's in float64, and which one is chosen and called."""

import ctypes
import importlib
import itertools
import os
import subprocess
import sys
import types

from conftest import ROOT
import numpy as np
import pytest
import threadpoolctl

pytest.importorskip('numba')
from support.fast import blas, compiled

import llvmlite.binding

WHOSE = ("SciPy's BLAS", "NumPy's OpenBLAS")


@pytest.fixture
def take():
    """Let what is compiled or loaded from now on call the `sgemm` at an address; undo it after."""
    yield lambda address: llvmlite.binding.add_symbol(blas.NAME, address)
    llvmlite.binding.add_symbol(blas.NAME, blas.ADDRESS)


@pytest.mark.parametrize('expected', WHOSE)
def test_products_are_those_of_float64(monkeypatch, take, expected):
    monkeypatch.setattr(blas, 'is_intel', lambda: False)
    if expected == WHOSE[0]:
        monkeypatch.setattr(blas, 'SGEMM', ())
    whose, address = blas.choose()
    if whose != expected:
        pytest.skip(f'{expected} is not installed')
    take(address)
    dot, rng = compiled.compiled(compiled.dot.py_func), np.random.RandomState(0)
    for m, k, n in ((1, 1, 1), (50, 784, 500), (7, 20, 1), (33, 5, 64), (7, 1, 3), (0, 5, 3)):
        a, b = (rng.standard_normal(size).astype(np.float32) for size in ((m, k), (k, n)))
        for left, right in itertools.product((a, a.T.copy().T), (b, b.T.copy().T)):
            around = np.full((m + 2, n), 7, np.float32)
            dot(left, right, around[1:-1])
            assert np.allclose(around[1:-1], a.astype(np.float64) @ b, rtol=0, atol=5e-6 * k)
            assert (around[[0, -1]] == 7).all()


PRODUCT = '''
import numpy as np
from support.fast import compiled

def product(a, b, out):
    compiled.dot(a, b, out)

args = [np.ones(shape, np.float32) for shape in ((2, 3), (3, 4), (2, 4))]
function = compiled.kept(product)
compiled.compile_for(function, args)(*args)
hits = sum(function.stats.cache_hits.values())
'''


def test_what_numba_keeps_calls_the_blas_of_the_run(tmp_path, monkeypatch, take):
    (tmp_path / 'product.py').write_text(PRODUCT)
    code = ('import sys; sys.path.insert(0, sys.argv[1]); import product\n'
            'assert (product.args[2] == 3).all() and not product.hits')
    subprocess.run([sys.executable, '-c', code, tmp_path], check=True, cwd=ROOT,
                   env={**os.environ, 'NUMBA_CACHE_DIR': str(tmp_path)})

    sizes = []
    pointers = [ctypes.POINTER(ctypes.c_int64 if i in (2, 3, 4) else ctypes.c_char)
                for i in range(13)]
    other = ctypes.CFUNCTYPE(None, *pointers)(
        lambda *given: sizes.append([each[0] for each in given[2:5]]))
    take(ctypes.cast(other, ctypes.c_void_p).value)
    monkeypatch.setattr(compiled.numba.config, 'CACHE_DIR', str(tmp_path))
    monkeypatch.syspath_prepend(tmp_path)
    assert importlib.import_module('product').hits == 1
    assert sizes == [[4, 2, 3]]


def test_an_mkl_that_cannot_be_used_does_no_harm(monkeypatch, tmp_path):
    if any(library['internal_api'] == 'mkl' for library in threadpoolctl.threadpool_info()):
        pytest.skip('MKL is loaded')
    path = tmp_path / 'libmkl_rt.so.3'
    path.write_bytes(b'not a library')
    monkeypatch.setattr(blas.metadata, 'files', lambda name: [
        types.SimpleNamespace(name=path.name, locate=lambda: path)])
    monkeypatch.setattr(blas, 'is_intel', lambda: True)
    assert blas.choose()[0] in WHOSE
