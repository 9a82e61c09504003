"""When a run stops, and when it writes."""

from fractions import Fraction
import json
import os
import signal
from types import SimpleNamespace

from support.base import command  # lets chainer import
from support.run import stopping

import chainer
from chainer import training
from chainer.training import triggers
import numpy as np
import pytest
from test_parts import Countdown
from test_train_vae import STOPPING


@pytest.mark.skipif(os.name != 'posix', reason='needs POSIX signals')
@pytest.mark.parametrize('is_agreed, rank', [(False, 0), (True, 0), (True, 1)])
def test_a_signal_stops_a_run_once_all_ranks_know_and_rank_0_says_so(capfd, is_agreed, rank):
    stop = stopping.UntilStopped(2)
    trainer = SimpleNamespace(updater=SimpleNamespace(epoch_detail=1.9))
    stop.is_agreed, stop.rank = is_agreed, rank
    before = signal.getsignal(signal.SIGTERM)
    with command.handled(stop.signals, stop.on_signal):
        assert not stop(trainer)
        os.kill(os.getpid(), signal.SIGTERM)
        assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL      # once more quits at once
    assert signal.getsignal(signal.SIGTERM) == before
    assert (stop.caught, stop.signum) == (signal.SIGTERM, None if is_agreed else signal.SIGTERM)
    assert capfd.readouterr() == ('', STOPPING if rank == 0 else '')
    assert stop(trainer) == (not is_agreed)
    trainer.updater.epoch_detail = 2
    assert stop(trainer)


@pytest.mark.skipif(os.name != 'posix', reason='needs POSIX signals')
def test_a_terminal_may_close_twice_and_what_the_parent_ignores_stays_ignored(capfd):
    stop = stopping.UntilStopped(2)
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with command.handled(stop.signals, stop.on_signal):
            assert signal.getsignal(signal.SIGINT) == signal.SIG_IGN
            os.kill(os.getpid(), signal.SIGHUP)
            os.kill(os.getpid(), signal.SIGHUP)
    finally:
        signal.signal(signal.SIGINT, before)
    assert stop.signum == signal.SIGHUP
    assert capfd.readouterr().err == 'stopping after this iteration\n'


@pytest.mark.parametrize('step', [Fraction(1, 3), Fraction(5, 2)])     # epochs an iteration
@pytest.mark.parametrize('epochs, due', [
    (1, ([1, 2, 3, 4, 5, 6, 7], [2, 5, 7])), (2, ([2, 4, 6, 7], [2, 5, 7])),
    (3, ([3, 6, 7], [5, 7])), (50, ([7], [7]))])
def test_snapshots_are_due_after_every_so_many_epochs_and_after_the_last(step, epochs, due):
    trigger, seen, detail = stopping.every(epochs, 7), [], 0
    while detail < 7:
        before, detail = detail, detail + step
        if trigger(SimpleNamespace(updater=SimpleNamespace(
                epoch=int(detail), previous_epoch_detail=before))):
            seen.append(int(detail))
    assert seen == due[step > 1]


# Another trigger ----------------------------------------------------------------------------------


class Steps(training.Updater):
    """An updater that only counts: three iterations an epoch."""

    iteration = 0

    def connect_trainer(self, trainer):
        self.trainer = trainer

    def finalize(self):
        pass

    def get_all_optimizers(self):
        return {}

    def update(self):
        self.iteration += 1
        chainer.report({'loss': LOSSES[self.iteration - 1]})

    @property
    def epoch_detail(self):
        return self.iteration / 3

    @property
    def previous_epoch_detail(self):
        return (self.iteration - 1) / 3

    def serialize(self, serializer):
        self.iteration = serializer('iteration', self.iteration)


class Asked:
    """A trigger that notes when it is asked."""

    def __init__(self, last):
        self.last, self.at = last, []

    def __call__(self, trainer):
        self.at.append(trainer.updater.iteration)
        return trainer.updater.iteration == self.last


LOSSES = [5.5, 4.0, 3.0, 2.25, 2.5, 3.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0]
EARLY = ((1, 'iteration'), 'loss', 3)           # which stops after the tenth


def trainer_of(stop, out):
    return training.Trainer(Steps(), stop, str(out))


def ended(trainer):
    """Run to the end; return the iteration."""
    trainer.run()
    return trainer.updater.iteration


@pytest.mark.parametrize('stop, last', [
    ((3, 'epoch'), 9), ((2.5, 'epoch'), 8), ((7, 'iteration'), 7),
    (triggers.EarlyStoppingTrigger(*EARLY), 10), (lambda trainer: len(trainer.observation) > 9, 12),
    (triggers.EarlyStoppingTrigger(*EARLY, max_trigger=(5, 'iteration')), 5)])
def test_a_run_is_as_long_as_its_own_trigger_says(tmp_path, stop, last):
    trainer = trainer_of(stop, tmp_path)
    stopping.until_stopped(trainer)
    assert stopping.until_stopped(trainer) is trainer.stop_trigger
    if last == 12:
        with pytest.raises(IndexError):
            trainer.run()
    else:
        assert ended(trainer) == last
        assert trainer.stop_trigger.is_over


