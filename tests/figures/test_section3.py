"""The figures of section 3: what their bars, pictures and headings say of the model at hand."""

import re
from types import SimpleNamespace

from support.base import drawing  # lets chainer import
from support.figures import evidence, pictures, section3

import chainer.functions as F
import numpy as np
import pytest
from shown import figures_of, texts_of

import net

pytestmark = pytest.mark.usefixtures('one_thread')


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    """Let grids, windows and samples be few."""
    monkeypatch.setattr(evidence, 'NODES', 31)
    monkeypatch.setattr(evidence, 'CELLS', 150)
    monkeypatch.setattr(section3, 'CANDIDATES', 12)
    monkeypatch.setattr(section3, 'KS', (1, 10, 100))
    monkeypatch.setattr(section3, 'WINDOW', 20)


@pytest.fixture
def show(monkeypatch):
    """Return a function that draws a figure of a new model, and returns it, model and digits."""
    def run(draw, dims, n=30):
        np.random.seed(0)
        model = net.VAE(784, dims, 8, F.softplus)
        digits = SimpleNamespace(test=np.random.uniform(size=(n, 784)).astype(np.float32),
                                 test_labels=np.arange(n) % 10)
        keywords = {} if draw == section3.dimensions else {
            'gaps': lambda: section3.measure_gaps(model, digits)}
        figure, = figures_of(monkeypatch, draw, model, digits, **keywords)
        with drawing.style():
            figure.canvas.draw()
        return figure, model, digits
    return run


