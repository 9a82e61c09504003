"""The figures: what stands at which pixel, in which frame, in which file; and what is refused."""

import json
import os
from pathlib import Path
import re
import shutil
import signal
import subprocess
import sys

from support.base import drawing, files
from support.data import mnist
from support.figures import (
    evidence,
    graphs,
    manifold,
    pictures,
    plots,
    reparameterization,
    section3,
    sources,
)
from support.run import snapshot

from chainer import functions as F
from chainer import using_config
from chainer.serializers import DictionarySerializer
from conftest import SMALL, idx, make_digits, needs_gpu, train, write_files
from matplotlib.text import Text
import numpy as np
from PIL import Image
import pytest
from runs import last, rewrite
from scipy import integrate, ndimage, stats
from test_graphs import InParts
from test_net import Reference
from test_pictures import Edited, check_colors, frames, tiles
from test_train_vae import check_refused

import net
import visualize

pytestmark = pytest.mark.usefixtures('one_thread')

HAS_DOT = shutil.which('dot') is not None
FILES = {                       # of a full run with z = 2: frames and pixels
    'reconstruction.png': (1, (895, 211)), 'digits.png': (1, (772, 338)),
    'samples.png': (1, (873, 895)), 'scatter.png': (1, (760, 720)),
    'scatter_arrow.png': (1, (760, 720)), 'interpolation_0to7.png': (1, (876, 1024)),
    'interpolation_0to7.gif': (81, (248, 270)), 'interpolation_all.gif': (80, (630, 652)),
    'map.png': (1, (760, 780)), 'map_wide.png': (1, (984, 1004)), 'bound.png': (1, (1060, 608)),
    'posterior.png': (1, (1060, 750)), 'dimensions.png': (1, (1100, 194)),
    'reparameterization.gif': (16, (840, 352)), 'reparameterization.png': (1, (960, 540)),
    'tsne.png': (1, (760, 720)), 'tsne.gif': (36, (600, 520)),
    'swiss_roll.gif': (36, (400, 400)), 'swiss_roll.png': (1, (720, 440)),
    'kl.gif': (21, (720, 560))}


@pytest.fixture(scope='module')
def drawn(finished, tmp_path_factory, request):
    """Return the folder of a full run of visualize.py on the finished run, and what it printed."""
    out = tmp_path_factory.mktemp('drawn')
    shutil.copy(last(finished), out)
    slow = ('kl', 'swiss_roll', 'tsne', 'reparameterization')       # to be drawn by another core
    halves = [[flag for name in slow for flag in ('--skip', name)], list(slow)]
    running = [subprocess.Popen([sys.executable, visualize.__file__, '-o', str(out), *flags],
                                stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
                                env={**os.environ, 'OPENBLAS_NUM_THREADS': '1'})
               for flags in halves]
    said = [process.communicate() for process in running]
    assert [(process.returncode, err) for process, (_, err) in zip(running, said, strict=True)] == [
        (0, '')] * 2
    return out, ''.join(stdout for stdout, _ in said)


@pytest.fixture(scope='session')
def other_run(finished, tmp_path_factory):
    """Return the folder of a run of another z, activation and hidden size, with binary pixels."""
    out = tmp_path_factory.mktemp('other')
    train(finished.parent / 'data', out, '-z', '3', '--dim-h', '12', '--activation', 'tanh', '-e',
          '1', '-b', '20', '--binary')
    return out


def write_digits(folder, *arrays):
    """Make a folder of plain IDX files."""
    return write_files(folder, {name.removesuffix('.gz'): idx(array)
                                for name, array in zip(mnist.SHA256, arrays, strict=True)})


def read_run(out):
    """Return the model and the digits of a run, as the figures get them."""
    args = visualize.parse_arguments(['-o', str(out)])
    return sources.read_run(args)[:2]


def as_reference(model, activation='softplus'):
    """Return encode and decode of the model, in NumPy alone and float64."""
    reference = Reference(model, activation)
    return (lambda x: reference.encode(x)[0],
            lambda z: 1 / (1 + np.exp(-reference.decode(z).reshape(-1, 784))))


def check_tiles(array, zoom, wanted, error=2):
    """Make sure that the tiles show what is wanted, (N, 784) in [0, 1], to so many grays."""
    np.testing.assert_allclose(tiles(array, zoom), 255 * wanted, atol=error)


# The files --------------------------------------------------------------------------------------


def test_a_full_run_leaves_every_figure_and_says_where(drawn):
    out, stdout = drawn
    parts = [f'projector/{name}' for name in (
        'metadata.tsv', 'projector_config.pbtxt', 'sprite.png', 'tensors.tsv',
        'tensors_on_sphere.tsv')]
    names = {'explorer.html', *FILES, *parts, *(['graph.png'] if HAS_DOT else [])}
    there = {os.path.relpath(os.path.join(folder, name), out)
             for folder, _, inside in os.walk(out) for name in inside}
    assert there == names | {'snapshot_epoch_2'}
    for name in names:
        assert f'{out / name}\n' in stdout
    assert 'skipped autoencoder.png: needs the run of an autoencoder --beside it; ' in stdout
    assert len(stdout.splitlines()) == len(names) + 3 + (not HAS_DOT)      # t-SNE says so, twice


@pytest.mark.parametrize('name', FILES)
def test_a_figure_has_its_size_and_is_not_blank(drawn, name):
    arrays, _ = frames(drawn[0] / name)
    count, (width, height) = FILES[name]
    assert len(arrays) == count
    for array in arrays:
        assert array.shape == (height, width, 3)
        assert len(np.unique(array)) >= 16
        assert 0.002 < np.mean(array < 128) < 0.99
        edge = np.concatenate([array[0], array[-1], array[:, 0], array[:, -1]])
        assert (edge == 255).all()                  # nothing is cut off


@pytest.mark.parametrize('name, each, ends', [
    ('interpolation_0to7.gif', 100, (0, 80)), ('kl.gif', 200, (0, 20)),
    ('interpolation_all.gif', 100, (0, 40)), ('swiss_roll.gif', 150, ()), ('tsne.gif', 150, ()),
    ('reparameterization.gif', 500, (0, 15))])
def test_a_gif_loops_and_rests_where_it_has_ends(drawn, name, each, ends):
    path = drawn[0] / name
    _, durations = frames(path)
    with Image.open(path) as image:
        assert image.info['loop'] == 0              # for ever
    assert durations == [1000 if i in ends else each for i in range(FILES[name][0])]
    assert path.stat().st_size < 3e6


@pytest.mark.parametrize('name, colors', [
    ('kl.gif', [drawing.PALETTE[0], drawing.PALETTE[2]]), ('swiss_roll.gif', manifold.BANDS),
    ('tsne.gif', plots.CLASS_COLORS)])
def test_a_gif_has_its_colours(drawn, name, colors):
    array = frames(drawn[0] / name)[0][-2]
    for color in colors:
        assert np.sum(np.abs(array - 255 * np.array(color)).max(axis=2) < 16) > 20, color


