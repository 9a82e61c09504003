"""The device that --gpu asks for, and BLAS's threads."""

from types import SimpleNamespace

from support.base import command, devices  # lets chainer import

from chainer.backends import cuda
import joblib
import numpy as np
import pytest
import threadpoolctl


@pytest.mark.parametrize(('may_use', 'taken', 'left'), [(1, 2, 1), (64, 1, 1), (64, 2, 2)])
def test_blas_takes_no_more_threads_than_it_may_use_or_did(monkeypatch, may_use, taken, left):
    monkeypatch.setattr(joblib, 'cpu_count', lambda: may_use)   # what a container's quota leaves
    blas = threadpoolctl.ThreadpoolController().select(user_api='blas')
    with blas.limit(limits=taken):
        assert devices.get_device(-1).xp is np
        assert {library['num_threads'] for library in blas.info()} == {left}


def test_a_gpu_that_is_not_there(monkeypatch):
    def fail(gpu):
        raise RuntimeError('cudaErrorNoDevice:\nno device')

    monkeypatch.setattr(cuda, 'available', True)
    monkeypatch.setattr(cuda, 'cupy', SimpleNamespace(cuda=SimpleNamespace(Device=fail)))
    with pytest.raises(command.UserError) as error:
        devices.get_device(3)
    assert str(error.value).startswith(
        '--gpu 3: CuPy cannot use it (cudaErrorNoDevice: no device); nvidia-smi shows the GPUs')


@pytest.mark.parametrize('cause', [
    "No module named 'cupy'",
    '\n====\nFailed to import CuPy.\nOriginal error:\n  ImportError: libcuda.so.1\n====\n'])
def test_a_gpu_without_cupy(monkeypatch, cause):
    monkeypatch.setattr(cuda, 'available', False)
    monkeypatch.setattr(cuda, '_resolution_error', ImportError(cause), raising=False)
    with pytest.raises(command.UserError) as error:
        devices.get_device(0)
    needed = cause.strip('\n= ').splitlines()[-1].strip()
    assert str(error.value).startswith(f'--gpu 0 needs CuPy ({needed}); nvidia-smi shows')
    assert '\n' not in str(error.value)
