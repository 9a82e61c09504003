"""proof.py and what updater.py makes of it: a fast step that differs from net.py steps aside."""

import functools
import os
import subprocess
import sys

from support.fast import proof, step, updater

import chainer
from chainer import iterators, training
import chainer.functions as F
import chainer.links as L
from chainer.training import extensions
from conftest import ROOT, SMALL
import numpy as np
import pytest
import steps
from steps import DIGITS, ON_EACH, adam, arrays_of, evaluator_of, make, model_of, one_step, seed

import train_vae

cpu = pytest.importorskip('support.fast.cpu', reason='needs Numba')
NOT = 'net.py: '
NOT_ADAM = 'optimizer is not plain Adam'
nll, kl, gaussian = F.bernoulli_nll, F.gaussian_kl_divergence, F.gaussian

# What the fast step is for -------------------------------------------------------------------


class Watch(chainer.LinkHook):
    name = 'watch'


def b_of(u):
    return model_of(u).ld1.b


def set_digits(u, digits):
    u.get_iterator('main').dataset = digits


def replace(u, name, link):
    delattr(model_of(u), name)
    with model_of(u).init_scope():
        setattr(model_of(u), name, link)
    adam(u).setup(model_of(u))


def lf_of(u, **options):
    return model_of(u).get_loss_func(**options)


OBSTACLES = {           # what changes from step to step, test_updater.py has besides
    '': [lambda u: None, lambda u: setattr(u, 'loss_func', lf_of(u, C=np.float32(2.0), k=2))],
    'weights are not plain float32': [lambda u: setattr(b_of(u), 'array', np.zeros(20))],
    NOT_ADAM: [
        lambda u: setattr(adam(u).hyperparam, 'amsgrad', True),
        lambda u: setattr(adam(u).hyperparam, 'adabound', True),
        lambda u: setattr(adam(u).hyperparam, 'weight_decay_rate', 0.5),
        lambda u: setattr(adam(u), 'update', print),
        lambda u: u._optimizers.update(main=chainer.optimizers.SGD().setup(model_of(u)))],
    NOT_ADAM + ': it has a hook': [
        lambda u: b_of(u).update_rule.add_hook(print, 'print', timing='post')],
    NOT_ADAM + ': a parameter has a rule of its own': [
        lambda u: setattr(b_of(u).update_rule.hyperparam, 'alpha', 0.001),
        lambda u: setattr(b_of(u).update_rule, 'update_core', print),
        lambda u: setattr(b_of(u).update_rule, 't', 7)],
    'gradients are not asked for': [lambda u: setattr(b_of(u), '_requires_grad', False)],
    NOT + 'link le1 is no plain Linear layer': [
        lambda u: setattr(model_of(u).le1, 'forward', list),
        lambda u: replace(u, 'le1', L.Linear(784, 20, nobias=True))],
    NOT + "'VAE' object has no attribute 'ld3'": [lambda u: delattr(model_of(u), 'ld3')],
    NOT + 'link le2 has another size': [lambda u: replace(u, 'le2', L.Linear(20, 16))],
    NOT + 'a link has no size yet': [lambda u: replace(u, 'le1', L.Linear(None, 20))],
    NOT + 'there are other parameters than W and b of each link': [
        lambda u: model_of(u).add_param('C', ())],
    NOT + 'a hook watches it': [lambda u: model_of(u).add_hook(Watch())],
    'updater is not plain StandardUpdater': [
        lambda u: setattr(u, 'converter', len), lambda u: setattr(u, 'loss_scale', 2.0),
        lambda u: setattr(u, '__class__', type('Other', (training.StandardUpdater,), {}))],
    'digits are not one array of float32': [
        lambda u: set_digits(u, list(DIGITS)), lambda u: set_digits(u, DIGITS[::2]),
        lambda u: set_digits(u, DIGITS.astype(np.float64))],
    'digits have another size than the model': [lambda u: set_digits(u, DIGITS[:, :700].copy())],
    'iterator is not plain SerialIterator': [
        lambda u: u._iterators.update(main=iterators.MultithreadIterator(DIGITS, 2)),
        lambda u: setattr(u.get_iterator('main'), 'next', list)],
    'loss_func is not what get_loss_func of the model returns': [
        lambda u: setattr(u, 'loss_func', functools.partial(lf_of(u))),
        lambda u: setattr(u, 'loss_func', lf_of(make('standard')))],
    'the weight C of the latent loss is no plain number': [
        lambda u: setattr(u, 'loss_func', lf_of(u, C=np.array(2.0)))],
}


