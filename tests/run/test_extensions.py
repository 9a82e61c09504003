"""What the Trainer does besides: when it stops and writes, the learning curves, its first words."""

import contextlib
import json
import os
import signal
from types import SimpleNamespace

from support.base import files  # lets chainer import
from support.run import extensions, losses, run_folder, snapshot, terminal
from support.run.terminal import PrintReport

import chainer
from chainer import training
from chainer.iterators import SerialIterator
from conftest import SMALL
import numpy as np
from PIL import Image
import pytest
from runs import last

import net
import train_vae

# A loss that is not finite, and a signal ---------------------------------------------------------


@pytest.mark.parametrize('bad', [np.inf, -np.inf, np.nan])
def test_a_loss_that_is_not_finite_is_found(tmp_path, bad):
    check = extensions.check_finite('old')
    trainer = SimpleNamespace(out=str(tmp_path), observation={}, updater=SimpleNamespace(
        iteration=7, previous_epoch_detail=2.0))
    check(trainer)
    for key, name in (('main/loss', 'training'), ('validation/main/loss', 'test')):
        for loss in (np.float32(bad), chainer.Variable(np.array(bad, np.float32))):
            trainer.observation = {'main/loss': np.float32(1), key: loss}
            with pytest.raises(FloatingPointError, match=(
                    f'^the {name} loss is not finite in epoch 3, iteration 7; stopped, last good '
                    'snapshot: old; ')):
                check(trainer)
    trainer.observation = {'main/loss': chainer.Variable(np.array(3e38, np.float32))}
    check(trainer)


@pytest.mark.skipif(os.name != 'posix', reason='needs POSIX signals')
def test_interrupted_work_is_kept_before_anything_else(cli, data_dir, tmp_path, monkeypatch):
    def fail(trainer):
        raise MemoryError('no picture')

    monkeypatch.setattr(extensions.PlotReport, '__call__',
                        lambda *args: os.kill(os.getpid(), signal.SIGTERM))
    monkeypatch.setattr(extensions, 'plot_losses', fail)
    status, _, err = cli('--data-dir', data_dir, '-o', tmp_path / 'run', *SMALL)
    assert (status, err) == (143, 'warning: loss.png is not drawn (no picture); the run does '
                                  'without it\n')
    assert snapshot.read_iteration(str(tmp_path / 'run' / 'snapshot_epoch_1')) == 3
    assert not (tmp_path / 'run' / 'snapshot_interrupted').exists()     # it would be the same


# The log and the learning curves ----------------------------------------------------------------


@pytest.mark.parametrize('value', [
    (np.float32(np.inf), 100), np.ones(3, 'f'), None, 'x', chainer.Variable(np.ones(3, 'f'))])
def test_a_loss_that_is_no_number_is_none_to_check_but_a_weighted_one_is(tmp_path, value):
    trainer = SimpleNamespace(out=str(tmp_path), observation={'main/loss': value},
                              updater=SimpleNamespace(iteration=7, previous_epoch_detail=2.0))
    with (pytest.raises(FloatingPointError) if isinstance(value, tuple) else
          contextlib.nullcontext()):
        extensions.check_finite(None)(trainer)


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


def test_loss_png_shows_both_curves_in_three_panels(finished):
    with Image.open(finished / 'loss.png') as picture:
        pixels = np.asarray(picture.convert('RGB')).astype(int)
    assert pixels.shape == (340, 1000, 3)
    for color in ((0x3F, 0x90, 0xDA), (0xBD, 0x1F, 0x01)):
        near = abs(pixels - color).sum(2) < 30
        assert all(near[:, third].sum() > 30
                   for third in (slice(0, 333), slice(333, 666), slice(666, 1000)))


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
    arrays = snapshot.read(last(tmp_path / 'run'))
    assert snapshot.read_settings(arrays, '').kl_weight == weight


