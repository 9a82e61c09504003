"""What a run leaves behind: readable by the article's class, found and checked, never unpickled."""

import contextlib
import json
import os

from support.data import mnist  # lets chainer import
from support.run import models, run_folder, snapshot

import chainer
import numpy as np
import pytest
from runs import last, rewrite, with_settings
from samples import zipped
from test_net import Article

import net


def test_the_articles_class_loads_it(small_run):
    arrays = snapshot.read(last(small_run))
    found = snapshot.read_settings(arrays, '')
    article = Article(784, 2, 16, net.ACTIVATIONS['softplus'])
    chainer.serializers.load_npz(last(small_run), article, path='updater/model:main/')
    ours = net.VAE(784, 2, 16, net.ACTIVATIONS[found.activation])
    snapshot.load_model(arrays, ours, '')
    x = np.random.RandomState(0).uniform(size=(10, 784)).astype(np.float32)
    np.random.seed(1)
    theirs = article.loss(x, 1.0, 2).array
    np.random.seed(1)
    assert ours.get_loss_func(1.0, 2)(x).array.tobytes() == theirs.tobytes()
    hidden = article.act_func(article.le2(article.act_func(article.le1(x))))
    assert ours.encode(x)[0].array.tobytes() == article.le3_mu(hidden).array.tobytes()


def test_settings_are_one_json_string_and_args_json_says_the_same(small_run):
    with np.load(last(small_run), allow_pickle=False) as npz:
        inside = json.loads(str(npz['extensions/run/settings']))
    assert inside == json.loads((small_run / 'args.json').read_text())
    assert inside == {
        'autoencoder': False, 'n_in': 784, 'dim_z': 2, 'dim_h': 16, 'activation': 'softplus',
        'dataset': 'mnist', 'data_dir': inside['data_dir'],
        'checksum': inside['checksum'], 'binary': False, 'test': False, 'seed': 0,
        'beta': 1.0, 'k': 1, 'batch_size': 20, 'epoch': 2,
        'snapshot_every': 1, 'keep': 5, 'device': 'CPU', 'updater': 'fast',
        'trained_by': 'fast', 'trained_on': inside['trained_on'], 'ranks': 1,
        'methods': inside['methods'], 'optimizer': 'Adam', 'loss': 'negative ELBO',
        'kl_weight': 1.0, 'varied': {}}
    assert inside['methods'] == models.notes_of_net()
    assert os.path.isabs(inside['data_dir'])
    assert inside['checksum'] == mnist.get_digits(data_dir=inside['data_dir']).checksum


def test_newest_has_the_most_iterations_whatever_its_name_or_age(small_run):
    path = small_run / 'snapshot_interrupted'
    iteration = int(snapshot.read(last(small_run))['updater/iteration'])
    for i, newest in ((iteration - 1, last(small_run)), (iteration, last(small_run)),
                      (iteration + 1, str(path))):
        rewrite(last(small_run), path, **{'updater/iteration': np.array(i)})
        os.utime(path, (1, 1))
        assert snapshot.newest(str(small_run)) == newest


@pytest.mark.parametrize('out', ['', 'nowhere'])
def test_newest_needs_a_snapshot(small_run, capsys, tmp_path, out):
    (tmp_path / 'snapshot_epoch_3').mkdir()
    with pytest.raises(snapshot.SnapshotError, match=f'no snapshot in {tmp_path / out}'):
        snapshot.newest(str(tmp_path / out))
    for path in small_run.glob('snapshot_*'):
        path.write_bytes(path.read_bytes()[:-1000])
    with pytest.raises(snapshot.SnapshotError, match=f'no whole snapshot in {small_run}; .*-o'):
        snapshot.newest(str(small_run))
    assert capsys.readouterr().err.count(f'passed over: {small_run / "snapshot_epoch_"}') == 2


@pytest.mark.parametrize('damage', [
    {'updater/iteration': None}, {'updater/iteration': np.array(1.5)},
    {snapshot.SETTINGS_KEY: None}, {}])