@pytest.mark.parametrize(('why', 'change'), [
    (why, change) for why, changes in OBSTACLES.items() for change in changes])
def test_what_stands_in_the_way(why, change):
    plain = make('standard')
    evaluator = evaluator_of(model_of(plain))
    given = evaluator.eval_func
    change(plain)
    made = updater.fast(plain, evaluator)
    assert (made is plain) == (evaluator.eval_func is given) == (why != '')
    assert made.kind in (f'compiled parts ({why})', f'standard ({why})') if why else (
        made.kind.startswith('fast ('))


def test_hooks_of_all_functions_and_links():
    plain = make('standard')
    for hook in (chainer.function_hooks.TimerHook(), Watch()):
        with hook:
            assert proof.obstacle(plain) == NOT + 'a hook watches it'
    assert proof.obstacle(plain) == ''


@pytest.mark.parametrize('change', [
    {'eval_func': print}, {'converter': len},
    {'eval_func': train_vae.score_func(model_of(make('standard')), 2)},
    {'__class__': type('Other', (extensions.Evaluator,), {})}])
def test_an_evaluator_that_is_not_score_func_scores_by_itself(change):
    plain = make('standard')
    evaluator = evaluator_of(model_of(plain))
    for name, value in change.items():
        setattr(evaluator, name, value)
    given = evaluator.eval_func
    fast = updater.fast(plain, evaluator)
    assert evaluator.eval_func is given
    assert fast.kind.endswith('; score_func is edited, and scores by itself)')


# Numbers -------------------------------------------------------------------------------------


@ON_EACH
@pytest.mark.parametrize('name', ['k, C, tanh', 'batches that wrap'])
def test_what_is_the_same_is_found_the_same_and_disturbs_nothing(name, device):
    states = []
    for is_proved in (True, False):
        fast = make('fast', **steps.SETTINGS[name], device=device)
        seed(device)
        if not is_proved:
            fast.guard.look()
        losses = []
        for _ in range(5):
            fast.guard.proved_in = fast.guard.proved_in if is_proved else fast.epoch
            losses.append(one_step(fast))
        assert fast.why == ''
        states.append({'losses': np.array(losses), 'random': np.random.get_state()[1]}
                       | arrays_of(fast))
    steps.check_same(*states)


@ON_EACH
@pytest.mark.parametrize('function, other, why', [
    ('bernoulli_nll', lambda x, y: 1.01 * nll(x, y), 'rec_loss differs'),
    ('gaussian_kl_divergence', lambda mu, ln_var: 1.1 * kl(mu, ln_var), 'latent_loss differs'),
    ('bernoulli_nll', lambda x, y: nll(x, y - 0.1 * (y - y.array)), 'gradient of /ld1/W differs'),
    ('gaussian', lambda mu, ln_var: gaussian(mu, ln_var) + 0 * np.random.uniform(),
     'it draws other random numbers'),
    ('gaussian', lambda mu, ln_var: chainer.Variable(gaussian(mu, ln_var).array),
     'gradient of /le1/W is missing'),
    ('bernoulli_nll', lambda x, y: np.inf * nll(x, y), '')])
def test_numbers_that_differ_are_named(monkeypatch, function, other, why, device):
    fast = make('fast', device=device)
    monkeypatch.setattr(F, function, other)
    fast.prove()
    if why.startswith('gradient'):
        assert fast.why.startswith(NOT + 'gradient of /')
        assert fast.why.endswith((' differs', ' is missing'))
    else:
        assert fast.why == (why and NOT + why)


def test_a_kink_on_one_minibatch_is_no_difference(monkeypatch):
    def difference(plain, taken, xp):
        taken()
        return 'gradient of /le1/W differs' if len(seen) < 3 else ''

    monkeypatch.setattr(proof, 'difference', difference)
    for tries, why in ((3, ''), (2, 'gradient of /le1/W differs')):
        monkeypatch.setattr(proof, 'TRIES', tries)
        fast, seen = make('fast'), []
        fast.stepper.take = lambda rows, numbers, C, seen=seen: seen.append(rows) or {}
        fast.prove()
        assert (fast.why, len(seen)) == (why, tries)
        assert all(np.array_equal(rows, (seen[0] + i) % 60) for i, rows in enumerate(seen))


