"""updater.py against Chainer's own step and NumPy in float64, and its runs by train_vae.py."""

import json
import shutil
import sys
import types

import support.fast
from support.fast import scoring, threads, updater  # lets chainer import
from support.run import snapshot

import chainer
from chainer import iterators, optimizers, training
from chainer.link_hooks import TimerHook
from chainer.training import extensions
from conftest import SMALL
import numpy as np
import pytest
from runs import check_same, last, needs_posix, rewrite, state_of, stopping_at

import net
import train_vae

pytest.importorskip('numba')
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
         count=2):
    """Seed NumPy; return an updater of this kind, whose biases are not all 0."""
    np.random.seed(0)
    model = net.VAE(784, dim_z, dim_h, net.ACTIVATIONS[activation])
    for link in model.children():
        link.b.array[:] = np.random.uniform(-0.1, 0.1, link.b.shape)
    optimizer = optimizers.Adam().setup(model)
    iterator = iterators.SerialIterator(digits, batch)
    standard = training.StandardUpdater(iterator, optimizer, device='@numpy',
                                        loss_func=model.get_loss_func(C, k))
    if kind == 'standard':
        return standard
    fast = updater.CompiledUpdater(standard)
    fast.workers = threads.Workers(model, k, count)
    return fast


def model_of(its_updater):
    """Return the model that an updater trains."""
    return its_updater.get_optimizer('main').target


def one_step(its_updater):
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
    with threads.BLAS.limit(limits=2):
        yield


# The same mathematics -------------------------------------------------------------------------


@pytest.mark.parametrize('count', [1, 2, 3])
@pytest.mark.parametrize('name', SETTINGS)
def test_steps_are_those_of_the_standard_updater(name, count):
    standard = make('standard', **SETTINGS[name])
    losses, grads = [], []
    for _ in range(3):
        losses.append(one_step(standard))
        grads.append([param.grad.copy() for param in model_of(standard).params()])
    state = np.random.get_state()

    fast = make('fast', **SETTINGS[name], count=count)
    for i in range(3):
        assert one_step(fast) == pytest.approx(losses[i], rel=1e-5)
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
    found = one_step(fast)
    assert [float(getattr(model_of(fast), name).array) for name in snapshot.LOSSES] == found
    one_step(standard)
    assert (fast.iteration, fast.epoch_detail, fast.is_new_epoch) == (
        standard.iteration, standard.epoch_detail, standard.is_new_epoch)


def test_losses_follow_those_of_the_standard_updater():
    digits = np.random.RandomState(2).uniform(0, 1, (300, 784)).astype(np.float32)
    fast, standard = (make(kind, digits=digits, dim_h=50) for kind in ('fast', 'standard'))
    state = np.random.get_state()
    expected = [one_step(standard) for _ in range(100)]
    np.random.set_state(state)
    assert np.allclose([one_step(fast) for _ in range(100)], expected, rtol=1e-4, atol=0)


# Around it ------------------------------------------------------------------------------------


@pytest.mark.parametrize(('activation', 'model_k', 'n'), [
    ('softplus', 1, 30), ('tanh', 10, 30), ('relu', 3, 7)])
def test_scores_are_those_of_plain_scoring(activation, model_k, n):
    model = model_of(make('standard', activation, dim_z=4, dim_h=30))
    scores = []
    plain = train_vae.score_func(model, model_k)
    fast = scoring.Scores(types.SimpleNamespace(
        model=model, told=set(), refused='', epoch=1), plain)
    for eval_func in (plain, fast):
        np.random.seed(3)
        iterator = iterators.SerialIterator(DIGITS[:n], 13, repeat=False, shuffle=False)
        scores.append(extensions.Evaluator(iterator, model, eval_func=eval_func)())
        scores[-1]['random'] = np.random.uniform()
    assert {key: float(value) for key, value in scores[1].items()} == pytest.approx(
        {key: float(value) for key, value in scores[0].items()}, rel=1e-5)


