"""The command line as train_vae.py gets it: one Namespace, with what --resume takes over."""

import argparse
import json
import os

from support.base import files  # lets chainer import
from support.run import options, ranks, run_folder, snapshot

import numpy as np
import pytest
from test_snapshot import last

import train_vae


def parse(*argv):
    """Parse a command line of train_vae.py."""
    return options.parse(train_vae.build_parser(), [str(arg) for arg in argv])


def test_without_resume_nothing_is_resumed():
    args = parse('-z', 3, '--dataset', 'digits', '-o', 'out')
    assert (args.dim_z, args.dataset, args.out) == (3, 'digits', 'out')
    assert (args.resume, args.resumed, args.is_newest) == (None, None, False)


def test_resume_takes_settings_and_arrays_from_the_newest_snapshot(small_run):
    args = parse('--resume', '-o', small_run, '-e', 9)
    assert (args.resume, args.is_newest, args.out) == (last(small_run), True, str(small_run))
    settings = json.loads((small_run / 'args.json').read_text())
    for name in ('dim_z', 'dim_h', 'activation', 'beta', 'k', 'binary', 'test', 'seed',
                 'batch_size', 'snapshot_every', 'keep', 'updater', 'dataset', 'data_dir'):
        assert getattr(args, name) == settings[name], name
    assert (args.epoch, settings['epoch']) == (9, 2)
    with np.load(last(small_run)) as npz:
        assert args.resumed.keys() == set(npz.files)
        for key in npz.files:
            np.testing.assert_array_equal(args.resumed[key], npz[key])


def test_resume_from_a_file_writes_beside_it_or_where_it_is_told(small_run, tmp_path):
    path = small_run / 'snapshot_epoch_1'
    for flags, out in (([], small_run), (['-o', tmp_path / 'new'], tmp_path / 'new')):
        args = parse('--resume', path, *flags)
        assert (args.resume, args.is_newest, args.out) == (str(path), False, str(out))
        assert int(args.resumed['updater/iteration']) == 3


def test_resume_may_take_other_minibatches(small_run):
    command = ['--resume', '-o', small_run]
    assert parse(*command).batch_size == 20
    assert parse(*command, '-b', 5).batch_size == 5


def test_the_folder_is_held_until_the_end(tmp_path, monkeypatch):
    for name in ('PMI_SIZE', 'OMPI_COMM_WORLD_SIZE'):
        monkeypatch.delenv(name, raising=False)
    out = str(tmp_path / 'run')
    with options.parsed(train_vae.build_parser(), ['-o', out]) as args:
        assert isinstance(args.comm, ranks.Alone)
        assert (args.device.xp, args.out, args.resumed) == (np, out, None)
        with pytest.raises(files.FileError, match='in use by another run'), run_folder.claim(out):
            pass
    assert not os.path.exists(out)          # nothing came to lie in it


@pytest.mark.parametrize('kind, most, good, bad', [
    (int, 10, {'1': 1, '10': 10}, ['0', '11', '1.5', 'inf', 'nan', '-3', 'x', '']),
    (float, np.inf, {'1e-9': 1e-9, '3': 3.0}, ['0', '-1', 'inf', 'nan', '1e999', 'x', ''])])
def test_positive(kind, most, good, bad):
    convert = options.positive(kind, most)
    for text, value in good.items():
        assert (convert(text), type(convert(text))) == (value, kind)
    for text in bad:
        with pytest.raises(argparse.ArgumentTypeError, match=f'^{text} is not a positive '):
            convert(text)


def test_no_snapshot_is_left_behind_without_its_log(small_run, monkeypatch, capsys):
    for epoch in (3, 5, 6):
        (small_run / f'snapshot_epoch_{epoch}').touch()
    first = small_run / 'snapshot_epoch_1'
    for flags in (['-e', 1], ['-e', 6], ['-e', 5, '-o', small_run / 'new']):
        assert parse('--resume', first, *flags).resume == str(first)
    with pytest.raises(SystemExit) as end:
        parse('--resume', first, '-e', 5)
    assert end.value.code == 2
    assert 'has a snapshot of epoch 6' in capsys.readouterr().err
    monkeypatch.chdir(small_run.parent)
    name = small_run.name
    for path, folder in ((f'./{name}/{first.name}', f'{name}/'), (first, f'./{name}')):
        with pytest.raises(SystemExit):
            parse('--resume', path, '-e', 5, '-o', folder)
    monkeypatch.chdir(small_run)
    with pytest.raises(SystemExit):
        parse('--resume', first.name, '-e', 5, '-o', '.')


@pytest.mark.parametrize('epoch', [None, np.arange(3), np.array('x'), np.array(np.inf)])
def test_a_snapshot_without_an_epoch_is_refused(cli, small_run, epoch):
    path = small_run / 'snapshot_epoch_1'
    with np.load(path) as npz:
        arrays = {key: npz[key] for key in npz.files if key != snapshot.EPOCH_KEY}
    with open(path, 'wb') as file:
        np.savez(file, **arrays, **({} if epoch is None else {snapshot.EPOCH_KEY: epoch}))
    status, _, err = cli('--resume', path, '-e', 5)
    assert (status, err.count('\n')) == (2, 1)
    assert err.startswith(f'train_vae.py: error: {path} ')


def test_more_samples_than_memory_holds_do_not_go_on(cli, small_run):
    path = small_run / 'snapshot_epoch_1'
    with np.load(path) as npz:
        arrays = dict(npz)
    settings = json.loads(str(arrays[snapshot.SETTINGS_KEY])) | {'k': 10**6}
    with open(path, 'wb') as file:
        np.savez(file, **arrays | {snapshot.SETTINGS_KEY: json.dumps(settings)})
    status, _, err = cli('--resume', path)
    assert (status, err.count('\n')) == (2, 1)
    assert 'was trained with -k 1000000, which takes too much memory' in err


def test_a_folder_is_no_snapshot(small_run):
    with pytest.raises(snapshot.SnapshotError, match=r'is a folder; .* with -o'):
        parse('--resume', small_run)
