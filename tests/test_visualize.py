"""The article's figures: what stands at which pixel, in which frame, in which file."""

import os
from pathlib import Path
import re
import shutil
import subprocess
import sys

from support.base import drawing
from support.figures import graphs, plots, section3, tensorboard

from chainer import functions as F
from chainer import using_config
from chainer.serializers import DictionarySerializer
from conftest import SMALL, train
from matplotlib.text import Text
import numpy as np
from PIL import Image
import pytest
from scipy import ndimage, stats
from shown import (
    InParts,
    as_reference,
    check_colors,
    check_tiles,
    coarse,
    figures_of,
    first_frame,
    frames,
    numerals,
    read_run,
    refused,
    texts_of,
)

import net
import visualize

pytestmark = pytest.mark.usefixtures('one_thread')

HAS_DOT = shutil.which('dot') is not None
FRAMES = {'interpolation_0to7.gif': 81, 'interpolation_all.gif': 80, 'reparameterization.gif': 16,
          'tsne.gif': 36, 'swiss_roll.gif': 36, 'kl.gif': 21, 'training.gif': 3}
PICTURES = [name for name in visualize.FIGURES if name.endswith(('.gif', '.png'))
            and name not in ('autoencoder.png', *([] if HAS_DOT else ['graph.png']))]


@pytest.fixture(scope='module')
def drawn(finished, tmp_path_factory):
    """Return the folder of a full run of visualize.py on the finished run, and what it printed."""
    out = tmp_path_factory.mktemp('drawn')
    shutil.copy(finished / 'snapshot_epoch_2', out)
    shutil.copytree(finished / 'record', out / 'record')
    done = subprocess.run([sys.executable, visualize.__file__, '-o', str(out)], check=False,
                          capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, '')
    return out, done.stdout


@pytest.fixture(scope='module')
def run(finished):
    """Return the model and the digits of the finished run, and its encode and decode in NumPy."""
    model, digits, _ = read_run('-o', finished)
    return model, digits, *as_reference(model)


@pytest.fixture(scope='session')
def other_run(finished, tmp_path_factory):
    """Return the folder of a run of another z, activation and hidden size, with binary pixels."""
    out = tmp_path_factory.mktemp('other')
    train(finished.parent / 'data', out, '-z', '3', '--dim-h', '12', '--activation', 'tanh', '-e',
          '1', '-b', '20', '--binary')
    return out


def first_of(digits, labels=range(10)):
    """Return of each class the first test digit, (N, D)."""
    return digits.test[[digits.test_labels.tolist().index(label) for label in labels]]


def test_a_full_run_leaves_every_figure_and_says_where(drawn):
    out, stdout = drawn
    names = {'explorer.html', *PICTURES, *(
        f'projector/{name}' for name in ('metadata.tsv', 'projector_config.pbtxt', 'sprite.png',
                                         'tensors.tsv', 'tensors_on_sphere.tsv'))}
    there = {os.path.relpath(os.path.join(folder, name), out)
             for folder, _, inside in os.walk(out) for name in inside if 'record' not in folder}
    assert there == names | {'snapshot_epoch_2'}
    for name in names:
        assert f'{out / name}\n' in stdout
    assert 'skipped autoencoder.png: needs an autoencoder of the same digits; ' in stdout
    assert len(stdout.splitlines()) == len(names) + 3 + (not HAS_DOT)      # t-SNE says so, twice


@pytest.mark.parametrize('name', PICTURES)
def test_a_figure_is_not_blank_and_nothing_is_cut_off(drawn, name):
    arrays, _ = frames(drawn[0] / name)
    assert len(arrays) == FRAMES.get(name, 1)
    for array in arrays:
        assert len(np.unique(array)) >= 16
        assert 0.002 < np.mean(array < 128) < 0.99
        edge = np.concatenate([array[0], array[-1], array[:, 0], array[:, -1]])
        assert (edge == 255).all()


@pytest.mark.parametrize('name, each, ends, colors', [
    ('interpolation_0to7.gif', 100, (0, 80), []), ('interpolation_all.gif', 100, (0, 40), []),
    ('training.gif', 200, (0, 2), plots.CLASS_COLORS),
    ('kl.gif', 200, (0, 20), [drawing.PALETTE[0], drawing.PALETTE[2]]),
    ('swiss_roll.gif', 150, (), visualize.BANDS), ('tsne.gif', 150, (), plots.CLASS_COLORS),
    ('reparameterization.gif', 500, (0, 15), [section3.BLUE, section3.RED])])