def test_a_step_leaves_the_arrays_of_model_and_adam_in_place():
    fast = make('fast')
    arrays = [param.array for param in model_of(fast).params()]
    one_step(fast)
    state = [param.update_rule.state['m'] for param in model_of(fast).params()]
    one_step(fast)
    assert all(param.array is array for param, array in zip(
        model_of(fast).params(), arrays, strict=True))
    assert all(param.update_rule.state['m'] is array for param, array in zip(
        model_of(fast).params(), state, strict=True))


def test_training_gives_blas_its_threads_back():
    def counts():
        return {library['num_threads'] for library in threads.BLAS.info()
                if library['threading_layer'] != 'sequential'}          # as MKL is, always

    fast = make('fast')
    with threads.BLAS.limit(limits=2):
        one_step(fast)
        assert counts() == {1}
        fast.finalize()
        assert counts() == {2}
        one_step(fast)          # as another Trainer does
        assert counts() == {1}
        fast.finalize()


def test_all_that_is_serialized_is_the_standard_updaters():
    states = []
    for kind in ('standard', 'fast'):
        its_updater = make(kind, batch=20)
        for _ in range(7):
            one_step(its_updater)
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
            one_step(its_updater)
        results.append([param.array for param in model_of(its_updater).params()])
    for array, expected in zip(*results, strict=True):
        assert np.allclose(array, expected, rtol=0, atol=1e-5)


def test_arrays_that_were_replaced():
    fast, standard = make('fast'), make('standard')
    for its_updater in (standard, fast):
        np.random.seed(3)
        one_step(its_updater)
        model = model_of(its_updater)
        model.cleargrads()
        model.ld1.W.array = model.ld1.W.array / 2
        for param in model.params():
            state = param.update_rule.state
            state['m'], state['v'] = (np.asfortranarray(state[name]) for name in 'mv')
        one_step(its_updater)
    for param, other in zip(model_of(fast).params(), model_of(standard).params(), strict=True):
        check_close(param.grad, other.grad, 1e-4, 'gradient')
        assert abs(param.array - other.array).max() < 1e-4
        check_close(param.update_rule.state['m'], other.update_rule.state['m'], 1e-4, 'm')


# What changes from step to step ---------------------------------------------------------------


def losses_under(kind, change, steps=9):
    """Return the losses of some steps, each after a change; whether each was fast; the weights.

    Args:
        kind (str): Of the updater.
        change (callable): Of the updater and the number of the step, before each.
        steps (int): How many; three are an epoch.
    """
    its_updater, losses, fast = make(kind, batch=20), [], []
    np.random.seed(5)
    for i in range(steps):
        change(its_updater, i)
        losses.append(one_step(its_updater))
        fast.append(its_updater.why == '' if kind == 'fast' else None)
    return losses, fast, [param.array for param in model_of(its_updater).params()]


WEIGHT = np.array(1.0)              # in place


def weigh(its_updater, i):
    """Write a weight of the latent loss in place."""
    WEIGHT[...] = 0.1 * i
    if i == 0:
        its_updater.loss_func = model_of(its_updater).get_loss_func(WEIGHT)


def anneal(its_updater, i):
    """Take a loss function of another weight."""
    its_updater.loss_func = model_of(its_updater).get_loss_func(0.1 * i, 1)


def sample(its_updater, i):
    """Take another number of samples in the middle of an epoch, and the first again later."""
    if i in (4, 7):
        its_updater.loss_func = model_of(its_updater).get_loss_func(1.0, 3 if i == 4 else 1)


def freeze(its_updater, i):
    """Freeze a layer in the middle of an epoch."""
    if i == 4:
        model_of(its_updater).ld2.disable_update()


def clip(its_updater, i):
    """Give the optimizer a hook in the middle of an epoch, and take it away."""
    optimizer = its_updater.get_optimizer('main')
    if i == 4:
        optimizer.add_hook(chainer.optimizer_hooks.GradientClipping(0.1))
    if i == 7:
        optimizer.remove_hook('GradientClipping')


def activate(its_updater, i):
    """Take another activation, which is compiled, and then one that is not."""
    if i in (2, 4):
        model_of(its_updater).act_func = chainer.functions.tanh if i == 2 else (
            chainer.functions.elu)


