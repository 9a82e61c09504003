"""The diagrams: what they hold, and that no text touches another or leaves the picture."""

from support.base import drawing  # lets chainer import
from support.data import mnist
from support.figures import diagrams

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.patches import FancyArrowPatch, Polygon
import numpy as np
import pytest

DIAGRAMS = {'autoencoder': diagrams.autoencoder, 'vae': diagrams.vae,
            'graphical_model': diagrams.graphical_model}


@pytest.fixture(scope='module')
def axes_of():
    """Return the axes of each diagram by its name."""
    seen = []
    with pytest.MonkeyPatch.context() as patch, drawing.style():
        patch.setattr(drawing, 'save', lambda figure, path: seen.append(figure))
        for draw in DIAGRAMS.values():
            draw(None, None, '')
            FigureCanvasAgg(seen[-1]).draw()
    return {name: figure.axes[0] for name, figure in zip(DIAGRAMS, seen, strict=True)}


@pytest.mark.parametrize('name', DIAGRAMS)
def test_texts_keep_clear(axes_of, name):
    axes = axes_of[name]
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


def texts_and_arrows(axes):
    arrows = [patch for patch in axes.patches if isinstance(patch, FancyArrowPatch)]
    return {text.get_text() for text in axes.texts}, arrows


def test_an_autoencoder_is_a_chain(axes_of):
    axes = axes_of['autoencoder']
    texts, arrows = texts_and_arrows(axes)
    assert {'$x$', 'Encoder', '$z$', 'Decoder', r'$\hat{x}$', 'the code:\n20 numbers'} <= texts
    assert len(arrows) == 4
    x, look = (image.get_array() for image in axes.images)
    test = mnist.get_digits('digits').test.reshape(-1, 28, 28)
    assert (test == x).all(axis=(1, 2)).any()           # a real digit
    assert 0.01 < np.abs(x - look).mean() < 0.1         # and what 20 numbers keep of it
    assert look.min() >= 0 and look.max() <= 1


def test_the_noise_comes_from_the_side(axes_of):
    texts, arrows = texts_and_arrows(axes_of['vae'])
    assert {r'$\mu$', r'$\sigma$', r'$z = \mu + \varepsilon \cdot \sigma$'} <= texts
    upward = [start[0] == end[0] for start, end in (arrow._posA_posB for arrow in arrows)]
    assert (len(arrows), sum(upward)) == (8, 1)


def test_only_the_encoder_is_dashed(axes_of):
    texts, arrows = texts_and_arrows(axes_of['graphical_model'])
    assert {r'$\phi$', r'$\theta$', '$N$', '$z$', '$x$'} <= texts
    assert [arrow.get_linestyle() != '-' for arrow in arrows] == [False, False, True, True]
