"""Xavier initialization: the weights of every layer of the VAE (article, section 2).

Glorot & Bengio (2010), "Understanding the difficulty of training deep feedforward neural
networks", equation 16. `chainer.initializers.GlorotUniform` draws from the same range; this class
has the article's name and arguments, among them its `constant`.
"""

from support import compat  # noqa: F401  (lets chainer import)

from chainer import backend, initializer
import numpy as np


class Xavier(initializer.Initializer):
    """Uniform initializer that keeps the variance of a signal alike from layer to layer.

    It draws from U(-b, b) with b = constant * sqrt(6 / (fan_in + fan_out)), so the variance is
    b**2 / 3.

    Args:
        fan_in (int): Number of units of the layer below.
        fan_out (int): Number of units of the layer above.
        constant (float): Factor on both bounds; 1 suits tanh.
        dtype: Dtype of the arrays to be filled; None stands for Chainer's default, float32.

    Attributes:
        fan_in, fan_out: As given.
        high, low (float): The bounds b and -b.
    """

    def __init__(self, fan_in, fan_out, constant=1, dtype=None):
        super().__init__(dtype)
        self.fan_in = fan_in
        self.fan_out = fan_out
        self.high = constant * np.sqrt(6.0 / (fan_in + fan_out))
        self.low = -self.high

    def __call__(self, array):
        """Fill `array` (NumPy or CuPy, of any shape and float dtype) in place."""
        xp = backend.get_array_module(array)
        # NumPy draws float64 alone. cuRAND draws float32 too, but never float16.
        narrow = xp is not np and self.dtype in (np.float16, np.float32)
        draw = {'dtype': np.float32} if narrow else {}
        array[...] = xp.random.uniform(self.low, self.high, array.shape, **draw)
