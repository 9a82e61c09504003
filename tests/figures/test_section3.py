"""The figures of section 3: what their bars, pictures and headings say of the model at hand."""

import re
from types import SimpleNamespace

from support.base import drawing  # lets chainer import
from support.figures import evidence, pictures, section3

import chainer.functions as F
from matplotlib.colors import to_hex, to_rgba
import numpy as np
import pytest
from shown import coarse, figures_of, texts_of

import net

pytestmark = pytest.mark.usefixtures('one_thread')


@pytest.fixture
def made(monkeypatch):
    """Return a function that returns a new model and n test digits; let figures be quick."""
    coarse(monkeypatch)

    def run(dims, n=30):
        np.random.seed(0)
        model = net.VAE(784, dims, 8, F.softplus)
        return model, SimpleNamespace(test=np.random.uniform(size=(n, 784)).astype(np.float32),
                                      test_labels=np.arange(n) % 10)
    return run


@pytest.fixture
def show(made, monkeypatch):
    """Return a function that draws a figure of a new model, and returns it, model and digits."""
    def run(draw, dims, n=30):
        model, digits = made(dims, n)
        keywords = {} if draw == section3.dimensions else {
            'gaps': lambda: section3.measure_gaps(model, digits)}
        figure, = figures_of(monkeypatch, draw, model, digits, **keywords)
        with drawing.style():
            figure.canvas.draw()
        return figure, model, digits
    return run


def table(figure):
    """Return the texts of each column of the table by its heading, and the colours of its rows."""
    cells = figure.axes[3].texts
    heads = [cell.get_text() for cell in cells if cell.get_position()[1] < 0]
    columns = np.array([cell.get_text() for cell in cells]).reshape(len(heads), -1)[:, 1:]
    return dict(zip(heads, columns, strict=True)), [
        cell.get_color() for cell in cells[-columns.shape[1]:]]


def check_bars(axes, least, total):
    """Make sure that bars reach from 0 to `least`, and others from there to the total, (N,)."""
    blue, red = axes.containers
    assert axes.get_xlim()[0] == 0
    for bars, start, end in ((blue, 0 * least, least), (red, least, total)):
        np.testing.assert_allclose([bar.get_x() for bar in bars], start)
        np.testing.assert_allclose([bar.get_x() + bar.get_width() for bar in bars], end)


@pytest.mark.parametrize('dims', [1, 2])
def test_bars_and_markers_show_the_gap(show, dims):
    figure, model, digits = show(section3.bound, dims)
    x, *_, log_p, lower, kl, _, n = section3.measure_gaps(model, digits)
    assert (len(x), n) == (10, 12)
    assert (np.diff(log_p - lower) >= 0).all()
    np.testing.assert_allclose(log_p - lower, kl, atol=0.01)
    faces, left, right, _ = figure.axes
    np.testing.assert_array_equal([image.get_array().ravel() for image in faces.images], x)
    check_bars(left, -log_p, -lower)
    for line, wanted in zip(right.lines, (log_p - lower, kl), strict=True):
        np.testing.assert_allclose(line.get_xdata(), wanted)
    columns, _ = table(figure)
    assert list(columns) == ['-log p(x)', '-L', 'gap', 'KL']
    for texts, wanted in zip(columns.values(), (-log_p, -lower, log_p - lower, kl), strict=True):
        np.testing.assert_allclose(texts.astype(float), wanted, atol=0.0051)
    _, second, last = texts_of(figure)
    assert second.startswith('10 of 12 test digits, evenly in the order of their gap')
    apart = float(re.search('agree to within (.*) nats', last)[1])
    assert apart == pytest.approx(np.abs(log_p - lower - kl).max(), rel=0.5)


def test_more_dimensions_have_a_bound_that_rises_with_k(show):
    figure, model, digits = show(section3.bound, 3)
    x, _ = pictures.spaced(digits, section3.ROWS)
    l_k = evidence.importance_bounds(
        evidence.log_weights(model, x, *evidence.infer(model, x), 100), (1, 10, 100))
    l_k = l_k[np.argsort(l_k[:, 2] - l_k[:, 0])]
    check_bars(figure.axes[1], -l_k[:, 2], -l_k[:, 0])
    right = figure.axes[2]
    lines = [line for line in right.lines if len(line.get_xdata())]
    assert len(lines) == 11
    for line, wanted in zip(lines, [*l_k, l_k.mean(axis=0)], strict=True):
        assert line.get_xdata().tolist() == [1, 10, 100]
        np.testing.assert_allclose(line.get_ydata(), wanted - wanted[0], atol=1e-9)
        assert (np.diff(line.get_ydata()) >= 0).all()
    columns, _ = table(figure)
    for name, wanted in (('-L', -l_k[:, 0]), ('gap ≥', l_k[:, 2] - l_k[:, 0])):
        np.testing.assert_allclose(columns[name].astype(float), wanted, atol=0.0051)
    mean = (l_k[:, 2] - l_k[:, 0]).mean()
    assert f'{mean:.2f} on average' in texts_of(figure)[0]


