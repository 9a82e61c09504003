"""updater.py against Chainer's own step, on CPU and GPU; runs by train_vae.py."""

import sys
import types

import support.fast
from support.fast import updater  # lets chainer import
from support.run import snapshot

import chainer
import chainer.functions as F
from chainer.link_hooks import TimerHook
from conftest import SMALL, needs_gpu
import numpy as np
import pytest
from runs import log_of, with_settings
import steps
from steps import DIGITS, ON_EACH, adam, arrays_of, evaluator_of, make, model_of, one_step, seed

import net

pytest.importorskip('numba')
nll = F.bernoulli_nll

# The same mathematics -------------------------------------------------------------------------


@ON_EACH
@pytest.mark.parametrize('name', steps.SETTINGS)
def test_steps_are_those_of_the_standard_updater(name, device):
    fast, standard = (make(kind, **steps.SETTINGS[name], device=device, count=1 + len(name) % 3)
                      for kind in ('fast', 'standard'))
    ends = []
    for its_updater in (standard, fast):
        seed(device)
        ends.append(([(one_step(its_updater), arrays_of(its_updater)) for _ in range(3)],
                     np.random.get_state()[1].tolist(), its_updater.epoch_detail,
                     its_updater.is_new_epoch))
    (expected, *after), (found, *others) = ends
    assert (fast.why, others) == ('', after)
    for i in range(3):
        assert found[i][0] == pytest.approx(expected[i][0], rel=1e-5)
        steps.check_close(found[i][1], expected[i][1],
                          1e-5 if i == 0 and device == '@numpy' else 1e-3)
    assert [float(getattr(model_of(fast), name).array) for name in snapshot.LOSSES] == found[-1][0]


@ON_EACH
@pytest.mark.parametrize(('activation', 'k', 'n'), [
    ('softplus', 1, 30), ('tanh', 10, 30), ('relu', 3, 7)])
def test_scores_are_those_of_plain_scoring(activation, k, n, device):
    fast = make('fast', activation, dim_z=4, dim_h=30, device=device)
    evaluator, scores = evaluator_of(model_of(fast), k, n, 13), []
    for eval_func in (evaluator.eval_func, updater.Scores(fast, evaluator.eval_func)):
        seed(device)
        evaluator.eval_func = eval_func
        scores.append({key: float(value) for key, value in evaluator().items()}
                      | {'random': np.random.uniform()})
    assert eval_func.guard.refused == ''
    assert scores[1] == pytest.approx(scores[0], rel=1e-5)


# What a step leaves -----------------------------------------------------------------------------


@ON_EACH
def test_a_step_leaves_the_arrays_of_model_and_adam_in_place(device):
    fast, held = make('fast', device=device), []
    for _ in range(3):
        held.append([array for param in model_of(fast).params() for array in (
            param.array, *(param.update_rule.state or {}).values())])
        one_step(fast)
    assert all(any(array is other for other in held[2]) for array in held[0] + held[1])


def test_an_observer_finds_variables_and_the_graph_if_it_asks_for_it():
    for keep in (False, True):
        found = []
        for kind in ('standard', 'fast'):
            its_updater, reporter, observation = make(kind), chainer.Reporter(), {}
            reporter.add_observer('main', model_of(its_updater))
            with reporter.scope(observation), chainer.using_config('keep_graph_on_report', keep):
                its_updater.update()
            found.append(observation['main/loss'])
        assert all((type(loss), loss.shape, loss.dtype) == (chainer.Variable, (), np.float32)
                   and (loss.creator is not None) == keep for loss in found)
        assert float(found[0].array) == pytest.approx(float(found[1].array), rel=1e-5)
        assert its_updater.why == ''


# What changes from step to step ---------------------------------------------------------------


def set_adam(u):
    adam(u).alpha, adam(u).beta1, adam(u).beta2 = 0.01 / (u.iteration + 1), 0.8, 0.99
    adam(u).eps, adam(u).eta = 1e-2, 0.5


def set_loss(u, *args):
    u.loss_func = model_of(u).get_loss_func(*args)


def weigh_in_place(u):
    if u.iteration == 0:
        u.weight = model_of(u).xp.ones((), np.float32)
        set_loss(u, u.weight)
    u.weight[...] = 0.1 * u.iteration


