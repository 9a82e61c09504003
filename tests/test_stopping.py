"""When a run stops, and when it writes."""

from fractions import Fraction
import os
import signal
from types import SimpleNamespace

from support import compat, stopping  # lets chainer import

import pytest
from test_train_vae import STOPPING


@pytest.mark.skipif(os.name != 'posix', reason='needs POSIX signals')
@pytest.mark.parametrize('is_agreed, rank', [(False, 0), (True, 0), (True, 1)])
def test_a_signal_stops_a_run_once_all_ranks_know_and_rank_0_says_so(capfd, is_agreed, rank):
    stop = stopping.UntilStopped(2)
    trainer = SimpleNamespace(updater=SimpleNamespace(epoch=1))
    stop.is_agreed, stop.rank = is_agreed, rank
    before = signal.getsignal(signal.SIGTERM)
    with compat.handled(stop.signals, stop.on_signal):
        assert not stop(trainer)
        os.kill(os.getpid(), signal.SIGTERM)
        assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL      # once more quits at once
    assert signal.getsignal(signal.SIGTERM) == before
    assert (stop.caught, stop.signum) == (signal.SIGTERM, None if is_agreed else signal.SIGTERM)
    assert capfd.readouterr() == ('', STOPPING if rank == 0 else '')
    assert stop(trainer) == (not is_agreed)
    trainer.updater.epoch = 2
    assert stop(trainer)


@pytest.mark.skipif(os.name != 'posix', reason='needs POSIX signals')
def test_a_terminal_may_close_twice_and_what_the_parent_ignores_stays_ignored(capfd):
    stop = stopping.UntilStopped(2)
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with compat.handled(stop.signals, stop.on_signal):
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