def test_red_rows_say_that_too_few_samples_count(show, monkeypatch):
    def one_weighs_all(model, x, mu, ln_var, k):
        log_w = np.full((len(x), k), -100.0)
        log_w[:3, 0] = -50
        return log_w

    monkeypatch.setattr(evidence, 'log_weights', one_weighs_all)
    figure, *_ = show(section3.bound, 3)
    columns, colors = table(figure)                     # in the order of the rise
    assert columns['samples'].tolist() == ['100'] * 7 + ['too few'] * 3
    assert colors == ['black'] * 7 + [section3.RED] * 3


@pytest.mark.parametrize('draw, dims, n', [
    (section3.bound, 1, 1), (section3.bound, 3, 1), (section3.posterior, 2, 2)])
def test_few_test_digits_are_enough(show, draw, dims, n):
    figure, *_ = show(draw, dims, n)
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
    np.testing.assert_allclose(list(columns.values())[2].astype(float), 0, atol=1e-3)


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
    key, = figure.legends                               # the colours are those that are drawn
    blue, red = key.legend_handles
    assert red.get_color() == section3.RED
    np.testing.assert_allclose(axes.patches[0].get_edgecolor(), to_rgba(red.get_color()))
    shades = axes.images[0].get_cmap()(np.linspace(0, 1, 256))
    assert np.abs(shades - blue.get_facecolor()).max(axis=1).min() < 0.02


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
    assert (f'the mean of 30 test digits: {float(model.latent_loss.array):.2f} nats, to which '
            f'{np.sum(kl > 0.01)} of {dims} dimensions') in figure.get_suptitle()
    assert left.get_xlim() == pytest.approx((0, max(1, 1.15 * kl.max())))
    gray = [bar.get_facecolor() == to_rgba(section3.GRAY) for bar in left.containers[0]]
    assert gray == (kl[order] <= 0.01).tolist()
    mu = evidence.infer(model, digits.test[:1])[0][0]
    shown = right.images[0].get_array()
    assert shown.shape == (28 * min(dims, 6), 28 * 13)
    for row, column in ((0, 0), (0, 12), (min(dims, 6) - 1, 5)):
        z = mu.copy()
        z[order[row]] = -3 + column / 2
        np.testing.assert_allclose(shown[28 * row:28 * (row + 1), 28 * column:28 * (column + 1)],
                                   pictures.decode(model, z[None])[0], atol=1e-6)
    for frame, own in zip(right.patches, mu[order], strict=False):
        assert abs(-3 + (frame.get_x() + 0.5) / 2 - own) <= 0.25 or abs(own) > 3


@pytest.mark.parametrize('dims', [2, 5])
def test_a_draw_is_mu_plus_eps_times_sigma(made, monkeypatch, dims):
    model, digits = made(dims)
    mu, ln_var = evidence.infer(model, digits.test[:10])        # the first of each class
    i = ln_var.sum(axis=1).argmax()
    eps = np.random.RandomState(0).standard_normal((5, dims))
    z = mu[i] + eps * np.exp(ln_var[i] / 2)
    used = sorted(np.argsort(-evidence.kl_to_prior(mu[i], ln_var[i]))[:2])
    for t, figure in enumerate(figures_of(monkeypatch, section3.reparameterization,
                                          model, digits)):
        left, right, face, decoded = figure.axes
        for axes, wanted in ((left, eps), (right, z)):
            earlier, now = axes.lines
            np.testing.assert_allclose(np.transpose(earlier.get_data()), wanted[:t][:, used])
            np.testing.assert_allclose(np.transpose(now.get_data()), wanted[t:t + 1][:, used])
        np.testing.assert_array_equal(face.images[0].get_array().ravel(), digits.test[i])
        np.testing.assert_allclose(decoded.images[0].get_array(),
                                   pictures.decode(model, z[t:t + 1])[0], atol=1e-6)
        assert [to_hex(handle.get_color()) for handle in figure.legends[0].legend_handles] == [
            to_hex(of) for of in (now.get_color(), earlier.get_color(),
                                  right.patches[0].get_edgecolor())]
        heading = figure.texts[0].get_text()
        assert heading.startswith(f'a {i}, µ = ({mu[i][used[0]]:.2f}, ')
        assert heading.endswith(f'; draw {t + 1} of 5')
        assert ('its two most used of 5 dimensions' in heading) == (dims == 5)
    assert t == 4
    assert np.ptp(right.get_xlim()) == pytest.approx(np.ptp(right.get_ylim()))      # not stretched
    for times, ellipse in zip((1, 2, 3), right.patches, strict=True):
        np.testing.assert_allclose((ellipse.width, ellipse.height),
                                   2 * times * np.exp(ln_var[i] / 2)[used])