def swap(its_updater, i):
    """Assign weights, and Adam's moments, after each step."""
    for param in model_of(its_updater).params():
        param.array = np.clip(param.array, -0.05, 0.05)
        if param.update_rule.state:
            param.update_rule.state['m'] = 0.5 * param.update_rule.state['m']


def replace_method(its_updater, i):
    """Put another encoder in its place in the middle of an epoch, and take it away."""
    model = model_of(its_updater)
    if i == 4:
        model.encode = types.MethodType(lambda self, x: [
            2 * part for part in type(self).encode(self, x)], model)
    if i == 7:
        del model.encode


def watch(its_updater, i):
    """Let a hook watch a link in the middle of an epoch."""
    if i == 4:
        model_of(its_updater).le2.add_hook(TimerHook())


def learn_slower(its_updater, i):
    """Change the learning rate, and then that of a layer alone."""
    its_updater.get_optimizer('main').alpha = 1e-3 / (i + 1)
    if i == 4:
        model_of(its_updater).ld3.W.update_rule.hyperparam.alpha = 1e-2


def take_others(its_updater, i):
    """Let the iterator have other digits in the middle of an epoch."""
    if i == 4:
        its_updater.get_iterator('main').dataset = DIGITS[::-1].copy()


def grow(its_updater, i):
    """Make all layers wider in the middle of an epoch."""
    if i == 4:
        model, D, H, Z = model_of(its_updater), 784, 60, 3
        with model.init_scope():
            for name, sizes in {'le1': (D, H), 'le2': (H, H), 'le3_mu': (H, Z), 'ld1': (Z, H),
                                'le3_ln_var': (H, Z), 'ld2': (H, H), 'ld3': (H, D)}.items():
                delattr(model, name)
                setattr(model, name, chainer.links.Linear(*sizes))
        its_updater.get_optimizer('main').setup(model)


def tie(its_updater, i):
    """Let two layers share a weight, in the middle of an epoch."""
    model = model_of(its_updater)
    if i == 4:
        with model.ld2.init_scope():
            model.ld2.W = model.le2.W


def patch(its_updater, i):
    """Replace a function of Chainer's in the middle of an epoch, and put it back at the end."""
    if i == 4:
        chainer.functions.bernoulli_nll = lambda x, y: 2 * nll(x, y)
    if i == 8:
        chainer.functions.bernoulli_nll = nll


nll = chainer.functions.bernoulli_nll


def change_rule(its_updater, i):
    """Replace a layer's update in the middle of an epoch."""
    if i == 4:
        model_of(its_updater).ld3.W.update_rule.update_core = lambda param: None


@pytest.mark.parametrize('change, slow', [
    (grow, range(0)), (tie, range(4, 9)), (patch, range(4, 9)), (change_rule, range(4, 9)),
    (anneal, range(0)), (weigh, range(9)), (sample, range(4, 7)), (freeze, range(4, 9)),
    (clip, range(4, 7)), (activate, range(4, 9)), (swap, range(0)), (replace_method, range(4, 7)),
    (watch, range(4, 9)), (learn_slower, range(4, 9)), (take_others, range(4, 9))])
def test_each_step_is_the_one_that_the_objects_say(capsys, change, slow):
    expected, _, weights = losses_under('standard', change)
    losses, fast, arrays = losses_under('fast', change)
    assert fast == [i not in slow for i in range(9)]
    assert np.allclose(losses, expected, rtol=1e-5, atol=0)
    for array, other in zip(arrays, weights, strict=True):
        assert abs(array - other).max() < 1e-4
    err = capsys.readouterr().err
    told = f"warning: from iteration {slow.start + 1} on Chainer's own step trains: "
    assert err.count('\n') == err.count(told) == (len(slow) > 0)


def test_the_scripts_own_parts_stay_where_they_are():
    plain = make('standard')
    more = iterators.SerialIterator(DIGITS, 5)
    plain._iterators['more'] = more
    plain._input_device = None                  # as where the script gives none
    fast = updater.CompiledUpdater(plain)
    one_step(fast)
    assert fast.get_iterator('main').dataset is DIGITS
    assert fast.get_iterator('more') is more


