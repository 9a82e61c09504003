"""parts.py's functions against Chainer's in float64; when they stand in Chainer's place; a run."""

import itertools

import chainer
from chainer import function_hooks, optimizers
import chainer.functions as F
from conftest import BLAS, SMALL
import numpy as np
import pytest
import steps
from steps import make, model_of, one_step

import net

pytest.importorskip('numba')
from support.fast import compiled, cpu, parts, updater

encode = net.VAE.encode
with cpu.BLAS.limit(limits=2):
    THREADS = cpu.Threads()
RNG = np.random.RandomState(0)
X, GY = RNG.uniform(0, 1, (50, 300)), RNG.normal(size=(50, 400))
Y, W, B = 5 * RNG.normal(size=(50, 300)), RNG.normal(size=(400, 300)), RNG.normal(size=400)
MU, LN_VAR = RNG.normal(size=(2, 50, 20))
FUNCTIONS = {
    'linear': (F.linear, [X, W, B]),            # is worth two threads, and these are not
    'linear, small': (F.linear, [X[:3, :7], W[:5, :7], B[:5]]),
    'linear, one digit': (F.linear, [X[:1], W, B]),
    'linear, no bias': (F.linear, [X, W]),
    'linear, x is no variable': (lambda W, b: F.linear(X.astype(W.dtype), W, b), [W, B]),
    'softplus': (F.softplus, [Y]),
    'softplus of three axes': (F.softplus, [Y.reshape(5, 10, 300)]),
    'bernoulli_nll': (lambda y: F.bernoulli_nll(X.astype(y.dtype), y), [Y]),
    'bernoulli_nll of each': (lambda y: F.bernoulli_nll(X.astype(y.dtype), y, 'no'), [Y]),
    'gaussian_kl_divergence': (lambda *q: F.gaussian_kl_divergence(*q, reduce='sum'), [MU, LN_VAR])}


def computed(function, arrays, dtype, double=False):
    """Return the result of a function of arrays, and its gradients; or theirs, of their squares."""
    inputs = [chainer.Variable(np.array(array, dtype)) for array in arrays]
    y = function(*inputs)
    gy = RNG.__class__(1).normal(size=y.shape).astype(dtype)
    grads = chainer.grad([y], inputs, [chainer.Variable(gy)], enable_double_backprop=double)
    if double:
        grads += chainer.grad([sum(F.sum(grad ** 2) for grad in grads)], inputs)
    return [each.array for each in (y, *grads) if each is not None]


def nothing_compiled(monkeypatch):
    """Let a test fail where a compiled part is called."""
    monkeypatch.setattr(parts, 'entry', None)


@pytest.mark.parametrize('what', FUNCTIONS)
@pytest.mark.parametrize('double', [False, True])
def test_values_and_gradients_are_exact_in_float32(what, double):
    function, arrays = FUNCTIONS[what]
    found = THREADS.with_parts(computed)(function, arrays, np.float32, double)
    for own, exact in zip(found, computed(function, arrays, np.float64, double), strict=True):
        assert (own.dtype, own.shape) == (np.float32, exact.shape)
        assert np.allclose(own, exact, rtol=1e-5, atol=1e-5 * abs(exact).max())


@pytest.mark.parametrize('sizes', [(7, 5, 3), (1, 5, 3), (7, 1, 3), (7, 5, 1), (1, 1, 1)])
def test_products_take_parts_of_arrays(sizes):
    m, k, n = sizes
    store = np.random.RandomState(0).normal(size=(2, 9, 9)).astype(np.float32)
    for a, b in itertools.product((store[0, :m, 1:k + 1], store[0, 1:k + 1, :m].T),
                                  (store[1, :k, 1:n + 1], store[1, 1:n + 1, :k].T)):
        for a_as, b_as, out in ((a, b, np.zeros((9, 9), np.float32)[:m, 2:n + 2]),
                                (a.copy(order='K'), b.copy(order='K'), np.zeros((m, n), 'f'))):
            compiled.dot(a_as, b_as, out)
            assert np.allclose(out, a.astype(float) @ b, atol=1e-6)
            assert out.base is None or np.count_nonzero(out.base) <= m * n