@pytest.mark.parametrize('name', ['swiss_roll.gif', 'tsne.gif'])
def test_what_turns_does_not_repeat_a_frame(drawn, name):
    arrays, _ = frames(drawn[0] / name)
    for one, next_ in zip(arrays, arrays[1:] + arrays[:1], strict=True):
        assert np.mean(one != next_) > 0.01


@pytest.fixture
def captured(monkeypatch):
    """Return a function that draws a figure and returns its Figure, or those of all frames."""
    def run(draw, model=None, digits=None, **keywords):
        seen = []
        monkeypatch.setattr(drawing, 'save', lambda figure, path: seen.append(figure))
        monkeypatch.setattr(pictures, 'save_gif', lambda figures, *_, **__: seen.extend(figures))
        draw(model, digits, '', **keywords)
        return seen
    return run


# A drawing changes nothing ----------------------------------------------------------------------


@pytest.fixture
def quick(monkeypatch):
    """Let figures be of few frames and samples; and of the graph, what Graphviz is given."""
    turning = manifold.turning
    for where, name, value in (
            (visualize, 'STEPS', 3), (visualize, 'TURN', 2), (reparameterization, 'DRAWS', 2),
            (evidence, 'NODES', 31), (evidence, 'CELLS', 150), (section3, 'CANDIDATES', 12),
            (section3, 'KS', (1, 10)), (section3, 'WINDOW', 20),
            (manifold, 'tsne', lambda mu, dims: mu[:, [0, 1, 0]][:, :dims]),
            (manifold, 'turning', lambda *args, **options: [*turning(*args, **options)][:2]),
            (graphs, 'save', lambda dot, names, path: Path(path).write_text(
                graphs.draw(dot, names)))):
        monkeypatch.setattr(where, name, value)


def held(model):
    """Return what a model holds, to be compared: its arrays, and all attributes by name."""
    serializer = DictionarySerializer()
    model.serialize(serializer)
    return ({key: array.tobytes() for key, array in serializer.target.items()},
            {name: {key: repr(value) for key, value in vars(link).items()}
             for name, link in model.namedlinks()})


@pytest.mark.parametrize('file', [
    file for file, recipe in visualize.FIGURES.items() if recipe.dims])
def test_a_figure_leaves_the_model_as_it_was_and_is_the_same_again(finished, quick, tmp_path, file):
    args = visualize.parse_arguments(['-o', str(finished)])
    plain, digits, settings = sources.read_run(args)
    np.random.seed(1)
    model = plain if file == 'explorer.html' else Edited(784, 2, 8, F.softplus)
    model.get_loss_func(k=2)(digits.train)              # sets attributes, and moves the mean
    values = settings | {'run': settings, 'start': 0, 'end': 7, 'k': 3,
                         'beside': net.Autoencoder(784, 2, 8)}
    recipe, drawn = visualize.FIGURES[file], []
    before = held(model), held(values['beside'])
    for name in ('one', 'two'):
        (tmp_path / name).mkdir()
        with drawing.style():
            recipe.draw(model, digits, str(tmp_path / name / file),
                        **{key: values[key] for key in recipe.keywords})
        drawn.append({path.name: path.read_bytes().replace(b'"one"', b'"two"')
                      for path in (tmp_path / name).rglob('*') if path.is_file()})
    assert drawn[0] and drawn[0] == drawn[1]
    assert (held(model), held(values['beside'])) == before


def test_figures_of_a_run_show_the_model_in_test_mode(draw, data_dir, tmp_path, monkeypatch):
    monkeypatch.setattr(net, 'VAE', Edited)
    train(data_dir, tmp_path / 'run', *SMALL)
    assert draw('reconstruction', 'samples', '-o', tmp_path / 'run')[::2] == (0, '')
    model, digits = read_run(tmp_path / 'run')
    with np.load(last(tmp_path / 'run')) as npz, using_config('train', False):
        mean = npz[snapshot.MODEL_PREFIX + 'bn/avg_mean']
        x = digits.test[first_places(digits)]
        z = np.random.RandomState(0).standard_normal((100, 2)).astype(np.float32)
        shown = [np.concatenate([x, model(x).array]), model.decode(z).array]
    assert mean.any() and np.array_equal(model.bn.avg_mean, mean)
    for name, wanted in zip(('reconstruction.png', 'samples.png'), shown, strict=True):
        check_tiles(frames(tmp_path / 'run' / name)[0][0], 3, wanted)


class FixedSize(InParts):
    """A VAE of no le1 and no le3_mu, whose sizes are not those of the flags."""

    def __init__(self, n_in, n_latent, n_h, act_func):
        super().__init__(n_in, 3, 7, act_func)


def test_sizes_are_those_that_encode_returns(draw, data_dir, tmp_path, monkeypatch, quick):
    monkeypatch.setattr(net, 'VAE', FixedSize)
    out = tmp_path / 'run'
    train(data_dir, out, *SMALL)                        # of -z 2
    status, text, err = draw('samples', 'scatter', 'bound', 'dimensions', 'graph', 'projector',
                             'reparameterization.gif', '-o', out)
    assert (status, err, len(text.split())) == (0, '', 11)
    model, _ = read_run(out)
    z = np.random.RandomState(0).standard_normal((100, 3)).astype(np.float32)
    with using_config('train', False):
        check_tiles(frames(out / 'samples.png')[0][0], 3, model.decode(z).array)
    refused(draw('map', '-o', out), 'map.png: needs z = 2, and the snapshot has z = 3')


# A figure that fails ------------------------------------------------------------------------------


@pytest.fixture
def few(monkeypatch):
    """Let there be two figures that encode, one that decodes alone, and one without a model."""
    monkeypatch.setattr(visualize, 'FIGURES', {key: visualize.FIGURES[key] for key in (
        'reconstruction.png', 'digits.png', 'map_wide.png', 'reparameterization.png')})


def raising(error):
    """Return an `encode` that fails."""
    def encode(self, x):
        raise type(error)(*error.args)
    return encode


@pytest.mark.parametrize('encode, told', [
    (lambda self, x, t: None, "TypeError: .*missing 1 required positional argument: 't'"),
    (lambda self, x: (self, x), 'TypeError: .*VAE'),
    (raising(OSError('no\ntable')), 'OSError: no table'),
    (raising(KeyError('h1')), "KeyError: 'h1'"), (raising(Exception()), 'Exception')])
def test_a_figure_that_fails_is_told_and_the_others_are_drawn(draw, small_run, few, monkeypatch,
                                                              encode, told):
    monkeypatch.setattr(net.VAE, 'encode', encode)
    status, out, err = draw('-o', small_run)
    _, *lines = err.splitlines()                        # first, that net.py has changed
    assert (status, out.splitlines()) == (1, [
        str(small_run / name) for name in ('map_wide.png', 'reparameterization.png')])
    for name, line in zip(('reconstruction', 'digits'), lines, strict=True):
        assert re.fullmatch(rf'visualize\.py: error: {name}\.png: {told}.*; net.py is edited in '
                            'VAE.encode; CHAINER_DEBUG=1 shows the traceback', line)


