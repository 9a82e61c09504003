"""proof.py and what updater.py makes of it: who differs from net.py steps aside, at once."""

import copy
import os
import subprocess
import sys

from support.fast import proof, scoring, step, threads, updater
from support.run import observe

import chainer
from chainer import iterators, training
import chainer.functions as F
import chainer.links as L
from chainer.training import extensions
from conftest import ROOT, SMALL
import numpy as np
import pytest
from test_updater import DIGITS, SETTINGS, make, model_of, one_step

import train_vae

# What the fast step is for -------------------------------------------------------------------


@pytest.mark.parametrize(('change', 'why'), [
    (lambda optimizer: None, ''),
    (lambda optimizer: setattr(optimizer.target, 'act_func', chainer.functions.sigmoid),
     'activation sigmoid is not compiled'),
    (lambda optimizer: setattr(optimizer.target.le1.W, 'array',
                               optimizer.target.le1.W.array.astype(np.float64)),
     'weights are not plain float32'),
    *((change, 'optimizer is not plain Adam') for change in (
        lambda optimizer: setattr(optimizer.hyperparam, 'amsgrad', True),
        lambda optimizer: setattr(optimizer.hyperparam, 'adabound', True),
        lambda optimizer: setattr(optimizer.hyperparam, 'weight_decay_rate', 0.1),
        lambda optimizer: setattr(optimizer, '__class__', chainer.optimizers.SGD))),
    *((change, 'optimizer is not plain Adam: it has a hook') for change in (
        lambda optimizer: optimizer.add_hook(chainer.optimizer_hooks.GradientClipping(1)),
        lambda optimizer: optimizer.add_hook(lambda optimizer: None, 'after', timing='post'),
        lambda optimizer: optimizer.target.le1.W.update_rule.add_hook(print, 'print'))),
    *((change, 'optimizer is not plain Adam: a parameter has a rule of its own') for change in (
        lambda optimizer: setattr(optimizer.target.ld1.b.update_rule.hyperparam, 'alpha', 0.1),
        lambda optimizer: setattr(optimizer.target.ld1.b.update_rule.hyperparam, 'alpha', 0.001),
        lambda optimizer: setattr(optimizer.target.ld1.b.update_rule, 'update_core', print),
        lambda optimizer: setattr(optimizer.target.ld1.b.update_rule, 't', 7))),
    (lambda optimizer: optimizer.target.ld3.disable_update(),
     'optimizer is not plain Adam: a parameter is frozen'),
    (lambda optimizer: setattr(optimizer.target.le1.W, 'array',
                               np.asfortranarray(optimizer.target.le1.W.array)),
     'weights are not plain float32'),
    (lambda optimizer: setattr(optimizer.target.ld1.b, '_requires_grad', False),
     'gradients are not asked for'),
])
def test_what_stands_in_the_way(change, why):
    optimizer = make('standard').get_optimizer('main')
    change(optimizer)
    assert proof.obstacle(optimizer) == why


@pytest.mark.parametrize(('change', 'why'), [
    (lambda model: setattr(model.le2, 'name', 'le9'), 'there is another link, le9'),
    (lambda model: model.add_link('ld4', L.Linear(2, 2)),
     'there is another link, ld4'),
    (lambda model: model.add_link('bn', L.BatchNormalization(2)),
     'there is another link, bn'),
    (lambda model: delattr(model, 'ld3'), 'there is no link ld3'),
    (lambda model: replace(model, 'le2', L.Linear(20, 16)), 'link le2 has another size'),
    (lambda model: replace(model, 'ld1', L.Linear(3, 16)), 'link ld1 has another size'),
    (lambda model: replace(model, 'le1', L.Linear(None, 20)), 'a link has no size yet'),
    (lambda model: model.add_param('C', ()),
     'there are other parameters than W and b of each link'),
    (lambda model: model.ld1.add_hook(Watch()), 'a hook watches it'),
    (lambda model: setattr(model, 'cleargrads', list),
     'there are other parameters than W and b of each link'),
    (lambda model: setattr(model.le1, 'forward', list), 'there is another link, le1'),
])
def test_links_that_are_not_the_articles(change, why):
    optimizer = make('standard').get_optimizer('main')
    with optimizer.target.init_scope():
        change(optimizer.target)
    assert proof.obstacle(optimizer) == f'net.py is not what updater.py compiles: {why}'


def replace(model, name, link):
    """Put another link in the place of one, within `init_scope`."""
    delattr(model, name)
    setattr(model, name, link)


class Watch(chainer.LinkHook):
    """A link hook that does nothing."""

    name = 'watch'


class Halved(chainer.FunctionHook):
    """A function hook that does nothing."""

    name = 'halved'


