"""What figures share: batches, frames, colours, and planes."""

import os
import subprocess
import sys
from types import SimpleNamespace

from support.figures import pictures, plots  # lets chainer import
from support.run import snapshot

import chainer
from chainer import functions as F
from conftest import ROOT
import numpy as np
import pytest
from shown import InParts, frames

import net


@pytest.fixture
def digits():
    """Return 30 test digits."""
    return SimpleNamespace(test=np.random.RandomState(0).uniform(size=(30, 784)),
                           test_labels=np.arange(30) % 10)


def test_batches_give_what_all_rows_at_once_give(digits, monkeypatch):
    monkeypatch.setattr(pictures, 'BATCH', 7)
    seen = []
    outputs = pictures.in_batches(SimpleNamespace(xp=np), lambda x: seen.append(len(x)) or F.exp(x),
                                  digits.test)
    assert (seen, outputs.dtype) == ([7, 7, 7, 7, 2], np.float32)
    np.testing.assert_allclose(outputs, np.exp(digits.test), rtol=1e-5)
    with pytest.raises(snapshot.SnapshotError, match='not finite'):
        pictures.in_batches(SimpleNamespace(xp=np), F.exp, [[0.0], [1000.0]])


def test_codes_and_pictures_are_those_of_test_mode(digits):
    model = InParts(784, 2, 8)                  # with dropout and batch normalization
    model.get_loss_func()(digits.test.astype(np.float32))
    mean = model.encoder[1].avg_mean.copy()
    with chainer.using_config('train', False), chainer.no_backprop_mode():
        codes = model.encode(digits.test.astype(np.float32))[0].array
        wanted = model.decode(codes).array
    for _ in range(2):
        np.testing.assert_array_equal(pictures.encode(model, digits.test), codes)
        np.testing.assert_array_equal(pictures.decode(model, codes).reshape(-1, 784), wanted)
    alone = [pictures.decode(model, code[None]) for code in codes]
    np.testing.assert_allclose(np.reshape(alone, (-1, 784)), wanted, atol=1e-6)
    assert mean.any() and np.array_equal(model.encoder[1].avg_mean, mean)


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


def test_what_stands_still_is_drawn_once_and_seen_in_each_frame(tmp_path):
    def save(name, is_still):
        figure = pictures.figure_of(200, 150)
        axes = figure.add_subplot(xlim=(0, 1), ylim=(0, 1), xlabel='x', title='title')
        line, = axes.plot([0, 1], [0, 1], label='line')
        axes.legend(loc='upper left')
        ticks, drawn = axes.xaxis.draw, []
        axes.xaxis.draw = lambda renderer: drawn.append(axes.xaxis.get_visible()) or ticks(renderer)

        def frame(t):
            line.set_ydata([0, 1 - t])
            return figure

        still = [axes.get_legend()] if is_still else None
        pictures.save_gif(map(frame, (0, 0.4, 0.8)), tmp_path / name, (0, 1, 2, 1), [(0, 0, 1)], 50,
                          still=still)
        assert sum(drawn) == (1 if is_still else 3)
        return (tmp_path / name).read_bytes()

    assert save('still.gif', True) == save('each.gif', False)
    arrays, durations = frames(tmp_path / 'still.gif')
    assert durations == [1000, 50, 50, 1000]
    assert (arrays[0] != arrays[1]).any() and (arrays[1] == arrays[3]).all()


# Machado et al. 2009, severity 1, in linear RGB
EYES = {'normal': np.eye(3),
        'deuteranopia': [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413],
                         [-0.011820, 0.042940, 0.968881]],
        'protanopia': [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216],
                       [-0.003882, -0.048116, 1.051998]],
        'tritanopia': [[1.255528, -0.076749, -0.178779], [-0.078411, 0.930809, 0.147602],
                       [0.004733, 0.691367, 0.303900]]}
# in the latent space; and 1 and 9, 4 and 6, whose colours were too much alike
TOUCHING = [(3, 5), (3, 8), (5, 8), (4, 9), (7, 9), (4, 7), (2, 3), (1, 9), (4, 6)]


@pytest.mark.parametrize('eye, least, of_all', [
    ('normal', 50, 24), ('deuteranopia', 40, 18), ('protanopia', 40, 20), ('tritanopia', 40, 19)])
def test_colours_differ_for_every_eye_and_those_of_classes_that_touch_most(eye, least, of_all):
    colors = np.array([*plots.CLASS_COLORS, (0, 0, 0), (1, 1, 1)])              # sRGB to CIELAB
    linear = np.where(colors <= 0.04045, colors / 12.92, ((colors + 0.055) / 1.055) ** 2.4)
    seen = np.clip(linear @ np.array(EYES[eye]).T, 0, 1)
    xyz = seen @ np.array([[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722],
                           [0.0193, 0.1192, 0.9505]]).T / [0.9505, 1, 1.089]
    x, y, z = np.where(xyz > 0.008856, np.cbrt(xyz), 7.787 * xyz + 16 / 116).T
    lab = np.stack([116 * y - 16, 500 * (x - y), 200 * (y - z)], axis=1)
    apart = np.linalg.norm(lab[:, None] - lab, axis=2)
    np.testing.assert_allclose(apart[10, 11], 100, atol=0.1)
    assert (apart[:10, :10] + 100 * np.eye(10)).min() > of_all
    assert min(apart[pair] for pair in TOUCHING) > least


def test_many_classes_have_a_legend_within_the_picture():
    figure = pictures.figure_of(760, 720)
    plots.put_points(figure.add_subplot(), np.random.RandomState(0).normal(size=(70, 2)), range(70))
    plots.put_legend(figure, range(70))
    figure.draw_without_rendering()
    legend = figure.legends[0].get_window_extent()
    assert (legend.y0 >= 0, legend.y1 <= figure.bbox.height) == (True, True)


def test_a_plane_of_more_dimensions_goes_through_the_origin():
    codes = np.random.RandomState(0).normal(size=(6, 4)) + 5
    project, _ = plots.plane(codes)
    np.testing.assert_array_equal(project(np.zeros((1, 4))), [[0, 0]])
    with pytest.raises(pictures.FigureError, match='two test digits or more'):
        plots.plane(codes[:1])


def test_the_medoid_is_a_member_of_a_class_that_is_split():
    points = np.array([[-1, 0], [-1.1, 0], [-1, 0.1], [1, 0], [1.1, 0]])
    assert (plots.medoid(points) == points[0]).all()


@pytest.mark.parametrize('points', [
    np.random.RandomState(0).uniform(size=(10, 2)), [[0, 0], [1e-3, 0]], [[1, 1]] * 10])
def test_numerals_too_near_are_spread(points):
    points = np.array(points)
    for fixed in (0, 1):
        moved = plots.spread(points, 0.3, fixed)
        distances = np.linalg.norm(moved[:, None] - moved, axis=2) + np.eye(len(points))
        assert distances.min() > 0.29
        np.testing.assert_array_equal(moved[len(points) - fixed:], points[len(points) - fixed:])


def test_a_backend_that_is_not_installed_keeps_nobody_from_drawing(tmp_path):
    code = 'from support.figures import pictures; pictures.Figure().savefig("a.png")'
    subprocess.run([sys.executable, '-c', code], check=True, cwd=tmp_path,
                   env=os.environ | {'MPLBACKEND': 'module://of.a_notebook', 'PYTHONPATH': ROOT})
    assert (tmp_path / 'a.png').exists()