def test_a_figure_asked_for_that_fails(draw, small_run, few, monkeypatch):
    monkeypatch.setattr(net.VAE, 'encode', raising(ValueError('no')))
    told = 'ValueError: no; net.py is edited in VAE.encode; CHAINER_DEBUG=1 shows the traceback'
    status, out, err = draw('digits', 'map_wide', 'reconstruction', '-o', small_run)
    assert (status, out) == (2, f'{small_run / "map_wide.png"}\n')
    assert err.splitlines()[1:] == [
        f'visualize.py: error: reconstruction.png: {told}; digits.png: the same']
    assert draw('reparameterization', '--start', '3', '-o', small_run)[0] == 0  # encodes nothing
    with using_config('debug', True):
        status, _, err = draw('digits', '-o', small_run)
    assert (status, err.count('Traceback'), err.count('raise type(error)')) == (2, 1, 1)
    assert err.splitlines()[-1] == f'visualize.py: error: digits.png: {told}'


@pytest.mark.parametrize('error, status, told', [
    (MemoryError('64 GB'), 2, 'not enough memory'), (KeyboardInterrupt(), 130, 'interrupted'),
    (files.FileError('cannot write a (No space left on device); make room'), 2, 'cannot write a')])
def test_what_ends_the_command_ends_it(draw, small_run, few, monkeypatch, error, status, told):
    monkeypatch.setattr(net.VAE, 'encode', raising(error))
    for named in ([], ['digits', 'map_wide']):
        found, out, err = draw(*named, '-o', small_run)
        assert (found, out) == (status, '')
        assert told in err.splitlines()[-1]


def test_numbers_that_are_not_finite_are_told_of_their_figure(draw, small_run, few, monkeypatch):
    def decode(self, z, sigmoid=True):                  # infinite at the edge of the wide map
        return plain(self, z, sigmoid) / (abs(z[:, :1]) < 4).astype(np.float32)

    plain = net.VAE.decode
    monkeypatch.setattr(net.VAE, 'decode', decode)
    status, out, err = draw('-o', small_run)
    assert (status, len(out.splitlines()), len(err.splitlines())) == (1, 3, 2)
    assert 'map_wide.png: what the model makes of its input is not finite' in err


def test_a_model_that_net_py_does_not_make(draw, small_run, monkeypatch):
    monkeypatch.setattr(net.VAE, '__init__', lambda self, n_in, n_latent: None)
    refused(draw('digits', '-o', small_run), 'this net.py does not make the model of', 'TypeError',
            'use the net.py that trained it')


# Digits -----------------------------------------------------------------------------------------


def first_places(digits):
    return [digits.test_labels.tolist().index(label) for label in range(10)]


def test_reconstructions_stand_below_a_digit_of_each_class(drawn, captured):
    model, digits = read_run(drawn[0])
    encode, decode = as_reference(model)
    x = digits.test[first_places(digits)]
    rows = np.concatenate([x, decode(encode(x))])
    check_tiles(frames(drawn[0] / 'reconstruction.png')[0][0], 3, rows)
    figure, = captured(visualize.reconstruction, model, digits)
    assert texts_of(figure) == [f'input: a {label}' for label in range(10)] + 10 * [
        'reconstruction']


def test_another_z_activation_and_hidden_size_and_binary_pixels(draw, other_run, tmp_path):
    status, _, err = draw('digits', 'reconstruction', '-s', last(other_run).replace('_2', '_1'),
                          '-o', tmp_path)
    assert (status, err) == (0, '')
    model, digits = read_run(other_run)
    assert np.unique(digits.test).tolist() == [0, 1]
    encode, decode = as_reference(model, 'tanh')
    x = digits.test[first_places(digits)]
    check_tiles(frames(tmp_path / 'digits.png')[0][0], 5, decode(encode(x)))
    rows = tiles(frames(tmp_path / 'reconstruction.png')[0][0], 3)
    np.testing.assert_array_equal(rows[:10], 255 * x)


def test_samples_come_from_the_prior(drawn, monkeypatch):
    model, digits = read_run(drawn[0])
    seen = []
    monkeypatch.setattr(visualize, 'decode', lambda model, z: seen.append(z) or z)
    monkeypatch.setattr(pictures, 'sheet', lambda *args, **kwargs: None)
    monkeypatch.setattr(drawing, 'save', lambda *args: None)
    visualize.samples(model, digits, '')
    assert seen[0].shape == (100, 2)
    assert stats.kstest(seen[0].ravel(), 'norm').pvalue > 0.01
    shown = tiles(frames(drawn[0] / 'samples.png')[0][0], 3)
    np.testing.assert_allclose(shown, 255 * as_reference(model)[1](seen[0]), atol=2)


def walk_of(model, digits, start, end, t):
    """Return the walk by the formula, in NumPy alone: pictures (N, 784)."""
    encode, decode = as_reference(model)
    labels = digits.test_labels.tolist()
    z0, z1 = encode(digits.test[[labels.index(start), labels.index(end)]])
    return decode((1 - t[:, None]) * z0 + t[:, None] * z1)


def test_the_walk_goes_from_0_to_7(drawn):
    wanted = walk_of(*read_run(drawn[0]), 0, 7, np.arange(81) / 80)
    check_tiles(frames(drawn[0] / 'interpolation_0to7.png')[0][0], 3, wanted)
    arrays, _ = frames(drawn[0] / 'interpolation_0to7.gif')
    for array, picture in zip(arrays, wanted, strict=True):
        check_tiles(array, 8, picture[None], 255 / 62 + 2)          # of 32 grays


def test_start_and_end_choose_the_walk_and_the_name(draw, drawn, tmp_path):
    shutil.copy(last(drawn[0]), tmp_path)
    flags = ('--start', '3', '--end', '5', '-o', tmp_path)
    for name in ('interpolation_3to5.png', 'interpolation_0to7.png'):
        status, out, err = draw(name, *flags)
        assert (status, out, err) == (0, f'{tmp_path / "interpolation_3to5.png"}\n', '')
    assert {path.name for path in tmp_path.iterdir()} == {'interpolation_3to5.png',
                                                          'snapshot_epoch_2'}
    wanted = walk_of(*read_run(drawn[0]), 3, 5, np.arange(81) / 80)
    check_tiles(frames(tmp_path / 'interpolation_3to5.png')[0][0], 3, wanted)
    assert draw('interpolation', *flags)[1].split() == [
        str(tmp_path / f'interpolation_3to5.{kind}') for kind in ('png', 'gif')]


def squares(array, n):
    """Return the n * n digits of 56 pixels, row by row, from a frame of interpolation_all.gif."""
    for top in range(48, 48 + 60 * n, 60):
        for left in range(26, 26 + 60 * n, 60):
            square = array[top:top + 56, left:left + 56]
            np.testing.assert_array_equal(square, np.kron(square[::2, ::2], np.ones((2, 2, 1))))
            yield square