@pytest.mark.parametrize('name', ['loss', 'gradient of /le1/W'])
@pytest.mark.parametrize('size, why', [(1e17, NOT + 'loss differs'), (1e19, ''), (np.nan, '')])
def test_gradients_that_adam_could_not_square_prove_nothing(name, size, why):
    expected = {'loss': np.float32(1), 'gradient of /le1/W': None, name: np.float32([[1, size]])}
    assert proof.difference(lambda: expected, lambda: {'loss': np.float32(2)}, np) == why


def test_a_small_term_of_a_large_loss_may_be_rounded():
    found = {'loss': np.float32(100), 'latent_loss': np.float32(2e-5)}
    for other, why in ((1e-5, ''), (2e-2, 'latent_loss differs')):
        assert proof.compare(found, found | {'latent_loss': np.float32(other)}, ((), ())) == why


def test_blas_has_its_threads_whenever_no_fast_step_is_taken(monkeypatch):
    def counts():
        return {library['num_threads'] for library in cpu.BLAS.info()
                if library['threading_layer'] != 'sequential'}          # as MKL is, always

    fast = make('fast')
    with cpu.BLAS.limit(limits=2):
        fast.prove()
        assert counts() == {2}
        one_step(fast)
        assert counts() == {1}
        fast.finalize()
        assert counts() == {2}
        one_step(fast)          # as another Trainer does
        assert counts() == {1}
        monkeypatch.setattr(F, 'bernoulli_nll', lambda x, y: 2 * nll(x, y))
        one_step(fast)                          # by Chainer's own step
        assert (fast.why, counts()) == (NOT + 'rec_loss differs', {2})


def fail(*args):
    raise RuntimeError('cannot\ndo that')


def test_a_step_that_fails_in_its_proof_steps_aside(monkeypatch):
    fast = make('fast')
    monkeypatch.setattr(fast.stepper, 'take', fail)
    one_step(fast)
    assert fast.kind == 'compiled parts (cannot do that)'


@ON_EACH
@pytest.mark.parametrize('why', ['rec_loss differs', 'cannot do that'])
def test_scoring_that_differs_or_fails_is_net_pys(monkeypatch, capsys, device, why):
    fast = make('fast', batch=20, device=device)
    evaluator = evaluator_of(model_of(fast))
    plain, evaluator.eval_func = evaluator.eval_func, updater.Scores(fast, evaluator.eval_func)
    evaluator()
    assert capsys.readouterr().err == ''
    monkeypatch.setattr(F, 'bernoulli_nll', lambda x, y: 2 * nll(x, y))
    if why == 'cannot do that':
        monkeypatch.setattr(fast.stepper, 'score', fail)
        why = 'the GPU refuses: ' * (device != '@numpy') + why
    else:
        why = NOT + why
    evaluator.eval_func.guard.proved_in, scores = None, []
    for eval_func in (plain, evaluator.eval_func):
        seed(device)
        evaluator.eval_func = eval_func
        scores.append([float(value) for value in evaluator().values()])
    assert scores[0] == pytest.approx(scores[1], rel=1e-5)
    assert capsys.readouterr().err == f'warning: in scoring, {why}; net.py itself scores\n'


@ON_EACH
def test_a_step_of_adam_without_numbers_leaves_just_gradients(device):
    fast = make('fast', device=device)
    one_step(fast)
    before = arrays_of(fast)
    model_of(fast).cleargrads()         # as net.py's own backward does
    fast.stepper.take(np.arange(40), step.NO_ADAM, fast.C)
    for name, array in arrays_of(fast).items():
        assert np.array_equal(array, before[name]) == ('gradient' not in name)


def test_the_plain_path_imports_nothing_of_the_fast_step_or_mpi(data_dir, tmp_path):
    code = ('import sys, train_vae\n'
            'assert train_vae.cli(sys.argv[1:]) == 0\n'
            'loaded = {"support.fast", "numba", "mpi4py", "chainermn"}\n'
            'assert not loaded & set(sys.modules), loaded & set(sys.modules)\n')
    subprocess.run([sys.executable, '-c', code, '--data-dir', data_dir, *SMALL,
                    '--updater', 'standard', '-o', tmp_path / 'run'], check=True, cwd=ROOT,
                   env={**os.environ, 'PYTHONDONTWRITEBYTECODE': '1'})
