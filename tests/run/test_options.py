"""The command line as train_vae.py gets it: one Namespace, with what --resume takes over."""

import json
import os

from support.base import files  # lets chainer import
from support.run import options, ranks, run_folder

import numpy as np
import pytest
from runs import last

import train_vae


def parse(*argv):
    """Parse a command line of train_vae.py."""
    return options.parse(train_vae.build_parser(), [str(arg) for arg in argv])


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