@pytest.mark.parametrize('what', ['softplus', 'bernoulli_nll', 'bernoulli_nll of each',
                                  'gaussian_kl_divergence', 'linear'])
def test_what_is_not_finite_is_so_as_in_chainer(what):
    function, arrays = FUNCTIONS[what]
    arrays = [array.copy() for array in arrays]
    for strange in (np.nan, np.inf, -np.inf, 90, -90, 200, -200):
        arrays[-1].flat[0] = strange
        with np.errstate(all='ignore'):
            found = THREADS.with_parts(computed)(function, arrays, np.float32)
            expected = computed(function, arrays, np.float32)
        for own, other in zip(found, expected, strict=True):
            assert np.allclose(own, other, rtol=1e-5, atol=1e-5 * abs(
                other[np.isfinite(other)]).max(initial=0), equal_nan=True)


@pytest.mark.parametrize(('what', 'arrays', 'dtype', 'function'), [
    *((name, arrays, np.float64, function) for name, (function, arrays) in FUNCTIONS.items()),
    ('in columns', [X, np.asfortranarray(W)], np.float32, F.linear),
    ('a part', [X, W], np.float32, lambda x, W: F.linear(x[:, ::2], W[:, ::2])),
    ('beta', [Y], np.float32, lambda y: F.softplus(y, 2.0)),
    ('x has a gradient', [X, Y], np.float32, lambda x, y: F.bernoulli_nll(x, F.tanh(y), 'mean')),
    ('mean', [MU, LN_VAR], np.float32, lambda *q: F.gaussian_kl_divergence(*q, reduce='mean'))])
def test_other_things_are_chainers_own(monkeypatch, what, arrays, dtype, function):
    expected = computed(function, arrays, dtype)
    if what != 'x has a gradient':      # which take the softplus
        nothing_compiled(monkeypatch)
    for own, other in zip(THREADS.with_parts(computed)(function, arrays, dtype), expected,
                          strict=True):
        assert np.allclose(own, other, rtol=0 if dtype == np.float64 else 1e-5, atol=1e-6)


@pytest.mark.parametrize('of', [
    function_hooks.TimerHook, lambda: chainer.using_config('debug', True),
    lambda: chainer.using_config('keep_graph_on_report', True)])
def test_what_watches_the_graph_sees_chainers_own(monkeypatch, of):
    nothing_compiled(monkeypatch)
    with of():
        for function, arrays in FUNCTIONS.values():
            THREADS.with_parts(computed)(function, arrays, np.float32)


def test_chainer_is_itself_again_afterwards():
    def look():
        return [vars(owner)[name] for owner, name in parts.INSTEAD]

    def fail():
        assert not set(map(id, look())) & set(map(id, before))
        raise KeyboardInterrupt

    before = look()
    with pytest.raises(KeyboardInterrupt):
        THREADS.with_parts(fail)()
    assert look() == before
    assert not parts.running_on


@pytest.mark.parametrize(('owner', 'name'), parts.INSTEAD)
def test_an_edit_under_chainers_name_stays(monkeypatch, owner, name):
    def other(*args):
        pass

    monkeypatch.setattr(owner, name, other)
    assert THREADS.with_parts(lambda: getattr(owner, name))() is other
    # what calls it may be no other
    assert parts.is_chainers(THREADS.with_parts(lambda: F.bernoulli_nll)(), 'bernoulli_nll') == (
        name != 'bernoulli_nll')


def test_sizes_that_do_not_fit_are_told_as_ever():
    x, W = np.ones((4, 300), np.float32), np.ones((5, 299), np.float32)
    with pytest.raises(chainer.utils.type_check.InvalidType):
        THREADS.with_parts(F.linear)(x, W)
    with chainer.using_config('type_check', False), pytest.raises(ValueError):
        THREADS.with_parts(F.linear)(x, W)