@pytest.mark.parametrize('signum, drawn', [(None, [3]), (signal.SIGTERM, [])])
def test_loss_png_asks_no_stop_trigger_and_waits_after_a_signal(monkeypatch, signum, drawn):
    seen, log = [], [{'epoch': 1}] * 3
    monkeypatch.setattr(extensions, 'plot_losses', lambda trainer: seen.append(len(log)))
    report = chainer.training.extensions.LogReport()
    report._log = log
    stop = SimpleNamespace(signum=signum)           # which cannot be called
    trainer = SimpleNamespace(stop_trigger=stop, _extensions={
        'x': SimpleNamespace(extension=report)})
    plot = extensions.PlotReport()
    monkeypatch.setattr(plot, 'seconds', 0)
    plot(trainer)
    plot(trainer)                                   # which has nothing new
    assert seen == drawn


@pytest.mark.parametrize('seconds, drawn', [(0, 4), (10**6, 2)])
def test_loss_png_is_redrawn_when_that_is_due_and_at_the_end(
        cli, data_dir, tmp_path, monkeypatch, seconds, drawn):
    rows, snapshots = [], []

    def plot_losses(trainer):
        rows.append(len(terminal.log_of(trainer)))
        snapshots.append(len(list((tmp_path / 'run').glob('snapshot_epoch_*'))))

    monkeypatch.setattr(extensions.PlotReport, 'seconds', seconds)
    monkeypatch.setattr(extensions, 'plot_losses', plot_losses)
    cli('--data-dir', data_dir, '-o', tmp_path / 'run', *SMALL, '-e', '4')
    assert rows == {4: [1, 2, 3, 4], 2: [1, 4]}[drawn]
    assert snapshots == rows            # they come first


def test_a_picture_that_fails_is_told_once_and_the_run_goes_on(cli, data_dir, tmp_path,
                                                               monkeypatch):
    def fail(trainer):
        tries.append(trainer.updater.epoch)
        raise RuntimeError('latex\nis not there')

    tries = []
    monkeypatch.setattr(extensions, 'plot_losses', fail)
    monkeypatch.setattr(extensions.PlotReport, 'seconds', 0)
    status, out, err = cli('--data-dir', data_dir, '-o', tmp_path / 'run', *SMALL, '-e', '4')
    assert (status, tries) == (0, [1])
    assert err == ('warning: loss.png is not drawn (latex is not there); the run does without '
                   'it\n')
    assert 'finished at epoch 4' in out


# First words ------------------------------------------------------------------------------------


def replaced(monkeypatch, name, *others):
    """Let the script extend its Trainer with other extensions than this one, if with any."""
    def nothing():
        return others[0]() if others else training.make_extension(trigger=lambda trainer: False)(
            lambda trainer: None)

    monkeypatch.setattr(train_vae, name, nothing)


def test_the_header_counts_what_trains_and_what_is_scored(cli, data_dir, tmp_path, monkeypatch):
    """As where the script trains on one class, scores others, and has a batch size of its own."""
    monkeypatch.setattr(train_vae, 'iterators', SimpleNamespace(
        SerialIterator=lambda digits, size, **options: SerialIterator(digits[:5], 3, **options)))
    out = cli('--data-dir', data_dir, '-o', tmp_path / 'run', *SMALL)[1]
    assert ': 5 to train, 5 to test\n' in out
    assert ', minibatches of 3, Adam' in out
    assert '\nepochs   2\n' in out


@pytest.mark.parametrize('share, ranks, counted', [
    (60, 1, 60), (15, 4, 60), (34, 3, 100), (33, 3, 100), (6, 1, 6), (2, 3, 6)])
def test_the_header_counts_for_all_ranks(share, ranks, counted):
    digits = np.zeros((60 if share in (60, 15, 6, 2) else 100, 1))
    assert extensions.digits_of(SimpleNamespace(dataset=range(share)), digits, ranks) == counted
    assert extensions.digits_of(object(), digits, 1) == len(digits)


def test_without_a_log_a_line_says_what_lacks_it_and_the_run_goes_on(
        cli, data_dir, tmp_path, monkeypatch, pictures):
    replaced(monkeypatch, 'LogReport')
    status, out, err = cli('--data-dir', data_dir, '-o', tmp_path / 'run', *SMALL)
    assert (status, err) == (0, 'warning: the table and loss.png need a LogReport, which the '
                                'trainer does not have; the run does without\n')
    assert 'rec_loss' not in out
    assert not (tmp_path / 'run' / 'loss.png').exists()
    assert snapshot.read_iteration(last(tmp_path / 'run')) == 6


