"""updater.py against Chainer's own step and NumPy in float64, and its runs by train_vae.py."""

import ctypes
import shutil
import subprocess
import sys
import time
import types

from support import snapshot  # lets chainer import

import chainer
from chainer import iterators, optimizers, training
from chainer.backends import cuda
from chainer.training import extensions
from conftest import SMALL
import numpy as np
import pytest
from test_resume import check_same, needs_posix, state_of, stopping_at

import net
import train_vae

updater = pytest.importorskip('support.updater', reason='needs Numba')
DIGITS = np.random.RandomState(1).uniform(0, 1, (60, 784)).astype(np.float32)
SETTINGS = {
    'softplus': {},
    'tanh': {'activation': 'tanh'},
    'relu': {'activation': 'relu'},
    'k': {'k': 3},
    'C': {'C': 4.0},
    'k, C, tanh': {'k': 2, 'C': 0.25, 'activation': 'tanh'},
    'z of 1': {'dim_z': 1},
    'h of 1': {'dim_h': 1},
    'odd sizes': {'dim_z': 7, 'dim_h': 33, 'batch': 23},
    'a batch of 1': {'batch': 1, 'k': 2},
    'batches that wrap': {'batch': 47},
    'more than the digits': {'batch': 150, 'activation': 'relu'},
    'all digits': {'batch': 60},
}


def make(kind, activation='softplus', C=1.0, k=1, dim_z=3, dim_h=20, batch=40, digits=DIGITS,
         threads=2):
    """Seed NumPy; return an updater of this kind, whose biases are not all 0."""
    np.random.seed(0)
    model = net.VAE(784, dim_z, dim_h, net.ACTIVATIONS[activation])
    for link in model.children():
        link.b.array[:] = np.random.uniform(-0.1, 0.1, link.b.shape)
    optimizer = optimizers.Adam().setup(model)
    iterator = iterators.SerialIterator(digits, batch)
    if kind == 'standard':
        return training.StandardUpdater(iterator, optimizer, loss_func=model.get_loss_func(C, k))
    fast = updater.Updater(iterator, optimizer, C, k)
    fast.workers = updater.Workers(model, k, threads)
    return fast


def model_of(its_updater):
    """Return the model that an updater trains."""
    return its_updater.get_optimizer('main').target


def step(its_updater):
    """Take a step; return the losses that it reports."""
    reporter, observation = chainer.Reporter(), {}
    reporter.add_observer('main', model_of(its_updater))
    with reporter.scope(observation):
        its_updater.update()
    assert set(observation) == {'main/' + name for name in snapshot.LOSSES}
    return [float(getattr(observation['main/' + name], 'array', observation['main/' + name]))
            for name in snapshot.LOSSES]


def check_close(array, other, tolerance, what):
    """Assert that two arrays differ by no more than a fraction of the largest number there."""
    assert array.dtype == np.float32
    assert abs(array - other).max() <= tolerance * abs(other).max(), what


@pytest.fixture(autouse=True)
def blas():
    """Give BLAS its threads back after each test."""
    with updater.BLAS.limit(limits=updater.THREADS):
        yield


# The same mathematics -------------------------------------------------------------------------


@pytest.mark.parametrize('threads', [1, 2, 3])
@pytest.mark.parametrize('name', SETTINGS)
def test_steps_are_those_of_the_standard_updater(name, threads):
    standard = make('standard', **SETTINGS[name])
    losses, grads = [], []
    for _ in range(3):
        losses.append(step(standard))
        grads.append([param.grad.copy() for param in model_of(standard).params()])
    state = np.random.get_state()

    fast = make('fast', **SETTINGS[name], threads=threads)
    for i in range(3):
        assert step(fast) == pytest.approx(losses[i], rel=1e-5)
        for (path, param), grad in zip(model_of(fast).namedparams(), grads[i], strict=True):
            check_close(param.grad, grad, 1e-5 if i == 0 else 1e-3, path)
    assert all(np.array_equal(a, b) for a, b in zip(np.random.get_state(), state, strict=True))
    for (path, param), other in zip(model_of(fast).namedparams(), model_of(standard).params(),
                                    strict=True):
        assert abs(param.array - other.array).max() < 1e-4, path
        for moment in 'mv':
            check_close(param.update_rule.state[moment], other.update_rule.state[moment], 1e-3,
                        path)
        assert param.update_rule.t == other.update_rule.t == 3
    found = step(fast)
    assert [float(getattr(model_of(fast), name)) for name in snapshot.LOSSES] == found
    step(standard)
    assert (fast.iteration, fast.epoch_detail, fast.is_new_epoch) == (
        standard.iteration, standard.epoch_detail, standard.is_new_epoch)