def test_a_gif_loops_rests_where_it_has_ends_and_has_its_colours(drawn, name, each, ends, colors):
    path = drawn[0] / name
    arrays, durations = frames(path)
    with Image.open(path) as image:
        assert image.info['loop'] == 0              # for ever
    assert durations == [1000 if i in ends else each for i in range(FRAMES[name])]
    assert path.stat().st_size < 3e6
    for color in colors:
        assert (np.abs(arrays[-2] - 255 * np.array(color)).max(axis=2) < 16).sum() > 20
    if not ends:                                    # what turns does not repeat a frame
        for one, next_ in zip(arrays, arrays[1:] + arrays[:1], strict=True):
            assert np.mean(one != next_) > 0.01


@pytest.fixture
def quick(monkeypatch):
    """Let figures be of few frames and samples; and of the graph, what Graphviz is given."""
    turning = plots.turning
    coarse(monkeypatch)
    for where, name, value in (
            (visualize, 'STEPS', 3), (visualize, 'TURN', 2),
            (visualize, 'by_tsne', lambda model, digits, dims: (
                visualize.encode(model, digits.test)[:, [0, 1, 0]][:, :dims], digits.test_labels)),
            (plots, 'turning', lambda *args, **options: [*turning(*args, **options)]),
            (graphs, 'save', lambda dot, model, path: Path(path).write_text(
                graphs.readable(dot, model)))):
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
    plain, digits, settings = read_run('-o', finished)
    np.random.seed(1)
    model = plain if file == 'explorer.html' else InParts(784, 2, 8)
    model.get_loss_func(k=2)(digits.train)              # sets attributes, and moves the mean
    values = settings | {'run': settings, 'start': 0, 'end': 7, 'k': 3,
                         'gaps': lambda: section3.measure_gaps(model, digits),
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


def test_sizes_are_those_that_encode_returns(draw, data_dir, tmp_path, monkeypatch, quick):
    class FixedSize(InParts):           # of no le1 and no le3_mu; its sizes are not the flags'
        def __init__(self, n_in, n_latent, n_h, act_func):
            super().__init__(n_in, 3, 7, act_func)

    monkeypatch.setattr(net, 'VAE', FixedSize)
    out = tmp_path / 'run'
    train(data_dir, out, *SMALL)                        # of -z 2
    status, text, err = draw('samples', 'scatter', 'bound', 'dimensions', 'graph', 'projector',
                             'reparameterization.gif', '-o', out)
    assert (status, err, text.count(str(out))) == (0, '', 11)
    z = np.random.RandomState(0).standard_normal((100, 3)).astype(np.float32)
    with using_config('train', False):
        check_tiles(first_frame(out / 'samples.png'), 3, read_run('-o', out)[0].decode(z).array)
    refused(draw('map', '-o', out), 'map.png: needs z = 2, and the snapshot has z = 3')


def test_reconstructions_stand_below_a_digit_of_each_class(drawn, run, monkeypatch):
    model, digits, encode, decode = run
    x = first_of(digits)
    rows = np.concatenate([x, decode(encode(x))])
    check_tiles(first_frame(drawn[0] / 'reconstruction.png'), 3, rows)
    for given, said in (({'beta': 0.5}, ', beta = 0.5'), ({'beta': 1, 'kl_weight': None}, '')):
        figure, = figures_of(monkeypatch, visualize.reconstruction, model, digits, run=given)
        assert texts_of(figure) == ['input', 'recon-\nstruction', f'2-dimensional z{said}']


def test_another_z_activation_and_hidden_size_and_binary_pixels(draw, other_run, tmp_path):
    assert draw('digits', '-s', other_run / 'snapshot_epoch_1', '-o', tmp_path)[::2] == (0, '')
    model, digits, _ = read_run('-o', other_run)
    assert np.unique(digits.test).tolist() == [0, 1]
    encode, decode = as_reference(model, 'tanh')
    check_tiles(first_frame(tmp_path / 'digits.png'), 5, decode(encode(first_of(digits))))


def test_samples_come_from_the_prior(drawn, run, monkeypatch):
    model, digits, _, decode = run
    figure, = figures_of(monkeypatch, visualize.samples, model, digits, run={'beta': 4.0})
    assert texts_of(figure) == ['decoded from 2-dimensional z ~ N(0, I), beta = 4']
    z = np.random.RandomState(0).standard_normal((100, 2))
    check_tiles(first_frame(drawn[0] / 'samples.png'), 3, decode(z))


def walk_of(run, start, end, t):
    """Return the walk by the formula, in NumPy alone: pictures (N, 784)."""
    _, digits, encode, decode = run
    z0, z1 = encode(first_of(digits, (start, end)))
    return decode((1 - t[:, None]) * z0 + t[:, None] * z1)


def test_the_walk_goes_from_0_to_7_or_as_the_flags_say(drawn, run, draw, small_run, monkeypatch):
    t = np.linspace(0, 1, 81)
    wanted = walk_of(run, 0, 7, t)
    check_tiles(first_frame(drawn[0] / 'interpolation_0to7.png'), 3, wanted)
    arrays, _ = frames(drawn[0] / 'interpolation_0to7.gif')
    for array, picture in zip(arrays, wanted, strict=True):
        check_tiles(array, 8, picture[None], 255 / 62 + 2)          # of 32 grays
    flags = ('--start', '3', '--end', '5', '-o', small_run)
    status, out, err = draw('interpolation', *flags)
    assert (status, out.split(), err) == (0, [
        str(small_run / f'interpolation_3to5.{of}') for of in ('png', 'gif')], '')
    assert draw('interpolation_0to7.png', *flags)[1] == f'{small_run / "interpolation_3to5.png"}\n'
    check_tiles(first_frame(small_run / 'interpolation_3to5.png'), 3, walk_of(run, 3, 5, t))
    figure, = figures_of(monkeypatch, visualize.walk_sheet, *run[:2], start=3, end=5)
    assert texts_of(figure) == [*(f't = {of:.3f}' for of in t), 'from a 3 to a 5']


def test_every_digit_walks_to_every_digit_and_back(drawn, run):
    arrays, _ = frames(drawn[0] / 'interpolation_all.gif')
    for i, t in ((0, 0), (13, 13 / 40), (40, 1), (67, 13 / 40)):
        wanted = [walk_of(run, start, end, np.array([t]))[0].reshape(28, 28)
                  for start in range(10) for end in range(10)]
        for j, picture in enumerate(wanted):
            top, left = 48 + 60 * (j // 10), 26 + 60 * (j % 10)
            shown = arrays[i][top:top + 56, left:left + 56, 0]
            np.testing.assert_allclose(shown, 255 * np.kron(picture, np.ones((2, 2))),
                                       atol=255 / 30 + 2)               # of 16 grays
        dark = arrays[i][44:-4, 22:-4]
        assert dark.shape == (604, 604, 3)
        for edge in range(4):
            assert (dark[edge::60] == 0).all() and (dark[:, edge::60] == 0).all()
    for middle in range(32, 604, 60):       # dark numerals on the white left and above
        assert arrays[0][44 + middle - 10:44 + middle + 10, 1:21].min() < 100
        assert arrays[0][23:43, 22 + middle - 10:22 + middle + 10].min() < 100


@pytest.fixture
def scatter_axes(monkeypatch):
    """Return a function that draws a scatter plot of a run and returns its axes."""
    def scatter(out, draw=visualize.scatter, **keywords):
        figure, = figures_of(monkeypatch, draw, *read_run('-o', out)[:2], **keywords)
        figure.canvas.draw()
        return figure.axes[0]
    return scatter


def test_points_are_codes_and_numerals_stand_at_members_of_their_classes(
        scatter_axes, finished, run):
    axes, (_, digits, encode, _) = scatter_axes(finished), run
    mu = encode(digits.test)
    np.testing.assert_allclose(axes.collections[0].get_offsets(), mu, atol=1e-5)
    texts = numerals(axes)
    assert sorted(texts) == list(range(10))
    for label, text in texts.items():
        assert np.abs(mu[digits.test_labels == label] - text.xy).sum(axis=1).min() < 1e-5
        assert np.linalg.norm(text.get_position() - np.array(text.xy)) < axes.get_xlim()[1] / 3
    check_colors(axes.figure.legends[0], axes.collections[0].get_facecolors(), digits.test_labels)
    # circles of the prior, and the square of the map
    *circles, square = axes.patches
    assert [(tuple(patch.center), patch.width, patch.height) for patch in circles] == [
        ((0, 0), 2, 2), ((0, 0), 4, 4), ((0, 0), 6, 6)]
    np.testing.assert_array_equal(square.get_corners(), [[-2, -2], [2, -2], [2, 2], [-2, 2]])
    assert axes.get_aspect() == 1


@pytest.mark.parametrize('which, note', [
    ('finished', 'the square of map.png$'), ('other_run', 'projected from 3 dimensions$')])
def test_the_title_says_what_is_shown_and_numerals_do_not_overlap(
        scatter_axes, which, note, request):
    axes = scatter_axes(request.getfixturevalue(which), visualize.scatter_arrow, start=0, end=7)
    assert re.search(f'30 test digits; arrow: from a 0 to a 7\n.*{note}', axes.get_title())
    texts = numerals(axes).values()
    centres = axes.transData.transform([text.get_position() for text in texts])     # pixels
    width, height = Text.get_window_extent(next(iter(texts))).size                  # of a line
    dx, dy = np.abs(centres[:, None] - centres)[np.triu_indices(10, 1)].T
    assert ((dx > width) | (dy > 0.75 * height)).all()


def test_the_arrow_goes_from_a_0_to_a_7(scatter_axes, finished, run):
    axes, (_, digits, encode, _) = (
        scatter_axes(finished, visualize.scatter_arrow, start=0, end=7), run)
    ends = encode(first_of(digits, (0, 7)))
    arrow, = [text for text in axes.texts if not text.get_text()]
    np.testing.assert_allclose([arrow.get_position(), arrow.xy], ends, atol=1e-5)
    np.testing.assert_allclose(axes.lines[0].get_xydata(), ends, atol=1e-5)         # rings
    way = np.linspace(*ends, 200)
    for text in numerals(axes).values():                        # none on a ring or the arrow
        assert np.linalg.norm(text.get_position() - way, axis=1).min() > axes.get_xlim()[1] / 15


def test_more_dimensions_are_projected_on_two_principal_components(scatter_axes, other_run):
    axes, (model, digits, _) = scatter_axes(other_run), read_run('-o', other_run)
    mu = as_reference(model, 'tanh')[0](digits.test)
    _, values, rows = np.linalg.svd(mu - mu.mean(axis=0))
    points = np.array(axes.collections[0].get_offsets())
    np.testing.assert_allclose(np.abs(points), np.abs(mu @ rows[:2].T), atol=1e-4)
    for nth, label, share in zip(('first', 'second'), (axes.get_xlabel(), axes.get_ylabel()),
                                 values ** 2 / np.sum(values ** 2), strict=False):
        assert label == (f'{nth} principal component of 3-dimensional z '
                         f'({share:.0%} of the variance)')


def test_a_tile_of_the_map_is_decoded_from_its_z(drawn, run, monkeypatch):
    model, digits, encode, decode = run
    array = first_frame(drawn[0] / 'map.png')[32:732, 48:748]
    red = array[..., 0] > array[..., 1] + 60
    line = ndimage.binary_dilation(red, iterations=3)           # with its halo
    z = [[-2 + column / 6, 2 - row / 6] for row in range(25) for column in range(25)]
    wanted = decode(np.array(z)).reshape(25, 25, 28, 28).swapaxes(1, 2).reshape(700, 700)
    assert line.mean() < 0.2
    line[[0, -1]] = line[:, [0, -1]] = True                     # where ticks begin
    np.testing.assert_allclose(array[~line][:, 0], 255 * wanted[~line], atol=2)
    figure, = figures_of(monkeypatch, visualize.latent_map, model, digits, start=0, end=7)
    axes, = figure.axes
    box = axes.get_window_extent()
    assert (box.x0, box.y0, box.width, box.height) == pytest.approx((48, 48, 700, 700), abs=1e-3)
    assert axes.get_xlim() == axes.get_ylim() == pytest.approx((-2 - 1 / 12, 2 + 1 / 12))
    assert axes.get_title() == 'digits decoded from z; red: from a 0 to a 7'
    ends = encode(first_of(digits, (0, 7)))
    arrow, = axes.texts
    np.testing.assert_allclose([arrow.get_position(), arrow.xy], ends, atol=1e-5)
    for z_1, z_2 in np.linspace(*ends, 7):      # the red line, in pixels of 1/168
        x, y = round((z_1 + 2) * 168 + 14), round((2 - z_2) * 168 + 14)
        if 2 < x < 698 and 2 < y < 698:
            assert red[y - 2:y + 3, x - 2:x + 3].any()


def test_the_wide_map_has_the_circles_of_the_prior(drawn, run, monkeypatch):
    figure, = figures_of(monkeypatch, visualize.wide_map, *run[:2])
    axes, = figure.axes
    assert [(ellipse.center, ellipse.width) for ellipse in axes.patches] == [
        ((0, 0), 2 * radius) for radius in (1, 2, 3)]
    assert axes.get_xlim() == axes.get_ylim() == pytest.approx((-4.125, 4.125))
    corner = first_frame(drawn[0] / 'map_wide.png')[33:59, 49:75, 0]
    wanted = run[3](np.array([[-4, 4]])).reshape(28, 28)[1:27, 1:27]
    np.testing.assert_allclose(corner, 255 * wanted, atol=2)


def test_the_roll_is_unrolled_in_the_order_of_its_bands(monkeypatch):
    points, bands = visualize.roll()
    figure, = figures_of(monkeypatch, visualize.swiss_roll, roll=lambda: (points, bands))
    dots = figure.axes[0].collections[0]
    np.testing.assert_allclose(dots.get_facecolors()[:, :3], np.array(visualize.BANDS)[bands])
    # x = t cos t, z = t sin t: t tells how far along the roll a point lies
    along = np.hypot(points[:, 0], points[:, 2])
    for flat, wanted in zip(np.transpose(dots.get_offsets()), (along, points[:, 1]), strict=True):
        assert abs(stats.spearmanr(flat, wanted).statistic) > 0.95
    assert sorted(np.unique(bands)) == list(range(6))
    for band in range(5):               # one ends where the next begins, all across the roll
        assert np.mean(along[bands == band][:, None] < along[bands == band + 1]) > 0.99
        assert np.ptp(points[bands == band, 1]) > 0.9 * np.ptp(points[:, 1])
    views = set()
    for figure in figures_of(monkeypatch, visualize.swiss_roll_gif, roll=lambda: (points, bands)):
        axes, = figure.axes
        views.add((axes.elev, axes.azim))
        assert abs(axes.azim + 90) < 60                 # one sees the spiral, which is in x and z
        np.testing.assert_array_equal(np.transpose(axes.collections[0]._offsets3d), points)
    assert (len(views), texts_of(figure)) == (36, ['the swiss roll: a plane, rolled up'])


@pytest.mark.tools
@pytest.mark.skipif(not HAS_DOT, reason='needs Graphviz')
def test_the_graph_is_of_this_run(other_run, monkeypatch):
    seen, run = [], subprocess.run

    def watched(*args, **kwargs):
        seen.append(kwargs['input'].decode())
        return run(*args, **kwargs)

    monkeypatch.setattr(subprocess, 'run', watched)
    for _ in range(2):
        visualize.main(['graph', '-o', str(other_run)])
    noted = graphs.readable((other_run / 'cg.dot').read_text(), net.VAE(784, 3, 12))
    shapes = [sorted(re.sub(r'l[ed]\w+/', '', label) for label in re.findall('label="(.*?)"', dot))
              for dot in (seen[0], noted)]
    assert shapes[0] == shapes[1]
    assert seen[0] == seen[1]                           # whatever Chainer's order
    array = first_frame(other_run / 'graph.png')
    assert 500 < array.shape[1] <= 830                  # a column of README
    assert np.mean(array < 128) > 0.01


def test_of_many_samples_the_graph_shows_three_and_says_so(run, monkeypatch, capsys):
    dots = []
    monkeypatch.setattr(graphs, 'save', lambda dot, model, path: dots.append(dot))
    for k in (3, 100):
        visualize.graph(*run[:2], 'graph.png', 1.0, k, 20)
    assert dots[0].count('Gaussian') == dots[1].count('Gaussian') > 0
    assert capsys.readouterr().out == (
        'graph.png shows 3 of the 100 samples of z, which are all alike\n')


def test_q_moves_onto_p_and_the_kl_divergence_falls(monkeypatch):
    mu, sigma = visualize.kl_path()
    assert (mu[-1], sigma[-1]) == pytest.approx((0, 1))
    for i, figure in enumerate(figures_of(monkeypatch, visualize.kl_gif)):
        densities, logs, ratio, kl = figure.axes
        assert figure.get_suptitle().endswith('an example, not a run')
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
        chainers = F.gaussian_kl_divergence(mu[i:i + 1], 2 * np.log(sigma[i:i + 1])).array
        assert closed[i] == pytest.approx(float(chainers), abs=1e-8)
        assert kl.get_legend().get_texts()[0].get_text() == f'closed form: {closed[i]:.4f}'
        area, = ratio.collections                           # it is the KL, but for the tails
        outline = area.get_paths()[0].vertices
        area = np.sum((outline[1:, 0] - outline[:-1, 0]) * (outline[1:, 1] + outline[:-1, 1])) / 2
        assert abs(area) == pytest.approx(closed[i], abs=0.02)
    assert (i, closed[-1]) == (20, pytest.approx(0, abs=1e-12))


def test_tsne_keeps_the_classes_together(monkeypatch, run):
    labels = np.arange(200) % 5
    codes = np.random.RandomState(0).normal(size=(200, 5)) + 20 * np.eye(5)[labels]
    monkeypatch.setattr(visualize, 'encode', lambda model, x: codes)
    digits = run[1]._replace(test=run[1].test.repeat(7, axis=0)[:200], test_labels=labels)
    for draw, dims in ((visualize.tsne, 2), (visualize.tsne_gif, 3)):
        axes, = next(iter(figures_of(monkeypatch, draw, None, digits))).axes
        dots = axes.collections[0]
        colors = dots._facecolors                           # in 3-D the public ones are sorted
        check_colors(axes.figure.legends[0], colors, labels)
        points = np.array(dots.get_offsets() if dims == 2 else np.transpose(dots._offsets3d))
        assert points.shape == (200, dims)
        distance = np.linalg.norm(points[:, None] - points, axis=2) + 99 * np.eye(200)
        assert np.mean(labels[distance.argmin(axis=1)] == labels) > 0.95
        assert sorted(numerals(axes)) == list(range(5))
    for label, text in numerals(axes).items():              # at a member, in space
        assert np.abs(text.get_position_3d() - points[labels == label]).sum(axis=1).min() < 1e-9


def test_the_projector_has_the_codes_the_digits_and_what_is_said_of_them(drawn, run):
    model, digits, encode, _ = run
    folder = drawn[0] / 'projector'
    codes = np.loadtxt(folder / 'tensors.tsv')
    np.testing.assert_allclose(codes, np.pad(encode(digits.test), [(0, 0), (0, 1)]), atol=1e-5)
    sphere = np.loadtxt(folder / 'tensors_on_sphere.tsv')
    np.testing.assert_allclose(sphere, tensorboard.on_sphere(codes[:, :2]), atol=1e-6)
    sprite = first_frame(folder / 'sprite.png')[..., 0]
    assert sprite.shape == (168, 168)                   # 6 x 6 tiles for 30 digits
    tiles = sprite.reshape(6, 28, 6, 28).swapaxes(1, 2).reshape(36, 784)[:30]
    np.testing.assert_array_equal(tiles, np.round(255 * digits.test))
    lines = (folder / 'metadata.tsv').read_text().splitlines()
    assert lines[0] == 'label\tindex\tloss'
    labels, places, losses = np.loadtxt(lines[1:]).T
    assert (labels.tolist(), places.tolist()) == (digits.test_labels.tolist(), [*range(30)])
    np.random.seed(0)
    assert np.mean(losses) == pytest.approx(
        float(model.get_loss_func(k=100)(digits.test).array), rel=0.01)


def test_the_gallery_is_small_and_has_grays():
    gallery = os.path.join(os.path.dirname(visualize.__file__), 'results', 'gallery')
    sizes = {name: os.path.getsize(os.path.join(gallery, name)) for name in os.listdir(gallery)}
    assert sum(sizes.values()) <= 14e6
    assert sizes.pop('explorer.html') <= 4e6
    for name, size in sizes.items():
        assert size <= (3e6 if name.endswith('.gif') else 500e3), name
        with Image.open(os.path.join(gallery, name)) as image:
            assert len(image.convert('L').getcolors()) >= 16, name          # grays
