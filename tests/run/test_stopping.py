"""When a run stops, by a signal or by whatever trigger, and what a resumed run knows of that."""

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
from runs import STOPPING, needs_posix


@needs_posix
@pytest.mark.parametrize('rank', [None, 0, 1])
def test_a_signal_stops_a_run_once_all_ranks_know_and_rank_0_says_so(capfd, rank):
    stop = stopping.UntilStopped(2)
    trainer = SimpleNamespace(updater=SimpleNamespace(epoch_detail=1.9))
    stop.ranks = None if rank is None else SimpleNamespace(rank=rank)
    before = signal.getsignal(signal.SIGTERM)
    with command.handled(stop.signals, stop.on_signal):
        assert not stop(trainer)
        os.kill(os.getpid(), signal.SIGTERM)
        assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL      # once more quits at once
    assert signal.getsignal(signal.SIGTERM) == before
    assert (stop.caught, stop.signum) == (signal.SIGTERM, signal.SIGTERM if rank is None else None)
    assert capfd.readouterr() == ('', '' if rank == 1 else STOPPING)
    assert stop(trainer) == (rank is None)
    trainer.updater.epoch_detail = 2
    assert stop(trainer)


@needs_posix
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


# Another trigger --------------------------------------------------------------------------------


LOSSES = [5.5, 4.0, 3.0, 2.25, 2.5, 3.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0]
EARLY = ((1, 'iteration'), 'loss', 3)           # which stops after the tenth


class Steps(training.Updater):
    """An updater that only counts: three iterations an epoch."""

    iteration = 0
    epoch_detail = property(lambda self: self.iteration / 3)
    previous_epoch_detail = property(lambda self: (self.iteration - 1) / 3)

    def connect_trainer(self, trainer):
        self.trainer = trainer

    def finalize(self):
        pass

    def get_all_optimizers(self):
        return {}

    def update(self):
        self.iteration += 1
        chainer.report({'loss': LOSSES[self.iteration - 1]})

    def serialize(self, serializer):
        self.iteration = serializer('iteration', self.iteration)


class Asked:
    """A trigger of somebody's own, which fires at its n-th call, and notes when it is called."""

    def __init__(self, calls):
        self.left, self.at = calls, []

    def __call__(self, trainer):
        self.at.append(trainer.updater.iteration)
        self.left -= 1
        return self.left == 0


def trainer_of(stop, out):
    """Return a trainer, and its stop trigger as `until_stopped` makes it."""
    trainer = training.Trainer(Steps(), stop, str(out))
    return trainer, stopping.until_stopped(trainer)


def ended(trainer):
    """Run to the end; return the iteration."""
    trainer.run()
    return trainer.updater.iteration


def test_the_inner_trigger_is_asked_as_often_as_a_trainer_asks(tmp_path):
    words, asked = [], Asked(5)
    trainer, stop = trainer_of(asked, tmp_path)
    assert stopping.until_stopped(trainer) is stop
    stop.begin = lambda: words.append(('begin', trainer.updater.iteration))
    stop.end = lambda: words.append(('end', trainer.updater.iteration))
    trainer.run()
    assert asked.at == [0, 1, 2, 3, 4]
    assert words == [('begin', 0), ('end', 4)]


def test_after_a_signal_the_inner_trigger_is_not_asked(tmp_path):
    asked = Asked(9)
    trainer, stop = trainer_of(asked, tmp_path)
    trainer.extend(lambda trainer: trainer.updater.iteration == 3 and stop.stop(signal.SIGTERM),
                   name='signal')
    assert ended(trainer) == 3
    assert (asked.at, stop.is_over, stop.has_begun) == ([0, 1, 2], False, True)


def test_a_run_that_has_nothing_to_do_begins_nothing(tmp_path):
    trainer, stop = trainer_of((3, 'epoch'), tmp_path)
    trainer.updater.iteration = 12                  # where Chainer's own would go on to 18
    stop.begin = None
    assert ended(trainer) == 12
    assert (stop.is_over, stop.has_begun) == (True, False)


@pytest.mark.parametrize('make', [
    lambda: triggers.EarlyStoppingTrigger((2, 'iteration'), 'loss', 2),
    lambda: triggers.ManualScheduleTrigger([7], 'iteration'), lambda: Asked(9)])
def test_what_a_trigger_has_seen_is_saved_and_restored(tmp_path, make):
    """From a snapshot in the middle, and from the last, as before it was asked the last time."""
    saved, (trainer, stop) = {}, trainer_of(make(), tmp_path)
    trainer.extend(lambda trainer: trainer.updater.iteration == 4 and saved.update(
        chainer.serializers.npz.serialize(trainer)), name='save', priority=-100)
    whole = ended(trainer)
    assert json.loads(str(saved['stop_trigger/observation'])) == {'loss': ['<f8', LOSSES[3]]}
    resumed, _ = trainer_of(make(), tmp_path)
    chainer.serializers.NpzDeserializer(saved).load(resumed)
    assert resumed.updater.iteration == 4
    assert ended(resumed) == whole
    at_end = {}
    stop.serialize(chainer.serializers.DictionarySerializer(at_end))
    resumed, stop = trainer_of(make(), tmp_path)
    resumed.updater.iteration = whole
    stop.serialize(chainer.serializers.NpzDeserializer(
        {key: np.asarray(value) for key, value in at_end.items()}))
    assert (ended(resumed), stop.has_begun) == (whole, False)


def test_what_the_script_sets_is_not_what_a_snapshot_has(tmp_path):
    trainer, stop = trainer_of(triggers.EarlyStoppingTrigger(*EARLY), tmp_path)
    assert ended(trainer) == 10
    saved = {}
    stop.serialize(chainer.serializers.DictionarySerializer(saved))
    assert json.loads(str(saved['state'])) == {'best': '2.0', 'count': '2'}
    _, stop = trainer_of(triggers.EarlyStoppingTrigger(*EARLY[:2], patience=4), tmp_path)
    stop.serialize(chainer.serializers.NpzDeserializer(
        {key: np.asarray(value) for key, value in saved.items()} | {
            'state': np.array('{"best": "2.0", "count": "2", "_compare": "3", "more": "4"}')}))
    assert (stop.inner.patience, stop.inner.count, stop.inner.best) == (4, 2, 2.0)
    assert callable(stop.inner._compare)            # of a stranger's file
    assert not hasattr(stop.inner, 'more')