def test_losses_follow_those_of_the_standard_updater():
    digits = np.random.RandomState(2).uniform(0, 1, (300, 784)).astype(np.float32)
    fast, standard = (make(kind, digits=digits, dim_h=50) for kind in ('fast', 'standard'))
    state = np.random.get_state()
    expected = [step(standard) for _ in range(100)]
    np.random.set_state(state)
    assert np.allclose([step(fast) for _ in range(100)], expected, rtol=1e-4, atol=0)


@pytest.mark.parametrize(('kind', 'function', 'derivative'), [
    (0, lambda a: np.logaddexp(a, 0), lambda a: 1 / (1 + np.exp(-a))),
    (1, np.tanh, lambda a: 1 - np.tanh(a) ** 2),
    (2, lambda a: np.maximum(a, 0), lambda a: (a > 0) * 1.0)])
def test_activations_are_exact_in_float32(kind, function, derivative):
    a = np.concatenate([np.linspace(-30, 30, 10001), [0, 88, -88, 1e4, -1e4]]).astype(np.float32)
    h, d, b = a[None].copy(), np.empty((1, len(a)), np.float32), np.zeros(len(a), np.float32)
    updater.activate(h, b, d, kind)
    a = np.clip(a.astype(np.float64), -700, 1e5)
    assert np.allclose(h[0], function(a), rtol=5e-7, atol=5e-7)
    assert np.allclose(d[0], derivative(a), rtol=0, atol=5e-7)


@pytest.mark.parametrize('kind', updater.ACTIVATIONS.values())
def test_what_is_not_finite_shows(kind):
    h = np.array([[np.nan, np.inf, -np.inf, 1]], np.float32)
    updater.activate(h, np.zeros(4, np.float32), np.empty_like(h), kind)
    assert np.isnan(h[0, 0])
    assert list(h[0, 1:3]) == pytest.approx({0: [np.inf, 0], 1: [1, -1], 2: [np.inf, 0]}[kind])
    y, x = np.array([[0.5, np.nan]], np.float32), np.zeros((1, 2), np.float32)
    assert np.isnan(updater.bernoulli_nll(y, np.zeros(2, np.float32), x, 1, np.float32(1)))


def test_adam_is_that_of_the_paper():
    rng = np.random.RandomState(0)
    grads = rng.standard_normal((5, 7)).astype(np.float32)
    param, m, v = np.ones(7, np.float32), np.zeros(7, np.float32), np.zeros(7, np.float32)
    theta, mean, square = np.ones(7), np.zeros(7), np.zeros(7)
    for t, grad in enumerate(grads, 1):
        alpha_t = 0.001 * np.sqrt(1 - 0.999 ** t) / (1 - 0.9 ** t)
        updater.update(param, grad, m, v, updater.Adam(*map(np.float32, (
            alpha_t, 0.1, 0.001, 1e-8))))
        mean = 0.9 * mean + 0.1 * grad
        square = 0.999 * square + 0.001 * grad.astype(np.float64) ** 2
        theta -= alpha_t * mean / (np.sqrt(square) + 1e-8)
    assert np.allclose(param, theta, rtol=0, atol=1e-6)
    assert np.allclose(m, mean, rtol=1e-5)
    assert np.allclose(v, square, rtol=1e-5)


# Around it ------------------------------------------------------------------------------------


@pytest.mark.parametrize(('activation', 'model_k', 'n'), [
    ('softplus', 1, 30), ('tanh', 10, 30), ('relu', 3, 7)])
