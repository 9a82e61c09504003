"""What the tests of the fast step share: small updaters of each kind, and steps that they take."""

import json

from support.fast import updater  # lets chainer import
from support.run import snapshot

import chainer
from chainer import iterators, optimizers, training
from chainer.training import extensions
from conftest import HAS_GPU
import numpy as np
import pytest

import net
import train_vae

GPU = pytest.param('@cupy:0', marks=[
    pytest.mark.gpu, pytest.mark.skipif(not HAS_GPU, reason='needs CuPy and a GPU')])
ON_EACH = pytest.mark.parametrize('device', ['@numpy', GPU])
DIGITS = np.random.RandomState(1).uniform(0, 1, (60, 784)).astype(np.float32)
SETTINGS = {
    'softplus': {},
    'relu': {'activation': 'relu'},
    'k, C, tanh': {'k': 2, 'C': 0.25, 'activation': 'tanh'},
    'z of 1': {'dim_z': 1},
    'odd sizes': {'dim_z': 7, 'dim_h': 33, 'batch': 23},
    'h of 1, a batch of 1': {'dim_h': 1, 'batch': 1, 'k': 3},
    'batches that wrap': {'batch': 47},
    'more than the digits': {'batch': 150, 'activation': 'relu'},
}


def make(kind, activation='softplus', C=1.0, k=1, dim_z=3, dim_h=20, batch=40, digits=DIGITS,
         count=2, device='@numpy'):
    """Seed the noise; return a fast or standard updater, whose biases are not all 0."""
    seed(device)
    model = net.VAE(784, dim_z, dim_h, net.ACTIVATIONS[activation])
    for link in model.children():
        link.b.array[:] = np.random.uniform(-0.1, 0.1, link.b.shape)
    model.to_device(device)
    optimizer = optimizers.Adam().setup(model)
    standard = training.StandardUpdater(
        iterators.SerialIterator(digits, batch), optimizer, device=device,
        loss_func=model.get_loss_func(C, k))
    if kind == 'standard':
        return standard
    if device != '@numpy':
        return updater.fast(standard, None)
    from support.fast import cpu

    with cpu.BLAS.limit(limits=count):
        return updater.FastUpdater(standard, cpu.Stepper(optimizer, k, digits))


def seed(device='@numpy'):
    np.random.seed(0)
    if device != '@numpy':
        chainer.backends.cuda.cupy.random.seed(7)


def adam(its_updater):
    return its_updater.get_optimizer('main')


def model_of(its_updater):
    return adam(its_updater).target


def one_step(its_updater):
    """Take a step; return the losses that it reports."""
    reporter, observation = chainer.Reporter(), {}
    reporter.add_observer('main', model_of(its_updater))
    with reporter.scope(observation):
        its_updater.update()
    assert set(observation) == {'main/' + name for name in snapshot.LOSSES}
    return [float(observation['main/' + name].array) for name in snapshot.LOSSES]


def arrays_of(its_updater):
    send = chainer.get_device('@numpy').send
    return {f'{name} {part}': send(array).copy()
            for name, param in model_of(its_updater).namedparams()
            for part, array in {'W': param.array, 'gradient': param.grad,
                                **(param.update_rule.state or {})}.items() if array is not None}


def check_close(arrays, others, tolerance=1e-3):
    """Assert that arrays by name differ by no more than a fraction of the largest number there."""
    assert arrays.keys() == others.keys()
    for name, array in arrays.items():
        most = 1e-4 if name.endswith('W') else tolerance * abs(others[name]).max()
        assert array.dtype == np.float32
        assert abs(array - others[name]).max() <= most, name


def check_same(arrays, others):
    assert arrays.keys() == others.keys()
    for name, array in arrays.items():
        assert np.array_equal(array, others[name]), name


def evaluator_of(model, k=2, n=30, batch=20):
    return extensions.Evaluator(
        iterators.SerialIterator(DIGITS[:n], batch, repeat=False, shuffle=False), model,
        device=model.device, eval_func=train_vae.score_func(model, k))


def trained(path):
    """Return what a snapshot has of the training, and not of settings and time."""
    arrays = snapshot.read(str(path))
    del arrays['_snapshot_elapsed_time'], arrays[snapshot.SETTINGS_KEY]
    rows = json.loads(str(arrays.pop(snapshot.LOG_KEY)))
    return arrays | {'log': np.array(str([row | {'elapsed_time': 0} for row in rows]))}