def test_hooks_of_all_functions_and_links():
    optimizer = make('standard').get_optimizer('main')
    for hook in (Halved(), Watch()):
        with hook:
            assert proof.obstacle(optimizer).endswith('a hook watches it')
    assert proof.obstacle(optimizer) == ''


NOT_LOSS = 'loss_func is not what get_loss_func of the model returns'


def lf_of(plain, **options):
    """Return a loss function of the model of an updater."""
    return model_of(plain).get_loss_func(**options)


@pytest.mark.parametrize(('change', 'why'), [
    (lambda plain: None, ''),
    (lambda plain: setattr(plain, 'converter', len), 'updater is not plain StandardUpdater'),
    (lambda plain: setattr(plain, 'loss_scale', 2.0), 'updater is not plain StandardUpdater'),
    *((lambda plain, digits=digits: setattr(plain.get_iterator('main'), 'dataset', digits),
       'digits are not one array of float32')
      for digits in (list(DIGITS), DIGITS.astype(np.float64), DIGITS[:, None], DIGITS[::2])),
    (lambda plain: setattr(plain, 'loss_func', counted(lf_of(plain))), NOT_LOSS),
    (lambda plain: setattr(plain, 'loss_func', None), NOT_LOSS),
    (lambda plain: setattr(plain, 'loss_func', lf_of(plain, C=2.0, k=2)), ''),
    (lambda plain: setattr(plain, 'loss_func', lf_of(make('standard'))), NOT_LOSS),
    (lambda plain: setattr(plain, 'loss_func', lf_of(plain, C=np.array(2.0))),
     'the weight C of the latent loss is no plain number'),
    (lambda plain: setattr(plain, 'loss_func', lf_of(plain, C=np.float32(2.0))), ''),
    (lambda plain: plain._iterators.update(main=iterators.MultithreadIterator(DIGITS, 2)),
     'iterator is not plain SerialIterator'),
    (lambda plain: setattr(plain.get_iterator('main'), 'next', list),
     'iterator is not plain SerialIterator'),
    (lambda plain: setattr(plain.get_iterator('main'), 'dataset', DIGITS[:, :700].copy()),
     'digits have another size than the model'),
])
def test_updaters_that_are_not_plain(change, why):
    plain = make('standard')
    change(plain)
    assert proof.uncovered(plain) == why
    evaluator = evaluator_of(model_of(plain))
    given = evaluator.eval_func
    made = updater.fast(plain, evaluator)
    assert (made is plain) == (evaluator.eval_func is given) == (why != '')
    assert made.kind == f'standard ({why})' if why else made.kind.startswith('fast (')


@pytest.mark.parametrize('change', [
    lambda plain: setattr(plain, '__class__', Other),
    lambda plain: setattr(plain, 'update_core', list)])
def test_another_updater_stays_as_it_is(change):
    plain = make('standard')
    change(plain)
    assert updater.fast(plain, evaluator_of(model_of(plain))) is plain
    assert plain.kind == 'standard (updater is not plain StandardUpdater)'


class Other(training.StandardUpdater):
    """An updater that may do anything."""


def evaluator_of(model, k=2):
    """Return an evaluator of 30 digits."""
    return extensions.Evaluator(iterators.SerialIterator(DIGITS[:30], 20, False, False), model,
                                eval_func=train_vae.score_func(model, k))


def counted(function):
    """Return a function that keeps count of its calls."""
    def call(x):
        call.calls += 1
        return function(x)

    call.calls = 0
    return call


def test_c_and_k_are_those_of_the_loss():
    plain = make('standard', C=4.0, k=3)
    model = model_of(plain)
    assert proof.loss_settings(plain.loss_func, model) == (4.0, 3)
    assert proof.loss_settings(plain.loss_func, model_of(make('standard'))) is None
    made = updater.fast(plain, evaluator_of(model))
    assert (made.C, made.k, made.why) == (4.0, 3, '')


@pytest.mark.parametrize('change', [
    lambda evaluator: setattr(evaluator, 'eval_func', counted(evaluator.eval_func)),
    lambda evaluator: setattr(evaluator, 'eval_func', None),
    lambda evaluator: setattr(evaluator, 'converter', len),
    lambda evaluator: setattr(evaluator, 'eval_func', train_vae.score_func(
        model_of(make('standard')), 2)),
    lambda evaluator: setattr(evaluator, '__class__', OtherEvaluator),
])
def test_an_evaluator_that_is_not_score_func_scores_by_itself(change):
    plain = make('standard')
    evaluator = evaluator_of(model_of(plain), 5)
    assert proof.score_samples(evaluator.eval_func, model_of(plain)) == 5
    change(evaluator)
    given = evaluator.eval_func
    fast = updater.fast(plain, evaluator)
    assert evaluator.eval_func is given
    assert fast.kind.endswith('; score_func is edited, and scores by itself)')