def test_every_digit_walks_to_every_digit_and_back(drawn):
    model, digits = read_run(drawn[0])
    arrays, _ = frames(drawn[0] / 'interpolation_all.gif')
    for i, t in ((0, 0), (13, 13 / 40), (40, 1), (67, 13 / 40)):
        wanted = [walk_of(model, digits, start, end, np.array([t]))[0]
                  for start in range(10) for end in range(10)]
        shown = [square[::2, ::2, 0].ravel() for square in squares(arrays[i], 10)]
        np.testing.assert_allclose(shown, 255 * np.array(wanted), atol=255 / 30 + 2)    # 16 grays
        dark = arrays[i][44:-4, 22:-4]
        assert dark.shape == (604, 604, 3)
        for edge in range(4):
            assert (dark[edge::60] == 0).all() and (dark[:, edge::60] == 0).all()


def texts_of(figure):
    return [text.get_text() for text in figure.texts]


def test_titles_say_what_a_tile_is(captured, drawn):
    model, digits = read_run(drawn[0])
    figure, = captured(visualize.walk_sheet, model, digits, start=3, end=5)
    assert texts_of(figure) == [f't = {t:.3f}' for t in np.linspace(0, 1, 81)] + ['from a 3 to a 5']
    figures = captured(visualize.walk_gif, model, digits, start=3, end=5)
    assert [texts_of(figure) for figure in figures] == [
        [f'from a 3 to a 5, t = {t:.3f}'] for t in np.linspace(0, 1, 81)]
    figures = captured(visualize.every_walk_gif, model, digits)
    t = [*range(41), *range(39, 0, -1)]
    names = [str(label) for label in range(10) for _ in 'xy']       # of a row, of a column
    assert [texts_of(figure) for figure in figures] == [
        [*names, f'from the digit of its row to that of its column, t = {i / 40:.3f}'] for i in t]
    row, column = figures[0].texts[6:8]
    assert row.get_position()[0] < 0.05 and column.get_position()[1] > 0.93
    figure, = captured(visualize.first_digits, model, digits)
    assert texts_of(figure) == ['reconstruction of the first test digit of each class']


# The latent space -------------------------------------------------------------------------------


@pytest.fixture
def scatter_axes(captured):
    """Return a function that draws a scatter plot of a run and returns its axes."""
    def run(out, draw=visualize.scatter, **keywords):
        model, digits = read_run(out)
        figure, = captured(draw, model, digits, **keywords)
        figure.canvas.draw()
        return figure.axes[0], model, digits
    return run


def numerals(axes):
    return {int(text.get_text()): text for text in axes.texts if text.get_text().isdigit()}


def test_numerals_stand_at_members_of_their_classes(scatter_axes, drawn):
    axes, model, digits = scatter_axes(drawn[0])
    mu = as_reference(model)[0](digits.test)
    np.testing.assert_allclose(axes.collections[0].get_offsets(), mu, atol=1e-5)
    texts = numerals(axes)
    assert sorted(texts) == list(range(10))
    reach = axes.get_xlim()[1] / 3
    for label, text in texts.items():
        members = mu[digits.test_labels == label]
        mean_distance = np.linalg.norm(members[:, None] - members, axis=2).mean(axis=0)
        np.testing.assert_allclose(text.xy, members[mean_distance.argmin()], atol=1e-5)
        assert np.linalg.norm(text.get_position() - np.array(text.xy)) < reach
    check_colors(axes.figure.legends[0], axes.collections[0].get_facecolors(), digits.test_labels)


def test_a_big_test_set_is_thinned_out_over_its_whole_length(scatter_axes, captured, drawn,
                                                             monkeypatch):
    monkeypatch.setattr(visualize, 'MOST', 12)
    monkeypatch.setattr(visualize, 'MOST_TSNE', 8)
    axes, model, digits = scatter_axes(drawn[0])
    assert len(axes.collections[0].get_offsets()) == 12
    assert captured(visualize.tsne, model, digits)[0].axes[0].collections[0].get_offsets().shape \
        == (8, 2)


@pytest.mark.parametrize('run', ['finished', 'other_run'])
def test_numerals_do_not_overlap(scatter_axes, run, request):
    axes, _, _ = scatter_axes(request.getfixturevalue(run))
    texts = numerals(axes).values()
    centres = axes.transData.transform([text.get_position() for text in texts])     # pixels
    width, height = Text.get_window_extent(next(iter(texts))).size                  # of a line
    dx, dy = np.abs(centres[:, None] - centres)[np.triu_indices(10, 1)].T
    assert ((dx > width) | (dy > 0.75 * height)).all()


def test_the_arrow_goes_from_a_0_to_a_7(scatter_axes, drawn):
    axes, model, digits = scatter_axes(drawn[0], visualize.scatter_arrow, start=0, end=7)
    labels = digits.test_labels.tolist()
    ends = as_reference(model)[0](digits.test[[labels.index(0), labels.index(7)]])
    arrow, = [text for text in axes.texts if not text.get_text()]
    np.testing.assert_allclose([arrow.get_position(), arrow.xy], ends, atol=1e-5)
    rings, = axes.lines
    np.testing.assert_allclose(rings.get_xydata(), ends, atol=1e-5)
    for text in numerals(axes).values():                        # none on a ring
        assert np.linalg.norm(text.get_position() - ends, axis=1).min() > axes.get_xlim()[1] / 14
    array = frames(drawn[0] / 'scatter_arrow.png')[0][0]
    middle = axes.transData.transform(ends.mean(axis=0)).astype(int)
    place = array[720 - middle[1] - 12:720 - middle[1] + 12, middle[0] - 12:middle[0] + 12]
    assert (place.max(axis=2) < 40).sum() > 10                  # black, and white around it
    assert (place.min(axis=2) == 255).sum() > 10


@pytest.mark.parametrize('run, words', [
    ('finished', ('30 test digits\n', 'map.png; arrow: from a 0 to a 7$')),
    ('other_run', ('30 test digits, projected from 3 dimensions\n',
                   'arrow: from a 0 to a 7, projected too$'))])
def test_the_title_says_what_is_projected(scatter_axes, run, words, request):
    axes, _, _ = scatter_axes(request.getfixturevalue(run), visualize.scatter_arrow, start=0, end=7)
    for part in words:
        assert re.search(part, axes.get_title())
    assert ('map.png' in axes.get_title()) == (len(axes.patches) == 4) == (run == 'finished')


def test_more_dimensions_are_projected_on_two_principal_components(scatter_axes, other_run):
    axes, model, digits = scatter_axes(other_run)
    mu = as_reference(model, 'tanh')[0](digits.test)
    _, values, rows = np.linalg.svd(mu - mu.mean(axis=0))
    points = np.array(axes.collections[0].get_offsets())
    np.testing.assert_allclose(np.abs(points), np.abs(mu @ rows[:2].T), atol=1e-4)
    share = values ** 2 / np.sum(values ** 2)
    assert axes.get_xlabel() == f'first principal component of 3-dimensional z ' \
                                f'({share[0]:.0%} of the variance)'
    assert f'({share[1]:.0%} of' in axes.get_ylabel()


