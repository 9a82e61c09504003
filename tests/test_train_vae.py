"""The command line: what each flag does, what a run leaves behind, and what bad input gets."""

import inspect
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import textwrap
import time
from types import SimpleNamespace

from support.data import mnist
from support.run import extensions, options, run_folder, snapshot

import chainer
from conftest import HAS_GPU, SMALL, make_digits, needs_gpu
import numpy as np
import pytest
from samples import fill_cache
from test_idx import DAMAGES
from test_snapshot import last, rewrite

import net
import train_vae
import visualize

KEYS = {'epoch', 'iteration', 'elapsed_time',
        *(f'{set_}main/{name}' for set_ in ('', 'validation/')
          for name in ('loss', 'rec_loss', 'latent_loss'))}
STOPPING = 'stopping after this iteration; once more quits at once\n'


def log_of(out):
    """Return the log without the times, which differ from run to run."""
    rows = json.loads((out / 'log').read_text())
    return [{key: row[key] for key in row if key != 'elapsed_time'} for row in rows]


def weights(path):
    return {key: array.tobytes() for key, array in snapshot.read(str(path)).items()
            if key.startswith(('updater/model', 'updater/optimizer'))}


# What a run leaves behind -------------------------------------------------------------------


def test_out(finished):
    names = {path.name for path in finished.iterdir()}
    assert names == {'snapshot_epoch_1', 'snapshot_epoch_2', 'log', 'args.json', 'loss.png',
                     'cg.dot', '.lock'}
    rows = json.loads((finished / 'log').read_text())
    assert [set(row) for row in rows] == [KEYS, KEYS]
    assert [(row['epoch'], row['iteration']) for row in rows] == [(1, 3), (2, 6)]
    for prefix in ('main/', 'validation/main/'):
        assert rows[1][prefix + 'loss'] == pytest.approx(
            rows[1][prefix + 'rec_loss'] + rows[1][prefix + 'latent_loss'], rel=1e-5)
    assert rows[1]['main/loss'] < rows[0]['main/loss']


def test_cg_dot_is_the_graph_and_disturbs_nothing(finished, tmp_path, monkeypatch, cli, data_dir):
    dot = (finished / 'cg.dot').read_text()
    assert dot.count('label="x: (20, 784), float32"') == 1
    for name in ('enc_h1', 'enc_h2', 'z_mu', 'z_ln_var', 'z', 'dec_h1', 'dec_h2', 'dec_h3',
                 'reconstruction error', 'latent loss', 'loss'):
        assert dot.count(f'label="{name}: ') == 1
    monkeypatch.setattr(train_vae.net, 'draw_graph', lambda *args: 'no graph')
    cli('--data-dir', data_dir, '-o', tmp_path / 'other', *SMALL)
    assert log_of(tmp_path / 'other') == log_of(finished)


def test_the_trained_run_is_the_plain_trainers(finished, data_dir):
    """The first epoch's loss is that of a loop written out by hand, its random draws included."""
    digits = mnist.get_digits(data_dir=str(data_dir)).train
    np.random.seed(0)
    model = net.VAE(784, 2, 16, net.ACTIVATIONS['softplus'])
    optimizer = chainer.optimizers.Adam().setup(model)
    batches = np.random.permutation(60).reshape(3, 20)
    losses = []
    for i, batch in enumerate(batches):
        if i == 2:                      # with its last batch the iterator shuffles for the next
            np.random.permutation(60)
        optimizer.update(model.get_loss_func(), digits[batch])
        losses.append(float(model.loss.array))
    assert log_of(finished)[0]['main/loss'] == pytest.approx(np.mean(losses), rel=1e-6)


def test_validation_is_the_elbo_mean_over_digits(cli, data_dir, tmp_path):
    """30 test digits in batches of 20: the last ten count for ten. C stays 1 whatever --beta."""
    cli('--data-dir', data_dir, '-o', tmp_path / 'run', *SMALL, '-e', '1', '--beta', '5')
    model = net.VAE(784, 2, 16, net.ACTIVATIONS['softplus'])
    path = tmp_path / 'run' / 'snapshot_epoch_1'
    snapshot.load_model(snapshot.read(str(path)), model, '')
    x = mnist.get_digits(data_dir=str(data_dir)).test
    mu, ln_var = (h.array.astype(float) for h in model.encode(x))
    kl = (0.5 * (mu ** 2 + np.exp(ln_var) - 1 - ln_var)).sum(1).mean()
    (row,) = log_of(tmp_path / 'run')
    assert row['validation/main/latent_loss'] == pytest.approx(kl, rel=1e-4)
    assert row['validation/main/loss'] == pytest.approx(
        row['validation/main/rec_loss'] + kl, rel=1e-5)
    np.random.seed(2)
    samples = []
    with chainer.no_backprop_mode():
        for _ in range(300):
            model.get_loss_func()(x)
            samples.append(float(model.rec_loss.array))
    spread = np.std(samples) / 10 ** 0.5
    assert abs(row['validation/main/rec_loss'] - np.mean(samples)) < 5 * spread