class OtherEvaluator(extensions.Evaluator):
    """An evaluator that may do anything."""


# Numbers -------------------------------------------------------------------------------------


def proved(changes=(), monkeypatch=None, name='softplus'):
    """Return why a fast updater would step aside after these changes of Chainer's functions."""
    fast = make('fast', **SETTINGS[name])
    for function, other in changes:
        monkeypatch.setattr(F, function, other)
    fast.prove()
    return fast.why.removeprefix('net.py is not what updater.py compiles: ')


@pytest.mark.parametrize('name', SETTINGS)
def test_what_is_the_same_is_found_the_same_and_disturbs_nothing(name, monkeypatch):
    fast, twin = (make('fast', **SETTINGS[name]) for _ in range(2))
    states = []
    for its_updater in (twin, fast):
        np.random.seed(4)
        if its_updater is twin:
            monkeypatch.setattr(its_updater, 'prove', lambda batch=None, twin=twin: twin.look())
        else:
            its_updater.prove()
        losses = [one_step(its_updater) for _ in range(5)]
        states.append([losses, np.random.get_state()[1].tolist(), *(
            array.tobytes() for param in model_of(its_updater).params() for array in (
                param.array, param.update_rule.state['m'], param.update_rule.state['v']))])
    assert fast.why == ''
    assert states[0] == states[1]


nll, kl, gaussian = F.bernoulli_nll, F.gaussian_kl_divergence, F.gaussian


@pytest.mark.parametrize('function, other, why', [
    ('bernoulli_nll', lambda x, y: 1.01 * nll(x, y), 'rec_loss differs'),
    ('gaussian_kl_divergence', lambda mu, ln_var: 1.1 * kl(mu, ln_var), 'latent_loss differs'),
    ('bernoulli_nll', lambda x, y: nll(x, y - 0.1 * (y - y.array)), 'gradient of /ld1/W differs'),
    ('gaussian', lambda mu, ln_var: gaussian(mu, ln_var) + 0 * np.random.uniform(),
     'it draws other random numbers'),
    ('gaussian', lambda mu, ln_var: chainer.Variable(gaussian(mu, ln_var).array),
     'gradient of /ld1/W differs'),
])
def test_numbers_that_differ_are_named(monkeypatch, function, other, why):
    found = proved([(function, other)], monkeypatch)
    if why.startswith('gradient'):
        assert found.startswith('gradient of /')
        assert found.endswith((' differs', ' is missing'))
    else:
        assert found == why


def test_a_missing_gradient_is_named(monkeypatch):
    fast, reported = make('fast'), observe.reported

    def without(function, x, model):
        loss, values = reported(function, x, model)
        return Without(loss, model.le1), values

    monkeypatch.setattr(observe, 'reported', without)
    fast.prove()
    assert fast.why == 'net.py is not what updater.py compiles: gradient of /le1/W is missing'


class Without:
    """A loss whose gradients do not reach a link."""

    def __init__(self, loss, link):
        self.loss, self.link, self.array = loss, link, loss.array

    def backward(self):
        self.loss.backward()
        self.link.cleargrads()


def test_a_kink_on_one_minibatch_is_no_difference(monkeypatch):
    fast = make('fast')
    one_step(fast)
    seen = []

    def difference(self, rows, rewind):
        seen.append(rows.tolist())
        return 'gradient of /le1/W differs' if len(seen) < 3 else ''

    monkeypatch.setattr(updater.FastUpdater, 'difference', difference)
    fast.prove(np.arange(3))
    assert (fast.why, seen) == ('', [[0, 1, 2], [1, 2, 3], [2, 3, 4]])
    seen[:] = []
    monkeypatch.setattr(proof, 'TRIES', 2)
    fast.prove(np.arange(58, 60))
    assert fast.why.endswith('gradient of /le1/W differs')
    assert seen == [[58, 59], [59, 0]]


@pytest.mark.parametrize('size, is_comparable', [(1e17, True), (1e19, False), (np.nan, False)])
def test_gradients_that_adam_could_not_square_prove_nothing(size, is_comparable):
    grad = np.array([[1, size]], np.float32)
    assert proof.comparable([1.0], [grad, None]) == is_comparable
    assert proof.comparable([size if size != 1e19 else np.inf], []) == is_comparable


def test_a_small_term_of_a_large_loss_may_be_rounded():
    found = {'loss': np.float32(100), 'latent_loss': np.float32(2e-5)}
    same = [(1, 2), (1, 2)]
    assert proof.compare(found, found | {'latent_loss': np.float32(1e-5)}, same) == ''
    assert proof.compare(found, found | {'latent_loss': np.float32(2e-2)}, same) == (
        'latent_loss differs')


