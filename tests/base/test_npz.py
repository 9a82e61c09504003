"""An npz is read without trust, and with all that Chainer reads of it."""

import pickle

from support.base import npz  # lets chainer import

import chainer
from chainer.training import triggers
import numpy as np
import pytest
from samples import npy, zipped


def test_one_array_alone_can_be_read_but_all_must_be_what_they_claim(tmp_path):
    path = str(tmp_path / 'good.npz')
    np.savez(path, x=np.arange(3), y=np.ones((2, 2)))
    assert list(npz.read(path)) == ['x', 'y']
    assert npz.read(path, only='x')['x'].tolist() == [0, 1, 2]
    size = sum(128 + array.nbytes for array in (np.arange(3), np.ones((2, 2))))     # with headers
    npz.read(path, most=size)
    with pytest.raises(ValueError, match=f'claims more than {size - 1} bytes'):
        npz.read(path, only='x', most=size - 1)
    np.savez_compressed(path, x=np.zeros((2, 2**20), np.float32))
    with pytest.raises(ValueError, match='claims more than'):
        npz.read(path)


def test_an_npz_that_somebody_packed_again(tmp_path):
    # with entries for the folders, and with what a Mac puts in
    (tmp_path / 'again').write_bytes(zipped({
        'updater/': b'', '.DS_Store': b'\0Bud1', '__MACOSX/updater/._iteration.npy': b'\0\5\26\7',
        'updater/iteration.npy': npy(np.array(3))}))
    assert npz.read(str(tmp_path / 'again')) == {'updater/iteration': 3}


def test_a_value_that_is_not_known_yet_is_read_without_unpickling(tmp_path, monkeypatch):
    # Chainer saves None, the best value of a trigger before it has fired, as a pickle
    trigger = triggers.MinValueTrigger('validation/main/loss')
    chainer.serializers.save_npz(str(tmp_path / 'new'), trigger)
    member = npy(np.array(None))
    old = pickle.dumps(np.array(None), 3).replace(b'numpy._core', b'numpy.core')    # of NumPy 1
    (tmp_path / 'old').write_bytes(zipped({
        'best_value.npy': member[:member.index(b'\n') + 1] + old}))
    for name in ('load', 'loads'):
        monkeypatch.setattr(pickle, name, None)
    for name in ('new', 'old'):
        assert npz.read(str(tmp_path / name))['best_value'].tolist() is None


@pytest.mark.parametrize('value', [{}, [None], np.float32])
def test_any_other_object_is_refused(tmp_path, value):
    array = np.empty((), object)
    array[()] = value
    np.savez(tmp_path / 'file.npz', x=array)
    with pytest.raises(ValueError, match='it holds Python objects, which could run code'):
        npz.read(str(tmp_path / 'file.npz'))
