"""visualize.py as a command: which figures it names, what fails, and what it says then."""

import json
import os
import re
import signal
import subprocess
import sys

from support.run import snapshot

from chainer import using_config
from conftest import SMALL, needs_gpu, train
import numpy as np
from PIL import Image
import pytest
from shown import first_frame, refused

import net
import visualize

pytestmark = pytest.mark.usefixtures('one_thread')


@pytest.fixture
def few(monkeypatch):
    """Return a function that leaves few figures in the table."""
    def only(*names):
        monkeypatch.setattr(visualize, 'FIGURES', {key: FIGURES[key] for key in names})

    FIGURES = visualize.FIGURES
    only('reconstruction.png', 'digits.png',                        # which encode,
         'map_wide.png', 'reparameterization.png')                  # decodes; needs no model
    return only


def test_help_lists_every_figure(draw):
    status, out, _ = draw('--help')
    assert status == 0
    for file, recipe in visualize.FIGURES.items():
        assert re.search(f'^  {file} +{re.escape(recipe.draw.__doc__.splitlines()[0])}$', out, re.M)
    assert max(map(len, out.splitlines())) <= 80


def test_chosen_and_skipped_figures(draw, small_run, few):
    few('reconstruction.png', 'digits.png', 'samples.png', 'projector')
    status, out, err = draw('-o', small_run, '--skip', 'samples', '--skip', 'projector/')
    assert (status, err) == (0, '')
    assert out.split() == [str(small_run / name) for name in ('reconstruction.png', 'digits.png')]
    out = draw('samples.png', 'digits', '-o', small_run)[1]
    assert out.split() == [str(small_run / name) for name in ('digits.png', 'samples.png')]


@pytest.mark.parametrize('flags, parts', [
    (['nothing'], ['unknown figure nothing', 'the figures are explorer, autoencoder_net, ']),
    (['--skip', 'loss'], ['unknown figure loss']),
    (['interpolation_1to2'], ['interpolation with --start 1 --end 2']),
    (['map', '--skip', 'map'], ['no figure']),
    (['--start', '7'], ['starts and ends at 7']),
    (['digits', '--start', '12'], ['no 12 among the test digits', 'from 0, 1, 2']),
    (['scatter', '--beside', 'run'], ['--beside is for autoencoder.png']),
    (['digits', '--data-dir', 'nowhere'], ['nowhere is not a folder']),
    (['digits', '-s', 'nowhere'], ['nowhere', 'No such file']),
    (['digits', '-o', 'nowhere'], ['no snapshot in nowhere']),
    (['digits', '--gpu', '99'], ['--gpu 99'])])
def test_bad_arguments(draw, small_run, monkeypatch, tmp_path, flags, parts):
    monkeypatch.chdir(tmp_path)
    before = sorted(small_run.iterdir())
    refused(draw(*([] if '-o' in flags else ['-o', small_run]), *flags), *parts)
    assert sorted(small_run.iterdir()) == before
    assert not (tmp_path / 'nowhere').exists()


def test_the_newest_snapshot_or_another(draw, small_run, tmp_path):
    first, second = (small_run / f'snapshot_epoch_{number}' for number in (1, 2))
    drawn = []
    for flags, out in ((['-s', first, '-o', tmp_path / 'a' / 'new'], tmp_path / 'a' / 'new'),
                       (['-s', second], small_run), (['-o', small_run], small_run)):
        assert draw('digits', *flags) == (0, f'{out / "digits.png"}\n', '')
        drawn.append((out / 'digits.png').read_bytes())
    assert drawn[0] != drawn[1] == drawn[2]


def test_a_figure_without_a_snapshot(draw, tmp_path):
    drawn = tmp_path / 'new' / 'reparameterization.png'
    assert draw('reparameterization.png', '-o', tmp_path / 'new') == (0, f'{drawn}\n', '')


def test_bad_snapshots(draw, small_run, tmp_path):
    good = snapshot.read(str(small_run / 'snapshot_epoch_2'))
    settings = json.loads(str(good[snapshot.SETTINGS_KEY]))
    bias = snapshot.MODEL_PREFIX + 'ld3/b'
    for changes, part in (
            ({'activation': 'swish'}, 'swish, and this net.py has softplus'),
            ({'checksum': '0'}, 'was trained on other digits'),
            ({'dim_z': 5}, 'is of another model'), ({bias: good[bias] * np.nan}, 'not finite')):
        arrays = good | changes if bias in changes else good | {
            snapshot.SETTINGS_KEY: np.array(json.dumps(settings | changes))}
        np.savez(tmp_path / 'bad.npz', **arrays)
        refused(draw('-s', tmp_path / 'bad.npz', '-o', tmp_path / 'out'), part)
        assert not (tmp_path / 'out').exists()
    (tmp_path / 'bad.npz').write_bytes((small_run / 'snapshot_epoch_2').read_bytes()[:5000])
    refused(draw('digits', '-s', tmp_path / 'bad.npz', '-o', tmp_path / 'out'), 'is damaged')
    refused(draw('digits', '-o', small_run, '--data-dir', tmp_path), 'has neither train-images')


def test_a_model_that_net_py_does_not_make(draw, small_run, monkeypatch):
    monkeypatch.setattr(net.VAE, '__init__', lambda self, n_in, n_latent: None)
    refused(draw('digits', '-o', small_run), 'this net.py cannot make the model of', 'TypeError',
            'use the net.py that trained it')


@pytest.mark.parametrize('dims, figures, reason', [
    (3, ['map', 'posterior'], 'needs z = 2, and the snapshot has z = 3; train one with: python '
                              'train_vae.py -z 2 -o results/z2'),
    (1, ['scatter', 'reparameterization.gif'],
     'needs z = 2 or more, and the snapshot has z = 1; train one with: python train_vae.py -z 2')])
