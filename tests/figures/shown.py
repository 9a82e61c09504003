"""What tests of figures share: how a picture is read back, models that were edited, a reference."""

from support.base import drawing  # lets chainer import
from support.figures import evidence, pictures, section3, sources

import chainer
from chainer import functions as F
from chainer import links as L
import numpy as np
from PIL import Image
from scipy import ndimage

import net
import visualize


def frames(path):
    """Return the frames of a picture as arrays (height, width, 3), and their milliseconds."""
    with Image.open(path) as image:
        arrays, durations = [], []
        for i in range(getattr(image, 'n_frames', 1)):
            image.seek(i)
            arrays.append(np.asarray(image.convert('RGB')).astype(int))
            durations.append(image.info.get('duration'))
    return arrays, durations


def first_frame(path):
    return frames(path)[0][0]


def check_tiles(array, zoom, wanted, error=2):
    """Make sure that squares on white show digits (N, 784), enlarged, to so many grays."""
    labelled, _ = ndimage.label(array.min(axis=2) < 255)
    found = [array[box][..., 0] for box in ndimage.find_objects(labelled)
             if (box[0].stop - box[0].start, box[1].stop - box[1].start) == (28 * zoom, 28 * zoom)]
    pictures = np.kron(wanted.reshape(-1, 28, 28), np.ones((1, zoom, zoom)))
    np.testing.assert_allclose(found, 255 * pictures, atol=error)


def check_colors(legend, facecolors, labels):
    """Make sure that each point has the colour that the legend gives to its label."""
    colors = {int(text.get_text()): handle.get_color()
              for text, handle in zip(legend.get_texts(), legend.legend_handles, strict=True)}
    assert len(set(colors.values())) == len(colors)
    for color, label in zip(facecolors, labels, strict=True):
        assert tuple(color[:3]) == colors[label]


def figures_of(monkeypatch, draw, model=None, digits=None, **keywords):
    """Draw, and return the Figure in a list, or an iterable of those of all frames."""
    seen = []
    monkeypatch.setattr(drawing, 'save', lambda figure, path: seen.append([figure]))
    monkeypatch.setattr(pictures, 'save_gif', lambda figures, *_, **__: seen.append(figures))
    with drawing.style():
        draw(model, digits, '', **keywords)
    return seen[0]


def coarse(monkeypatch):
    """Let grids, windows, samples and frames of section 3 be few."""
    for module, name, value in ((evidence, 'NODES', 31), (evidence, 'CELLS', 150),
                                (section3, 'CANDIDATES', 12), (section3, 'KS', (1, 10, 100)),
                                (section3, 'WINDOW', 20), (section3, 'DRAWS', 5)):
        monkeypatch.setattr(module, name, value)


def texts_of(figure):
    return [text.get_text() for text in figure.texts]


def numerals(axes):
    return {int(text.get_text()): text for text in axes.texts if text.get_text().isdigit()}


def read_run(*argv):
    """Return the model, digits and settings that a command line of visualize.py names."""
    return sources.read_run(visualize.parse_arguments([str(arg) for arg in argv]))


def refused(result, *parts):
    """Make sure that a command was refused, in one line that has these parts."""
    status, _, err = result
    assert (status, err.count('\n')) == (2, 1), err
    assert err.startswith('visualize.py: error: ')
    for part in parts:
        assert part in err


def as_reference(model, activation='softplus'):
    """Return encode and decode of a VAE, in NumPy alone and float64."""
    weights = {link.name: (link.W.array.astype(float), link.b.array.astype(float))
               for link in model.children()}
    act = {'softplus': lambda h: np.logaddexp(0, h), 'tanh': np.tanh}[activation]

    def through(h, *names):
        for name in names:
            W, b = weights[name]
            h = h @ W.T + b
            h = h if name in ('le3_mu', 'ld3') else act(h)
        return h

    return (lambda x: through(x, 'le1', 'le2', 'le3_mu'),
            lambda z: 1 / (1 + np.exp(-through(z, 'ld1', 'ld2', 'ld3'))))


class InParts(net.VAE):
    """A VAE whose encoder and decoder are chains of their own, and whose loss counts its calls."""

    def __init__(self, n_in, n_latent, n_h, act_func=F.tanh):
        chainer.Chain.__init__(self)
        with self.init_scope():
            self.encoder, self.decoder = (chainer.Sequential(
                L.Linear(first, n_h), L.BatchNormalization(n_h), F.relu, F.dropout,
                L.Linear(n_h, last)) for first, last in ((n_in, 2 * n_latent), (n_latent, n_in)))
        self.add_persistent('steps', 0)

    def encode(self, x):
        return F.split_axis(self.encoder(x), 2, axis=1)

    def decode(self, z, sigmoid=True):
        logits = self.decoder(z)
        return F.sigmoid(logits) if sigmoid else logits

    def get_loss_func(self, C=1.0, k=1):
        lf = super().get_loss_func(C, k)

        def counted(x):
            self.steps += 1
            return lf(x)
        return counted