@pytest.mark.parametrize('name', ['mine', 'LogReport'])
def test_chainers_log_of_whatever_name_is_shown_and_drawn(
        cli, data_dir, tmp_path, monkeypatch, pictures, name):
    """By iteration: 6 of them, 3 in an epoch, and test losses after each."""
    def log():
        report = training.extensions.LogReport(trigger=(1, 'iteration'))
        report.name = name
        return report

    replaced(monkeypatch, 'LogReport', log)
    status, out, err = cli('--data-dir', data_dir, '-o', tmp_path / 'run', *SMALL)
    assert (status, err) == (0, '')
    rows = [line.split() for line in out.partition('seconds\n')[2].splitlines()[:6]]
    assert [row[:2] for row in rows] == [[str(i // 3), str(i)] for i in range(1, 7)]
    assert [len(row) for row in rows] == [6, 6, 9] * 2
    logged = json.loads((tmp_path / 'run' / 'log').read_text())
    assert [row[2] for row in rows] == [f'{row["main/loss"]:.3f}' for row in logged]
    assert (tmp_path / 'run' / 'loss.png').exists()


@pytest.fixture
def prepare(monkeypatch):
    """Return a function that prepares a folder for a run, but deletes nothing there."""
    def run(out, model, n_digits, keep, overwrite, more):
        updater = SimpleNamespace(epoch=0, get_optimizer=lambda name: SimpleNamespace(target=model))
        trainer = SimpleNamespace(updater=updater, get_extension=lambda name: SimpleNamespace(
            now=lambda: SimpleNamespace(to_json=lambda indent: '{}')))
        args = SimpleNamespace(out=str(out), keep=keep, overwrite=overwrite, epoch=more,
                               snapshot_every=1, batch_size=20, beta=1.0, k=1)
        digits = SimpleNamespace(train=np.broadcast_to(np.float32(0), (n_digits, 784)))
        extensions.prepare_folder(trainer, args, digits, '')

    monkeypatch.setattr(run_folder, 'clear', lambda out: None)
    return run


def test_room_for_the_order_of_many_digits(tmp_path, monkeypatch, prepare):
    model = net.VAE(784, 2, 16)
    bytes_ = 3 * sum(param.array.nbytes for param in model.params()) + 8 * 60_000
    for free, fits in ((bytes_ - 1, False), (bytes_, True)):
        monkeypatch.setattr(run_folder.shutil, 'disk_usage', lambda out, free=free:
                            SimpleNamespace(free=free))
        with contextlib.nullcontext() if fits else pytest.raises(files.FileError):
            prepare(tmp_path, model, 60_000, 5, False, 1)
        assert {path.name for path in tmp_path.iterdir()} == ({'args.json', 'cg.dot'} if fits
                                                              else set())
    assert json.loads((tmp_path / 'args.json').read_text()) == {}


def test_room_is_that_of_real_snapshots(small_run, monkeypatch, prepare):
    """Two are there. The estimate is some 20 kB short of a snapshot, for the settings and names."""
    size = os.path.getsize(last(small_run))
    for keep, overwrite, more, new in [
            (5, False, 1, 1), (5, False, 2, 2), (5, False, 9, 4), (3, False, 9, 2),
            (2, False, 9, 1), (1, False, 9, 1), (5, True, 1, 1), (5, True, 9, 6), (1, True, 9, 2)]:
        for snapshots, fits in ((new, True), (new - 1, False)):
            free = snapshots * size - 2 * size * overwrite
            monkeypatch.setattr(run_folder.shutil, 'disk_usage', lambda out, free=free:
                                SimpleNamespace(free=free))
            with (contextlib.nullcontext() if fits else pytest.raises(
                    files.FileError, match=f'MB free, and {new} new snapshots take ')):
                prepare(small_run, net.VAE(784, 2, 16), 60, keep, overwrite, more)