def test_scores_are_those_of_plain_scoring(activation, model_k, n):
    model = model_of(make('standard', activation, dim_z=4, dim_h=30))
    scores = []
    for make_score in (train_vae.score_func, updater.score_func):
        np.random.seed(3)
        iterator = iterators.SerialIterator(DIGITS[:n], 13, repeat=False, shuffle=False)
        scores.append(extensions.Evaluator(iterator, model, eval_func=make_score(model, model_k))())
        scores[-1]['random'] = np.random.uniform()
    assert {key: float(value) for key, value in scores[1].items()} == pytest.approx(
        {key: float(value) for key, value in scores[0].items()}, rel=1e-5)


def test_a_step_leaves_the_arrays_of_model_and_adam_in_place():
    fast = make('fast')
    arrays = [param.array for param in model_of(fast).params()]
    step(fast)
    state = [param.update_rule.state['m'] for param in model_of(fast).params()]
    step(fast)
    assert all(param.array is array for param, array in zip(
        model_of(fast).params(), arrays, strict=True))
    assert all(param.update_rule.state['m'] is array for param, array in zip(
        model_of(fast).params(), state, strict=True))


def test_training_gives_blas_its_threads_back():
    def threads():
        return {library['num_threads'] for library in updater.BLAS.info()}

    fast = make('fast')
    with updater.BLAS.limit(limits=2):
        step(fast)
        assert threads() == {1}
        fast.finalize()
        assert threads() == {2}
        step(fast)          # as another Trainer does
        assert threads() == {1}
        fast.finalize()


@pytest.mark.parametrize(('n', 'shares'), [(15, 1), (31, 1), (32, 2), (47, 2), (48, 3), (100, 3)])
def test_a_thread_has_sixteen_digits_at_least(n, shares):
    workers = updater.Workers(model_of(make('standard')), 2, 3)
    space, parts = workers.prepare(n)
    assert len(parts) == shares
    assert np.array_equal(np.concatenate([np.arange(n)[digits] for digits, _ in parts]),
                          np.arange(n))
    assert sum(len(part.z) for _, part in parts) == len(space.z) == 2 * n


def test_all_that_is_serialized_is_the_standard_updaters():
    states = []
    for kind in ('standard', 'fast'):
        its_updater = make(kind, batch=20)
        for _ in range(7):
            step(its_updater)
        states.append(chainer.serializers.DictionarySerializer())
        its_updater.serialize(states[-1])
    standard, fast = (state.target for state in states)
    assert list(fast) == list(standard)
    for key, array in fast.items():
        assert np.allclose(array, standard[key], rtol=1e-3, atol=1e-5), key


def test_other_numbers_of_adam():
    results = []
    for kind in ('standard', 'fast'):
        its_updater = make(kind)
        hyperparam = its_updater.get_optimizer('main').hyperparam
        hyperparam.alpha, hyperparam.beta1, hyperparam.beta2 = 0.01, 0.8, 0.99
        hyperparam.eps, hyperparam.eta = 1e-2, 0.5
        for _ in range(3):
            step(its_updater)
        results.append([param.array for param in model_of(its_updater).params()])
    for array, expected in zip(*results, strict=True):
        assert np.allclose(array, expected, rtol=0, atol=1e-5)


def test_arrays_that_were_replaced():
    fast, standard = make('fast'), make('standard')
    for its_updater in (standard, fast):
        np.random.seed(3)
        step(its_updater)
        model = model_of(its_updater)
        model.cleargrads()
        model.ld1.W.array = model.ld1.W.array / 2
        for param in model.params():
            state = param.update_rule.state
            state['m'], state['v'] = (np.asfortranarray(state[name]) for name in 'mv')
        step(its_updater)
    for param, other in zip(model_of(fast).params(), model_of(standard).params(), strict=True):
        check_close(param.grad, other.grad, 1e-4, 'gradient')
        assert abs(param.array - other.array).max() < 1e-4
        check_close(param.update_rule.state['m'], other.update_rule.state['m'], 1e-4, 'm')


