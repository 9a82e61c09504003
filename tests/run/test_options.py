"""The command line as train_vae.py gets it: one Namespace, with what --resume takes over."""

import json

from support.run import options  # lets chainer import

import pytest
from runs import last

import train_vae


@pytest.mark.parametrize('name, out', [('', ''), ('snapshot_epoch_1', ''),
                                       ('snapshot_epoch_1', 'new')])
def test_resume_takes_settings_arrays_and_folder_from_a_snapshot(small_run, name, out):
    flags = ['-o', str(small_run / out)] * (not name or bool(out))
    args = options.parse(train_vae.build_parser(), [
        '--resume', *([str(small_run / name)] * bool(name)), '-e', '9', *flags])
    path = str(small_run / name) if name else last(small_run)
    assert (args.resume, args.is_newest) == (path, not name)
    assert args.out == str(small_run / out)
    settings = json.loads((small_run / 'args.json').read_text())
    for name in ('dim_z', 'dim_h', 'activation', 'beta', 'k', 'binary', 'test', 'seed',
                 'batch_size', 'snapshot_every', 'keep', 'updater', 'dataset', 'data_dir'):
        assert getattr(args, name) == settings[name], name
    assert (args.epoch, settings['epoch']) == (9, 2)
    assert int(args.resumed['updater/iteration']) == 3 * int(path[-1])