REPORT = """\
            chainer.report({'rec_loss': self.rec_loss, 'latent_loss': self.latent_loss,
                            'loss': self.loss}, self)
"""
LOSSES = {              # what get_loss_func reports, and of that: training's keys, and the scores'
    'only loss': ("""\
            self.total = self.rec_loss + self.latent_loss
            del self.rec_loss, self.latent_loss, self.loss
            chainer.report({'loss': self.total}, self)
            return self.total
""", {'main/loss'}, {'main/loss'}),
    'kl': ("""\
            self.kl = self.latent_loss
            del self.latent_loss
            chainer.report({'loss': self.loss, 'kl': self.kl}, self)
""", {'main/loss', 'main/kl'}, {'main/loss', 'main/rec_loss', 'main/kl'}),
    'weighted': ("""\
            chainer.report({'loss': (self.loss, batchsize), 'kl': self.latent_loss.array}, self)
""", {'main/loss', 'main/kl'}, {'main/loss', 'main/rec_loss', 'main/latent_loss', 'main/kl'}),
    'set': ('', set(), {'main/loss', 'main/rec_loss', 'main/latent_loss'}),
    'returned': ("""\
            del self.rec_loss, self.latent_loss
            loss, self.loss = self.loss, None
            return loss
""", set(), set()),
}


@pytest.fixture
def lf_of(monkeypatch):
    """Return a function that lets the lf of net.py's VAE end in other lines than its report."""
    def edit(lines):
        text = textwrap.dedent(inspect.getsource(net.VAE.get_loss_func))
        report = textwrap.indent(textwrap.dedent(REPORT), ' ' * 8)
        assert report in text
        scope = dict(vars(net))
        exec(text.replace(report, textwrap.indent(textwrap.dedent(lines), ' ' * 8)), scope)
        monkeypatch.setattr(net.VAE, 'get_loss_func', scope['get_loss_func'])
    return edit


@pytest.mark.parametrize('what', LOSSES)
def test_a_loss_of_other_names_trains_and_is_scored_by_what_it_reports(
        cli, data_dir, tmp_path, lf_of, what):
    """It is net.py's, so that it leaves the same weights.

    A score that is not on the model is the mean over minibatches, of which the last is shorter.
    """
    lines, trained, scored = LOSSES[what]
    flags = '--data-dir', data_dir, *SMALL, '--updater', 'standard'
    assert cli(*flags, '-o', tmp_path / 'plain')[0] == 0
    lf_of(lines)
    status, _, err = cli(*flags, '-o', tmp_path / 'run')
    assert (status, err) == (0, '')
    path = 'snapshot_epoch_2'
    assert weights(tmp_path / 'run' / path) == weights(tmp_path / 'plain' / path)
    for row, plain in zip(*(log_of(tmp_path / of) for of in ('run', 'plain')), strict=True):
        assert row.keys() - {'epoch', 'iteration'} == trained | {
            f'validation/{key}' for key in scored}
        for key in row:
            exact = 'validation' not in key or (what != 'only loss' and not key.endswith('/kl'))
            assert row[key] == pytest.approx(plain[key.replace('/kl', '/latent_loss')],
                                             rel=1e-6 if exact else 1e-2)


@pytest.mark.parametrize('flags, kept', [
    ('', [3, 4, 5, 6, 7]), ('--keep 2', [6, 7]), ('--keep 9', [1, 2, 3, 4, 5, 6, 7]),
    ('--snapshot-every 3', [3, 6, 7]), ('--snapshot-every 2 --keep 1', [7]),
    ('--snapshot-every 50', [7]), ('-b 150', [2, 5, 7])])       # 2.5 epochs an iteration
def test_snapshots_kept(cli, data_dir, tmp_path, flags, kept):
    cli('--data-dir', data_dir, '-o', tmp_path / 'run', *SMALL, '-e', '7', *flags.split())
    paths = run_folder.find_snapshots(str(tmp_path / 'run'))
    assert sorted(map(run_folder.epoch_of, paths)) == kept


def test_resume_keeps_as_many_snapshots_as_the_run_did(cli, data_dir, tmp_path):
    run = tmp_path / 'run'
    cli('--data-dir', data_dir, '-o', run, *SMALL, '-e', '4', '--snapshot-every', '2',
        '--keep', '2')
    cli('--resume', '-o', run, '-e', '7')
    assert list(map(run_folder.epoch_of, run_folder.find_snapshots(str(run)))) == [6, 7]
    cli('--resume', '-o', run, '-e', '10', '--keep', '9', '--snapshot-every', '1')
    assert list(map(run_folder.epoch_of, run_folder.find_snapshots(str(run)))) == [6, 7, 8, 9, 10]


def test_a_run_that_sees_no_room_does_not_start(cli, data_dir, small_run, monkeypatch):
    before = {path.name: path.read_bytes() for path in small_run.iterdir()}
    free = [0]
    monkeypatch.setattr(run_folder.shutil, 'disk_usage', lambda out: SimpleNamespace(free=free[0]))
    start = ['--data-dir', data_dir, *SMALL, '-o']
    check_refused(cli('--resume', '-o', small_run, '-e', '3'), '0.0 MB free, and 1 new snapshots')
    check_refused(cli(*start, small_run, '--overwrite', '-e', '9'), 'and 6 new snapshots take')
    assert {path.name: path.read_bytes() for path in small_run.iterdir()} == before
    free[0] = 1.2 * (small_run / 'snapshot_epoch_2').stat().st_size
    check_refused(cli(*start, small_run.parent / 'new'), '0.4 MB free, and 2 new snapshots take')
    for flags in (['-e', '1', '--keep', '9'], ['-e', '5', '--snapshot-every', '9']):
        assert cli(*start, small_run.parent / 'new', *flags, '--overwrite')[0] == 0