def test_a_thread_that_fails_leaves_no_other_waiting():
    def function(is_first, counter):
        if is_first:
            raise KeyboardInterrupt
        deadline = time.monotonic() + 20
        while counter[0] < 2 and time.monotonic() < deadline:
            time.sleep(0.001)
        ended.append(counter[0] == 2)

    ended = []
    workers = updater.Workers(model_of(make('standard')), 1, 2)
    with pytest.raises(KeyboardInterrupt):
        workers.run(function, [(True,), (False,)])
    workers.pool.shutdown()
    assert ended == [True]


@pytest.mark.parametrize(('change', 'why'), [
    (lambda optimizer: None, ''),
    (lambda optimizer: setattr(optimizer.target, 'act_func', chainer.functions.sigmoid),
     'unknown activation'),
    (lambda optimizer: setattr(optimizer.target.le1.W, 'array',
                               optimizer.target.le1.W.array.astype(np.float64)),
     'weights are not plain float32'),
    *((change, 'optimizer is not plain Adam') for change in (
        lambda optimizer: setattr(optimizer.hyperparam, 'amsgrad', True),
        lambda optimizer: setattr(optimizer.hyperparam, 'adabound', True),
        lambda optimizer: setattr(optimizer.hyperparam, 'weight_decay_rate', 0.1),
        lambda optimizer: setattr(optimizer.target.ld1.b.update_rule.hyperparam, 'alpha', 0.1),
        lambda optimizer: optimizer.add_hook(chainer.optimizer_hooks.GradientClipping(1)),
        lambda optimizer: optimizer.target.le1.W.update_rule.add_hook(print, 'print'))),
    (lambda optimizer: setattr(optimizer.target.le1.W, 'array',
                               np.asfortranarray(optimizer.target.le1.W.array)),
     'weights are not plain float32'),
    (lambda optimizer: optimizer.target.ld3.disable_update(), 'optimizer is not plain Adam'),
])
def test_what_stands_in_the_way(change, why):
    optimizer = make('standard').get_optimizer('main')
    change(optimizer)
    assert updater.obstacle(optimizer) == why


# Runs of train_vae.py -------------------------------------------------------------------------


def last_log(folder):
    """Return the losses of the last epoch in a log."""
    row = train_vae.json.loads((folder / 'log').read_text())[-1]
    return {key: value for key, value in row.items() if key != 'elapsed_time'}


def test_both_updaters_train_alike(cli, data_dir, tmp_path):
    for kind in ('fast', 'standard'):
        status, out, err = cli('--data-dir', data_dir, *SMALL, '-k', '2', '--beta', '2',
                               '--updater', kind, '-o', tmp_path / kind)
        assert (status, err) == (0, '')
        assert f'\nupdater  {kind}' in out
    assert last_log(tmp_path / 'fast') == pytest.approx(last_log(tmp_path / 'standard'), rel=1e-5)


@needs_posix
@pytest.mark.parametrize('first', ['fast', 'standard'])
def test_each_goes_on_from_the_others_snapshot(cli, data_dir, tmp_path, first):
    second = {'fast': 'standard', 'standard': 'fast'}[first]
    start = ['--data-dir', data_dir, *SMALL, '--updater', first]
    assert cli(*start, '-o', tmp_path / 'whole')[0] == 0
    with stopping_at(4):
        assert cli(*start, '-o', tmp_path / 'run')[0] == 143
    status, _, err = cli('--resume', '--updater', second, '-o', tmp_path / 'run')
    assert status == 0
    assert err == (f'warning: {tmp_path / "run" / "snapshot_interrupted"} was trained by the '
                   f'{first} updater; by the {second} updater the run goes on, but not to exactly '
                   'the same result\n')
    assert last_log(tmp_path / 'run') == pytest.approx(last_log(tmp_path / 'whole'), rel=1e-4)


@needs_posix
@pytest.mark.usefixtures('pictures')
def test_the_standard_updater_resumes_exactly(cli, data_dir, tmp_path):
    start = ['--data-dir', data_dir, *SMALL, '--updater', 'standard']
    assert cli(*start, '-o', tmp_path / 'whole')[0] == 0
    with stopping_at(4):
        assert cli(*start, '-o', tmp_path / 'run')[0] == 143
    status, out, err = cli('--resume', '-o', tmp_path / 'run')
    assert (status, err) == (0, '')
    assert 'updater  standard\n' in out
    check_same(tmp_path / 'run', tmp_path / 'whole')