def test_the_other_is_asked_as_often_as_a_trainer_asks(tmp_path):
    plain, ours = Asked(4), Asked(4)
    trainer_of(plain, tmp_path).run()
    trainer = trainer_of(stopping.UntilStopped(ours), tmp_path)
    words = []
    stop = stopping.until_stopped(trainer)
    stop.begin = lambda: words.append(('begin', trainer.updater.iteration))
    stop.end = lambda: words.append(('end', trainer.updater.iteration))
    trainer.run()
    assert ours.at == plain.at == [0, 1, 2, 3, 4]
    assert words == [('begin', 0), ('end', 4)]


def test_after_a_signal_the_other_is_not_asked(tmp_path):
    asked = Asked(9)
    trainer = trainer_of(asked, tmp_path)
    stop = stopping.until_stopped(trainer)
    trainer.extend(lambda trainer: trainer.updater.iteration == 3 and stop.stop(signal.SIGTERM),
                   name='signal')
    assert ended(trainer) == 3
    assert (asked.at, stop.is_over, stop.has_begun) == ([0, 1, 2], False, True)


def test_a_run_that_has_nothing_to_do_begins_nothing(tmp_path):
    trainer = trainer_of((3, 'epoch'), tmp_path)
    trainer.updater.iteration = 12                  # where Chainer's own would go on to 18
    stop = stopping.until_stopped(trainer)
    stop.begin = None
    assert ended(trainer) == 12
    assert (stop.is_over, stop.has_begun) == (True, False)


@pytest.mark.parametrize('make', [
    lambda: triggers.EarlyStoppingTrigger(*EARLY),
    lambda: triggers.EarlyStoppingTrigger((2, 'iteration'), 'loss', 2),
    lambda: triggers.ManualScheduleTrigger([7], 'iteration'), lambda: Countdown(9)])
@pytest.mark.parametrize('at', [1, 4, 6])
def test_what_a_trigger_has_seen_is_saved_and_restored(tmp_path, make, at):
    whole = ended(trainer_of(make(), tmp_path))
    saved = {}
    trainer = trainer_of(make(), tmp_path)
    stop = stopping.until_stopped(trainer)
    trainer.extend(lambda trainer: trainer.updater.iteration == at and saved.update(
        chainer.serializers.npz.serialize(trainer)), name='save', priority=-100)
    assert ended(trainer) == whole
    assert json.loads(str(saved['stop_trigger/observation'])) == {'loss': ['<f8', LOSSES[at - 1]]}
    at_end = {}
    stop.serialize(chainer.serializers.DictionarySerializer(at_end))
    for arrays, iterations in ((saved, whole), (at_end, whole)):
        resumed = trainer_of(make(), tmp_path)
        stop = stopping.until_stopped(resumed)
        if arrays is saved:
            chainer.serializers.NpzDeserializer(saved).load(resumed)
            assert resumed.updater.iteration == at
        else:                   # as before it was asked the last time
            resumed.updater.iteration = whole
            stop.serialize(chainer.serializers.NpzDeserializer(
                {key: np.asarray(value) for key, value in at_end.items()}))
        assert ended(resumed) == iterations
        assert stop.has_begun == (arrays is saved)


def test_what_the_script_sets_is_not_what_a_snapshot_has(tmp_path):
    trainer = trainer_of(triggers.EarlyStoppingTrigger(*EARLY), tmp_path)
    stop = stopping.until_stopped(trainer)
    assert ended(trainer) == 10
    saved = {}
    stop.serialize(chainer.serializers.DictionarySerializer(saved))
    assert json.loads(str(saved['state'])) == {'best': '2.0', 'count': '2'}
    more = trainer_of(triggers.EarlyStoppingTrigger(*EARLY[:2], patience=4), tmp_path)
    stop = stopping.until_stopped(more)
    stop.serialize(chainer.serializers.NpzDeserializer(
        {key: np.asarray(value) for key, value in saved.items()} | {
            'state': np.array('{"best": "2.0", "count": "2", "_compare": "3", "more": "4"}')}))
    assert (stop.inner.patience, stop.inner.count, stop.inner.best) == (4, 2, 2.0)
    assert callable(stop.inner._compare)            # of a stranger's file
    assert not hasattr(stop.inner, 'more')


def test_a_length_is_told_where_the_other_knows_it():
    assert stopping.UntilStopped(3).get_training_length() == (3, 'epoch')
    early = stopping.UntilStopped(triggers.EarlyStoppingTrigger(max_trigger=(7, 'iteration')))
    assert early.length() == (7, 'iteration')
    assert not hasattr(stopping.UntilStopped(Asked(3)), 'get_training_length')
    assert stopping.UntilStopped(None).length() == (float('inf'), 'epoch')


def test_the_numbers_of_an_observation():
    found = stopping.scalars_of({
        'a': 1, 'b': np.float32(2), 'c': chainer.Variable(np.array(3, 'f')), 'd': np.array(True),
        'e': 'text', 'f': np.zeros(2), 'g': None, 'h': (1.0, 2)})
    assert {name: (array.item(), array.shape) for name, array in found.items()} == {
        'a': (1, ()), 'b': (2, ()), 'c': (3, ()), 'd': (True, ())}
    assert found['b'].dtype == found['c'].dtype == np.float32