# The screen ---------------------------------------------------------------------------------


def test_header_and_table(cli, data_dir, tmp_path):
    status, out, err = cli('--data-dir', data_dir, '-o', tmp_path / 'run', *SMALL)
    assert (status, err) == (0, '')
    assert '\033' not in out
    for part in ('CPU', f'{data_dir}: 60 to train, 30 to test', 'z = 2', 'softplus',
                 'minibatches of 20', 'epochs   2', f'results  {tmp_path / "run"}'):
        assert part in out
    lines = out.splitlines()
    heading = next(i for i, line in enumerate(lines) if line.split()[:1] == ['epoch'])
    assert lines[heading].split() == [
        'epoch', *2 * ['loss', 'rec_loss', 'latent_loss'], 'seconds']
    rows = json.loads((tmp_path / 'run' / 'log').read_text())
    for line, row in zip(lines[heading + 1:], rows, strict=False):
        assert [float(word) for word in line.split()[:3]] == pytest.approx(
            [row['epoch'], row['main/loss'], row['main/rec_loss']], abs=1e-3)
    assert all(len(line) < 80 for line in lines if str(tmp_path) not in line)
    assert lines[-2:] == [f'finished at epoch 2: {tmp_path / "run" / "snapshot_epoch_2"}',
                          f'draw its figures with: python visualize.py -o {tmp_path / "run"}']


def test_help_teaches(cli):
    status, out, _ = cli('--help')
    assert status == 0
    for flag in ('-g', '--gpu N', '-o', '--out', '-e', '--epoch N', '-b', '--batch-size N', '-z',
                 '--dim-z N', '--dim-h N', '--beta C', '-k', '--k N', '-m', '--initmodel FILE',
                 '-r', '--resume [FILE]', '--binary', '--test', '--dataset {auto,mnist,digits}',
                 '--data-dir DIR', '--activation {softplus,tanh,relu}', '--seed N', '--overwrite',
                 '--snapshot-every N', '--keep N',
                 'examples:'):
        assert re.search(rf'(?m)(^|[ ,]){re.escape(flag)}($|[ ,])', out), flag


# Each flag ----------------------------------------------------------------------------------


def test_defaults_are_the_articles():
    args = options.parse(train_vae.build_parser(), [])
    assert vars(args) == {
        'autoencoder': False, 'gpu': -1, 'out': 'results', 'epoch': 100, 'batch_size': 100,
        'dim_z': 20, 'dim_h': 500, 'beta': 1.0, 'k': 1, 'initmodel': None, 'resume': None,
        'binary': False, 'test': False,
        'dataset': 'auto', 'data_dir': None, 'activation': 'softplus', 'seed': 0,
        'updater': 'fast', 'snapshot_every': 1, 'keep': 5, 'overwrite': False,
        'communicator': None, 'resumed': None, 'is_newest': False}


FLAGS = {
    '-z 3 --dim-h 9': {'le3_mu/W': (3, 9), 'ld1/W': (9, 3)},
    '--dim-z 4': {'le3_ln_var/W': (4, 16)},
    '-b 7': {'iteration': 9},               # of 60 digits, the ninth batch ends the epoch
    '--batch-size 60': {'iteration': 1},
    '--batch-size 150': {'iteration': 1},   # more than there are
    '--epoch 3': {'iteration': 9},
}


@pytest.mark.parametrize('flags', FLAGS)
def test_sizes(cli, data_dir, tmp_path, flags):
    status, _, err = cli('--data-dir', data_dir, '-o', tmp_path / 'run', *SMALL, '-e', '1',
                         *flags.split())
    assert (status, err) == (0, '')
    arrays = snapshot.read(snapshot.newest(str(tmp_path / 'run')))
    for key, expected in FLAGS[flags].items():
        if key == 'iteration':
            assert int(arrays['updater/iteration']) == expected
        else:
            assert arrays[f'updater/model:main/{key}'].shape == expected


def first_row(cli, data_dir, out, *flags):
    status, _, err = cli('--data-dir', data_dir, '-o', out, *SMALL, '-e', '1', *flags)
    assert (status, err) == (0, '')
    return log_of(out)[0]


@pytest.mark.parametrize('flags', [
    ('--activation', 'tanh'), ('--activation', 'relu'), ('--beta', 4.0), ('-k', 3), ('--k', 2),
    ('--seed', 1), ('--binary', True)])
def test_flags_that_change_the_losses(cli, data_dir, tmp_path, finished, flags):
    flag, value = flags
    row = first_row(cli, data_dir, tmp_path / 'run', flag, *([value] if value is not True else []))
    assert row['main/loss'] != log_of(finished)[0]['main/loss']
    settings = json.loads((tmp_path / 'run' / 'args.json').read_text())
    assert settings[flag.lstrip('-')] == value


