"""What figures share: batches, the place of each pixel, colours, frames, and planes."""

import os
import subprocess
import sys
from types import SimpleNamespace

from support.base import drawing  # lets chainer import
from support.figures import pictures, plots
from support.run import snapshot

import chainer
from chainer import functions as F
from chainer.utils import type_check
from conftest import ROOT
import numpy as np
import pytest
from shown import InParts, check_tiles, first_frame, frames

import net

# Digits -----------------------------------------------------------------------------------------


@pytest.fixture
def digits():
    """Return 30 test digits."""
    return SimpleNamespace(test=np.random.RandomState(0).uniform(size=(30, 784)),
                           test_labels=np.arange(30) % 10)


def test_a_big_test_set_is_thinned_out_evenly(digits):
    x, labels = pictures.spaced(digits, 4)
    np.testing.assert_array_equal(x, digits.test[[0, 10, 19, 29]])
    np.testing.assert_array_equal(labels, digits.test_labels[[0, 10, 19, 29]])
    np.testing.assert_array_equal(pictures.spaced(digits, 31)[0], digits.test)


def test_batches_give_what_all_rows_at_once_give(digits, monkeypatch):
    monkeypatch.setattr(pictures, 'BATCH', 7)
    seen = []
    outputs = pictures.in_batches(SimpleNamespace(xp=np), lambda x: seen.append(len(x)) or F.exp(x),
                                  digits.test)
    assert (seen, outputs.dtype) == ([7, 7, 7, 7, 2], np.float32)
    np.testing.assert_allclose(outputs, np.exp(digits.test), rtol=1e-5)
    with pytest.raises(snapshot.SnapshotError, match='not finite'):
        pictures.in_batches(SimpleNamespace(xp=np), F.exp, [[0.0], [1000.0]])


@pytest.fixture
def edited(digits):
    """Return a model with dropout and batch normalization, as a step of training leaves it."""
    np.random.seed(0)
    model = InParts(784, 2, 8)
    model.get_loss_func()(digits.test.astype(np.float32))
    return model


def test_codes_and_pictures_are_those_of_test_mode(edited, digits):
    mean = edited.encoder.bn.avg_mean.copy()
    with chainer.using_config('train', False), chainer.no_backprop_mode():
        codes = edited.encode(digits.test.astype(np.float32))[0].array
        wanted = edited.decode(codes).array
    for _ in range(2):
        np.testing.assert_array_equal(pictures.encode(edited, digits.test), codes)
        np.testing.assert_array_equal(pictures.decode(edited, codes).reshape(-1, 784), wanted)
    alone = [pictures.decode(edited, code[None]) for code in codes]
    np.testing.assert_allclose(np.reshape(alone, (-1, 784)), wanted, atol=1e-6)
    assert mean.any() and np.array_equal(edited.encoder.bn.avg_mean, mean)


def test_noise_in_a_model_is_the_same_each_time(digits):
    model = net.VAE(784, 2, 8)
    model.encode = lambda x: (x[:, :2] + np.random.normal(size=(len(x), 2)).astype(np.float32), 0)
    np.random.seed(3)
    codes = pictures.encode(model, digits.test)
    following = np.random.uniform()
    np.testing.assert_array_equal(codes, pictures.encode(model, digits.test))
    np.random.seed(3)
    assert np.random.uniform() == following


@pytest.mark.parametrize('pack', [lambda mu, ln_var: (mu, ln_var, ln_var), lambda mu, _: mu,
                                  lambda mu, ln_var: [mu, ln_var]])
def test_codes_are_what_encode_returns_first_or_alone(digits, pack):
    model = net.VAE(784, 2, 8)
    encode = model.encode
    wanted = encode(digits.test.astype(np.float32))[0].array
    model.encode = lambda x: pack(*encode(x))
    np.testing.assert_array_equal(pictures.encode(model, digits.test), wanted)


# Why a figure is not drawn ------------------------------------------------------------------------


