"""Files and digits that several test modules make or check."""

import io
import os
import zipfile

from support.data import mnist  # lets chainer import

from conftest import make_digits
import numpy as np


class Marker:
    """An object whose unpickling makes a folder."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (self.path,)


def npy(array):
    file = io.BytesIO()
    np.save(file, array)
    return file.getvalue()


def zipped(members, compression=zipfile.ZIP_STORED):
    file = io.BytesIO()
    with zipfile.ZipFile(file, 'w', compression) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return file.getvalue()


def fill_cache():
    """Put the digits of `idx_files` into Chainer's cache."""
    arrays = make_digits(60, 0), make_digits(30, 1)
    for path, (pictures, labels) in zip(mnist.cache_paths(), arrays, strict=True):
        os.makedirs(os.path.dirname(path), exist_ok=True)
        np.savez_compressed(path, x=pictures.reshape(-1, 784), y=labels)


def check_tiny(digits):
    """Assert that these are the digits of `idx_files`."""
    train, labels = make_digits(60, 0)
    expected = train.reshape(60, 784).astype(np.float64) / 255
    assert digits.train.dtype == digits.test.dtype == np.float32
    assert (digits.train.shape, digits.test.shape) == ((60, 784), (30, 784))
    np.testing.assert_allclose(digits.train, expected, rtol=1e-6)
    assert digits.train_labels.dtype == np.int32
    assert digits.train_labels.tolist() == labels.tolist()
    assert digits.test_labels.tolist() == [i % 10 for i in range(30)]