def test_beta_weighs_the_latent_loss(cli, data_dir, tmp_path, finished):
    one = first_row(cli, data_dir, tmp_path / 'one', '-b', '60')
    four = first_row(cli, data_dir, tmp_path / 'four', '-b', '60', '--beta', '4')
    assert four['main/latent_loss'] == pytest.approx(4 * one['main/latent_loss'], rel=1e-6)
    assert four['main/rec_loss'] == one['main/rec_loss']


def test_autoencoder_trains_logs_and_resumes_exactly(cli, data_dir, tmp_path):
    flags = ['--data-dir', data_dir, *SMALL, '--autoencoder']
    status, out, err = cli(*flags, '-e', '4', '-o', tmp_path / 'whole')
    assert (status, err) == (0, '')
    assert '\nupdater  compiled parts (an autoencoder is not compiled)\n' in out
    assert '\nloss     squared error, minibatches of 20, Adam, seed 0\n' in out
    log = log_of(tmp_path / 'whole')
    assert log[-1]['main/loss'] < log[0]['main/loss']
    assert json.loads((tmp_path / 'whole' / 'args.json').read_text())['autoencoder'] is True

    assert cli(*flags, '-e', '2', '-o', tmp_path / 'run')[0] == 0
    assert cli('--resume', '-e', '4', '-o', tmp_path / 'run')[0] == 0
    whole, run = (weights(tmp_path / name / 'snapshot_epoch_4') for name in ('whole', 'run'))
    assert whole == run
    model = net.Autoencoder(784, 2, 16, net.ACTIVATIONS['softplus'])
    path = str(tmp_path / 'whole' / 'snapshot_epoch_4')
    snapshot.load_model(snapshot.read(path), model, path)
    digits = mnist.get_digits(data_dir=str(data_dir))
    assert float(model.get_loss_func()(digits.test).array) == pytest.approx(
        log[-1]['validation/main/loss'], rel=1e-5)


@pytest.mark.parametrize('flags', [['--beta', '2'], ['-k', '3']])
def test_autoencoder_refuses_what_it_has_not(cli, tmp_path, flags):
    check_refused(cli('--autoencoder', *flags, '-o', tmp_path / 'run'),
                  '--autoencoder has neither a latent loss nor noise; leave out --beta and --k')


def test_autoencoder_and_vae_are_told_apart(cli, data_dir, tmp_path, finished):
    path = tmp_path / 'run' / 'snapshot_epoch_2'
    start = ['--data-dir', data_dir, *SMALL]
    assert cli(*start, '--autoencoder', '-o', tmp_path / 'run')[0] == 0
    check_refused(cli(*start, '-m', path, '-o', tmp_path / 'vae'),
                  f'{path} is of an autoencoder, and not of a VAE; give --autoencoder')
    check_refused(cli('--resume', '--autoencoder', '-o', finished), 'contradicts --autoencoder')


def test_binary_rounds_the_pixels(cli, data_dir, tmp_path, monkeypatch):
    seen = []
    monkeypatch.setattr(train_vae.net, 'draw_graph', lambda model, x, C, k: seen.append(x) or '')
    first_row(cli, data_dir, tmp_path / 'run', '--binary')
    pictures = make_digits(60, 0)[0].reshape(60, 784)[:20]
    assert seen[0].dtype == np.float32
    assert np.array_equal(seen[0], pictures > 127)


def test_test_takes_a_hundred_digits(cli, tmp_path):
    status, out, _ = cli('--dataset', 'digits', '--test', '-o', tmp_path / 'run', *SMALL)
    assert status == 0
    assert "scikit-learn's bundled digits: 100 to train, 100 to test" in out
    assert log_of(tmp_path / 'run')[-1]['iteration'] == 10


def test_dataset_digits(cli, tmp_path):
    status, out, _ = cli('--dataset', 'digits', '-o', tmp_path / 'run', *SMALL, '-b', '500')
    assert status == 0
    assert '1500 to train, 297 to test' in out
    assert json.loads((tmp_path / 'run' / 'args.json').read_text())['dataset'] == 'digits'


def test_dataset_mnist(cli, tmp_path):
    fill_cache()
    status, out, err = cli('--dataset', 'mnist', '-o', tmp_path / 'run', *SMALL)
    assert (status, err) == (0, '')
    assert 'MNIST: 60 to train, 30 to test' in out


def test_dataset_auto_falls_back(cli, tmp_path):
    status, out, err = cli('--test', '-o', tmp_path / 'run', *SMALL)
    assert status == 0
    assert 'bundled digits' in out
    assert err.startswith('warning: going on with the bundled digits instead of MNIST')
    assert json.loads((tmp_path / 'run' / 'args.json').read_text())['dataset'] == 'digits'


def test_seed_makes_runs_identical(cli, data_dir, tmp_path, finished):
    cli('--data-dir', data_dir, '-o', tmp_path / 'run', *SMALL)
    assert log_of(tmp_path / 'run') == log_of(finished)
    assert weights(last(tmp_path / 'run')) == weights(last(finished))


def test_initmodel_starts_from_the_weights(cli, data_dir, tmp_path, finished, monkeypatch):
    seen = []
    monkeypatch.setattr(train_vae.net, 'draw_graph', lambda model, x, C, k: seen.append(
        {name: param.array.tobytes() for name, param in model.namedparams()}) or '')
    row = first_row(cli, data_dir, tmp_path / 'run', '-m', last(finished))
    arrays = snapshot.read(last(finished))
    assert seen[0] == {name: arrays[f'updater/model:main{name}'].tobytes() for name in seen[0]}
    assert row['epoch'] == 1
    assert row['main/loss'] < log_of(finished)[0]['main/loss']