def test_without_numba_the_standard_updater_steps_in(cli, data_dir, tmp_path, monkeypatch):
    assert cli('--data-dir', data_dir, *SMALL, '--updater', 'standard', '-o',
               tmp_path / 'plain')[0] == 0
    monkeypatch.delitem(sys.modules, 'updater')
    monkeypatch.setitem(sys.modules, 'numba', None)
    status, out, err = cli('--data-dir', data_dir, *SMALL, '-o', tmp_path / 'run')
    assert (status, err) == (0, '')
    assert '\nupdater  standard (import of numba halted; ' in out
    assert last_log(tmp_path / 'run') == last_log(tmp_path / 'plain')
    plain, run = (state_of(tmp_path / name / 'snapshot_epoch_2') for name in ('plain', 'run'))
    assert {key for key in plain if plain[key] != run[key]} == {snapshot.SETTINGS_KEY}
    monkeypatch.undo()
    status, out, err = cli('--resume', '-e', '3', '-o', tmp_path / 'run')
    assert (status, err.count('\n')) == (0, 1)
    assert 'was trained by the standard updater; by the fast updater the run goes on' in err
    assert '\nupdater  fast (' in out


def test_a_loss_that_is_not_finite_stops_the_run(cli, data_dir, tmp_path):
    status, _, err = cli('--data-dir', data_dir, *SMALL, '--beta', '1e38', '-o', tmp_path / 'run')
    assert status == 1
    assert 'is not finite in epoch ' in err


# A step on a GPU ------------------------------------------------------------------------------


def numpy_kernels():
    """Return what `updater.cuda_kernels` does, of NumPy, with the same arguments."""
    def fetch(digits, rows, D, x):
        x[:] = digits[rows]
        assert x.shape[1] == D

    def activate(a, b, kind, h, d):
        a = a + b
        h[:] = (np.logaddexp(a, 0), np.tanh(a), np.maximum(a, 0))[kind]
        d[:] = (1 / (1 + np.exp(-a)), 1 - np.tanh(a) ** 2, a > 0)[kind]

    def infer(mu0, b_mu, ln_var0, b_ln_var, eps, k, Z, mu, ln_var, sigma, kl, z):
        mu[:], ln_var[:] = mu0 + b_mu, ln_var0 + b_ln_var
        sigma[:] = np.exp(ln_var / 2)
        kl[:] = (mu ** 2 + sigma ** 2 - ln_var - 1) / 2
        z[:] = np.repeat(mu, k, 0) + eps * np.repeat(sigma, k, 0)
        assert z.shape[1] == Z

    def infer_back(sigma, eps, z_back, k, Z, scale, mu, ln_var):
        through = z_back * eps * np.repeat(sigma, k, 0) / 2
        mu[:] = mu * scale + z_back.reshape(-1, k, Z).sum(1)
        ln_var[:] = (sigma ** 2 - 1) / 2 * scale + through.reshape(-1, k, Z).sum(1)

    def bernoulli_nll(y, b, x, k, D, scale, delta, nll):
        a, x = y + b, np.repeat(x, k, 0)
        assert a.shape[1] == D
        nll[:] = np.logaddexp(a, 0) - x * a
        delta[:] = (1 / (1 + np.exp(-a)) - x) * scale

    def adam(grad, numbers, param, m, v):
        m += numbers[1] * (grad - m)
        v += numbers[2] * (grad ** 2 - v)
        param -= numbers[0] * m / (np.sqrt(v) + numbers[3])

    return types.SimpleNamespace(**{
        function.__name__: function
        for function in (fetch, activate, infer, infer_back, bernoulli_nll, adam)})


