"""The diagrams: what they hold, and that no text touches another or leaves the picture."""

from support.base import drawing  # lets chainer import
from support.data import mnist
from support.figures import diagrams

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import to_hex
from matplotlib.patches import FancyArrowPatch, Polygon
import numpy as np
import pytest

DRAW = {'autoencoder': diagrams.autoencoder, 'vae': diagrams.vae,
        'graphical_model': diagrams.graphical_model, 'trick': diagrams.reparameterization}


@pytest.fixture(scope='module')
def axes_of():
    """Return a function that returns the axes of a diagram, and their texts and arrows."""
    def look(name, place=0):
        axes = seen[[*DRAW].index(name)].axes[place]
        arrows = [patch for patch in axes.patches if isinstance(patch, FancyArrowPatch)]
        return axes, {text.get_text() for text in axes.texts}, arrows

    seen = []
    with pytest.MonkeyPatch.context() as patch, drawing.style():
        patch.setattr(drawing, 'save', lambda figure, path: seen.append(figure))
        for draw in DRAW.values():
            draw(None, None, '')
            FigureCanvasAgg(seen[-1]).draw()
    return look


@pytest.mark.parametrize('name, place', [*((name, 0) for name in DRAW), ('trick', 1)])
def test_texts_keep_clear(axes_of, name, place):
    axes = axes_of(name, place)[0]
    boxes = [text.get_window_extent() for text in axes.texts]
    for i, box in enumerate(boxes):
        assert axes.bbox.containsx(box.x0) and axes.bbox.containsx(box.x1)
        assert axes.bbox.containsy(box.y0) and axes.bbox.containsy(box.y1)
        assert not any(box.overlaps(other) for other in boxes[:i]), axes.texts[i].get_text()
        # a text stands in a network or outside it, and never on a picture
        for patch in axes.patches:
            if isinstance(patch, Polygon):
                path = patch.get_path().transformed(patch.get_transform())
                assert path.contains_points(box.corners()).sum() in (0, 4)
                assert path.contains_points(box.corners()).all() or not path.intersects_bbox(box)
        assert not any(box.overlaps(image.get_window_extent()) for image in axes.images)


def test_an_autoencoder_shows_a_digit_and_what_its_code_keeps(axes_of):
    x, look = (image.get_array() for image in axes_of('autoencoder')[0].images)
    test = mnist.get_digits('digits').test.reshape(-1, 28, 28)
    assert (test == x).all(axis=(1, 2)).any()           # a real digit
    assert 0.01 < np.abs(x - look).mean() < 0.1         # and what 20 numbers keep of it
    assert look.min() >= 0 and look.max() <= 1


def test_arrows_say_what_is_known_and_where_noise_comes_from(axes_of):
    _, texts, arrows = axes_of('vae')
    assert r'$z = \mu + \varepsilon \cdot \sigma$' in texts
    assert sum(start[0] == end[0] for start, end in (arrow._posA_posB for arrow in arrows)) == 1
    _, texts, arrows = axes_of('graphical_model')       # the encoder alone is dashed
    assert {r'$\phi$', r'$\theta$', '$N$', '$z$', '$x$'} <= texts
    assert [arrow.get_linestyle() != '-' for arrow in arrows] == [False, False, True, True]


def test_the_gradient_flows_back_past_the_noise(axes_of):
    counts = []
    for place in (0, 1):
        _, texts, arrows = axes_of('trick', place)
        blue = [to_hex(arrow.get_edgecolor()) == to_hex(diagrams.BLUE) for arrow in arrows]
        counts.append((len(arrows), sum(blue)))
        for arrow, back in zip(arrows, blue, strict=True):
            (start, _), (end, _) = arrow._posA_posB
            assert start > end if back else start <= end
    assert counts == [(8 + 3, 3), (10 + 8, 8)]      # all the way back but for x and the noise
    assert 'ε ~ N(0, I)' in texts
