"""What the Trainer does besides: look at the losses, log, draw; the first words of a run."""

import json
import os
import signal
from types import SimpleNamespace

from support.run import extensions, losses, snapshot, terminal  # lets chainer import
from support.run.terminal import PrintReport

import chainer
from chainer import training
from chainer.iterators import SerialIterator
from conftest import SMALL
import numpy as np
import pytest
from runs import last, needs_posix

import train_vae


@pytest.mark.parametrize('bad', [
    np.float32(np.inf), chainer.Variable(np.array(-np.inf, 'f')), (np.float32(np.nan), 100)])
@pytest.mark.parametrize('key, name', [('main/loss', 'training'), ('validation/main/loss', 'test')])
def test_a_loss_that_is_not_finite_is_found(tmp_path, bad, key, name):
    check = extensions.check_finite('old')
    trainer = SimpleNamespace(out=str(tmp_path), observation={}, updater=SimpleNamespace(
        iteration=7, previous_epoch_detail=2.0))
    for value in (np.float32(3e38), np.full(3, np.nan), None, 'x'):     # or no number
        trainer.observation = {key: value}
        check(trainer)
    trainer.observation = {'main/loss': np.float32(1), key: bad}
    with pytest.raises(FloatingPointError, match=(
            f'^the {name} loss is not finite in epoch 3, iteration 7; stopped, last good '
            'snapshot: old; ')):
        check(trainer)


def test_a_log_takes_what_chainers_takes(cli, data_dir, tmp_path, monkeypatch):
    def postprocess(row):
        row['twice'] = 2 * row['main/loss']

    monkeypatch.setattr(train_vae, 'LogReport', lambda: extensions.LogReport(
        ['main/loss'], (2, 'iteration'), postprocess, 'log_to_{iteration}'))
    assert cli('--data-dir', data_dir, '-o', tmp_path / 'run', *SMALL)[0] == 0      # of 6
    logs = {int(path.name[7:]): json.loads(path.read_text())
            for path in (tmp_path / 'run').glob('log_to_*')}
    assert [len(logs[iteration]) for iteration in (2, 4, 6)] == [1, 2, 3]
    for row in logs[6]:
        assert set(row) == {'main/loss', 'twice', 'epoch', 'iteration', 'elapsed_time'}
        assert row['twice'] == 2 * row['main/loss']


@pytest.mark.parametrize('changes, weight', [(False, 0.25), (True, None)])
def test_loss_png_knows_the_weight_that_trained_and_a_resumed_run_too(
        cli, data_dir, tmp_path, monkeypatch, pictures, changes, weight):
    """What anneals stands in the place of the table; it weighs 0.25 again before the end."""
    @training.make_extension(trigger=(1, 'iteration'))
    def anneal(trainer):
        at = trainer.updater.iteration
        trainer.updater.loss_func = trainer.updater.get_optimizer('main').target.get_loss_func(
            0.5 if at == 2 and changes else 0.25)

    given = []
    monkeypatch.setattr(losses, 'plot', lambda log, loss, C, *others: given.append(C))
    monkeypatch.setattr(train_vae, 'PrintReport', lambda: anneal)
    flags = '--data-dir', data_dir, '-o', tmp_path / 'run', *SMALL, '--beta', 0.25
    assert cli(*flags, '--updater', 'standard')[0] == 0
    monkeypatch.setattr(train_vae, 'PrintReport', PrintReport)
    assert cli('--resume', '-o', tmp_path / 'run', '-e', 3)[0] == 0
    assert given[0] == given[-1] == weight
    settings = json.loads(str(snapshot.read(last(tmp_path / 'run'))[snapshot.SETTINGS_KEY]))
    assert settings['kl_weight'] == weight