def swap(u):
    for param in model_of(u).params():
        param.array = param.array.clip(-0.05, 0.05)
        state = param.update_rule.state
        if state:
            state['m'], state['v'] = 0.5 * state['m'], state['v'].T.copy().T


def grow(u):
    model, wide = model_of(u), net.VAE(784, 3, 60)
    with model.init_scope():
        for link in list(wide.children()):
            delattr(model, link.name)
            setattr(model, link.name, link)
    model.to_device(u.device)
    adam(u).setup(model)


def tie(u):
    with model_of(u).ld2.init_scope():
        model_of(u).ld2.W = model_of(u).le2.W


def double(u):
    model_of(u).encode = types.MethodType(
        lambda self, x: [2 * part for part in type(self).encode(self, x)], model_of(u))


def activate(act_func):
    return lambda u: setattr(model_of(u), 'act_func', act_func)


CHANGES = {     # what is done to an updater before which steps, and which are Chainer's own then
    'C anneals': (dict.fromkeys(range(9), lambda u: set_loss(u, 0.1 * u.iteration)), range(0)),
    'C in place': (dict.fromkeys(range(9), weigh_in_place), range(9)),
    'k': ({4: lambda u: set_loss(u, 1.0, 3), 7: set_loss}, range(4, 7)),
    'numbers of Adam': (dict.fromkeys(range(9), set_adam), range(0)),
    'a layer frozen': ({4: lambda u: model_of(u).ld2.disable_update()}, range(4, 9)),
    'gradients clipped': ({
        4: lambda u: adam(u).add_hook(chainer.optimizer_hooks.GradientClipping(0.1)),
        7: lambda u: adam(u).remove_hook('GradientClipping')}, range(4, 7)),
    'activations': ({2: activate(F.tanh), 4: activate(F.elu)}, range(4, 9)),
    'other arrays': (dict.fromkeys(range(9), swap), range(0)),
    'wider layers': ({4: grow}, range(0)),
    'tied weights': ({4: tie}, range(4, 9)),
    'encode': ({4: double, 7: lambda u: delattr(model_of(u), 'encode')}, range(4, 7)),
    'a hook watches': ({4: lambda u: model_of(u).le2.add_hook(TimerHook())}, range(4, 9)),
    'other digits': ({4: lambda u: setattr(
        u.get_iterator('main'), 'dataset', DIGITS[::-1].copy())}, range(4, 9)),
    "a function of Chainer's": ({
        4: lambda u: setattr(F, 'bernoulli_nll', lambda x, y: 2 * nll(x, y)),
        8: lambda u: setattr(F, 'bernoulli_nll', nll)}, range(4, 9)),
}


@ON_EACH
@pytest.mark.parametrize('what', CHANGES)
def test_each_step_is_the_one_that_the_objects_say(capsys, what, device):
    changes, slow = CHANGES[what]
    losses, ends, is_slow = [], [], []
    for kind in ('standard', 'fast'):
        its_updater = make(kind, batch=20, device=device)       # three steps an epoch
        losses.append([])
        for i in range(9):
            changes.get(i, lambda u: None)(its_updater)
            losses[-1].append(one_step(its_updater))
            if kind == 'fast' and its_updater.why:
                is_slow.append(i)
        ends.append(arrays_of(its_updater))
    assert is_slow == list(slow)
    assert np.allclose(*losses, rtol=1e-5 if device == '@numpy' else 1e-4, atol=0)
    steps.check_close(*ends, 1e-2)
    err = capsys.readouterr().err
    assert err.startswith(f"warning: from iteration {slow.start + 1} on Chainer's own step trains: "
                          if slow else '')
    assert err.count('\n') == (len(slow) > 0) + (what == 'tied weights')  # whose t is another, too


@ON_EACH
@pytest.mark.parametrize('what', ['activations', 'encode', 'a hook watches'])
def test_scores_are_those_that_the_objects_say(what, device):
    scores = []
    for kind in ('standard', 'fast'):
        its_updater = make(kind, device=device)
        evaluator = evaluator_of(model_of(its_updater), batch=6)
        plain, calls = evaluator.eval_func, []
        if kind == 'fast':
            plain = updater.Scores(its_updater, plain)

        def score(x, plain=plain, calls=calls, its_updater=its_updater):
            calls.append(len(x))
            CHANGES[what][0].get(len(calls), lambda u: None)(its_updater)
            plain(x)

        evaluator.eval_func = score
        seed(device)
        scores.append([float(value) for value in evaluator().values()])
    assert scores[1] == pytest.approx(scores[0], rel=1e-5)


