"""watch.py: numbers on the model that snapshots lack are told, and kept as told."""

from types import SimpleNamespace

from support.run import watch  # lets chainer import

import chainer
import chainer.functions as F
import chainer.links as L
from chainer.serializers import DictionarySerializer
from conftest import SMALL
import numpy as np
import pytest
from runs import state_of

import net

WARNING = ('warning: snapshots lack {} of the model, which training changes: a run that resumes '
           'does not get it back; self.add_persistent({!r}, {}) in __init__, in the '
           'place of self.{} = ..., keeps it\n')


def warning(names, name, first):
    """Return the line that tells what snapshots lack."""
    return WARNING.format(names, name, first, name)


class Counting(net.VAE):
    """Lets the weight of the KL divergence rise with each step of training."""

    def __init__(self, *sizes):
        super().__init__(*sizes)
        self.start()

    def start(self):
        self.steps = 0

    def get_loss_func(self, C=1.0, k=1):
        def lf(x):
            if chainer.config.train:
                self.steps += 1
            return weigh(C * min(1, self.steps / 8), k)(x)

        weigh = super().get_loss_func
        return lf


class Kept(Counting):
    """The same, as the warning says."""

    def start(self):
        self.add_persistent('steps', 0)


@pytest.mark.parametrize('kind, is_kept', [(Counting, False), (Kept, True)])
def test_a_counter_is_told_at_the_first_snapshot_and_kept_as_told(
        cli, data_dir, tmp_path, monkeypatch, kind, is_kept):
    monkeypatch.setattr(net, 'VAE', kind)
    said = '' if is_kept else warning('steps', 'steps', 0)
    for name in ('whole', 'parts'):                 # of three minibatches an epoch
        status, _, err = cli('--data-dir', data_dir, '-o', tmp_path / name, *SMALL, '-e',
                             3 if name == 'whole' else 2)
        assert (status, err) == (0, said)
    status, _, err = cli('--resume', '-e', 3, '-o', tmp_path / 'parts')
    assert (status, err) == (0, said)
    whole, parts = (state_of(tmp_path / name / 'snapshot_epoch_3') for name in ('whole', 'parts'))
    assert (whole == parts) == is_kept


class Model(chainer.Chain):
    """A model with a bit of everything on it."""

    def __init__(self):
        super().__init__()
        with self.init_scope():
            self.le1 = L.Linear(2, 3)
            self.normal = L.BatchNormalization(3)
        self.steps, self.loss, self.kl, self.size = 0, 1.0, 1.0, 7
        self.le1.table = np.zeros((2, 3), np.float32)
        self.history, self.text, self.none = [], 'a', None
        self.add_persistent('kept', np.zeros(2))


def said_of(change, capsys, reported=()):
    """Return what is said at both of two snapshots of a model that a training changes."""
    model = Model()
    optimizer = SimpleNamespace(target=model)
    trainer = SimpleNamespace(observation=dict.fromkeys(reported, 0.0), updater=SimpleNamespace(
        loss_func=None, get_optimizer=lambda name: optimizer))
    seen = watch.Watch(SimpleNamespace(kl_weight=None))
    seen.serialize(DictionarySerializer())          # as a resumed run does before it trains
    seen.initialize(trainer)
    change(model)
    held = DictionarySerializer()
    seen.serialize(held)
    seen.serialize(held)
    assert held.target == {}
    return capsys.readouterr().err


def count(model):
    model.steps += 1


def make(model):
    model.calls = np.float32(1)


def write(model):
    model.le1.table[1, 2] = 1e-30


def append(model):
    model.history.append(0.5)


def count_two(model):
    model.steps, model.size = True, 8


@pytest.mark.parametrize('change, names, name, first', [
    (count, 'steps', 'steps', '0'), (make, 'calls', 'calls', '0.0'),
    (count_two, 'steps, size', 'steps', 'False'),
    (write, 'le1/table', 'table', 'its first array'),
    (append, 'history', 'history', 'its first array')])
def test_numbers_and_arrays_that_change_are_told_once(capsys, change, names, name, first):
    assert said_of(change, capsys) == warning(names, name, first)


def train(model):
    """Change what snapshots have, or what is no state."""
    model.kept += 1
    model.le1.W.array += 1
    with chainer.using_config('train', True):
        model.normal(np.random.uniform(size=(4, 3)).astype(np.float32))
    model.loss, model.rec_loss, model.kl = np.float32(2), 2.0, 2.0
    model.mu = chainer.Variable(np.ones(3, np.float32))
    model.hidden = [F.exp(model.mu)]
    model.text, model.none, model.own = 'b', object(), np.array([None])
    model.le1.table = model.le1.table.copy()
    model.steps = np.int64(0)


def test_what_snapshots_have_or_each_step_makes_anew_is_no_matter(capsys):
    assert said_of(train, capsys, ['main/kl']) == ''
    assert said_of(train, capsys) == warning('kl', 'kl', 0.0)


@pytest.mark.parametrize('value', [
    np.zeros(()), np.zeros(0), np.arange(6).reshape(2, 3).T, np.array('2017', 'M8[D]'),
    np.zeros(2, [('a', 'f4')]), {'a': [1, (2,)]}, {1}, 1j, np.bool_(True)])
def test_whatever_holds_numbers_has_a_digest(value):
    assert watch.digest(value) is not None
    assert watch.digest(value) == watch.digest(value)