def test_digits_that_are_written_in_place_train_as_they_are_now():
    digits = DIGITS.copy()
    losses = []
    for kind in ('standard', 'fast'):
        digits[:] = DIGITS
        its_updater = make(kind, batch=20, digits=digits)
        for _ in range(4):
            losses.append(one_step(its_updater))
            digits *= 0.9
    assert np.allclose(losses[4:], losses[:4], rtol=1e-5)


def test_an_observer_finds_the_losses_as_variables_and_the_graph_where_it_asks_for_it():
    fast, standard = make('fast'), make('standard')
    for keep in (False, True):
        found = []
        for its_updater in (standard, fast):
            np.random.seed(6)
            reporter, observation = chainer.Reporter(), {}
            reporter.add_observer('main', model_of(its_updater))
            with reporter.scope(observation), chainer.using_config('keep_graph_on_report', keep):
                its_updater.update()
            found.append(observation['main/loss'])
        assert all((type(loss), loss.shape, loss.dtype) == (chainer.Variable, (), np.float32)
                   and (loss.creator is not None) == keep for loss in found)
        assert float(found[0].array) == pytest.approx(float(found[1].array), rel=1e-5)
    assert fast.why == ''


@pytest.mark.parametrize('change', [activate, replace_method, watch])
def test_scores_are_those_that_the_objects_say(change):
    scores = []
    for kind in ('standard', 'fast'):
        its_updater = make(kind)
        model = model_of(its_updater)
        evaluator = extensions.Evaluator(
            iterators.SerialIterator(DIGITS, 10, False, False), model,
            eval_func=train_vae.score_func(model, 2))
        if kind == 'fast':
            evaluator.eval_func = scoring.Scores(its_updater, evaluator.eval_func)
        np.random.seed(3)
        plain, calls = evaluator.eval_func, []

        def score(x, plain=plain, calls=calls, its_updater=its_updater):
            calls.append(len(x))
            change(its_updater, len(calls))
            plain(x)

        evaluator.eval_func = score
        scores.append([float(value) for value in evaluator().values()])
    assert scores[1] == pytest.approx(scores[0], rel=1e-5)


# Runs of train_vae.py -------------------------------------------------------------------------


def last_log(folder):
    """Return the losses of the last epoch in a log."""
    row = json.loads((folder / 'log').read_text())[-1]
    return {key: value for key, value in row.items() if key != 'elapsed_time'}


def test_both_updaters_train_alike(cli, data_dir, tmp_path):
    for kind in ('fast', 'standard'):
        status, out, err = cli('--data-dir', data_dir, *SMALL, '-k', '2', '--beta', '2',
                               '--updater', kind, '-o', tmp_path / kind)
        assert (status, err) == (0, '')
        assert f'\nupdater  {kind}' in out
    assert last_log(tmp_path / 'fast') == pytest.approx(last_log(tmp_path / 'standard'), rel=1e-5)


def test_the_fast_step_takes_the_threads_that_it_may_use(cli, tmp_path, monkeypatch):
    monkeypatch.setenv('LOKY_MAX_CPU_COUNT', '1')
    status, out, _ = cli('--dataset', 'digits', '--test', *SMALL, '-e', '1', '-o', tmp_path / 'run')
    assert status == 0
    assert '\nupdater  fast (1 thread, ' in out


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
    for name in ('updater', 'compiled', 'scoring', 'threads', 'blas'):
        monkeypatch.delitem(sys.modules, 'support.fast.' + name)
        monkeypatch.delattr(support.fast, name)
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


def test_another_number_of_threads_is_told(cli, small_run):
    arrays = snapshot.read(last(small_run))
    settings = json.loads(str(arrays[snapshot.SETTINGS_KEY]))
    for on, told in ((settings['trained_on'], 0), ('7 threads, MKL', 1), ('', 0)):
        rewrite(last(small_run), last(small_run), **{snapshot.SETTINGS_KEY: np.array(
            json.dumps(settings | {'trained_on': on}))})
        status, _, err = cli('--resume', last(small_run), '-e', '3', '-o', small_run / 'new')
        assert (status, err.count('\n')) == (0, told)
        assert told == 0 or (f'was trained on {on}; on {settings["trained_on"]} the run goes on, '
                             'but not to exactly the same result') in err
        shutil.rmtree(small_run / 'new')
