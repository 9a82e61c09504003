"""When a run stops, by a signal or by whatever trigger, and what a resumed run knows of that."""

import os
import signal
from types import SimpleNamespace

from support.base import command  # lets chainer import
from support.run import stopping

import chainer
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


def test_only_numbers_that_a_trigger_has_itself_are_restored():
    def early(patience=3):
        stop = stopping.UntilStopped(triggers.EarlyStoppingTrigger(patience=patience))
        stop.trainer = SimpleNamespace(observation={'loss': np.float32(2)})
        return stop

    stop, saved = early(), chainer.serializers.DictionarySerializer()
    stop.inner.best, stop.inner.count = 2.0, 2
    stop.serialize(saved)
    stop = early(patience=4)                        # as the script has it now
    stop.serialize(chainer.serializers.NpzDeserializer(
        saved.target | {
            'state': np.array('{"best": "2.0", "count": "2", "_compare": "3", "more": "4"}')}))
    assert (stop.inner.patience, stop.inner.count, stop.inner.best) == (4, 2, 2.0)
    assert callable(stop.inner._compare)            # of a stranger's file
    assert not hasattr(stop.inner, 'more')