@pytest.mark.parametrize('name', SETTINGS)
def test_the_gpus_step_in_numpy_is_that_of_the_standard_updater(name):
    settings = {'C': 1.0, 'k': 1, 'batch': 40} | SETTINGS[name]
    standard = make('standard', **settings)
    losses = [step(standard) for _ in range(2)]

    other = make('standard', **settings)
    model, iterator = model_of(other), other.get_iterator('main')
    iterator.dataset = range(len(DIGITS))
    rows = [np.array(iterator.next())]
    its_step = updater.Step(model, len(rows[0]), settings['k'], settings['C'], DIGITS,
                            numpy_kernels())
    for i in range(2):
        its_step.rows[:] = rows[0] if i == 0 else iterator.next()
        updater.draw(its_step.space.eps, settings['k'])
        its_step.adam[:] = updater.count_step(other.get_optimizer('main'))
        its_step()
        found = updater.mean_losses(its_step.sums(), len(its_step.rows), settings['k'],
                                    settings['C'])
        assert [found[key] for key in snapshot.LOSSES] == pytest.approx(losses[i], rel=1e-5)
    for (path, param), expected in zip(model.namedparams(), model_of(standard).params(),
                                       strict=True):
        assert abs(param.array - expected.array).max() < 1e-4, path
        check_close(param.grad, expected.grad, 1e-3, path)


needs_gpu = pytest.mark.skipif(not cuda.available, reason='needs CuPy and a GPU')


class FakeStream:
    """A stream of CuPy's, of steps on the CPU: what it captures, it does when it is launched."""

    is_capturing = False
    launches = 0

    def __init__(self, its_step, fails):
        self.step, self.fails = its_step, fails
        for name, kernel in vars(its_step.kernels).items():
            setattr(its_step.kernels, name, self.unless_capturing(kernel))
        its_step.dot = self.unless_capturing(its_step.dot)

    def unless_capturing(self, function):
        def call(*args):
            if self.is_capturing and self.fails:
                raise RuntimeError('cannot\ncapture')
            if not self.is_capturing:
                function(*args)
        return call

    def __enter__(self):
        """Do nothing, as there is but one."""

    def __exit__(self, *error):
        """Do nothing."""

    def begin_capture(self):
        self.is_capturing = True

    def end_capture(self):
        self.is_capturing = False
        return self

    def launch(self, stream):
        assert stream is self
        self.launches += 1
        self.step()


@pytest.mark.parametrize('fails', [False, True])
def test_a_graph_is_replayed_with_its_inputs_changed(monkeypatch, capsys, fails):
    def set_inputs(self, rows, numbers):
        self.rows[:], self.adam[:] = rows, numbers
        updater.draw(self.space.eps, self.k)

    monkeypatch.setattr(updater.Step, 'set_inputs', set_inputs)
    standard, other = (make('standard', batch=23, C=2.0, k=2) for _ in range(2))
    np.random.seed(9)
    losses = [step(standard) for _ in range(5)]

    its_step = updater.Step(model_of(other), 23, 2, 2.0, DIGITS, numpy_kernels())
    stream = FakeStream(its_step, fails)
    other.get_iterator('main').dataset = range(len(DIGITS))
    other.__class__ = updater.GraphUpdater
    vars(other).update(model=model_of(other), C=2.0, k=2, step=its_step, graph=None,
                       can_capture=True, stream=stream, _device=chainer.get_device('@numpy'))
    np.random.seed(9)
    for expected in losses:
        assert step(other) == pytest.approx(expected, rel=1e-5)
    assert stream.launches == (0 if fails else 4)
    assert capsys.readouterr().err == (
        'warning: no CUDA graph (cannot capture); training goes on without one, which takes '
        'longer\n' if fails else '')
    for param, expected in zip(model_of(other).params(), model_of(standard).params(), strict=True):
        assert abs(param.array - expected.array).max() < 1e-4


class NumpyCublas:
    """What `updater.Cublas` needs of cuBLAS, on NumPy's arrays, by BLAS's own definition."""

    def __getattr__(self, name):
        return lambda *args: 0

    def cublasSgemm_v2(self, handle, op_a, op_b, m, n, k, alpha, a, ld_a, b, ld_b, beta, c, ld_c):
        """Compute c = op(a) op(b), whose matrices lie by columns."""
        def matrix(pointer, rows, columns, ld):
            data = np.ctypeslib.as_array(
                ctypes.cast(pointer, ctypes.POINTER(ctypes.c_float)), (ld * columns,))
            return data.reshape(columns, ld)[:, :rows].T

        a = matrix(a, k, m, ld_a).T if op_a else matrix(a, m, k, ld_a)
        b = matrix(b, n, k, ld_b).T if op_b else matrix(b, k, n, ld_b)
        matrix(c, m, n, ld_c)[:] = alpha._obj.value * a @ b
        return 0


