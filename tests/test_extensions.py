"""What the Trainer does besides: when it stops and writes, the learning curves, its first words."""

import contextlib
import json
import os
import signal
from types import SimpleNamespace

from support import extensions, files, snapshot  # lets chainer import
import support.pictures

import chainer
from conftest import SMALL
import numpy as np
from PIL import Image
import pytest
from test_snapshot import last

import net

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


# The learning curves ----------------------------------------------------------------------------


def test_loss_png_shows_both_curves_in_three_panels(finished):
    with Image.open(finished / 'loss.png') as picture:
        pixels = np.asarray(picture.convert('RGB')).astype(int)
    assert pixels.shape == (340, 1000, 3)
    for color in ((0x3F, 0x90, 0xDA), (0xBD, 0x1F, 0x01)):
        near = abs(pixels - color).sum(2) < 30
        assert all(near[:, third].sum() > 30
                   for third in (slice(0, 333), slice(333, 666), slice(666, 1000)))


def trainer_of(loss, out, log):
    """Return what `plot_losses` looks at of a Trainer."""
    return SimpleNamespace(out=str(out), get_extension=lambda name: SimpleNamespace(
        log=log, settings={'loss': loss}))


@pytest.mark.parametrize('epochs, first', [(1, 1), (3, 1), (4, 2), (30, 2)])
def test_the_curves_leave_out_the_first_epoch_and_say_the_last_losses(
        tmp_path, monkeypatch, epochs, first, pictures):
    seen = []
    monkeypatch.setattr(support.pictures, 'save', lambda figure, path: seen.append((figure, path)))
    names = [prefix + name for name in ('loss', 'rec_loss', 'latent_loss')
             for prefix in ('main/', 'validation/main/')]
    log = [{'epoch': epoch, **{name: 90 + i + 500 / epoch ** 2 for i, name in enumerate(names)}}
           for epoch in range(1, epochs + 1)]
    extensions.plot_losses(trainer_of('negative ELBO, k = 2', tmp_path, log))
    (figure, path), = seen
    assert (figure.axes[0].get_title(), figure.axes[0].get_ylabel()) == (
        'loss (negative ELBO)', 'nats per digit')
    assert path == str(tmp_path / 'loss.png')
    for i, axes in enumerate(figure.axes):
        for name, line in zip(names[2 * i:], axes.lines, strict=False):
            np.testing.assert_array_equal(line.get_xdata(), range(first, epochs + 1))
            np.testing.assert_array_equal(line.get_ydata(),
                                          [row[name] for row in log[first - 1:]])
        assert [text.get_text() for text in axes.get_legend().get_texts()] == [
            f'{label}: {log[-1][name]:.2f} in epoch {epochs}'
            for label, name in zip(('training', 'test'), names[2 * i:], strict=False)]
        assert not axes.spines['top'].get_visible()         # as in the other figures
        assert all(tick == round(tick) for tick in axes.get_xticks())


@pytest.mark.parametrize('loss, unit', [
    ('squared error', 'squared error per digit'), ('of an edited train_vae.py', 'per digit')])
def test_the_curve_of_an_autoencoder_is_one_of_squared_errors(
        tmp_path, monkeypatch, pictures, loss, unit):
    seen = []
    monkeypatch.setattr(support.pictures, 'save', lambda figure, path: seen.append(figure))
    row = {f'{of}main/{name}': 30.0 * (name != 'latent_loss') for of in ('', 'validation/')
           for name in ('loss', 'rec_loss', 'latent_loss')}
    log = [row | {'epoch': 1}, row | {'epoch': 2}]
    extensions.plot_losses(trainer_of(loss, tmp_path, log))
    (axes,) = seen[0].axes
    assert (axes.get_title(), axes.get_ylabel()) == (f'loss ({loss})', unit)


@pytest.mark.parametrize('seconds, drawn', [(0, 4), (10**6, 2)])
def test_loss_png_is_redrawn_when_that_is_due_and_at_the_end(
        cli, data_dir, tmp_path, monkeypatch, seconds, drawn):
    rows, snapshots = [], []

    def plot_losses(trainer):
        rows.append(len(trainer.get_extension('LogReport').log))
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


@pytest.fixture
def prepare(monkeypatch):
    """Return a function that prepares a folder for a run, but deletes nothing there."""
    def run(out, model, n_digits, keep, overwrite, more):
        updater = SimpleNamespace(epoch=0, get_optimizer=lambda name: SimpleNamespace(target=model))
        trainer = SimpleNamespace(updater=updater, get_extension=lambda name: SimpleNamespace(
            now=lambda: {'dim_z': 2}))
        args = SimpleNamespace(out=str(out), keep=keep, overwrite=overwrite, epoch=more,
                               snapshot_every=1, batch_size=20, beta=1.0, k=1)
        digits = SimpleNamespace(train=np.broadcast_to(np.float32(0), (n_digits, 784)))
        extensions.prepare_folder(trainer, args, digits, '')

    monkeypatch.setattr(files, 'clear', lambda out: None)
    return run


def test_room_for_the_order_of_many_digits(tmp_path, monkeypatch, prepare):
    model = net.VAE(784, 2, 16)
    bytes_ = 3 * sum(param.array.nbytes for param in model.params()) + 8 * 60_000
    for free, fits in ((bytes_ - 1, False), (bytes_, True)):
        monkeypatch.setattr(files.shutil, 'disk_usage', lambda out, free=free:
                            SimpleNamespace(free=free))
        with contextlib.nullcontext() if fits else pytest.raises(files.FileError):
            prepare(tmp_path, model, 60_000, 5, False, 1)
        assert {path.name for path in tmp_path.iterdir()} == ({'args.json', 'cg.dot'} if fits
                                                              else set())
    assert json.loads((tmp_path / 'args.json').read_text()) == {'dim_z': 2}


def test_room_is_that_of_real_snapshots(small_run, monkeypatch, prepare):
    """Two are there. The estimate is some 20 kB short of a snapshot, for the settings and names."""
    size = os.path.getsize(last(small_run))
    for keep, overwrite, more, new in [
            (5, False, 1, 1), (5, False, 2, 2), (5, False, 9, 4), (3, False, 9, 2),
            (2, False, 9, 1), (1, False, 9, 1), (5, True, 1, 1), (5, True, 9, 6), (1, True, 9, 2)]:
        for snapshots, fits in ((new, True), (new - 1, False)):
            free = snapshots * size - 2 * size * overwrite
            monkeypatch.setattr(files.shutil, 'disk_usage', lambda out, free=free:
                                SimpleNamespace(free=free))
            with (contextlib.nullcontext() if fits else pytest.raises(
                    files.FileError, match=f'MB free, and {new} new snapshots take ')):
                prepare(small_run, net.VAE(784, 2, 16), 60, keep, overwrite, more)