@pytest.mark.parametrize('options', [
    {}, {'alpha': 0.1, 'beta1': 0.5, 'eta': 0.3}, {'weight_decay_rate': 0.1}, {'amsgrad': True}])
def test_adam_is_chainers(options):
    def train():
        param = chainer.Parameter(np.ones((700, 600), np.float32))
        link = chainer.Link()
        with link.init_scope():
            link.param = param
        adam = optimizers.Adam(**options).setup(link)
        for seed in range(4):
            param.grad = np.random.RandomState(seed).normal(size=param.shape).astype(np.float32)
            adam.update()
        return {'W': param.array, **param.update_rule.state}

    found, expected = THREADS.with_parts(train)(), train()
    assert found.keys() == expected.keys()
    for name in found:
        assert np.allclose(found[name], expected[name], rtol=1e-5, atol=1e-6)


# Whole steps --------------------------------------------------------------------------------------


def test_an_edited_model_trains_and_scores_as_in_chainer(monkeypatch):
    monkeypatch.setattr(net.VAE, 'encode', lambda self, x: encode(self, 0.5 * x))
    plain, made = make('standard'), make('standard')
    evaluators = [steps.evaluator_of(model_of(each)) for each in (plain, made)]
    assert updater.fast(made, evaluators[1]) is made
    assert (made.kind, made.on) == (
        f'compiled parts ({updater.proof.NOT_COMPILED}VAE.encode is edited)', cpu.Threads().on)
    threads = [library['num_threads'] for library in BLAS.info()]
    results = []
    for its_updater, evaluator in zip((plain, made), evaluators, strict=True):
        np.random.seed(3)
        results.append([*(loss for _ in range(4) for loss in one_step(its_updater)),
                        *evaluator().values()])
    assert results[0] == pytest.approx(results[1], rel=1e-5)
    steps.check_close(steps.arrays_of(made), steps.arrays_of(plain))
    assert threads == [library['num_threads'] for library in BLAS.info()]


def test_the_fast_step_steps_aside_to_compiled_parts(monkeypatch):
    fast = make('fast')
    one_step(fast)
    called = []
    monkeypatch.setattr(parts, 'share', lambda *args, share=parts.share: (
        called.append(args[0]), share(*args)))
    one_step(fast)
    assert called == []
    monkeypatch.setattr(model_of(fast), 'act_func', F.elu)
    one_step(fast)
    assert {parts.linear, parts.linear_back, parts.update} == {*called}
    assert fast.kind == 'compiled parts (activation elu is not compiled)'


def test_a_model_in_float64_trains_in_chainer():
    with chainer.using_config('dtype', np.float64):
        plain = make('standard')
    for link in model_of(plain).children():
        link.to_device('@numpy')
    for param in model_of(plain).params():
        param.array = param.array.astype(np.float64)
    assert updater.fast(plain, steps.evaluator_of(model_of(plain))).kind == (
        'standard (weights are not plain float32)')


@pytest.mark.parametrize('flags', [['--autoencoder'], ['--autoencoder', '--activation', 'tanh']])
def test_a_run_on_compiled_parts_resumes_exactly(cli, data_dir, tmp_path, flags):
    for name, epochs in (('whole', [4]), ('halves', [2, 4])):
        out = tmp_path / name
        for i, epoch in enumerate(epochs):
            more = ['--resume'] if i else ['--data-dir', data_dir, *SMALL, *flags]
            status, text, err = cli(*more, '-e', epoch, '-o', out)
            assert (status, err) == (0, '')
            assert '\nupdater  compiled parts (an autoencoder is not compiled)\n' in text
    steps.check_same(*(steps.trained(tmp_path / name / 'snapshot_epoch_4')
                       for name in ('whole', 'halves')))
    assert cli(*SMALL, *flags, '--data-dir', data_dir, '--updater', 'standard', '-o',
               tmp_path / 'standard')[::2] == (0, '')
    status, _, err = cli('--resume', '-e', '3', '--updater', 'fast', '-o', tmp_path / 'standard')
    assert (status, err.count('\n')) == (0, 1)
    assert 'by the standard updater' in err
