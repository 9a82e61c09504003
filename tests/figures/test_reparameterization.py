"""The reparameterization trick in pictures: the draws, and the graph."""

from types import SimpleNamespace

from support.figures import evidence, pictures, reparameterization  # lets chainer import

import chainer.functions as F
from matplotlib.colors import to_hex
from matplotlib.patches import FancyArrowPatch
import numpy as np
import pytest
from shown import figures_of

import net

pytestmark = pytest.mark.usefixtures('one_thread')


@pytest.fixture
def digits():
    """Return 30 test digits."""
    rng = np.random.RandomState(0)
    return SimpleNamespace(test=rng.uniform(size=(30, 784)).astype(np.float32),
                           test_labels=np.arange(30) % 10)


@pytest.mark.parametrize('dims', [2, 5])
def test_a_draw_is_mu_plus_eps_times_sigma(digits, monkeypatch, dims):
    monkeypatch.setattr(reparameterization, 'DRAWS', 5)
    np.random.seed(0)
    model = net.VAE(784, dims, 8, F.softplus)
    mu, ln_var = evidence.infer(model, digits.test[:10])        # the first of each class
    i = ln_var.sum(axis=1).argmax()
    eps = np.random.RandomState(0).standard_normal((5, dims))
    z = mu[i] + eps * np.exp(ln_var[i] / 2)
    used = sorted(np.argsort(-evidence.kl_to_prior(mu[i], ln_var[i]))[:2])
    for t, figure in enumerate(figures_of(monkeypatch, reparameterization.animation, model,
                                          digits)):
        left, right, face, decoded = figure.axes
        for axes, wanted in ((left, eps), (right, z)):
            earlier, now = axes.lines
            np.testing.assert_allclose(np.transpose(earlier.get_data()), wanted[:t][:, used])
            np.testing.assert_allclose(np.transpose(now.get_data()), wanted[t:t + 1][:, used])
        np.testing.assert_array_equal(face.images[0].get_array().ravel(), digits.test[i])
        np.testing.assert_allclose(decoded.images[0].get_array(),
                                   pictures.decode(model, z[t:t + 1])[0], atol=1e-6)
        colors = {text.get_text(): to_hex(handle.get_color()) for text, handle in zip(
            figure.legends[0].get_texts(), figure.legends[0].legend_handles, strict=True)}
        assert colors == {'this draw': to_hex(now.get_color()),
                          'earlier draws': to_hex(earlier.get_color()),
                          'rings: 1, 2 and 3 standard deviations':
                              to_hex(right.patches[0].get_edgecolor())}
        heading = figure.texts[0].get_text()
        assert heading.startswith(f'a {i}, µ = ({mu[i][used[0]]:.2f}, ')
        assert heading.endswith(f'; draw {t + 1} of 5')
        assert ('its two most used of 5 dimensions' in heading) == (dims == 5)
    assert t == 4
    assert np.ptp(right.get_xlim()) == pytest.approx(np.ptp(right.get_ylim()))      # not stretched
    box = right.get_window_extent()
    assert box.width == pytest.approx(box.height, rel=0.01)
    for times, ellipse in zip((1, 2, 3), right.patches, strict=True):
        np.testing.assert_allclose((ellipse.width, ellipse.height),
                                   2 * times * np.exp(ln_var[i] / 2)[used])


def test_the_gradient_flows_back_past_the_noise(monkeypatch):
    figure, = figures_of(monkeypatch, reparameterization.graph)
    without, trick = figure.axes
    counts = []
    for axes in (without, trick):
        arrows = [patch for patch in axes.patches if isinstance(patch, FancyArrowPatch)]
        blue = [to_hex(arrow.get_edgecolor()) == to_hex(reparameterization.BLUE)
                for arrow in arrows]
        counts.append((len(arrows), sum(blue)))
        for arrow, back in zip(arrows, blue, strict=True):
            (start, _), (end, _) = arrow._posA_posB
            assert start > end if back else start <= end
    assert counts == [(8 + 3, 3), (10 + 8, 8)]      # all the way back but for x and the noise
    assert 'ε ~ N(0, I)' in [text.get_text() for text in trick.texts]
