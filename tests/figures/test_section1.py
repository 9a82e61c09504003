"""autoencoder.png: what stands where, and which runs may stand beside each other."""

from support.figures import pictures, section1, sources  # lets chainer import

import chainer
from conftest import SMALL, train
import numpy as np
import pytest
from shown import figures_of, first_frame, read_run, refused

import net
import visualize

pytestmark = pytest.mark.usefixtures('one_thread')


@pytest.fixture(scope='module')
def beside(finished, tmp_path_factory):
    """Return the folder of an autoencoder of the same digits as `finished`."""
    out = tmp_path_factory.mktemp('beside') / 'run'
    train(finished.parent / 'data', out, *SMALL, '--autoencoder')
    return out


def test_both_maps_and_samples_stand_at_their_pixels(draw, small_run, beside):
    status, out, err = draw('autoencoder', '-o', small_run, '--beside', beside)
    assert (status, out, err) == (0, f'{small_run / "autoencoder.png"}\n', '')
    pixels = first_frame(small_run / 'autoencoder.png')[..., 0] / 255
    args = visualize.parse_arguments(['-o', str(small_run), '--beside', str(beside)])
    vae, _, settings = sources.read_run(args)
    plain = sources.read_beside(args, settings)
    assert (type(vae), type(plain)) == (net.VAE, net.Autoencoder)
    corner = np.array([[-2, 2]], np.float32)            # of the map, whose z_2 points up
    noise = np.random.RandomState(0).standard_normal((100, 2)).astype(np.float32)
    for column, model in enumerate((plain, vae)):
        left = section1.LEFT + column * (section1.WIDTH + section1.GAP)
        for row, z, zoom in ((1, corner, 1), (2, noise[:1], 2)):
            top = section1.TOP + row * (section1.WIDTH + section1.TOP)
            wanted = np.kron(model.decode(z).array.reshape(28, 28), np.ones((zoom, zoom)))
            found = pixels[top:top + 28 * zoom, left:left + 28 * zoom]
            assert np.abs(found - wanted).max() < 0.02, (column, row)


@pytest.mark.parametrize('scale, larger', [(1, False), (50, True)])
def test_codes_are_drawn_at_one_scale_and_small_ones_once_more(monkeypatch, scale, larger):
    monkeypatch.setattr(pictures, 'encode', lambda model, x: np.array(
        [[1.0, 0], [0, 1], [-1, -1], [1, 1]]) * (scale if model == 'plain' else 1))
    monkeypatch.setattr(pictures, 'decode', lambda model, z: np.zeros((len(z), 28, 28)))
    monkeypatch.setattr(pictures, 'spaced', lambda digits, most: (None, np.arange(4)))
    figure, = figures_of(monkeypatch, section1.autoencoder, 'vae', beside='plain')
    panels = [axes for axes in figure.axes if 'codes of 4 test digits' in axes.get_title()]
    assert len(panels) == 2
    assert panels[0].get_xlim() == panels[1].get_xlim() == panels[0].get_ylim()
    assert panels[0].get_xlim()[1] >= scale
    insets = [child.get_title() for child in panels[1].child_axes]
    assert [title.endswith('times larger') for title in insets] == [True] * larger
    assert not panels[0].child_axes


def test_only_an_autoencoder_of_the_same_digits_stands_beside(draw, finished, beside, tmp_path):
    run = 'autoencoder', '-s', finished / 'snapshot_epoch_2', '-o', tmp_path / 'new'
    refused(draw(*run), 'autoencoder.png: needs the run of an autoencoder; train one with: python '
            'train_vae.py --autoencoder -z 2 -o results/autoencoder, and give --beside ')
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