def table(figure):
    """Return the numbers of the table, by heading and row, and the colours of its rows."""
    cells = figure.axes[3].texts
    heads = [cell.get_text() for cell in cells if not re.fullmatch(r'-?[\d.]+', cell.get_text())]
    numbers = np.array([float(cell.get_text()) for cell in cells if cell.get_text() not in heads])
    return dict(zip(heads, numbers.reshape(len(heads), -1), strict=True)), [
        cell.get_color() for cell in cells[-numbers.size // len(heads):]]


# The gap ----------------------------------------------------------------------------------------


@pytest.mark.parametrize('dims', [1, 2])
def test_bars_and_markers_show_the_gap(show, dims):
    figure, model, digits = show(section3.bound, dims)
    x, _, mu, ln_var, _, log_p, lower, kl, _, n = section3.measure_gaps(model, digits)
    assert (len(x), n) == (10, 12)
    assert (np.diff(log_p - lower) >= 0).all()
    np.testing.assert_allclose(log_p - lower, kl, atol=0.01)
    faces, left, right, _ = figure.axes
    np.testing.assert_array_equal([image.get_array().ravel() for image in faces.images], x)
    blue, red = left.containers
    np.testing.assert_allclose([bar.get_x() + bar.get_width() for bar in blue], lower)
    np.testing.assert_allclose([bar.get_x() for bar in red], lower)
    np.testing.assert_allclose([bar.get_x() + bar.get_width() for bar in red], log_p)
    log_w = evidence.log_weights(model, x, mu, ln_var, 100)
    sampled = evidence.importance_bounds(log_w, [100])[:, 0]
    for line, wanted in zip(right.lines, (log_p - lower, kl, sampled - lower), strict=True):
        np.testing.assert_allclose(line.get_xdata(), wanted)
    columns, _ = table(figure)
    for values, wanted in zip(columns.values(), (log_p, lower, log_p - lower, kl, log_p - sampled),
                              strict=True):
        np.testing.assert_allclose(values, wanted, atol=0.0051)
    first, second, last = texts_of(figure)
    assert first == ('log p(x) = L + KL[q(z|x) || p(z|x)], in nats: 10 of 12 test digits, '
                     'evenly in the order of their gap')
    assert 'agree to within' in second
    agree = np.sum(np.abs(log_p - sampled) < 0.5)
    assert f'is within 0.5 of log p(x) for {agree} digits' in last


def test_red_rows_are_those_that_importance_sampling_misses(show, monkeypatch):
    monkeypatch.setattr(evidence, 'importance_bounds', lambda log_w, ks: np.full((10, 1), -1e3))
    figure, *_ = show(section3.bound, 2)
    assert table(figure)[1] == [section3.RED] * 10
    assert 'for 0 digits; for those in red too few fall where' in texts_of(figure)[2]


def test_more_dimensions_have_a_bound_that_rises_with_k(show):
    figure, model, digits = show(section3.bound, 3)
    x, _ = pictures.spaced(digits, section3.ROWS)
    l_k = evidence.importance_bounds(
        evidence.log_weights(model, x, *evidence.infer(model, x), 100), (1, 10, 100))
    l_k = l_k[np.argsort(l_k[:, 2] - l_k[:, 0])]
    right = figure.axes[2]
    lines = [line for line in right.lines if len(line.get_xdata())]
    assert len(lines) == 11
    for line, wanted in zip(lines, [*l_k, l_k.mean(axis=0)], strict=True):
        assert line.get_xdata().tolist() == [1, 10, 100]
        np.testing.assert_allclose(line.get_ydata(), wanted - wanted[0], atol=1e-9)
        assert (np.diff(line.get_ydata()) >= 0).all()
    columns, _ = table(figure)
    np.testing.assert_allclose(columns['L'], l_k[:, 0], atol=0.0051)
    mean = (l_k[:, 2] - l_k[:, 0]).mean()
    assert f'is {mean:.2f} on average' in texts_of(figure)[1]


@pytest.mark.parametrize('dims', [1, 3])
def test_one_test_digit_has_a_gap(show, dims):
    figure, *_ = show(section3.bound, dims, n=1)
    assert len(figure.axes[0].images) == 1


@pytest.mark.parametrize('dims', [2, 3])
@pytest.mark.filterwarnings('error')
def test_where_q_and_the_posterior_are_the_prior_there_is_no_gap(show, monkeypatch, dims):
    def collapsed(n_in, *sizes):
        model = make(n_in, *sizes)
        for link in (model.le3_mu, model.le3_ln_var, model.ld1):
            link.W.array[:] = 0
        return model

    make = net.VAE
    monkeypatch.setattr(net, 'VAE', collapsed)
    figure, *_ = show(section3.bound, dims)
    columns, _ = table(figure)
    np.testing.assert_allclose(list(columns.values())[2], 0, atol=1e-3)


# The posterior ----------------------------------------------------------------------------------


def test_the_posterior_and_q_stand_in_one_window(show):
    figure, model, digits = show(section3.posterior, 2)
    chosen = section3.measure_gaps(model, digits)               # the rows of bound.png
    gaps = chosen.log_p - chosen.bound
    for i, axes in zip((0, 2, 4, 5, 7, 9), figure.axes[:6], strict=True):
        assert axes.get_title() == f'a {chosen.labels[i]}: gap {gaps[i]:.3g} nats'
        sigma = np.exp(chosen.ln_var[i] / 2)
        for times, ellipse in zip((1, 2, 3), axes.patches, strict=True):
            np.testing.assert_allclose(ellipse.center, chosen.mu[i])
            np.testing.assert_allclose((ellipse.width, ellipse.height), 2 * times * sigma)
        image, = axes.images
        left, right, bottom, top = image.get_extent()
        step = (right - left) / 20
        assert right - left == pytest.approx(top - bottom)
        density = image.get_array()
        assert density.sum() * step ** 2 == pytest.approx(1)
        for row, column in ((3, 15), (10, 10), (16, 5)):        # a row is one of z_2
            z = np.array([[left + (column + 0.5) * step, bottom + (row + 0.5) * step]])
            joint = evidence.log_joint(model, chosen.x[i:i + 1], z)[0, 0]
            assert np.log(density[row, column]) == pytest.approx(joint - chosen.log_p[i], abs=0.05)
    assert '6 of 12 test digits' in figure.get_suptitle()


def test_two_test_digits_have_posteriors(show):
    figure, *_ = show(section3.posterior, 2, n=2)
    assert [bool(axes.images) for axes in figure.axes[:6]] == [True, True] + [False] * 4


# The dimensions ---------------------------------------------------------------------------------


@pytest.mark.parametrize('dims', [1, 2, 8])
def test_dimensions_are_sorted_and_sum_to_the_latent_loss(show, dims):
    figure, model, digits = show(section3.dimensions, dims)
    left, right = figure.axes
    kl = evidence.kl_to_prior(*evidence.infer(model, digits.test)).mean(axis=0)
    order = np.argsort(-kl)
    np.testing.assert_allclose([bar.get_width() for bar in left.containers[0]], kl[order])
    names = [f'$z_{{{j + 1}}}$' for j in order]
    assert [label.get_text() for label in left.get_yticklabels()] == names
    assert [label.get_text() for label in right.get_yticklabels()] == names[:6]
    model.get_loss_func()(digits.test)
    assert kl.sum() == pytest.approx(float(model.latent_loss.array), rel=1e-5)
    assert (f'the mean of 30 test digits: {float(model.latent_loss.array):.2f} nats'
            in figure.get_suptitle())
    assert f'{np.sum(kl > 0.01)} of {dims} dimensions' in figure.get_suptitle()

    mu = evidence.infer(model, digits.test[:1])[0][0]
    shown = right.images[0].get_array()
    assert shown.shape == (28 * min(dims, 6), 28 * 13)
    for row, column in ((0, 0), (0, 12), (min(dims, 6) - 1, 5)):
        z = mu.copy()
        z[order[row]] = -3 + column / 2
        np.testing.assert_allclose(shown[28 * row:28 * (row + 1), 28 * column:28 * (column + 1)],
                                   pictures.decode(model, z[None])[0], atol=1e-6)
    for row, frame in enumerate(right.patches):
        column = frame.get_x() + 0.5
        assert abs(-3 + column / 2 - mu[order[row]]) <= 0.25 or column in (0, 12)
