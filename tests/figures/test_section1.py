"""autoencoder.png: what stands where, and which runs may stand beside each other."""

from support.base import drawing
from support.figures import pictures, section1  # lets chainer import

import chainer
from conftest import SMALL, train
import numpy as np
from PIL import Image
import pytest

import net
import visualize

pytestmark = pytest.mark.usefixtures('one_thread')


@pytest.fixture(scope='module')
def beside(finished, tmp_path_factory):
    """Return the folder of an autoencoder of the same digits as `finished`."""
    out = tmp_path_factory.mktemp('beside') / 'run'
    train(finished.parent / 'data', out, *SMALL, '--autoencoder')
    return out


def test_both_maps_and_samples_stand_at_their_pixels(draw, finished, beside, tmp_path):
    status, out, err = draw('autoencoder', '-o', finished, '-s', finished / 'snapshot_epoch_2',
                            '--beside', beside)
    assert (status, err) == (0, '')
    path = finished / 'autoencoder.png'
    pixels = np.asarray(Image.open(path).convert('L')) / 255
    path.unlink()
    assert out == f'{path}\n'
    width = section1.WIDTH
    args = visualize.parse_arguments(['-o', str(finished), '--beside', str(beside)])
    vae, _, settings = visualize.sources.read_run(args)
    plain = visualize.sources.read_beside(args, settings)
    assert (type(vae), type(plain)) == (net.VAE, net.Autoencoder)
    corner = np.array([[-2, 2]], np.float32)            # of the map, whose z_2 points up
    noise = np.random.RandomState(0).standard_normal((100, 2)).astype(np.float32)
    for column, model in enumerate((plain, vae)):
        left = section1.LEFT + column * (width + section1.GAP)
        for row, z, zoom in ((1, corner, 1), (2, noise[:1], 2)):
            top = section1.TOP + row * (width + section1.TOP)
            wanted = np.kron(model.decode(z).array.reshape(28, 28), np.ones((zoom, zoom)))
            found = pixels[top:top + 28 * zoom, left:left + 28 * zoom]
            assert np.abs(found - wanted).max() < 0.02, (column, row)


@pytest.mark.parametrize('scale, larger', [(1, False), (50, True)])
def test_codes_are_drawn_at_one_scale_and_small_ones_once_more(monkeypatch, scale, larger):
    figures = []
    monkeypatch.setattr(drawing, 'save', lambda figure, path: figures.append(figure))
    monkeypatch.setattr(pictures, 'encode', lambda model, x: np.array(
        [[1.0, 0], [0, 1], [-1, -1], [1, 1]]) * (scale if model == 'plain' else 1))
    monkeypatch.setattr(pictures, 'decode', lambda model, z: np.zeros((len(z), 28, 28)))
    monkeypatch.setattr(pictures, 'spaced', lambda digits, most: (None, np.arange(4)))
    section1.autoencoder('vae', None, 'path', 'plain')
    panels = [axes for axes in figures[0].axes if 'codes of 4 test digits' in axes.get_title()]
    assert len(panels) == 2
    assert panels[0].get_xlim() == panels[1].get_xlim() == panels[0].get_ylim()
    assert panels[0].get_xlim()[1] >= scale
    insets = [child.get_title() for child in panels[1].child_axes]
    assert [title.endswith('times larger') for title in insets] == [True] * larger
    assert not panels[0].child_axes


def test_without_a_fitting_run_beside(draw, finished, beside, tmp_path):
    status, out, err = draw('autoencoder', '-o', finished)
    assert (status, out, err.count('\n')) == (2, '', 1)
    assert 'autoencoder.png: needs the run of an autoencoder --beside it; make it by: ' in err
    assert f'--autoencoder -z 2 --data-dir {finished.parent / "data"} ' in err
    status, out, err = draw('autoencoder', '-o', finished, '--beside', tmp_path)
    assert (status, out) == (2, '')
    assert f'no snapshot in {tmp_path}; name the folder of a run' in err
    status, out, err = draw('autoencoder', '-o', finished, '--beside', finished)
    assert (status, out) == (2, '')
    assert f'--beside {finished} is no run of train_vae.py --autoencoder -z 2; name one' in err