@pytest.mark.parametrize('seconds, drawn', [(0, [1, 2, 3, 4]), (10**6, [1, 4])])
def test_loss_png_is_redrawn_when_that_is_due_and_at_the_end(
        cli, data_dir, tmp_path, monkeypatch, seconds, drawn):
    rows, snapshots = [], []

    def plot_losses(trainer):
        rows.append(len(terminal.log_of(trainer)))
        snapshots.append(len(list((tmp_path / 'run').glob('snapshot_epoch_*'))))

    monkeypatch.setattr(extensions.PlotReport, 'seconds', seconds)
    monkeypatch.setattr(extensions, 'plot_losses', plot_losses)
    cli('--data-dir', data_dir, '-o', tmp_path / 'run', *SMALL, '-e', '4')
    assert rows == snapshots == drawn           # snapshots come first


@needs_posix
def test_after_a_signal_nothing_is_drawn_before_the_end(cli, data_dir, tmp_path, monkeypatch):
    def call(self, trainer):
        plain(self, trainer)
        if trainer.updater.is_new_epoch:
            os.kill(os.getpid(), signal.SIGTERM)

    plain, drawn = PrintReport.__call__, []
    monkeypatch.setattr(PrintReport, '__call__', call)
    monkeypatch.setattr(extensions, 'plot_losses', lambda trainer: drawn.append(
        trainer.stop_trigger.status))
    assert cli('--data-dir', data_dir, '-o', tmp_path / 'run', *SMALL)[0] == 143
    assert drawn == [143]
    assert [path.name for path in (tmp_path / 'run').glob('snapshot_*')] == ['snapshot_epoch_1']


@pytest.mark.parametrize('error, said', [
    (RuntimeError('latex\nis not there'), 'warning: loss.png is not drawn (latex is not there); '
                                          'training goes on without it\n'),
    (KeyboardInterrupt(), '')])
def test_a_picture_that_fails_is_told_once_and_the_run_goes_on(
        cli, data_dir, tmp_path, monkeypatch, error, said):
    """A Ctrl-C in the last picture is not of the run, which has ended already."""
    def fail(trainer):
        tries.append(trainer.updater.epoch)
        raise error

    tries = []
    monkeypatch.setattr(extensions, 'plot_losses', fail)
    if not said:
        monkeypatch.setattr(extensions.PlotReport, '__call__', lambda *args: None)
    status, out, err = cli('--data-dir', data_dir, '-o', tmp_path / 'run', *SMALL, '-e', '4')
    assert (status, tries, err) == (0, [1 if said else 4], said)
    assert 'finished at epoch 4' in out


def test_the_header_counts_what_trains_and_what_is_scored(cli, data_dir, tmp_path, monkeypatch):
    """As where the script trains on one class, scores others, and has a batch size of its own."""
    monkeypatch.setattr(train_vae, 'iterators', SimpleNamespace(
        SerialIterator=lambda digits, size, **options: SerialIterator(digits[:5], 3, **options)))
    out = cli('--data-dir', data_dir, '-o', tmp_path / 'run', *SMALL)[1]
    assert ': 5 to train, 5 to test\n' in out
    assert ', minibatches of 3, Adam' in out
    assert '\nepochs   2\n' in out


@pytest.mark.parametrize('name', ['mine', 'LogReport'])
def test_chainers_log_of_whatever_name_is_shown_and_drawn(
        cli, data_dir, tmp_path, monkeypatch, pictures, name):
    def log():
        report = training.extensions.LogReport(trigger=(1, 'iteration'))
        report.name = name
        return report

    monkeypatch.setattr(train_vae, 'LogReport', log)
    status, out, err = cli('--data-dir', data_dir, '-o', tmp_path / 'run', *SMALL)
    assert (status, err) == (0, '')
    rows = [line.split() for line in out.partition('seconds\n')[2].splitlines()[:6]]
    logged = json.loads((tmp_path / 'run' / 'log').read_text())
    assert [row[2] for row in rows] == [f'{row["main/loss"]:.3f}' for row in logged]
    assert (tmp_path / 'run' / 'loss.png').exists()