def test_newest_passes_over_what_is_damaged_with_a_warning(small_run, damage, capsys):
    path = small_run / 'snapshot_epoch_7'
    rewrite(last(small_run), path, **{'updater/iteration': np.array(21)} | damage)
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= not damage
    path.write_bytes(content)
    assert snapshot.newest(str(small_run)) == last(small_run)
    err = capsys.readouterr().err
    assert err.startswith(f'warning: passed over: {path} ')
    assert ';' not in err       # no advice to do what is done already
    assert err.count('\n') == 1


def test_snapshots_named_alike_are_cleaned_up_by_number(tmp_path, monkeypatch):
    find, gone = run_folder.find_snapshots, str(tmp_path / 'snapshot_epoch_1')
    monkeypatch.setattr(run_folder, 'find_snapshots', lambda out: [gone, *find(out)])
    own = [f'snapshot_epoch_{n}' for n in range(5, 12)]
    others = ['snapshot_epoch_99', 'snapshot_epoch_1.bak', 'snapshot_epoch_best', 'snapshot_iter_3',
              'snapshot_interrupted']
    for name in [*own, *others]:
        (tmp_path / name).touch()
    writer = snapshot.Writer(5)
    writer('snapshot_epoch_12', str(tmp_path), {snapshot.ITERATION_KEY: np.array(36)})
    kept = [f'snapshot_epoch_{n}' for n in (8, 9, 10, 11, 12)]
    assert {path.name for path in tmp_path.iterdir()} == {*kept, *others}
    assert (writer.path, writer.iteration) == (str(tmp_path / 'snapshot_epoch_12'), 36)


def test_an_interrupted_snapshot_goes_when_a_later_one_is_whole(small_run):
    path = small_run / 'snapshot_interrupted'
    arrays = snapshot.read(last(small_run))
    iteration = int(arrays['updater/iteration'])
    writer = snapshot.Writer(5)
    for further, stays in ((1, True), (0, False), (-1, False)):
        rewrite(last(small_run), path, **{'updater/iteration': np.array(iteration + further)})
        writer('snapshot_epoch_2', str(small_run), arrays)
        assert path.exists() == stays


def test_writer_refuses_weights_that_are_not_finite(tmp_path):
    bad = {'updater/model:main/le1/W': np.array([1, np.inf]), snapshot.EPOCH_KEY: np.array(6),
           snapshot.ITERATION_KEY: np.array(40)}
    for name, epoch in (('snapshot_epoch_6', 6), ('snapshot_interrupted', 7)):
        with pytest.raises(FloatingPointError, match=(
                f'^the weight le1/W is not finite in epoch {epoch}, iteration 40; stopped, last '
                'good snapshot: old; ')):
            snapshot.Writer(5, 'old')(name, str(tmp_path), bad)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize('content, message', [
    (zipped({'vae/data.pkl': b'\x80\2}.'}), 'is a pickle, as PyTorch.*save_npz'),
    (b'\1\2\3\4', r'not a snapshot, or damaged \(it is no whole npz file\); use an')])
def test_what_is_no_npz_is_named(tmp_path, content, message):
    (tmp_path / 'other').write_bytes(content)
    with pytest.raises(snapshot.SnapshotError, match=message):
        snapshot.read(str(tmp_path / 'other'))


def test_weights_alone_are_no_run_and_those_of_another_network_are_named(tmp_path):
    other = chainer.Sequential(chainer.links.Linear(784, 10), chainer.links.Linear(10, 10))
    vae = net.VAE(784, 2, 16)
    for model, read, message in (
            (vae, snapshot.read_settings, r'of no run .*; start .*, with -m'),
            (other, snapshot.read_settings, 'FILE is of another network: it holds 0/W, 1/W, and'),
            (other, lambda arrays, path: snapshot.load_model(arrays, vae, path),
             r'FILE is of another network: it holds 0/W, 1/W, and no l.1/W; .*save_npz')):
        chainer.serializers.save_npz(str(tmp_path / 'file'), model)
        with pytest.raises(snapshot.SnapshotError, match=message):
            read(snapshot.read(str(tmp_path / 'file')), 'FILE')


