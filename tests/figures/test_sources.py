"""What visualize.py draws from: snapshots of both models, and weights alone."""

from support.run import snapshot  # lets chainer import

import chainer
import numpy as np
import pytest
from runs import rewrite
from shown import read_run, refused

import net


def test_a_snapshot_gives_its_model_digits_and_settings(finished):
    model, digits, settings = read_run('-o', finished)
    assert type(model) is net.VAE
    with np.load(finished / 'snapshot_epoch_2') as npz:
        for name, param in model.namedparams():
            assert np.array_equal(param.array, npz[snapshot.MODEL_PREFIX + name[1:]])
    assert (settings['dim_z'], settings['dim_h'], len(digits.test)) == (2, 16, 30)


@pytest.mark.parametrize('kind', [net.VAE, net.Autoencoder])
@pytest.mark.parametrize('flags, activation', [
    ([], 'softplus'), (['--activation', 'tanh'], 'tanh')])
def test_weights_alone_as_the_notebook_saves_them(data_dir, tmp_path, kind, flags, activation):
    saved = kind(784, 3, 9)
    path = tmp_path / 'mlp_3.model'
    chainer.serializers.save_npz(str(path), saved)
    model, digits, settings = read_run('-s', path, '--data-dir', data_dir, *flags)
    assert (type(model), model.act_func) == (kind, net.ACTIVATIONS[activation])
    saved.act_func = model.act_func
    assert np.array_equal(model(digits.test).array, saved(digits.test).array)
    assert (settings['dim_z'], settings['dim_h'], settings['beta']) == (3, 9, 1)
    _, digits, _ = read_run('-s', path, '--dataset', 'digits')
    assert digits.dataset == 'digits'


def test_weights_in_a_trainer_without_settings(finished, data_dir, tmp_path):
    # as another script's Trainer saves them, by Chainer's own extension
    arrays = {key: array for key, array in snapshot.read(str(finished / 'snapshot_epoch_2')).items()
              if not key.startswith('extensions/run/')}
    np.savez(tmp_path / 'other.npz', **arrays)
    model, digits, settings = read_run('-s', tmp_path / 'other.npz', '--data-dir', data_dir)
    same, _, _ = read_run('-o', finished)
    assert np.array_equal(model(digits.test).array, same(digits.test).array)
    assert (settings['dim_z'], settings['dim_h'], settings['autoencoder']) == (2, 16, False)


@pytest.mark.parametrize('arrays, line', [
    ({'le1/W': np.zeros(3, 'f'), 'le3_mu/W': np.zeros((2, 3), 'f')},
     'does not hold the weights of a VAE'),
    ({'le1/W': np.zeros((3, 784), 'f'), 'le2/W': np.zeros((3, 3)),
      'le3_mu/W': np.zeros((2, 3), 'f')}, 'is of another model'),
    ({'le1/W': np.zeros((90_000, 1), 'f'), 'le3_mu/W': np.zeros((2, 1), 'f')},
     'asks for a model of 16,200,900,000 weights'),     # le2 would take 32 GB
    ({'le1/W': np.zeros((0, 784), 'f'), 'le2/W': np.zeros((0, 0), 'f'),
      'le3_mu/W': np.zeros((2, 0), 'f')}, 'does not hold the weights of a VAE'),
    ({'l1/W': np.zeros((3, 784), 'f'), 'l1/b': np.zeros(3, 'f')},
     'is of another network: it holds l1/W, and no le1/W; use a snapshot of train_vae.py, or a '),
])
def test_what_is_no_model(draw, data_dir, tmp_path, arrays, line):
    np.savez(tmp_path / 'other.npz', **arrays)
    refused(draw('-s', tmp_path / 'other.npz', '--data-dir', data_dir, '-o', tmp_path / 'out'),
            line)
    assert not (tmp_path / 'out').exists()


@pytest.mark.parametrize('flags', [['--activation', 'softplus'], ['--dataset', 'mnist']])
def test_a_snapshot_tells_its_own(draw, finished, flags):
    refused(draw('-o', finished, 'digits', *flags), 'is the snapshot of a run, which has its own ')


def test_a_snapshot_whose_epoch_is_no_number_draws_without_a_record(small_run):
    path = str(small_run / 'snapshot_epoch_2')
    rewrite(path, path, **{snapshot.EPOCH_KEY: np.array([1, 2])})
    _, _, settings = read_run('-s', path)
    assert settings['epochs_done'] == 0
