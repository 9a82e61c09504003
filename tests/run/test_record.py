"""record.py: what is noted after each epoch is what the snapshot's model makes of test digits.

That a run ends as without it, test_parts.py shows.
"""

import os

from support.base import files
from support.data import mnist  # lets chainer import
from support.run import record, snapshot

from conftest import SMALL
import numpy as np
import pytest

import net


def model_of(run, epoch, made=net.VAE):
    path = str(run / f'snapshot_epoch_{epoch}')
    model = made(784, 2, 16, net.ACTIVATIONS['softplus'])
    snapshot.load_model(snapshot.read(path), model, path)
    return model


def check_noted(noted, model, digits):
    codes = model.encode(digits.test[noted['places']])
    codes = codes if isinstance(codes, tuple) else (codes,)
    for name, code in zip(('mu', 'ln_var'), codes, strict=False):
        np.testing.assert_allclose(noted[name], code.array, rtol=1e-5, atol=1e-6)
    first = [int(np.flatnonzero(digits.test_labels == label)[0]) for label in range(10)]
    z = np.random.RandomState(0).standard_normal((25, 2)).astype(np.float32)
    for name, decoded in (('reconstruction', model(digits.test[first])),
                          ('samples', model.decode(z))):
        assert noted[name].dtype == np.uint8
        np.testing.assert_allclose(noted[name] / 255, decoded.array, atol=0.5 / 255 + 1e-6)


@pytest.mark.parametrize('flags, made', [([], net.VAE), (['--autoencoder'], net.Autoencoder)])
def test_it_is_what_the_model_makes_of_test_digits(cli, data_dir, tmp_path, flags, made):
    out = tmp_path / 'run'
    assert cli('--data-dir', data_dir, *SMALL, *flags, '-o', out)[0::2] == (0, '')
    noted, digits = record.read(str(out), 99), mnist.get_digits(data_dir=str(data_dir))
    assert [*noted] == [0, 1, 2]
    assert ('ln_var' in noted[0]) == (made is net.VAE)
    for epoch in (1, 2):
        check_noted(noted[epoch], model_of(out, epoch, made), digits)
    np.random.seed(0)                       # of the run, whose first draws are the weights
    check_noted(noted[0], made(784, 2, 16, net.ACTIVATIONS['softplus']), digits)


def test_a_resumed_run_goes_on_with_it_and_rewrites_what_lies_ahead(cli, data_dir, tmp_path):
    flags = ['--data-dir', data_dir, *SMALL]
    assert cli(*flags, '-e', 4, '-o', tmp_path / 'whole')[0] == 0
    out = tmp_path / 'run'
    assert cli(*flags, '-e', 2, '-o', out)[0] == 0
    first = (out / 'record' / 'epoch_1.npz').stat().st_mtime_ns
    (out / 'record' / 'epoch_9.npz').write_bytes(b'of a run that went further')
    (out / 'record' / '.epoch_9.npz.7.part').write_bytes(b'of a run that was killed')
    assert cli('--resume', '-e', 4, '-o', out)[0] == 0
    assert sorted(os.listdir(out / 'record')) == [f'epoch_{i}.npz' for i in range(5)]
    assert (out / 'record' / 'epoch_1.npz').stat().st_mtime_ns == first
    whole, parts = (record.read(str(tmp_path / name), 4) for name in ('whole', 'run'))
    for epoch, arrays in whole.items():
        for name, array in arrays.items():
            assert np.array_equal(parts[epoch][name], array), (epoch, name)


def test_a_full_disk_costs_the_record_and_not_the_run(cli, data_dir, tmp_path, monkeypatch):
    def write(path, *rest, **options):
        if 'record' in path:
            raise files.FileError(f'cannot write {path} (No space left on device); ')
        return had(path, *rest, **options)

    had = files.write_npz
    monkeypatch.setattr(files, 'write_npz', write)
    status, _, err = cli('--data-dir', data_dir, *SMALL, '-o', tmp_path / 'run')
    assert status == 0
    assert err.startswith('warning: the record for training.gif is not whole: epoch 0 is not noted')
    assert err.count('\n') == 1
    assert (tmp_path / 'run' / 'snapshot_epoch_2').exists()


def test_what_an_edited_net_py_does_not_give_is_left_out(cli, data_dir, tmp_path, monkeypatch):
    class Conditional(net.VAE):
        def decode(self, z, sigmoid=True, label=None):
            if not sigmoid or label is not None:
                return super().decode(z, sigmoid)
            raise TypeError('decode needs a label')

    monkeypatch.setattr(net, 'VAE', Conditional)
    status, _, err = cli('--data-dir', data_dir, *SMALL, '-o', tmp_path / 'run')
    assert status == 0
    assert err == ('warning: the record for training.gif is not whole: some of it is left out '
                   '(TypeError: decode needs a label); the run goes on\n')
    noted = record.read(str(tmp_path / 'run'), 2)
    assert [{*arrays} for arrays in noted.values()] == [{'places', 'mu', 'ln_var'}] * 3