def test_an_error_is_one_line_that_says_where_net_py_is_edited(edited):
    debug = 'CHAINER_DEBUG=1 shows the traceback'
    error = type_check.InvalidType('x.shape[1] == 3', 'x.shape[1] == 2')
    assert pictures.why(error, net.VAE(784, 2, 8)) == (
        f'InvalidType: {" ".join(str(error).split())}; {debug}')
    methods = 'InParts.encode, InParts.decode, InParts.get_loss_func'
    assert pictures.why(KeyError(), edited) == f'KeyError; net.py is edited in {methods}; {debug}'
    assert pictures.why(OSError('no table'), None) == f'OSError: no table; {debug}'
    assert pictures.why(pictures.FigureError('needs\nz = 2'), edited) == 'needs z = 2'


# Sheets and files -------------------------------------------------------------------------------


@pytest.mark.parametrize('zoom, texts', [(1, {}), (3, {'titles': list('abcde'), 'heading': 'f'})])
def test_a_sheet_shows_pictures_pixel_by_pixel(digits, tmp_path, zoom, texts):
    x = 0.9 * digits.test[:5]                               # nowhere white, as the paper is
    drawing.save(pictures.sheet(pictures.as_pictures(x), 3, zoom=zoom, **texts),
                 tmp_path / 'sheet.png')
    check_tiles(first_frame(tmp_path / 'sheet.png'), zoom, x)


@pytest.mark.parametrize('n', [32, 4])
def test_a_gif_has_its_frames_grays_and_rests(tmp_path, n):
    grays = np.arange(32).reshape(1, 4, 8) / 31
    pictures.save_gif((pictures.sheet(grays[:, ::step], 1) for step in (1, -1)), tmp_path / 'a.gif',
                      (0, 1, 0), milliseconds=50, rests=(1,), grays=n)
    arrays, durations = frames(tmp_path / 'a.gif')
    assert durations == [50, 1000, 50]
    for array, wanted in zip(arrays, (grays[0], grays[0, ::-1], grays[0]), strict=True):
        shown = array[13:-12:3, 13:-12:3, 0]
        assert len(np.unique(shown)) == n
        np.testing.assert_allclose(shown, 255 * wanted, atol=127 / (n - 1) + 1)


def test_a_square_has_a_label_at_each_row_and_column(tmp_path):
    x = 0.9 * np.random.RandomState(0).uniform(size=(9, 28, 28))
    figure = pictures.square(x, 'abc', 'heading')
    assert [text.get_text() for text in figure.texts] == [*'aabbcc', 'heading']
    drawing.save(figure, tmp_path / 'a.png')
    array = first_frame(tmp_path / 'a.png')
    place = array[44 + 4 + 60:, 22 + 4 + 120:][:56:2, :56:2, 0]          # second row, third column
    np.testing.assert_allclose(place, 255 * x[5], atol=2)
    for i in range(3):                      # dark numerals on the white left and above
        middle = 4 + 28 + 60 * i
        assert array[44 + middle - 10:44 + middle + 10, 1:21].min() < 100
        assert array[23:43, 22 + middle - 10:22 + middle + 10].min() < 100


# Machado et al. 2009, severity 1, in linear RGB
EYES = {'normal': np.eye(3),
        'deuteranopia': [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413],
                         [-0.011820, 0.042940, 0.968881]],
        'protanopia': [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216],
                       [-0.003882, -0.048116, 1.051998]],
        'tritanopia': [[1.255528, -0.076749, -0.178779], [-0.078411, 0.930809, 0.147602],
                       [0.004733, 0.691367, 0.303900]]}


def distances(colors, eye):
    """Return how far colours, (N, 3) sRGB, are from each other for an eye, (N, N), in CIELAB."""
    colors = np.array(colors)
    linear = np.where(colors <= 0.04045, colors / 12.92, ((colors + 0.055) / 1.055) ** 2.4)
    seen = np.clip(linear @ np.array(EYES[eye]).T, 0, 1)
    xyz = seen @ np.array([[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722],
                           [0.0193, 0.1192, 0.9505]]).T / [0.9505, 1, 1.089]
    x, y, z = np.where(xyz > 0.008856, np.cbrt(xyz), 7.787 * xyz + 16 / 116).T
    lab = np.stack([116 * y - 16, 500 * (x - y), 200 * (y - z)], axis=1)
    return np.linalg.norm(lab[:, None] - lab, axis=2)