def test_figures_that_the_snapshot_does_not_allow(draw, few, data_dir, tmp_path, monkeypatch, dims,
                                                  figures, reason):
    out = tmp_path / 'run'
    train(data_dir, out, *SMALL, '-z', str(dims), '-e', '1')
    few('map.png', 'digits.png')
    status, text, err = draw('-o', out)
    assert (status, err) == (0, '')
    skipped, written = text.splitlines()
    assert skipped.startswith('skipped map.png: needs z = 2, ')
    assert written == str(out / 'digits.png')
    monkeypatch.undo()
    for figure in figures:
        refused(draw('digits', figure, '-s', out / 'snapshot_epoch_1', '-o', tmp_path / 'new'),
                reason)
    assert not (tmp_path / 'new').exists()              # refused before anything is drawn
    assert draw('samples', 'interpolation_0to7.png', 'projector', '-o', out)[0] == 0


def raising(error):
    """Return an `encode` that fails."""
    def encode(self, x):
        raise type(error)(*error.args)
    return encode


@pytest.mark.parametrize('encode, told', [
    (lambda self, x, t: None, "TypeError: .*missing 1 required positional argument: 't'"),
    (raising(OSError('no\ntable')), 'OSError: no table'), (raising(Exception()), 'Exception')])
def test_a_figure_that_fails_is_told_and_the_others_are_drawn(draw, small_run, few, monkeypatch,
                                                              encode, told):
    monkeypatch.setattr(net.VAE, 'encode', encode)
    status, out, err = draw('-o', small_run, '--start', '3')
    lines = err.splitlines()[-2:]                       # before, that net.py has changed
    assert (status, out.splitlines()) == (1, [
        str(small_run / name) for name in ('map_wide.png', 'reparameterization.png')])
    for name, line in zip(('reconstruction', 'digits'), lines, strict=True):
        assert re.fullmatch(rf'visualize\.py: error: {name}\.png: {told}.*; net.py is edited in '
                            'VAE.encode; CHAINER_DEBUG=1 shows the traceback', line)
    monkeypatch.setattr(net.VAE, 'encode', raising(MemoryError()))      # it ends the command
    assert draw('-o', small_run, '--start', '3')[:2] == (2, '')


def test_a_figure_asked_for_that_fails(draw, small_run, few, monkeypatch):
    monkeypatch.setattr(net.VAE, 'encode', raising(ValueError('no')))
    told = 'ValueError: no; net.py is edited in VAE.encode; CHAINER_DEBUG=1 shows the traceback'
    status, out, err = draw('digits', 'map_wide', 'reconstruction', '-o', small_run)
    assert (status, out) == (2, f'{small_run / "map_wide.png"}\n')
    assert err.splitlines()[-1] == f'visualize.py: error: reconstruction.png, digits.png: {told}'
    assert draw('reparameterization', '--start', '3', '-o', small_run)[0] == 0  # encodes nothing
    with using_config('debug', True):
        status, _, err = draw('digits', '-o', small_run)
    assert (status, err.count('Traceback'), err.count('raise type(error)')) == (2, 1, 1)
    assert err.splitlines()[-1] == f'visualize.py: error: digits.png: {told}'


def test_without_graphviz_the_graph_says_how_to_get_it(draw, small_run, few, monkeypatch):
    monkeypatch.setenv('PATH', '')
    few('graph.png', 'digits.png')
    status, out, err = draw('-o', small_run)
    assert (status, err) == (0, '')
    assert out.startswith('skipped graph.png: needs Graphviz: apt install graphviz')
    assert out.endswith(f')\n{small_run / "digits.png"}\n')
    refused(draw('graph', '-o', small_run), 'graph.png: needs Graphviz', 'apt install graphviz')


@pytest.mark.parametrize('figure', ['digits', 'interpolation_0to7', 'projector'])
def test_an_output_folder_that_cannot_be_written(draw, small_run, tmp_path, figure):
    source, file = small_run / 'snapshot_epoch_2', tmp_path / 'file'
    file.touch()
    refused(draw(figure, '-s', source, '-o', file), f'cannot write to {file}', '-o')
    (tmp_path / 'digits.png').mkdir()
    (tmp_path / 'interpolation_0to7.gif').mkdir()
    (tmp_path / 'projector').touch()
    refused(draw(figure, '-s', source, '-o', tmp_path), figure)
    assert not list(tmp_path.glob('.*'))


@pytest.mark.skipif(os.name != 'posix', reason='needs POSIX signals')
@pytest.mark.parametrize('signum', [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_run_keeps_what_is_finished(small_run, signum):
    earlier = signal.signal(signum, signal.default_int_handler)     # a child inherits no SIG_IGN
    try:
        process = subprocess.Popen(
            [sys.executable, visualize.__file__, 'digits', 'interpolation', 'kl', '-o',
             str(small_run)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    finally:
        signal.signal(signum, earlier)
    assert process.stdout.readline() == f'{small_run / "digits.png"}\n'
    process.send_signal(signum)
    process.communicate(timeout=30)
    assert process.returncode == 128 + signum
    with Image.open(small_run / 'digits.png') as image:
        image.load()
    assert not (small_run / 'kl.gif').exists()
    assert not list(small_run.glob('.*.part'))


@needs_gpu
def test_gpu_draws_the_same(draw, small_run, tmp_path):
    for name, flags in (('cpu', []), ('gpu', ['--gpu', '0'])):
        status, _, err = draw('digits', '-s', small_run / 'snapshot_epoch_2', '-o',
                              tmp_path / name, *flags)
        assert (status, err) == (0, '')
    both = [first_frame(tmp_path / name / 'digits.png') for name in ('cpu', 'gpu')]
    np.testing.assert_allclose(*both, atol=2)