def test_a_run_of_other_digits_does_not_stand_beside(draw, finished, beside, tmp_path):
    other, weights = tmp_path / 'other', tmp_path / 'vae.model'
    train(None, other, *SMALL, '--autoencoder', '--dataset', 'digits', '--test')
    args = visualize.parse_arguments(['-o', str(finished)])
    chainer.serializers.save_npz(str(weights), visualize.sources.read_run(args)[0])
    alone = '-s', weights, '--data-dir', finished.parent / 'data'
    for given in (('-s', finished / 'snapshot_epoch_2'), alone):
        status, out, err = draw('autoencoder', *given, '-o', tmp_path / 'new', '--beside', other)
        assert (status, out) == (2, ''), given
        assert 'other digits than' in err, given
    assert not (tmp_path / 'new').exists()
    status, out, err = draw('autoencoder', *alone, '-o', tmp_path / 'new', '--beside', beside)
    assert (status, err) == (0, '')


def test_beside_is_refused_where_nothing_shows_it(draw, finished, beside):
    for given in (['scatter'], ['--skip', 'autoencoder']):
        status, out, err = draw(*given, '-o', finished, '--beside', beside)
        assert (status, out) == (2, '')
        assert '--beside is for autoencoder.png, which is not among the figures' in err


def advice(file, out, *flags, **settings):
    """Return the commands that are advised for a figure, without their first words."""
    args = visualize.parse_arguments([file, '-o', str(out), *flags])
    settings = {'autoencoder': False, 'dim_z': 2, 'binary': False, 'test': False, 'data_dir': None,
                'dataset': 'digits', 'checksum': 'x'} | settings
    reason = visualize.misfit(f'{file}.png', visualize.FIGURES[f'{file}.png'], settings, args)
    return [command.removeprefix('python ')
            for command in reason.partition(' make it by: ')[2].split(' && ')]


def test_the_advice_names_what_was_given_and_the_digits_of_the_run(tmp_path):
    out = tmp_path / 'r'
    given = '--dataset', 'digits', '--activation', 'tanh'
    assert advice('autoencoder', out, '-s', 'a.model', *given, binary=True, test=True) == [
        f'train_vae.py --autoencoder -z 2 --dataset digits --binary --test -o {out}_autoencoder',
        f'visualize.py autoencoder --beside {out}_autoencoder --snapshot a.model --dataset digits '
        f'--activation tanh -o {out}']
    assert advice('autoencoder', out, dim_z=20) == [
        f'train_vae.py -z 2 --dataset digits -o {out}_z2',
        f'train_vae.py --autoencoder -z 2 --dataset digits -o {out}_autoencoder',
        f'visualize.py autoencoder --beside {out}_autoencoder -o {out}_z2']
    assert advice('autoencoder', out, '--beside', 'b', dim_z=20)[1:] == [
        f'visualize.py autoencoder --beside b -o {out}_z2']
    assert advice('map', out, dim_z=20, autoencoder=True) == [
        f'train_vae.py --autoencoder -z 2 --dataset digits -o {out}_z2',
        f'visualize.py map -o {out}_z2']


def test_the_advice_leaves_out_what_is_trained_already(draw, finished, beside, tmp_path):
    """A VAE in the folder of the autoencoder is none."""
    args = visualize.parse_arguments(['-o', str(finished)])
    settings = visualize.sources.read_run(args)[2]
    out = tmp_path / 'r'
    (tmp_path / 'r_autoencoder').symlink_to(finished)
    assert len(advice('autoencoder', out, **settings)) == 2
    (tmp_path / 'r_autoencoder').unlink()
    (tmp_path / 'r_autoencoder').symlink_to(beside)
    assert len(advice('autoencoder', out, **settings)) == 1
    assert len(advice('autoencoder', out, **settings | {'checksum': 'other'})) == 2
    command, = advice('autoencoder', out, '-s', str(finished / 'snapshot_epoch_2'), **settings)
    status, _, err = draw(*command.split()[1:])
    assert (status, err) == (0, '')


def test_what_shows_q_is_refused_of_an_autoencoder(draw, beside, tmp_path):
    for figure in ('autoencoder', 'bound', 'posterior', 'dimensions', 'reparameterization.gif'):
        status, out, err = draw(figure, '-s', beside / 'snapshot_epoch_2', '-o', tmp_path / 'out')
        assert (status, out) == (2, '')
        assert 'shows q(z|x), which an autoencoder has not; give the folder of a VAE' in err
    status, out, err = draw('scatter', 'map', 'map_wide', 'projector', 'samples', '-s',
                            beside / 'snapshot_epoch_2', '-o', tmp_path / 'out')
    assert (status, err) == (0, '')