@pytest.mark.parametrize('n_in, dim_h, dim_z, fits', [
    (784, 3000, 2, True), (784, 4000, 2, False), (1, 10**5, 1, False), (10**6, 160, 2, False),
    (784, 160, 10**6, False)])
def test_a_file_cannot_ask_for_a_model_much_larger_than_itself(small_run, n_in, dim_h, dim_z, fits):
    """A model of these sizes is made before its weights are looked at, and may take all memory."""
    arrays = snapshot.read(with_settings(last(small_run), small_run / 'asks', n_in=n_in,
                                         dim_h=dim_h, dim_z=dim_z))
    for dtype, fits_now in ((np.int8, fits), (np.float32, max(n_in, dim_h, dim_z) < 10**5)):
        arrays[snapshot.MODEL_PREFIX + 'le2/W'] = np.zeros((4000, 5000), dtype)
        with contextlib.nullcontext() if fits_now else pytest.raises(
                snapshot.SnapshotError, match=r'FILE asks for a model of [0-9,]+ weights, '):
            assert snapshot.read_settings(arrays, 'FILE').dim_h == dim_h


def test_settings_that_do_not_fit_are_refused(small_run):
    arrays = snapshot.read(with_settings(last(small_run), small_run / 'bad', k=-1))
    with pytest.raises(snapshot.SnapshotError, match=(
            r"^FILE does not hold a run of train_vae.py \(its k is '-1'\); use another snapshot$")):
        snapshot.read_settings(arrays, 'FILE')


def test_other_values_of_a_model(small_run):
    arrays, model = snapshot.read(last(small_run)), net.VAE(784, 2, 16)
    model.add_persistent('scale', np.ones(1, np.float32))
    with pytest.raises(snapshot.SnapshotError, match='is of another model: it has no scale; '):
        snapshot.load_model(arrays, model, 'FILE')
    surplus = {snapshot.MODEL_PREFIX + 'ld4/W': np.ones((3, 3), np.float32)}
    model = net.VAE(784, 2, 16)
    with pytest.raises(snapshot.SnapshotError, match='is of another model: it has ld4/W besides'):
        snapshot.load_model(arrays | surplus, model, 'FILE')
    del model.le1
    with model.init_scope():
        model.le1 = chainer.links.Linear(None, 16)              # whose size the weights tell
    snapshot.load_model(arrays, model, 'FILE')
    assert np.array_equal(model.le1.W.array, arrays[snapshot.MODEL_PREFIX + 'le1/W'])


@pytest.mark.parametrize('change, fits', [
    (lambda good: good.astype('>f4'), True), (lambda good: good.astype(float), False),
    (lambda good: good[0], False)])                             # which would broadcast
def test_weights_are_float32_and_of_their_shape(small_run, change, fits):
    arrays = snapshot.read(last(small_run))
    key = snapshot.MODEL_PREFIX + 'ld3/W'
    good, arrays[key] = arrays[key], change(arrays[key])
    model = net.VAE(784, 2, 16)
    with contextlib.nullcontext() if fits else pytest.raises(
            snapshot.SnapshotError, match=r'its ld3/W is float.* not float32'):
        snapshot.load_model(arrays, model, 'FILE')
    assert np.array_equal(model.ld3.W.array, good) == fits


def test_the_newest_is_found_while_a_run_deletes_older_ones(small_run, monkeypatch, capsys):
    def read(path, *args, **kwargs):
        if epochs:                  # meanwhile the run has written another and deleted this one
            os.rename(path, small_run / f'snapshot_epoch_{epochs.pop(0)}')
        return plain(path, *args, **kwargs)

    plain = snapshot.read
    (small_run / 'snapshot_epoch_1').unlink()
    monkeypatch.setattr(snapshot, 'read', read)
    epochs = [3, 4]
    path, arrays = snapshot.read_newest(str(small_run))
    assert (path, 'updater/iteration' in arrays) == (
        str(small_run / 'snapshot_epoch_4'), True)
    assert capsys.readouterr().err == ''