def numpy_cublas():
    """Return a Cublas that works on arrays of NumPy."""
    xp = types.SimpleNamespace(
        zeros=lambda *args: types.SimpleNamespace(data=types.SimpleNamespace(ptr=0), nbytes=0),
        cuda=types.SimpleNamespace(runtime=types.SimpleNamespace(runtimeGetVersion=lambda: 13000)))
    return updater.Cublas(0, xp, NumpyCublas())


class Pointed(np.ndarray):
    """Array of NumPy whose address is where CuPy has it."""

    @property
    def data(self):
        """Return the memory."""
        return types.SimpleNamespace(ptr=self.ctypes.data)


@pytest.mark.parametrize(('m', 'k', 'n'), [(3, 4, 5), (1, 4, 5), (3, 1, 5), (3, 4, 1), (1, 1, 1)])
@pytest.mark.parametrize('transposed', ['', 'a', 'b', 'ab'])
def test_cublas_is_told_the_right_product(m, k, n, transposed):
    rng = np.random.RandomState(0)
    a, b = (rng.standard_normal(shape[::-1]).astype(np.float32).T if name in transposed else
            rng.standard_normal(shape).astype(np.float32)
            for name, shape in (('a', (m, k)), ('b', (k, n))))
    out = np.zeros((m, n), np.float32)
    numpy_cublas().dot(a.view(Pointed), b.view(Pointed), out.view(Pointed))
    assert np.allclose(out, a @ b, rtol=1e-5, atol=1e-6)


def test_what_cublas_refuses_is_an_error():
    cublas = numpy_cublas()
    cublas.library = types.SimpleNamespace(cublasSgemm_v2=lambda *args: 7)
    a = np.ones((2, 2), np.float32).view(Pointed)
    with pytest.raises(RuntimeError, match='cublasSgemm_v2 of cuBLAS returned 7'):
        cublas.dot(a, a, a)


@needs_gpu
@pytest.mark.parametrize('name', SETTINGS)
def test_gpu_kernels_are_those_in_numpy(name):
    kind = SETTINGS[name].get('activation', 'softplus')
    results = []
    for kernels, xp in ((numpy_kernels(), np), (None, cuda.cupy)):
        model = model_of(make('standard', **SETTINGS[name]))
        if xp is not np:
            model.to_device('@cupy:0')
        k = SETTINGS[name].get('k', 1)
        its_step = updater.Step(model, 40, k, 2.0, xp.asarray(DIGITS), kernels)
        noise = np.random.RandomState(5).standard_normal(its_step.space.eps.shape)
        its_step.space.eps[:] = xp.asarray(noise, np.float32)
        its_step.rows[:] = xp.arange(40)
        its_step.adam[:] = xp.asarray([1e-3, 0.1, 0.001, 1e-3])
        its_step()
        results.append([*its_step.sums()[0], *(cuda.to_cpu(array) for array in its_step.space),
                        *(cuda.to_cpu(param.grad) for param in model.params()),
                        *(cuda.to_cpu(param.array) for param in model.params())])
    for array, expected in zip(*results, strict=True):
        assert np.allclose(array, expected, rtol=1e-3, atol=1e-4), kind


@needs_gpu
def test_replays_differ_and_equal_uncaptured_steps():
    found = []
    for captured in (True, False):
        model = model_of(make('standard'))
        model.to_device('@cupy:0')
        optimizer = optimizers.Adam().setup(model)
        fast = updater.GraphUpdater(iterators.SerialIterator(DIGITS, 23), optimizer,
                                    chainer.get_device('@cupy:0'), k=2)
        cuda.cupy.random.seed(7)
        np.random.seed(7)
        losses = []
        for _ in range(5):
            losses.append(step(fast))
            if not captured:
                fast.graph = None
        assert len({loss for loss, _, _ in losses}) == 5
        found.append((losses, [cuda.to_cpu(param.array) for param in model.params()]))
    assert found[0][0] == found[1][0]
    assert all(np.array_equal(a, b) for a, b in zip(found[0][1], found[1][1], strict=True))