# Runs of train_vae.py -------------------------------------------------------------------------


@pytest.mark.parametrize('first', ['fast', 'standard'])
def test_each_goes_on_from_the_others_snapshot(cli, data_dir, tmp_path, first):
    second = {'fast': 'standard', 'standard': 'fast'}[first]
    start = ['--data-dir', data_dir, *SMALL, '-k', '2', '--beta', '2', '--updater', first]
    status, out, err = cli(*start, '-e', '4', '-o', tmp_path / 'whole')
    assert (status, f'\nupdater  {first}' in out, err) == (0, True, '')
    assert cli(*start, '-o', tmp_path / 'run')[0] == 0
    status, _, err = cli('--resume', '-e', '4', '--updater', second, '-o', tmp_path / 'run')
    assert status == 0
    assert err == (f'warning: {tmp_path / "run" / "snapshot_epoch_2"} was trained by the '
                   f'{first} updater; by the {second} updater the run goes on, but not to exactly '
                   'the same result\n')
    assert log_of(tmp_path / 'run')[-1] == pytest.approx(log_of(tmp_path / 'whole')[-1], rel=1e-4)


def test_the_fast_step_takes_the_threads_that_it_may_use(cli, tmp_path, monkeypatch):
    monkeypatch.setenv('LOKY_MAX_CPU_COUNT', '1')
    status, out, _ = cli('--dataset', 'digits', '--test', *SMALL, '-e', '1', '-o', tmp_path / 'run')
    assert status == 0
    assert '\nupdater  fast (1 thread, ' in out


def hide_numba(monkeypatch, numba=None):
    """Let Numba be something else for whoever imports it from now on."""
    for name in ('cpu', 'compiled', 'blas'):
        if 'support.fast.' + name in sys.modules:
            monkeypatch.delitem(sys.modules, 'support.fast.' + name)
            monkeypatch.delattr(support.fast, name)
    monkeypatch.setitem(sys.modules, 'numba', numba)


@pytest.mark.parametrize('is_old, why', [
    (False, 'import of numba halted; '), (True, "has no attribute 'ExternalFunction'")])
def test_without_numba_the_standard_updater_steps_in(
        cli, data_dir, tmp_path, monkeypatch, is_old, why):
    import numba

    old = types.ModuleType('numba')         # of before `ExternalFunction`
    vars(old).update(vars(numba), types=types.SimpleNamespace())
    start = ['--data-dir', data_dir, *SMALL]
    assert cli(*start, '--updater', 'standard', '-o', tmp_path / 'plain')[0] == 0
    hide_numba(monkeypatch, old if is_old else None)
    status, out, err = cli(*start, '-o', tmp_path / 'run')
    assert (status, err) == (0, '')
    line, = (line for line in out.splitlines() if line.startswith('updater '))
    assert line.startswith('updater  standard (')
    assert why in line
    paths = [tmp_path / name / 'snapshot_epoch_2' for name in ('plain', 'run')]
    steps.check_same(*map(steps.trained, paths))
    assert not snapshot.read_settings(snapshot.read(str(paths[1])), '').trained_on


@needs_gpu
def test_without_numba_a_gpu_trains_fast_all_the_same(cli, data_dir, tmp_path, monkeypatch):
    hide_numba(monkeypatch)
    status, out, err = cli('--gpu', '0', '--data-dir', data_dir, *SMALL, '-o', tmp_path / 'run')
    assert (status, err) == (0, '')
    assert '\nupdater  fast (CUDA graph)\n' in out


@pytest.mark.parametrize(('trained_on', 'is_told'), [
    (None, False), ('7 threads, MKL', True), ('', False)])
def test_another_number_of_threads_is_told(cli, small_run, trained_on, is_told):
    path = str(small_run / 'snapshot_epoch_2')
    now = snapshot.read_settings(snapshot.read(path), path).trained_on
    if trained_on is not None:
        with_settings(path, path, trained_on=trained_on)
    status, _, err = cli('--resume', path, '-e', '3', '-o', small_run / 'new')
    assert (status, err.count('\n')) == (0, is_told)
    assert not is_told or (f'was trained on {trained_on}; on {now} the run goes on, '
                           'but not to exactly the same result') in err
