"""autoencoder.png: what stands where, and which runs may stand beside each other."""

from support.figures import pictures, plots, section1  # lets chainer import

import chainer
from conftest import SMALL, train
from matplotlib.colors import to_rgba
from matplotlib.patches import Rectangle
import numpy as np
import pytest
from shown import figures_of, first_frame, read_run, refused

pytestmark = pytest.mark.usefixtures('one_thread')


@pytest.fixture(scope='module')
def beside(finished, tmp_path_factory):
    """Return the folder of an autoencoder of the same digits as `finished`."""
    out = tmp_path_factory.mktemp('beside') / 'run'
    train(finished.parent / 'data', out, *SMALL, '--autoencoder')
    return out


def test_both_maps_and_samples_stand_at_their_pixels(draw, small_run, beside):
    drawn = small_run / 'autoencoder.png'
    assert draw('autoencoder', '-o', small_run, '--beside', beside) == (0, f'{drawn}\n', '')
    pixels = first_frame(drawn)[..., 0] / 255
    (vae, digits, _), (plain, *_) = read_run('-o', small_run), read_run('-o', beside)
    own = pictures.encode(plain, digits.test)
    wide = 1.03 * max(section1.NEAR, *(
        np.quantile(np.abs(pictures.encode(model, digits.test)).max(axis=1), share)
        for model, share in ((plain, 0.99), (vae, 1))))
    corner = np.array([[-1, 1]], np.float32)            # of the map, whose z_2 points up
    noise = np.random.RandomState(0).standard_normal((49, 2)).astype(np.float32)[:1]
    width, top = section1.WIDTH, section1.TOP
    for column, (model, span, z) in enumerate((
            (plain, wide, own.mean(axis=0) + noise * own.std(axis=0)), (plain, 2, noise),
            (vae, 2, noise))):
        left = section1.LEFT + column * (width + section1.GAP)
        for row, at, zoom in ((1, span * corner, 1), (2, z, 2)):
            wanted = np.kron(pictures.decode(model, at)[0], np.ones((zoom, zoom)))
            start = section1.HEAD + row * (width + top) + top
            found = pixels[start:start + 28 * zoom, left:left + 28 * zoom]
            assert np.abs(found - wanted).max() < 0.02, (column, row)


@pytest.mark.parametrize('scale', [1, 50])
def test_codes_stand_at_their_own_scale_in_which_the_other_is_marked(monkeypatch, scale):
    monkeypatch.setattr(pictures, 'encode', lambda model, x: np.array(
        [[1.0, 0], [0, 1], [-1, -1], [1, 1]]) * (scale if model == 'plain' else 1))
    monkeypatch.setattr(pictures, 'decode', lambda model, z: np.zeros((len(z), 28, 28)))
    monkeypatch.setattr(pictures, 'spaced', lambda digits, most: (None, np.arange(4)))
    figure, = figures_of(monkeypatch, section1.autoencoder, 'vae', beside='plain')
    wide, near, vae = figure.axes[0], figure.axes[3], figure.axes[6]
    assert near.get_xlim() == near.get_ylim() == vae.get_xlim() == pytest.approx((-3.4, 3.4), 0.01)
    assert wide.get_xlim()[1] == pytest.approx(1.03 * max(3.3, scale), 1e-6)
    assert [len(axes.collections[0].get_offsets()) for axes in (wide, vae)] == [4, 4]
    marked = [patch for patch in wide.patches if isinstance(patch, Rectangle) and
              to_rgba(patch.get_edgecolor()) == to_rgba(plots.RED)]
    assert [2 * vae.get_xlim()[1]] * len(marked) == pytest.approx([p.get_width() for p in marked])
    assert len(marked) == (scale > 1)
    assert near.get_title() == f'autoencoder: {100 if scale == 1 else 0}% of the codes'


def test_only_an_autoencoder_of_the_same_digits_stands_beside(draw, finished, beside, tmp_path):
    run = 'autoencoder', '-s', finished / 'snapshot_epoch_2', '-o', tmp_path / 'new'
    refused(draw(*run), 'autoencoder.png: needs an autoencoder of the same digits; train one '
            'with: python train_vae.py --autoencoder -z 2 -o results/autoencoder, and ')
    refused(draw(*run, '--beside', tmp_path), f'no snapshot in {tmp_path}; name the folder of ')
    refused(draw(*run, '--beside', finished),
            f'--beside {finished} is no run of train_vae.py --autoencoder -z 2; name one')
    other, weights = tmp_path / 'other', tmp_path / 'vae.model'
    train(None, other, *SMALL, '--autoencoder', '--dataset', 'digits', '--test')
    chainer.serializers.save_npz(str(weights), read_run('-o', finished)[0])
    alone = ('autoencoder', '-s', weights, '--data-dir', finished.parent / 'data', '-o',
             tmp_path / 'new')
    for given in (run, alone):
        refused(draw(*given, '--beside', other), 'other digits than')
    assert not (tmp_path / 'new').exists()
    assert draw(*alone, '--beside', beside)[::2] == (0, '')


def test_what_shows_q_is_refused_of_an_autoencoder(draw, beside, tmp_path):
    out = '-s', beside / 'snapshot_epoch_2', '-o', tmp_path / 'out'
    for figure in ('autoencoder', 'bound', 'posterior', 'dimensions', 'reparameterization.gif'):
        refused(draw(figure, *out), 'shows q(z|x), which an autoencoder does not have; give the ')
    assert draw('scatter', 'map', 'map_wide', 'projector', 'samples', *out)[::2] == (0, '')