def test_the_circles_are_of_the_prior_and_the_square_is_of_the_map(scatter_axes, drawn):
    axes, _, _ = scatter_axes(drawn[0])
    *circles, square = axes.patches
    assert [(tuple(patch.center), patch.width, patch.height) for patch in circles] == [
        ((0, 0), 2, 2), ((0, 0), 4, 4), ((0, 0), 6, 6)]
    np.testing.assert_array_equal(square.get_corners(), [[-2, -2], [2, -2], [2, 2], [-2, 2]])
    assert axes.get_aspect() == 1


def test_a_tile_of_the_map_is_decoded_from_its_z(drawn, captured):
    model, digits = read_run(drawn[0])
    encode, decode = as_reference(model)
    array = frames(drawn[0] / 'map.png')[0][0][32:732, 48:748]
    red = array[..., 0] > array[..., 1] + 60
    line = ndimage.binary_dilation(red, iterations=2)           # with its halo
    compared = 0
    for row in range(25):
        for column in range(25):
            place = np.s_[28 * row + 1:28 * row + 27, 28 * column + 1:28 * column + 27]
            if not line[place].any():
                z = [[-2 + column / 6, 2 - row / 6]]                # z_2 points up
                wanted = 255 * decode(np.array(z)).reshape(28, 28)[1:27, 1:27]
                np.testing.assert_allclose(array[place][..., 0], wanted, atol=2)
                compared += 1
    assert compared > 400
    figure, = captured(visualize.latent_map, model, digits, start=0, end=7)
    axes, = figure.axes
    box = axes.get_window_extent()
    assert (box.x0, box.y0, box.width, box.height) == pytest.approx((48, 48, 700, 700), abs=1e-3)
    assert axes.get_xlim() == axes.get_ylim() == pytest.approx((-2 - 1 / 12, 2 + 1 / 12))
    outside = np.mean(np.abs(encode(digits.test)).max(axis=1) > 2 + 1 / 12)
    assert axes.get_title() == f'digits decoded from z; red: from a 0 to a 7; {outside:.0%} of ' \
                               'the test digits lie outside (see scatter.png)'
    assert axes.lines[0].get_linewidth() <= 1 and axes.lines[0].get_path_effects()
    labels = digits.test_labels.tolist()
    ends = encode(digits.test[[labels.index(0), labels.index(7)]])
    for share in np.linspace(0, 1, 7):          # the red line, in pixels of 1/168
        z_1, z_2 = (1 - share) * ends[0] + share * ends[1]
        x, y = round((z_1 + 2) * 168 + 14), round((2 - z_2) * 168 + 14)
        if 2 < x < 698 and 2 < y < 698:
            assert red[y - 2:y + 3, x - 2:x + 3].any()


def test_the_wide_map_has_the_circles_of_the_prior(drawn, captured):
    model, digits = read_run(drawn[0])
    figure, = captured(visualize.wide_map, model, digits)
    axes, = figure.axes
    assert [(ellipse.center, ellipse.width, ellipse.height) for ellipse in axes.patches] == [
        ((0, 0), 2 * radius, 2 * radius) for radius in (1, 2, 3)]
    assert axes.get_xlim() == axes.get_ylim() == pytest.approx((-4.125, 4.125))
    array = frames(drawn[0] / 'map_wide.png')[0][0][32:956, 48:972]
    for row, column in ((0, 0), (0, 32), (16, 16), (31, 2)):
        tile = array[28 * row + 1:28 * row + 27, 28 * column + 1:28 * column + 27, 0]
        z = np.array([[-4 + column / 4, 4 - row / 4]])
        wanted = 255 * as_reference(model)[1](z).reshape(28, 28)[1:27, 1:27]
        np.testing.assert_allclose(tile, wanted, atol=2)


def test_tsne_keeps_the_classes_together(monkeypatch, captured, drawn):
    _, digits = read_run(drawn[0])
    labels = np.arange(200) % 5
    codes = np.random.RandomState(0).normal(size=(200, 5)) + 20 * np.eye(5)[labels]
    monkeypatch.setattr(visualize, 'encode', lambda model, x: codes)
    digits = digits._replace(test=digits.test.repeat(7, axis=0)[:200], test_labels=labels)
    flat, = captured(visualize.tsne, None, digits)
    deep = captured(visualize.tsne_gif, None, digits)
    assert [len(deep), len(deep[0].axes[0].get_title()) > 20] == [36, True]
    for figure, dims in ((flat, 2), (deep[0], 3)):
        axes, = figure.axes
        dots = axes.collections[0]
        colors = dots._facecolors                           # in 3-D the public ones are sorted
        check_colors(figure.legends[0], colors, labels)
        points = np.array(dots.get_offsets() if dims == 2 else np.transpose(dots._offsets3d))
        assert points.shape == (200, dims)
        distance = np.linalg.norm(points[:, None] - points, axis=2)
        np.fill_diagonal(distance, np.inf)
        assert np.mean(labels[distance.argmin(axis=1)] == labels) > 0.95
        assert sorted(numerals(axes)) == list(range(5))
    for label, text in numerals(axes).items():              # at a member, in space
        assert np.abs(text.get_position_3d() - points[labels == label]).sum(axis=1).min() < 1e-9


def test_the_projector_has_the_codes_the_digits_and_what_is_said_of_them(drawn):
    model, digits = read_run(drawn[0])
    folder = drawn[0] / 'projector'
    codes = np.loadtxt(folder / 'tensors.tsv')
    np.testing.assert_allclose(codes[:, :2], as_reference(model)[0](digits.test), atol=1e-5)
    lines = (folder / 'metadata.tsv').read_text().splitlines()
    header, *rows = [line.split('\t') for line in lines]
    assert header == ['label', 'index', 'loss']
    assert [(int(label), int(index)) for label, index, _ in rows] == list(
        zip(digits.test_labels, range(30), strict=True))
    losses = [float(loss) for *_, loss in rows]
    np.random.seed(0)
    model.get_loss_func(k=100)(digits.test)
    assert np.mean(losses) == pytest.approx(float(model.loss.array), rel=0.01)


# The computational graph, the swiss roll, the KL divergence ---------------------------------------


@pytest.mark.tools
@pytest.mark.skipif(not HAS_DOT, reason='needs Graphviz')
def test_the_graph_is_of_this_run(other_run, tmp_path, monkeypatch):
    seen, run = [], subprocess.run

    def watched(*args, **kwargs):
        seen.append(kwargs['input'].decode())
        return run(*args, **kwargs)

    monkeypatch.setattr(subprocess, 'run', watched)
    model, digits = read_run(other_run)
    visualize.graph(model, digits, str(tmp_path / 'graph.png'), 2.0, 1, 20)
    for text in (r'z_mu\n(20, 3)', r'enc_h1\n(20, 12)', 'Tanh', '_ * 2.0', r'le1/W\n(12, 784)'):
        assert f'label="{text}"' in seen[0]
    for _ in range(2):
        visualize.main(['graph', '-o', str(other_run)])
    drawn = graphs.draw((other_run / 'cg.dot').read_text(), {})
    shapes = [sorted(re.sub(r'l[ed]\w+/', '', label) for label in re.findall('label="(.*?)"', dot))
              for dot in (seen[1], drawn)]
    assert shapes[0] == shapes[1]
    assert seen[1] == seen[2]                           # whatever Chainer's order
    array = frames(tmp_path / 'graph.png')[0][0]
    assert 500 < array.shape[1] <= 830                  # a column of README
    assert np.mean(array < 128) > 0.01