@needs_gpu
def test_gpu_steps_are_those_of_the_standard_updater():
    losses = []
    for kind in ('standard', 'graph'):
        model = model_of(make('standard'))
        model.to_device('@cupy:0')
        optimizer = optimizers.Adam().setup(model)
        iterator, device = iterators.SerialIterator(DIGITS, 23), chainer.get_device('@cupy:0')
        its_updater = (updater.GraphUpdater(iterator, optimizer, device, 2.0, 2)
                       if kind == 'graph' else training.StandardUpdater(
                           iterator, optimizer, device=device,
                           loss_func=model.get_loss_func(2.0, 2)))
        cuda.cupy.random.seed(7)
        losses.append([step(its_updater) for _ in range(6)])
    assert np.allclose(losses[1], losses[0], rtol=1e-4)


def compile_kernels(folder):
    """Compile the bodies of the CUDA kernels as C++, and return them as functions of arrays."""
    source = ['#include <cmath>', 'using namespace std;', 'typedef float T;', 'typedef int int32;',
              'typedef long long int64;']
    for name, (inputs, outputs, code) in updater.CUDA.items():
        params = [param.split() for param in f'{inputs}, {outputs}'.split(', ')]
        args = ', '.join('int32 ' + param[-1] if param[0] == 'int32' else
                         f'{param[-2]}* {param[-1]}_' for param in params)
        names = {param[-1]: f'{param[1]}* {param[-1]} = {param[-1]}_;' if param[0] == 'raw' else
                 f'T& {param[-1]} = {param[-1]}_[i];' for param in params if param[0] != 'int32'}
        source += [f'extern "C" void {name}(long size, {args}) {{',
                   f'for (long i = 0; i < size; i++) {{ {" ".join(names.values())} {code} }} }}']
    (folder / 'kernels.cpp').write_text('\n'.join(source))
    subprocess.run(['c++', '-O1', '-shared', '-fPIC', '-o', folder / 'kernels.so',
                    folder / 'kernels.cpp'], check=True)
    library = ctypes.CDLL(str(folder / 'kernels.so'))

    def kernel(name):
        inputs, outputs, _ = updater.CUDA[name]
        kinds = [param.split() for param in f'{inputs}, {outputs}'.split(', ')]

        def call(*args):
            shape = args[len(inputs.split(', '))].shape     # of the first output
            held = [ctypes.c_int32(arg) if kind == 'int32' else np.ascontiguousarray(
                        np.broadcast_to(arg, shape) if kind == 'T' else arg,
                        np.int64 if 'int64' in more else np.float32)
                    for (kind, *more), arg in zip(kinds, args, strict=True)]
            getattr(library, name)(ctypes.c_long(np.prod(shape)), *(
                arg if isinstance(arg, ctypes.c_int32) else ctypes.c_void_p(arg.ctypes.data)
                for arg in held))
            for arg, result in list(zip(args, held, strict=True))[len(inputs.split(', ')):]:
                arg[:] = result

        return call

    return types.SimpleNamespace(**{name: kernel(name) for name in updater.CUDA})


@pytest.mark.skipif(shutil.which('c++') is None, reason='needs a C++ compiler')
def test_cuda_kernels_as_cpp_are_those_in_numpy(tmp_path):
    compiled = compile_kernels(tmp_path)
    for name in SETTINGS:
        settings = {'C': 1.0, 'k': 1} | SETTINGS[name]
        results = []
        for kernels in (numpy_kernels(), compiled):
            model = model_of(make('standard', **settings))
            its_step = updater.Step(model, 40, settings['k'], settings['C'], DIGITS, kernels)
            updater.draw(its_step.space.eps, settings['k'])
            its_step.rows[:] = range(40)
            its_step.adam[:] = 1e-3, 0.1, 0.001, 1e-3
            its_step()
            results.append([*its_step.sums()[0], *its_step.space,
                            *(param.grad for param in model.params()),
                            *(param.array for param in model.params())])
        for array, expected in zip(*results, strict=True):
            assert np.allclose(array, expected, rtol=1e-4, atol=1e-5), name