# in the latent space; and 1 and 9, 4 and 6, whose colours were too much alike
TOUCHING = [(3, 5), (3, 8), (5, 8), (4, 9), (7, 9), (4, 7), (2, 3), (1, 9), (4, 6)]


@pytest.mark.parametrize('eye, least, of_all', [
    ('normal', 50, 24), ('deuteranopia', 40, 18), ('protanopia', 40, 20), ('tritanopia', 40, 19)])
def test_colours_differ_for_every_eye_and_those_of_classes_that_touch_most(eye, least, of_all):
    np.testing.assert_allclose(distances([(0, 0, 0), (1, 1, 1)], eye)[0, 1], 100, atol=0.1)
    apart = distances(plots.CLASS_COLORS, eye)
    assert (apart + 100 * np.eye(10)).min() > of_all
    assert min(apart[pair] for pair in TOUCHING) > least


def scattered(n, classes):
    """Return axes on which n points are drawn, of so many classes, with a legend."""
    axes = pictures.figure_of(760, 720).add_subplot()
    plots.scatter_points(axes, np.random.RandomState(0).normal(size=(n, 2)), np.arange(n) % classes)
    return axes


def test_points_are_opaque_with_an_edge_and_the_legend_shows_them():
    axes = scattered(40, 10)
    dots = axes.collections[0]
    assert (dots.get_facecolors()[:, 3] == 1).all()
    assert 0 < dots.get_linewidths()[0] < 0.5
    for handle, color in zip(axes.figure.legends[0].legend_handles, plots.CLASS_COLORS,
                             strict=True):
        assert (handle.get_color(), handle.get_alpha()) == (color, None)
        assert handle.get_markeredgecolor() == 'white'


def test_many_classes_have_a_legend_within_the_picture():
    figure = scattered(70, 70).figure
    figure.draw_without_rendering()
    legend = figure.legends[0].get_window_extent()
    assert (legend.y0 >= 0, legend.y1 <= figure.bbox.height) == (True, True)


# Scatter plots ----------------------------------------------------------------------------------


def test_a_plane_of_more_dimensions_goes_through_the_origin():
    codes = np.random.RandomState(0).normal(size=(6, 4)) + 5
    project, _ = plots.plane(codes)
    np.testing.assert_array_equal(project(np.zeros((1, 4))), [[0, 0]])
    with pytest.raises(pictures.FigureError, match='two test digits or more'):
        plots.plane(codes[:1])


def test_the_medoid_is_a_member_of_a_class_that_is_split():
    points = np.array([[-1, 0], [-1.1, 0], [-1, 0.1], [1, 0], [1.1, 0]])
    assert (plots.medoid(points) == points[0]).all()
    assert (plots.medoid(np.eye(3)[[0, 0, 2]]) == [1, 0, 0]).all()


@pytest.mark.parametrize('points', [
    np.random.RandomState(0).uniform(size=(10, 2)), [[0, 0], [1e-3, 0]], [[1, 1]] * 10])
def test_numerals_too_near_are_spread(points):
    points = np.array(points)
    moved = plots.spread(points, 0.3)
    distances = np.linalg.norm(moved[:, None] - moved, axis=2) + np.eye(len(points))
    assert distances.min() > 0.29
    np.testing.assert_allclose(moved.mean(axis=0), points.mean(axis=0), atol=0.2)
    moved = plots.spread(points, 0.3, fixed=1)
    np.testing.assert_array_equal(moved[-1], points[-1])
    assert np.linalg.norm(moved[:-1] - moved[-1], axis=1).min() > 0.29


@pytest.mark.parametrize('backend', ['module://of.a_notebook', 'nonsense'])
def test_a_backend_that_is_not_installed_keeps_nobody_from_drawing(tmp_path, backend):
    code = 'from support.figures import pictures; pictures.Figure().savefig("a.png")'
    subprocess.run([sys.executable, '-c', code], check=True, cwd=tmp_path,
                   env=os.environ | {'MPLBACKEND': backend, 'PYTHONPATH': ROOT})
    assert (tmp_path / 'a.png').exists()
