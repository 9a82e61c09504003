"""training.py: epochs that are chosen, and pixels of training.gif and training.png."""

import json
import os
import shutil

from support.base import drawing
from support.data import mnist  # lets chainer import
from support.figures import pictures, plots, training
from support.run import record, snapshot

from conftest import SMALL, train
from matplotlib.colors import to_rgb
import numpy as np
from PIL import Image
import pytest
from runs import rewrite


@pytest.fixture(scope='module')
def run(tmp_path_factory, idx_files):
    """Return digits and settings of a run of four epochs, as figures get them."""
    base = tmp_path_factory.mktemp('training')
    (base / 'data').mkdir()
    for name, content in idx_files.items():
        (base / 'data' / name).write_bytes(content)
    train(base / 'data', base / 'run', *SMALL, '-e', '4', '--keep', '9')
    path, arrays = snapshot.read_newest(str(base / 'run'))
    settings = vars(snapshot.read_settings(arrays, path))
    return mnist.get_digits(data_dir=str(base / 'data')), settings | {
        'path': path, 'epochs_done': 4, 'log': snapshot.rows_of(arrays[snapshot.LOG_KEY])}


@pytest.mark.parametrize('n, most', [(3, 60), (101, 60), (1001, 30)])
def test_frames_are_dense_at_the_start(n, most):
    frames = training.frames_of([*range(n)], most)
    assert len(frames) <= most
    assert (frames[0], frames[-1]) == (0, n - 1)
    gaps = np.diff(frames)
    assert (gaps > 0).all()
    assert gaps[0] <= max(1, gaps[-1] / 20)
    assert gaps.max() <= max(1, 2 * n / most + 2)


@pytest.mark.parametrize('kls, needed', [
    ([0.3] + [0.01] * 7 + [2.0] * 93, {0, 7, 8, 100}), ([0.3] + [5.0] * 50, {0, 1, 50}),
    ([0.3] + [0.01] * 50, {0, 50}), ([0.3, 5.0], {0, 1})])
def test_panels_show_the_end_of_the_plateau(kls, needed):
    # N(mu, 1) is mu^2 / 2 from N(0, 1)
    noted = {epoch: {'mu': np.full((3, 1), (2 * kl) ** 0.5), 'ln_var': np.zeros((3, 1))}
             for epoch, kl in enumerate(kls)}
    chosen = training.panels_of(noted)
    assert needed <= {*chosen}
    assert len(chosen) == min(6, len(kls))
    assert chosen == sorted(chosen)


def test_the_animation_shows_each_epochs_codes_and_digits(run, tmp_path):
    digits, settings = run
    with drawing.style():
        training.animation(None, digits, str(tmp_path / 'training.gif'), settings)
    noted = record.read(os.path.dirname(settings['path']), 4)
    story = training.Story(digits, settings)
    assert (tmp_path / 'training.gif').stat().st_size < 3e6
    with Image.open(tmp_path / 'training.gif') as gif:
        assert gif.n_frames == len(noted) == 5
        for i, arrays in enumerate(noted.values()):
            gif.seek(i)
            pixels = np.array(gif.convert('RGB'))
            # the second reconstruction, enlarged twice, to 32 grays
            x, y = 450 + 58, 64 + 58
            found = pixels[y:y + 56:2, x:x + 56:2, 0].ravel()
            assert np.abs(found - arrays['reconstruction'][1].astype(int)).max() <= 9
            # a code that no other covers has its class's colour
            apart = np.linalg.norm(arrays['mu'][:, None] - arrays['mu'], axis=2)
            alone = np.argmax(np.min(apart + 99 * np.eye(len(apart)), axis=1))
            u, v = np.rint(370 * (arrays['mu'][alone] / story.limit + 1) / 2).astype(int)
            row, column = 640 - 220 - v, 52 + u
            color = 255 * np.array(to_rgb(plots.CLASS_COLORS[story.labels[alone]]))
            around = pixels[row - 2:row + 3, column - 2:column + 3]
            assert np.abs(around - color).max(axis=2).min() < 25


def test_the_row_of_epochs_shows_their_reconstructions(run, tmp_path):
    digits, settings = run
    with drawing.style():
        training.panels(None, digits, str(tmp_path / 'training.png'), settings)
    noted = record.read(os.path.dirname(settings['path']), 4)
    pixels = np.array(Image.open(tmp_path / 'training.png').convert('L')).astype(int)
    for i, arrays in enumerate(noted.values()):
        x, y = 18 + 160 * i, 24 + 148 + 22
        assert np.abs(pixels[y:y + 28, x:x + 28].ravel() - arrays['reconstruction'][0]).max() <= 1


def test_without_a_record_there_is_no_figure(tmp_path):
    settings = {'path': str(tmp_path / 'snapshot_epoch_2'), 'epochs_done': 0, 'dim_z': 2,
                'log': []}
    with pytest.raises(pictures.FigureError, match='two epochs in the folder record/'):
        training.Story(None, settings)
    for dims in (1, 2):
        assert training.for_page(None, settings | {'dim_z': dims}) == (None, b'')


def test_the_page_has_each_epochs_codes_and_terms(run, tmp_path):
    digits, settings = run
    about, content = training.for_page(digits, settings)
    noted = record.read(os.path.dirname(settings['path']), 4)
    size = 4 * about['n'] + 784 * about['digits']
    assert json.dumps(about)
    assert about['at'] == [0, 1, 2, 3, 4]
    assert len(content) == 5 * size + 10 * 784
    for i, arrays in enumerate(noted.values()):
        points = np.frombuffer(content, '<i2', 2 * about['n'], i * size).reshape(-1, 2)
        np.testing.assert_allclose(points / 32767 * about['limit'], arrays['mu'], atol=1e-3)
    assert about['terms'][0] is None
    assert about['terms'][2] == [settings['log'][1][f'validation/main/{name}_loss']
                                 for name in ('rec', 'latent')]


@pytest.mark.parametrize('change', [
    {'places': np.array([10**6] * 30)}, {'mu': np.full((30, 2), np.nan, np.float32)},
    {'reconstruction': None}])
def test_an_epoch_that_does_not_fit_is_left_out(run, tmp_path, change):
    digits, settings = run
    shutil.copytree(os.path.join(os.path.dirname(settings['path']), 'record'), tmp_path / 'record')
    rewrite(tmp_path / 'record' / 'epoch_3.npz', tmp_path / 'record' / 'epoch_3.npz', **change)
    story = training.Story(digits, settings | {'path': str(tmp_path / 'snapshot_epoch_4')})
    assert [*story.noted] == [0, 1, 2, 4]


def test_rows_without_a_test_loss_have_no_point(run):
    digits, settings = run
    finer = [row for whole in settings['log'] for row in (
        {'epoch': whole['epoch'], 'validation/main/rec_loss': float('nan')}, whole)]
    story = training.Story(digits, settings | {'log': finer})
    epochs, values = story.losses['rec_loss']
    assert epochs.tolist() == [1, 2, 3, 4]
    assert values.tolist() == [row['validation/main/rec_loss'] for row in settings['log']]
    assert json.dumps(training.for_page(digits, settings | {'log': []})[0], allow_nan=False)
    assert training.Story(digits, settings | {'log': []}).losses == {}
