"""blas.py: each BLAS's products against NumPy's in float64, and which one is chosen."""

import itertools
import types

from support import threads

import numpy as np
import pytest
from test_updater import SETTINGS
from test_updater import test_steps_are_those_of_the_standard_updater as check_steps
import threadpoolctl

pytest.importorskip('numba')
from support import blas, compiled

WHOSE = ("SciPy's BLAS", "NumPy's OpenBLAS", 'MKL')


@pytest.fixture(params=WHOSE)
def sgemm(request, monkeypatch):
    """Yield the address of each BLAS's function, and let steps call it."""
    monkeypatch.setattr(blas, 'is_intel', lambda: request.param == 'MKL')
    whose, address = blas.choose()
    if request.param == WHOSE[0]:
        address = 0
    elif whose != request.param:
        pytest.skip(f'{request.param} is not installed')
    monkeypatch.setattr(threads, 'SGEMM', address)
    return address


@pytest.mark.parametrize(('m', 'k', 'n'), [(1, 1, 1), (50, 784, 500), (7, 20, 1), (33, 5, 64)])
def test_products_are_those_of_float64(sgemm, m, k, n):
    rng = np.random.RandomState(0)
    a, b = (rng.standard_normal(size).astype(np.float32) for size in ((m, k), (k, n)))
    for left, right in itertools.product((a, a.T.copy().T), (b, b.T.copy().T)):
        around = np.full((m + 2, n), 7, np.float32)
        compiled.dot(sgemm, left, right, around[1:-1])
        exact = a.astype(np.float64) @ b
        assert np.allclose(around[1:-1], exact, rtol=0, atol=1e-6 * abs(a).max() * k)
        assert (around[[0, -1]] == 7).all()


@pytest.mark.parametrize('name', SETTINGS)
def test_steps_by_each_are_those_of_the_standard_updater(sgemm, name):
    check_steps(name, 2)


def test_a_newer_one_is_taken_than_numbas():
    if not any(library['prefix'] == 'libscipy_openblas' and library['version'] > '0.3.29'
               and 'numpy' in library['filepath'] for library in threads.BLAS.info()):
        pytest.skip("this NumPy is not PyPI's")
    assert (threads.WHOSE, threads.SGEMM != 0) == ("NumPy's OpenBLAS", True) or blas.is_intel()


@pytest.mark.parametrize('package', [None, (), ('libmkl_rt.so.3',), ('mkl_rt.3.dll',)])
def test_an_mkl_that_cannot_be_used_does_no_harm(monkeypatch, tmp_path, package):
    def files(name):
        if package is None:
            raise blas.metadata.PackageNotFoundError(name)
        for file in package:
            (tmp_path / file).write_bytes(b'not a library')
        return [types.SimpleNamespace(name=file, locate=(tmp_path / file).absolute)
                for file in package]

    if any(library['internal_api'] == 'mkl' for library in threadpoolctl.threadpool_info()):
        pytest.skip('MKL is loaded')
    monkeypatch.setattr(blas.metadata, 'files', files)
    monkeypatch.setattr(blas, 'is_intel', lambda: True)
    assert blas.choose()[0] in WHOSE[:2]