# An OUT that is not empty; resume -----------------------------------------------------------


def test_another_runs_snapshots_are_refused(cli, data_dir, small_run):
    before = {path.name: path.read_bytes() for path in small_run.iterdir()}
    status, out, err = cli('--data-dir', data_dir, '-o', small_run, *SMALL)
    assert (status, out, err.count('\n')) == (2, '', 1)
    for way in ('--resume', '--overwrite', '-o'):
        assert way in err
    assert {path.name: path.read_bytes() for path in small_run.iterdir()} == before


def test_overwrite_replaces_them(cli, data_dir, small_run):
    status, _, err = cli('--data-dir', data_dir, '-o', small_run, *SMALL, '-e', '1',
                         '--overwrite')
    assert (status, err) == (0, '')
    assert [row['epoch'] for row in log_of(small_run)] == [1]
    assert [path.name for path in small_run.glob('snapshot_*')] == ['snapshot_epoch_1']


@pytest.mark.skipif(os.name != 'posix', reason='needs POSIX signals')
def test_overwrite_leaves_nothing_of_the_run_before(cli, data_dir, small_run, monkeypatch):
    plain = extensions.LogReport.__call__

    def call(self, trainer):
        plain(self, trainer)
        os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(extensions.LogReport, '__call__', call)
    assert cli('--data-dir', data_dir, '-o', small_run, *SMALL, '--overwrite')[0] == 143
    assert {path.name for path in small_run.iterdir()} == {
        '.lock', 'args.json', 'cg.dot', 'snapshot_interrupted'}


def test_bad_input_overwrites_nothing(cli, data_dir, small_run):
    before = {path.name: path.read_bytes() for path in small_run.iterdir()}
    for flags in (['--data-dir', 'nowhere'], ['--gpu', '99'], ['-m', 'nowhere']):
        status, _, _ = cli('--data-dir', data_dir, '-o', small_run, *SMALL, '--overwrite', *flags)
        assert status == 2
    assert {path.name: path.read_bytes() for path in small_run.iterdir()} == before


def test_a_larger_epoch_extends_a_finished_run(cli, data_dir, small_run, tmp_path):
    cli('--data-dir', data_dir, '-o', tmp_path / 'whole', *SMALL, '-e', '4')
    status, out, err = cli('--resume', '-o', small_run, '-e', '4')
    assert (status, err) == (0, '')
    assert f'epochs   4, from 2 of {last(small_run)}' in out
    assert log_of(small_run) == log_of(tmp_path / 'whole')
    end = 'snapshot_epoch_4'
    assert weights(small_run / end) == weights(tmp_path / 'whole' / end)
    assert json.loads((small_run / 'args.json').read_text())['epoch'] == 4


def test_resume_from_a_file_goes_on_beside_it(cli, small_run):
    status, _, err = cli('--resume', small_run / 'snapshot_epoch_1')
    assert (status, err) == (0, '')
    assert [row['epoch'] for row in log_of(small_run)] == [1, 2]


def test_resume_into_another_folder(cli, finished, tmp_path):
    status, _, err = cli('--resume', last(finished), '-e', '3', '-o', tmp_path / 'new')
    assert (status, err) == (0, '')
    assert [row['epoch'] for row in log_of(tmp_path / 'new')] == [1, 2, 3]


def test_resume_of_a_finished_run_says_so(cli, small_run, pictures):
    before = {path.name: path.read_bytes() for path in small_run.iterdir()}
    status, out, err = cli('--resume', '-o', small_run)
    assert (status, err) == (0, '')
    assert 'is at epoch 2 already; go on with a larger --epoch' in out
    assert {path.name: path.read_bytes() for path in small_run.iterdir()} == before
    (small_run / 'loss.png').unlink()
    assert cli('--resume', '-o', small_run)[0] == 0
    assert {path.name: path.read_bytes() for path in small_run.iterdir()} == before
    assert cli('--resume', last(small_run), '-o', small_run / 'new')[0] == 0
    assert not (small_run / 'new').exists()
    assert cli('--resume', small_run / 'snapshot_epoch_1', '-e', '1')[0] == 0
    assert {path.name: path.read_bytes() for path in small_run.iterdir()} == before


def test_resume_on_another_device_says_that_it_is_not_exact(cli, small_run):
    settings = json.loads((small_run / 'args.json').read_text()) | {'device': 'GPU'}
    path = rewrite(last(small_run), last(small_run),
                   **{snapshot.SETTINGS_KEY: np.array(json.dumps(settings))})
    status, _, err = cli('--resume', path, '-e', '3')
    assert (status, err) == (0, f'warning: {path} was trained on a GPU; on a CPU the run goes on, '
                                'but not to exactly the same result\n')
    assert cli('--resume', '-o', small_run, '-e', '4')[2] == ''


@pytest.mark.parametrize('flags', [
    '-z 3', '--dim-h 9', '--activation tanh', '--beta 2', '-k 2', '--seed 1', '--binary',
    '--test'])
