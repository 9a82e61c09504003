"""Xavier against the formula of Glorot & Bengio, and against statistics of its draws."""

from support import compat  # noqa: F401  (lets chainer import)

import chainer
from chainer.backends import cuda
from conftest import needs_gpu
import numpy as np
import pytest
from scipy import stats

from xavier import Xavier


def test_draws_are_uniform_within_the_bounds():
    np.random.seed(1)
    array = np.empty((500, 784), np.float32)
    init = Xavier(784, 500, constant=2)
    assert isinstance(init, chainer.initializer.Initializer)
    assert (init.fan_in, init.fan_out, init.low) == (784, 500, -init.high)
    assert init.high == pytest.approx(2 * (6 / 1284) ** 0.5, rel=1e-15)
    assert init(array) is None
    bound = init.high
    assert -bound <= array.min() and array.max() <= bound
    assert abs(array.mean()) < 4 * bound / 3 ** 0.5 / array.size ** 0.5
    assert array.var() == pytest.approx(bound ** 2 / 3, rel=0.01)
    uniform = stats.uniform(-bound, 2 * bound)
    assert stats.kstest(array.ravel().astype(float), uniform.cdf).pvalue > 1e-3


@pytest.mark.parametrize('dtype', [np.float16, np.float32, np.float64])
def test_fills_in_place_whatever_the_dtype(dtype):
    array = np.full((3, 4), 9, dtype)
    np.random.seed(3)
    Xavier(4, 3)(array)
    np.random.seed(3)
    bound = (6 / 7) ** 0.5
    assert np.array_equal(array, np.random.uniform(-bound, bound, (3, 4)).astype(dtype))
    assert chainer.initializers.generate_array(
        Xavier(5, 6, dtype=dtype), (6, 5), np).dtype == dtype


@needs_gpu
@pytest.mark.parametrize('dtype', [None, np.float16, np.float32, np.float64])
def test_fills_cupy_arrays(dtype):
    array = cuda.cupy.zeros((300, 200), dtype or np.float32)
    init = Xavier(200, 300, dtype=dtype)
    init(array)
    values = cuda.to_cpu(array).astype(float)
    assert abs(values).max() <= init.high * 1.001
    assert values.var() == pytest.approx(init.high ** 2 / 3, rel=0.05)