def test_of_many_samples_the_graph_shows_three_and_says_so(other_run, monkeypatch, capsys):
    model, digits, _ = sources.read_run(visualize.parse_arguments(['-o', str(other_run)]))
    dots = []
    monkeypatch.setattr(graphs, 'save', lambda dot, names, path: dots.append(dot))
    for k in (3, 100):
        visualize.graph(model, digits, 'graph.png', 1.0, k, 20)
    assert dots[0].count('Gaussian') == dots[1].count('Gaussian') > 0
    assert capsys.readouterr().out == (
        'graph.png shows 3 of the 100 samples of z, which are all alike\n')


def test_figures_of_a_named_snapshot_lie_beside_it(draw, finished, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    shutil.copytree(finished, tmp_path / 'run')
    status, out, err = draw('digits', '-s', last(tmp_path / 'run'))
    assert (status, out, err) == (0, f'{tmp_path / "run" / "digits.png"}\n', '')


def test_without_graphviz_the_graph_says_how_to_get_it(draw, small_run, monkeypatch):
    monkeypatch.setenv('PATH', '')
    monkeypatch.setattr(visualize, 'FIGURES', {key: visualize.FIGURES[key] for key in
                                               ('graph.png', 'digits.png')})
    status, out, err = draw('-o', small_run)
    assert (status, err) == (0, '')
    skipped, written = out.splitlines()
    assert skipped.startswith('skipped graph.png: needs Graphviz: apt install graphviz')
    assert written == str(small_run / 'digits.png')
    refused(draw('graph', '-o', small_run), 'graph.png: needs Graphviz', 'apt install graphviz')


@pytest.mark.skipif(os.name != 'posix', reason='needs a POSIX shell')
@pytest.mark.parametrize('content, cause', [
    (b'#!/bin/sh\necho no fonts >&2\nexit 1\n', 'no fonts'),
    (b'#!/no/such/shell\n', 'No such file')])
def test_a_graphviz_that_fails(draw, small_run, tmp_path, monkeypatch, content, cause):
    dot = tmp_path / 'dot'
    dot.write_bytes(content)
    dot.chmod(0o755)
    monkeypatch.setenv('PATH', str(tmp_path))
    refused(draw('graph', '-o', small_run), 'graph.png: needs Graphviz, which does not run', cause)
    assert not (small_run / 'graph.png').exists()


def test_figures_without_a_snapshot(draw, tmp_path, monkeypatch):
    monkeypatch.setattr(sources, 'read_run', None)
    status, out, err = draw('swiss_roll.png', '-o', tmp_path)
    assert (status, out, err) == (0, f'{tmp_path / "swiss_roll.png"}\n', '')


def test_the_roll_is_unrolled_in_the_order_of_its_bands(captured):
    figure, = captured(visualize.swiss_roll)
    dots = figure.axes[0].collections[0]
    flat = np.array(dots.get_offsets())
    points, bands = manifold.roll()
    np.testing.assert_allclose(dots.get_facecolors()[:, :3], np.array(manifold.BANDS)[bands])
    # x = t cos t, z = t sin t: t tells how far along the roll a point lies
    along = np.hypot(points[:, 0], points[:, 2])
    order = abs(stats.spearmanr(flat[:, 0], along).statistic)
    across = abs(stats.spearmanr(flat[:, 1], points[:, 1]).statistic)
    assert min(order, across) > 0.95
    assert sorted(np.unique(bands)) == list(range(6))
    for band in range(5):               # one ends where the next begins, all across the roll
        here, there = along[bands == band], along[bands == band + 1]
        assert np.mean(here[:, None] < there) > 0.99
    for band in range(6):
        assert np.ptp(points[bands == band, 1]) > 0.9 * np.ptp(points[:, 1])


def test_the_roll_turns_once_around(captured):
    figures = captured(visualize.swiss_roll_gif)
    assert [figure.axes[0].azim for figure in figures] == [10 * i - 90 for i in range(36)]
    points, _ = manifold.roll()
    for figure in figures[::12]:
        dots = figure.axes[0].collections[0]
        np.testing.assert_array_equal(np.transpose(dots._offsets3d), points)


def test_q_moves_onto_p_and_the_kl_divergence_falls(captured):
    mu, sigma = visualize.kl_path()
    assert (mu[-1], sigma[-1]) == pytest.approx((0, 1))
    for i, figure in enumerate(captured(visualize.kl_gif)):
        densities, logs, ratio, kl = figure.axes
        z, q = densities.lines[1].get_data()
        wanted = stats.norm(mu[i], sigma[i])
        np.testing.assert_allclose(q, wanted.pdf(z))
        np.testing.assert_allclose(densities.lines[0].get_ydata(), stats.norm.pdf(z))
        np.testing.assert_allclose(logs.lines[0].get_ydata(), stats.norm.logpdf(z))
        np.testing.assert_allclose(logs.lines[1].get_ydata(), wanted.logpdf(z))
        log_ratio = wanted.logpdf(z) - stats.norm.logpdf(z)
        np.testing.assert_allclose(ratio.lines[0].get_ydata(), log_ratio, atol=1e-9)
        closed, numeric = (line.get_ydata() for line in kl.lines)
        assert len(closed) == i + 1
        assert (np.diff(closed) < 0).all()
        np.testing.assert_allclose(closed[::2], numeric, atol=1e-8)
        outline = ratio.collections[0].get_paths()[0].vertices      # its area: the KL but for tails
        area = np.sum((outline[1:, 0] - outline[:-1, 0]) * (outline[1:, 1] + outline[:-1, 1])) / 2
        assert abs(area) == pytest.approx(closed[i], abs=0.02)
    assert closed[-1] == pytest.approx(0, abs=1e-12)


@pytest.mark.parametrize('mu, sigma', [(2.5, 0.4), (0, 1), (-1, 2), (0.3, 0.05), (4, 1.5)])
def test_kl_divergence(mu, sigma):
    def integrand(z):
        q, p = stats.norm(mu, sigma), stats.norm(0, 1)
        return q.pdf(z) * (q.logpdf(z) - p.logpdf(z))

    wanted, _ = integrate.quad(integrand, mu - 12 * sigma, mu + 12 * sigma, epsabs=1e-10)
    assert visualize.kl_divergence(mu, sigma) == pytest.approx(wanted, abs=1e-8)
    assert visualize.kl_integral(mu, sigma) == pytest.approx(wanted, abs=1e-8)
    chainers = F.gaussian_kl_divergence(np.array([mu], float), np.log([sigma ** 2.0]))
    assert visualize.kl_divergence(mu, sigma) == pytest.approx(float(chainers.array), abs=1e-8)


# The command line -------------------------------------------------------------------------------


def refused(result, *parts):
    check_refused(result, *parts, prog='visualize.py')


def test_help_lists_every_figure(draw):
    status, out, _ = draw('--help')
    assert status == 0
    for file, recipe in visualize.FIGURES.items():
        assert re.search(f'^  {file} +{re.escape(recipe.draw.__doc__.splitlines()[0])}$', out, re.M)
    for flag in ('--snapshot FILE', '--out DIR', '--skip FIGURE', '--start D', '--end D',
                 '--data-dir DIR', '--gpu N'):
        assert flag in out
    assert max(map(len, out.splitlines())) <= 100


def test_the_readme_lists_every_figure():
    with open(os.path.join(os.path.dirname(visualize.__file__), 'README.md')) as file:
        section = file.read().partition('\n## The figures\n')[2]
    rows = re.findall(r'^\| (`[^|]+`) \|', section.partition('\n\nTo draw')[0], re.M)
    listed = [name.rstrip('/') for row in rows for name in re.findall(r'`(.+?)`', row)]
    assert listed == list(visualize.FIGURES)


def test_the_gallery_is_small_and_has_grays():
    gallery = os.path.join(os.path.dirname(visualize.__file__), 'results', 'gallery')
    sizes = {name: os.path.getsize(os.path.join(gallery, name)) for name in os.listdir(gallery)}
    assert sum(sizes.values()) <= 12e6
    assert sizes.pop('explorer.html') <= 4e6
    for name, size in sizes.items():
        assert size <= (3e6 if name.endswith('.gif') else 500e3), name
        with Image.open(os.path.join(gallery, name)) as image:
            assert len(image.convert('L').getcolors()) >= 16, name          # grays


def test_chosen_and_skipped_figures(draw, small_run, monkeypatch):
    cheap = ('reconstruction.png', 'digits.png', 'samples.png', 'projector')
    monkeypatch.setattr(visualize, 'FIGURES', {key: visualize.FIGURES[key] for key in cheap})
    status, out, err = draw('-o', small_run, '--skip', 'samples', '--skip', 'projector/')
    assert (status, err) == (0, '')
    assert out.split() == [str(small_run / name) for name in ('reconstruction.png', 'digits.png')]
    out = draw('samples.png', 'digits', '-o', small_run)[1]
    assert out.split() == [str(small_run / name) for name in ('digits.png', 'samples.png')]


def test_the_newest_snapshot_and_another_output_folder(draw, small_run, tmp_path):
    for number in (1, 2):
        status, _, err = draw('digits', '-o', tmp_path / 'new' / str(number),
                                '-s', small_run / f'snapshot_epoch_{number}')
        assert (status, err) == (0, '')
    assert draw('digits', '-o', small_run)[0] == 0
    files = [path.read_bytes() for path in (
        tmp_path / 'new' / '1' / 'digits.png', tmp_path / 'new' / '2' / 'digits.png',
        small_run / 'digits.png')]
    assert files[0] != files[1] == files[2]


def test_a_figure_that_the_snapshot_does_not_allow(draw, finished, other_run, tmp_path,
                                                   monkeypatch):
    monkeypatch.setattr(visualize, 'FIGURES', {key: visualize.FIGURES[key] for key in
                                               ('map.png', 'digits.png')})
    path = other_run / 'snapshot_epoch_1'
    status, out, err = draw('-s', path, '-o', tmp_path)
    assert (status, err) == (0, '')
    skipped, written = out.splitlines()
    data = other_run.parent
    reason = ('map.png: needs z = 2, and the snapshot has z = 3; make it by: '
              'python train_vae.py -z 2')
    assert skipped.startswith(f'skipped {reason} --data-dir {data.parent}')
    assert skipped.endswith(f' -o {tmp_path}_z2 && python visualize.py map -o {tmp_path}_z2')
    assert written == str(tmp_path / 'digits.png')
    refused(draw('digits', 'map', '-s', path, '-o', tmp_path / 'new'), reason)
    assert not (tmp_path / 'new').exists()              # refused before anything is drawn
    shutil.copytree(finished, f'{tmp_path}_z2')         # of pixels that are not rounded
    refused(draw('map', '-s', path, '-o', tmp_path), 'make it by: python train_vae.py -z 2')
    shutil.rmtree(f'{tmp_path}_z2')
    train(finished.parent / 'data', f'{tmp_path}_z2', *SMALL, '--binary')   # needed no more
    refused(draw('map', '-s', path, '-o', tmp_path),
            f'make it by: python visualize.py map -o {tmp_path}_z2')
    assert draw('map', '-o', f'{tmp_path}_z2')[0] == 0


def test_one_dimension_has_no_plane(draw, data_dir, tmp_path):
    out = tmp_path / 'run'
    train(data_dir, out, '-z', '1', '--dim-h', '8', '-e', '1')
    for figure in ('scatter', 'scatter_arrow', 'map', 'map_wide', 'posterior',
                   'reparameterization.gif', 'tsne'):
        refused(draw(figure, '-o', out), 'needs z = 2', 'has z = 1')
    assert draw('samples', 'interpolation_0to7.png', 'projector', '-o', out)[0] == 0


@pytest.mark.slow
def test_digits_that_lack_a_class(draw, tmp_path):
    pixels, labels = make_digits(40, 0)
    few = labels < 4
    data = write_digits(tmp_path / 'data', pixels, labels, pixels[few], labels[few])
    out = tmp_path / 'run'
    train(data, out, *SMALL)
    refused(draw('interpolation', '-o', out), 'png: there is no 7 among the test digits',
            'choose --end from 0, 1, 2, 3')
    refused(draw('-o', out, '--start', '5', '--end', '1'), 'no 5 among',
            '--start from 0, 1, 2, 3')
    assert not [path for path in out.iterdir() if path.suffix in ('.png', '.gif')]
    status, stdout, err = draw('-o', out, '--skip', 'tsne', '--skip', 'swiss_roll', '--skip', 'kl')
    assert (status, err) == (0, '')
    for name in ('scatter_arrow.png', 'interpolation_0to7.png', 'interpolation_0to7.gif',
                 'map.png'):
        assert f'skipped {name}: there is no 7 among the test digits; ' in stdout
    array = frames(out / 'interpolation_all.gif')[0][0]
    assert array.shape == (44 + 244 + 4, 22 + 244 + 4, 3)
    assert len(list(squares(array, 4))) == 16
    assert len(tiles(frames(out / 'digits.png')[0][0], 5)) == 4


@pytest.mark.slow
@pytest.mark.parametrize('n, skipped', [(1, 6), (4, 5)])
def test_few_test_digits(draw, tmp_path, monkeypatch, n, skipped):
    pixels, labels = make_digits(40, 0)
    data = write_digits(tmp_path / 'my data', pixels, labels, pixels[:n],
                        20 * labels[:n])                                # labels beyond 9, too
    out = tmp_path / 'my\nrun'
    train(data, out, '-z', '3', '--dim-h', '8', '-e', '1')
    (tmp_path / 'my data').rename(tmp_path / 'moved')
    monkeypatch.setattr(visualize, 'FIGURES', {
        file: recipe for file, recipe in visualize.FIGURES.items()
        if file == 'map.png' or (recipe.dims and not recipe.keywords)})
    refused(draw('-o', out), 'my data is not a folder')
    status, stdout, err = draw('-o', out, '--data-dir', tmp_path / 'moved')
    assert (status, err) == (0, '')
    lines = [line for line in stdout.splitlines() if line.startswith('skipped ')]
    assert len(lines) == skipped
    assert f'--data-dir {tmp_path}/moved -e 1 -o' in stdout                  # the map's advice


@pytest.mark.parametrize('flags, parts', [
    (['nothing'], ['unknown figure nothing',
                   'the figures are explorer, autoencoder, reconstruction']),
    (['--skip', 'loss'], ['unknown figure loss']),
    (['interpolation_1to2'], ['unknown figure', 'interpolation with --start 1 --end 2']),
    (['map', '--skip', 'map'], ['no figure']),
    (['--start', '7'], ['starts and ends at 7']),
    (['--start', 'x'], ["invalid int value: 'x'", '--help']),
    (['digits', '--start', '12'], ['no 12 among the test digits', 'from 0, 1, 2']),
    (['--no-such-flag'], ['--no-such-flag']),
    (['digits', '--data-dir', 'nowhere'], ['nowhere is not a folder']),
    (['digits', '-s', 'nowhere'], ['nowhere', 'No such file']),
    (['digits', '-o', 'nowhere'], ['no snapshot in nowhere']),
    (['digits', '--gpu', '99'], ['--gpu 99'])])
def test_bad_arguments(draw, small_run, monkeypatch, tmp_path, flags, parts):
    monkeypatch.chdir(tmp_path)
    before = sorted(small_run.iterdir())
    refused(draw(*([] if '-o' in flags else ['-o', small_run]), *flags), *parts)
    assert sorted(small_run.iterdir()) == before
    assert not (tmp_path / 'nowhere').exists()


def test_bad_snapshots(draw, small_run, finished, tmp_path):
    good = snapshot.read(last(small_run))
    settings = json.loads(str(good[snapshot.SETTINGS_KEY]))

    def altered(name, **changes):
        return rewrite(last(finished), tmp_path / name,
                       **{snapshot.SETTINGS_KEY: np.array(json.dumps(settings | changes))})

    corrupt = tmp_path / 'corrupt'
    corrupt.write_bytes((small_run / 'snapshot_epoch_2').read_bytes()[:5000])
    weights = good[snapshot.MODEL_PREFIX + 'ld3/b'] * np.nan
    infinite = rewrite(last(finished), tmp_path / 'nan',
                       **{snapshot.MODEL_PREFIX + 'ld3/b': weights})
    for path, part in ((corrupt, 'is damaged'),
                       (altered('a', activation='swish'), 'swish, and this net.py has softplus'),
                       (altered('b', checksum='0'), 'was trained on other digits'),
                       (altered('c', dim_z=5), 'is of another model'),
                       (altered('d', dim_h=10**5), 'asks for a model of '),
                       (infinite, 'not finite')):
        refused(draw('digits', '-s', path, '-o', tmp_path / 'out'), part)
        refused(draw('-s', path, '-o', tmp_path / 'out'), part)
        assert not (tmp_path / 'out').exists()
    refused(draw('digits', '-s', last(small_run), '-o', tmp_path / 'out', '--data-dir', tmp_path),
            'has neither train-images')


@pytest.mark.parametrize('figure', ['digits', 'interpolation_0to7', 'projector'])
def test_an_output_folder_that_cannot_be_written(draw, small_run, tmp_path, figure):
    file = tmp_path / 'file'
    file.touch()
    refused(draw(figure, '-s', last(small_run), '-o', file), f'cannot write to {file}', '-o')
    (tmp_path / 'digits.png').mkdir()
    (tmp_path / 'interpolation_0to7.gif').mkdir()
    (tmp_path / 'projector').touch()
    refused(draw(figure, '-s', last(small_run), '-o', tmp_path), f'{figure}')
    assert {path.name for path in tmp_path.iterdir()} >= {'file', 'projector'}
    assert not list(tmp_path.glob('.*'))


def test_a_damaged_snapshot_is_passed_over(draw, small_run):
    path = small_run / 'snapshot_epoch_2'
    path.write_bytes(path.read_bytes()[:-1])
    status, out, err = draw('reconstruction', '-o', small_run)
    assert (status, out) == (0, f'{small_run / "reconstruction.png"}\n')
    assert err.startswith(f'warning: passed over: {path} is damaged (')
    damaged = (small_run / 'reconstruction.png').read_bytes()
    assert draw('reconstruction', '-s', small_run / 'snapshot_epoch_1', '-o', small_run)[0] == 0
    assert (small_run / 'reconstruction.png').read_bytes() == damaged


@pytest.mark.skipif(os.name != 'posix', reason='needs POSIX signals')
@pytest.mark.parametrize('signum', [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_run_keeps_what_is_finished(small_run, signum):
    earlier = signal.signal(signum, signal.default_int_handler)     # a child inherits no SIG_IGN
    try:
        process = subprocess.Popen(
            [sys.executable, visualize.__file__, 'digits', 'interpolation', 'kl', '-o',
             str(small_run)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    finally:
        signal.signal(signum, earlier)
    assert process.stdout.readline() == f'{small_run / "digits.png"}\n'
    process.send_signal(signum)
    process.communicate(timeout=30)
    assert process.returncode == 128 + signum
    with Image.open(small_run / 'digits.png') as image:
        image.load()
    assert not (small_run / 'kl.gif').exists()
    assert not list(small_run.glob('.*.part'))


def test_a_full_disk_leaves_the_earlier_figure(draw, small_run, monkeypatch):
    assert draw('digits', '-o', small_run)[0] == 0
    before = (small_run / 'digits.png').read_bytes()

    def fail(self, file, **kwargs):
        file.write(b'half')
        raise OSError(28, 'No space left on device')

    monkeypatch.setattr(visualize.Figure, 'savefig', fail)
    refused(draw('digits', '-o', small_run), 'No space left on device')
    assert (small_run / 'digits.png').read_bytes() == before
    assert not list(small_run.glob('.*.part'))


@needs_gpu
def test_gpu_draws_the_same(draw, small_run, tmp_path):
    for name, flags in (('cpu', []), ('gpu', ['--gpu', '0'])):
        status, _, err = draw('digits', '-s', last(small_run), '-o', tmp_path / name, *flags)
        assert (status, err) == (0, '')
    both = [frames(tmp_path / name / 'digits.png')[0][0] for name in ('cpu', 'gpu')]
    np.testing.assert_allclose(*both, atol=2)
    if HAS_DOT:
        assert draw('graph', '-o', small_run, '--gpu', '0')[0] == 0