def test_resume_against_its_settings_is_refused(cli, small_run, flags):
    status, _, err = cli('--resume', '-o', small_run, '-e', '4', *flags.split())
    name = {'-z': '--dim-z', '-k': '--k'}.get(*[flags.split()[0]] * 2)
    value = ''.join(f' {float(word) if name == "--beta" else word}' for word in flags.split()[1:])
    check_refused((status, '', err), f'{last(small_run)} contradicts {name}{value}, as it was '
                  'trained with')


def test_all_that_contradicts_is_named_at_once(cli, small_run):
    flags = ['--binary', '--seed', '4', '--dataset', 'digits']
    check_refused(cli('--resume', '-o', small_run, *flags),
                  '--binary, --seed 4, --dataset digits, as it was trained without it, with 0, '
                  'with mnist; leave that out')


def test_resume_with_other_digits_is_refused(cli, small_run):
    check_refused(cli('--resume', '-o', small_run, '-e', '4', '--dataset', 'digits'),
                  'contradicts --dataset digits, as it was trained with mnist')
    data = json.loads((small_run / 'args.json').read_text())['data_dir']
    other = small_run.parent / 'other'
    other.mkdir()
    for name in os.listdir(data):
        part = name.replace('train', 't10k') if 't10k' not in name else name
        with open(os.path.join(data, part), 'rb') as file:
            (other / name).write_bytes(file.read())
    check_refused(cli('--resume', '-o', small_run, '-e', '4', '--data-dir', other),
                  f'was trained on other digits than IDX files in {other}')


def test_resume_finds_its_digits_where_they_moved(cli, small_run, data_dir):
    settings = {**json.loads((small_run / 'args.json').read_text()), 'data_dir': '/moved'}
    path = rewrite(last(small_run), small_run / 'snapshot_epoch_2',
                   **{snapshot.SETTINGS_KEY: np.array(json.dumps(settings))})
    check_refused(cli('--resume', path, '-e', '3'), '/moved is not a folder')
    assert cli('--resume', path, '-e', '3', '--data-dir', data_dir)[0] == 0


def test_resume_into_anothers_folder_is_refused(cli, small_run, tmp_path):
    other = shutil.copytree(small_run, tmp_path / 'other')
    status, _, err = cli('--resume', last(small_run), '-o', other, '-e', '3')
    check_refused((status, '', err), 'holds the snapshots of an earlier run; name another folder')


@pytest.mark.skipif(os.name != 'posix', reason='needs POSIX signals')
def test_a_second_ctrl_c_quits_at_once(data_dir, tmp_path):
    out = tmp_path / 'run'
    code = ('import sys, time, train_vae\n'
            'def update(self):\n'
            '    print("iterating", flush=True)\n'
            '    time.sleep(60)\n'
            'train_vae.training.StandardUpdater.update_core = update\n'
            f'sys.exit(train_vae.cli(["--data-dir", {str(data_dir)!r}, "-o", {str(out)!r}, '
            '"--updater", "standard"]))')
    process = subprocess.Popen([sys.executable, '-c', code], stdout=subprocess.PIPE,
                               stderr=subprocess.PIPE, text=True,
                               cwd=os.path.dirname(train_vae.__file__))
    while process.stdout.readline() != 'iterating\n':
        assert process.poll() is None
    process.send_signal(signal.SIGINT)
    time.sleep(0.3)
    assert process.poll() is None           # the iteration goes on to its end
    process.send_signal(signal.SIGINT)
    _, stderr = process.communicate(timeout=30)
    assert (process.returncode, stderr) == (-signal.SIGINT, STOPPING)
    assert sorted(path.name for path in out.iterdir()) == ['.lock', 'args.json', 'cg.dot']