def test_threads_are_given_back_whatever_happens(monkeypatch):
    def counts():
        return {library['num_threads'] for library in threads.BLAS.info()
                if library['threading_layer'] != 'sequential'}          # as MKL is, always

    def fail(*args):
        raise MemoryError

    fast = make('fast')
    with threads.BLAS.limit(limits=2):
        fast.prove()
        assert counts() == {2}
        one_step(fast)
        assert counts() == {1}
        monkeypatch.setattr(proof, 'compare', fail)
        with pytest.raises(MemoryError):
            fast.prove()
        assert counts() == {2}
        monkeypatch.undo()
        monkeypatch.setattr(F, 'bernoulli_nll', lambda x, y: 2 * nll(x, y))
        fast.prove()
        one_step(fast)                          # by Chainer's own step
        assert counts() == {2}


def test_losses_that_are_not_finite_prove_nothing(monkeypatch):
    assert proved([('bernoulli_nll', lambda x, y: np.inf * nll(x, y))], monkeypatch) == ''


def test_from_the_very_minibatch_on_it_trains_as_the_standard_updater(monkeypatch, capsys):
    fast = make('fast', batch=20)               # three to an epoch
    for _ in range(3):
        one_step(fast)
    assert fast.kind.startswith('fast (')
    model = copy.deepcopy(model_of(fast))
    optimizer = chainer.optimizers.Adam().setup(model)
    iterator = iterators.SerialIterator(DIGITS, 20)
    serializer = chainer.serializers.DictionarySerializer()
    fast.serialize(serializer)
    monkeypatch.setattr(F, 'bernoulli_nll', lambda x, y: 2 * nll(x, y))
    standard = training.StandardUpdater(iterator, optimizer, device='@numpy',
                                        loss_func=model.get_loss_func())
    chainer.serializers.NpzDeserializer(     # of its own arrays
        {key: np.array(array) for key, array in serializer.target.items()}).load(standard)
    results = []
    for its_updater in (standard, fast):
        np.random.seed(8)
        results.append([[one_step(its_updater) for _ in range(5)],
                        [param.array.tobytes() for param in model_of(its_updater).params()],
                        np.random.get_state()[1].tolist(), its_updater.epoch_detail,
                        its_updater.get_optimizer('main').t])
    assert results[0] == results[1]
    assert fast.kind == ('standard (net.py is not what updater.py compiles: rec_loss differs)')
    assert capsys.readouterr().err == (
        "warning: from iteration 4 on Chainer's own step trains: net.py is not what updater.py "
        'compiles: rec_loss differs\n')


def test_scoring_that_differs_is_net_pys(monkeypatch, capsys):
    fast = make('fast', batch=20)
    model = model_of(fast)
    evaluator = evaluator_of(model)
    plain, evaluator.eval_func = evaluator.eval_func, scoring.Scores(fast, evaluator.eval_func)
    expected = [float(value) for value in evaluator().values()]
    assert capsys.readouterr().err == ''
    monkeypatch.setattr(F, 'bernoulli_nll', lambda x, y: 2 * nll(x, y))
    fast.get_iterator('main')._state = fast.get_iterator('main')._state._replace(epoch=1)
    results = []
    for eval_func in (plain, evaluator.eval_func):
        np.random.seed(3)
        evaluator.eval_func = eval_func
        results.append([float(value) for value in evaluator().values()])
    assert results[0] == results[1] != expected
    assert capsys.readouterr().err == (
        'warning: in scoring, net.py is not what updater.py compiles: rec_loss differs; net.py '
        'itself scores\n')


def test_a_step_of_adam_without_numbers_leaves_just_gradients():
    fast = make('fast')
    one_step(fast)
    before = [array.copy() for param in model_of(fast).params() for array in (
        param.array, param.update_rule.state['m'], param.update_rule.state['v'])]
    fast.take_step(np.arange(7), step.NO_ADAM)
    after = [array for param in model_of(fast).params() for array in (
        param.array, param.update_rule.state['m'], param.update_rule.state['v'])]
    assert all(map(np.array_equal, before, after))
    assert all(param.grad.any() for param in model_of(fast).params())


# The plain path ------------------------------------------------------------------------------


def test_the_plain_path_imports_nothing_of_the_fast_step_or_mpi(data_dir, tmp_path):
    code = ('import sys, train_vae\n'
            'assert train_vae.cli(sys.argv[1:]) == 0\n'
            'loaded = {"support.fast", "numba", "mpi4py", "chainermn"}\n'
            'assert not loaded & set(sys.modules), loaded & set(sys.modules)\n')
    subprocess.run([sys.executable, '-c', code, '--data-dir', data_dir, *SMALL,
                    '--updater', 'standard', '-o', tmp_path / 'run'], check=True, cwd=ROOT,
                   env={**os.environ, 'PYTHONDONTWRITEBYTECODE': '1'})