@pytest.mark.skipif(os.name != 'posix', reason='needs POSIX signals')
@pytest.mark.parametrize('command', [train_vae, visualize])
@pytest.mark.parametrize('signum, status', [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_before_there_is_work_to_keep(tmp_path, command, signum, status):
    name = os.path.basename(command.__file__)
    code = (f'import os, signal, sys, {name[:-3]}\n'
            'signal.signal(signal.SIGINT, signal.default_int_handler)\n'   # or it may be ignored
            'from support.base import devices\n'
            f'devices.get_device = lambda gpu: os.kill(os.getpid(), {signum})\n'
            f'sys.exit({name[:-3]}.cli(sys.argv[1:]))')
    run = subprocess.run([sys.executable, '-c', code, '-o', tmp_path / 'run'], timeout=60,
                         capture_output=True, text=True, check=False,
                         cwd=os.path.dirname(command.__file__))
    assert (run.returncode, run.stdout, run.stderr) == (status, '', f'{name}: error: interrupted\n')
    assert not (tmp_path / 'run').exists()


@pytest.mark.skipif(os.name != 'posix', reason='needs POSIX signals')
@pytest.mark.parametrize('command', [train_vae, visualize])
def test_a_ctrl_c_among_the_imports_shows_no_traceback(command):
    code = ('import os, runpy, signal, sys\n'
            'signal.signal(signal.SIGINT, signal.default_int_handler)\n'
            'class Finder:\n'
            '    def find_spec(self, name, *args):\n'
            '        if name == "xavier":\n'           # the last of the imports
            '            os.kill(os.getpid(), signal.SIGINT)\n'
            'sys.meta_path.insert(0, Finder())\n'
            'sys.path.insert(0, os.path.dirname(sys.argv[1]))\n'
            'runpy.run_path(sys.argv[1], run_name="__main__")')
    run = subprocess.run([sys.executable, '-c', code, command.__file__], capture_output=True,
                         text=True, timeout=60, check=False)
    assert (run.returncode, run.stdout, run.stderr) == (-signal.SIGINT, '', 'interrupted\n')


# What bad input gets ------------------------------------------------------------------------


def check_refused(result, *parts, prog='train_vae.py'):
    status, _, err = result
    assert status == 2
    assert err.count('\n') == 1, err
    assert err.startswith(f'{prog}: error: ')
    for part in parts:
        assert part in err


def test_a_bad_count_of_two_lines_is_still_one_line(cli):
    check_refused(cli('--epoch', 'a\nb'), 'a b is not a positive whole number')


@pytest.mark.parametrize('value', ['0', '-1', 'nan', 'inf', '1.5', 'x', ''])
@pytest.mark.parametrize('flag', [
    '--epoch', '--batch-size', '--dim-z', '--dim-h', '--k', '--snapshot-every', '--keep'])
def test_bad_counts(cli, flag, value):
    check_refused(cli(flag, value), flag, 'is not a positive whole number')


def test_a_batch_past_all_memory(cli):
    check_refused(cli('--batch-size', 10**20), 'is not a positive whole number of at most 1000000')


@pytest.mark.parametrize('value', ['0', '-1', 'nan', 'inf', '1e999', 'x'])
def test_bad_beta(cli, value):
    check_refused(cli('--beta', value), '--beta', 'is not a positive number')


@pytest.mark.parametrize('value', ['-1', '4294967296', '1.5', 'x'])
def test_bad_seed(cli, value):
    check_refused(cli('--seed', value), '--seed', 'from 0 to 4294967295')


@pytest.mark.parametrize('flags', [
    '--dataset fashion', '--activation sigmoid', '--gpu x', '--no-such-flag',
    '--data-dir . --dataset digits', '--resume --initmodel x', '--resume --overwrite'])
def test_bad_flags(cli, flags):
    check_refused(cli(*flags.split()))


@pytest.mark.parametrize('damage', DAMAGES)
def test_bad_folders_of_digits(cli, data_dir, tmp_path, damage):
    content, _ = DAMAGES[damage]
    (data_dir / 'train-images-idx3-ubyte.gz').write_bytes(content)
    check_refused(cli('--data-dir', data_dir, '-o', tmp_path / 'run'), str(data_dir))
    assert not (tmp_path / 'run').exists()


def test_missing_and_empty_folders_of_digits(cli, tmp_path):
    check_refused(cli('--data-dir', tmp_path / 'nowhere', '-o', tmp_path / 'run'), 'not a folder')
    (tmp_path / 'empty').mkdir()
    check_refused(cli('--data-dir', tmp_path / 'empty', '-o', tmp_path / 'run'),
                  'neither train-images-idx3-ubyte nor train-images-idx3-ubyte.gz')


def test_mnist_offline(cli, tmp_path):
    check_refused(cli('--dataset', 'mnist', '-o', tmp_path / 'run'), 'could not be downloaded')


@pytest.mark.parametrize('flag', ['--resume', '--initmodel'])
@pytest.mark.parametrize('content', [
    None, b'', b'text', 'half', 'other model', 'not a run', 'folder'])
def test_bad_snapshots(cli, data_dir, tmp_path, finished, flag, content):
    bad = tmp_path / 'bad'
    flags = SMALL if flag == '--initmodel' else []
    if content == 'half':
        with open(last(finished), 'rb') as file:
            bad.write_bytes(file.read()[:9000])
    elif content == 'other model':
        rewrite(last(finished), bad, **{'updater/model:main/ld3/W': np.zeros((784, 15), 'f')})
    elif content == 'not a run':
        np.savez(tmp_path / 'bad.npz', x=np.zeros(3))
        os.rename(tmp_path / 'bad.npz', bad)
    elif content == 'folder':
        bad.mkdir()
    elif content is not None:
        bad.write_bytes(content)
    check_refused(cli('--data-dir', data_dir, '-o', tmp_path / 'run', flag, bad, *flags), str(bad))
    assert not (tmp_path / 'run').exists()


def test_resume_of_an_unknown_activation(cli, small_run):
    settings = {**json.loads((small_run / 'args.json').read_text()), 'activation': 'evil'}
    path = rewrite(last(small_run), small_run / 'bad',
                   **{snapshot.SETTINGS_KEY: np.array(json.dumps(settings))})
    check_refused(cli('--resume', path), 'evil')


def test_resume_without_the_trainers_state(cli, small_run):
    path = rewrite(last(small_run), small_run / 'bad', **{'updater/iterator:main/order': None})
    check_refused(cli('--resume', path, '-e', '5'), 'does not fit the iterator of train_vae.py')


def test_nothing_to_resume(cli, tmp_path):
    check_refused(cli('--resume', '-o', tmp_path), f'no snapshot in {tmp_path}')


def test_out_that_cannot_be_written(cli, data_dir, tmp_path):
    (tmp_path / 'file').touch()
    for out in (tmp_path / 'file', tmp_path / 'file' / 'run', '/dev/null/run'):
        check_refused(cli('--data-dir', data_dir, '-o', out, *SMALL), 'cannot write to', '-o')


@pytest.mark.skipif(os.path.isdir('/proc/driver/nvidia') or HAS_GPU, reason='has a GPU')
def test_gpu_without_cupy_names_what_to_install(cli):
    check_refused(cli('--gpu', '0'), 'needs CuPy', 'cupy-cuda13x', 'cupy-cuda12x')


def test_too_large_a_model(cli, data_dir, tmp_path, monkeypatch):
    check_refused(cli('--dim-h', 10**15), 'is not a positive whole number of at most 1000000')
    monkeypatch.setattr(options, 'count', options.positive(int, 10**15))
    check_refused(cli('--data-dir', data_dir, '-o', tmp_path / 'run', '--dim-h', 10**15),
                  'not enough memory')


@pytest.mark.parametrize('flags', [
    '--data-dir {0}/nowhere', '-m {0}/nowhere --dataset digits', '--resume -o {0}', '-z 0',
    '--resume {0}', '--gpu 99 --dataset digits', '--data-dir {0} -o /dev/null'])
def test_one_line_and_nothing_of_chainers_in_a_real_process(tmp_path, flags):
    run = subprocess.run([sys.executable, train_vae.__file__, '-o', tmp_path / 'run',
                          *flags.format(tmp_path).split()], capture_output=True, text=True,
                         timeout=60, check=False)
    check_refused((run.returncode, run.stdout, run.stderr))
    assert run.stdout == ''


@pytest.mark.parametrize('flags', [['-m', ''], ['--resume='], ['-o', ''], ['--data-dir', '']])
def test_an_empty_value_is_not_a_missing_one(cli, tmp_path, monkeypatch, flags):
    monkeypatch.chdir(tmp_path)
    check_refused(cli('--dataset', 'digits' if flags[0] != '--data-dir' else 'auto', *flags))


def test_a_name_of_two_lines_is_still_one_line(cli):
    check_refused(cli('--resume', 'a\nb'), 'cannot read the snapshot a b')


def test_initmodel_of_another_activation(cli, data_dir, tmp_path, finished):
    check_refused(cli('--data-dir', data_dir, '-o', tmp_path / 'run', *SMALL, '-m', last(finished),
                      '--activation', 'tanh'), 'give --activation softplus')


def test_loss_that_is_not_finite_stops_the_run(cli, data_dir, small_run, tmp_path):
    status, _, err = cli('--data-dir', data_dir, '-o', tmp_path / 'inf', *SMALL, '--beta', '1e39')
    assert (status, err.count('\n')) == (1, 1)
    assert 'the training loss is not finite in epoch 1, iteration 1; ' in err
    assert 'last good snapshot: none' in err
    assert not list((tmp_path / 'inf').glob('snapshot_*'))

    arrays = snapshot.read(last(small_run))
    huge = np.full_like(arrays['updater/model:main/ld3/b'], 3e38)
    nan = rewrite(last(small_run), tmp_path / 'nan', **{'updater/model:main/ld3/b': huge * np.nan})
    check_refused(cli('--resume', nan, '-e', '3'), 'is damaged: its ld3/b is not finite')
    rewrite(last(small_run), last(small_run), **{'updater/model:main/ld3/b': huge})
    status, _, err = cli('--resume', last(small_run), '-e', '3')
    assert (status, err.count('\n')) == (1, 1)
    assert f'in epoch 3, iteration 7; stopped, last good snapshot: {last(small_run)};' in err
    assert not (small_run / 'snapshot_epoch_3').exists()
    _, _, err = cli('--resume', last(small_run), '-e', '3', '-o', tmp_path / 'elsewhere')
    assert f'last good snapshot: {last(small_run)};' in err


# Real digits --------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.skipif('MNIST_DIR' not in os.environ, reason='needs MNIST in $MNIST_DIR')
def test_first_epochs_are_the_articles(cli, tmp_path):
    """Losses that the article's notebook logged, epochs 1 and 2: within 2 nats."""
    logged = [(171.642, 163.281, 136.440, 123.331), (127.546, 113.141, 119.177, 103.667)]
    status, _, _ = cli('--data-dir', os.environ['MNIST_DIR'], '-e', 2, '-o', tmp_path / 'run')
    assert status == 0
    keys = ('main/loss', 'main/rec_loss', 'validation/main/loss', 'validation/main/rec_loss')
    for row, theirs in zip(log_of(tmp_path / 'run'), logged, strict=True):
        assert [row[key] for key in keys] == pytest.approx(theirs, abs=2)


@needs_gpu
def test_gpu_trains(cli, data_dir, tmp_path):
    status, out, err = cli('--gpu', '0', '--data-dir', data_dir, '-o', tmp_path / 'run', *SMALL)
    assert (status, err) == (0, '')
    assert 'GPU 0' in out
    rows = log_of(tmp_path / 'run')
    assert rows[1]['main/loss'] < rows[0]['main/loss']
    assert cli('--resume', '-o', tmp_path / 'run', '-e', '3')[0] == 0       # and on the CPU
