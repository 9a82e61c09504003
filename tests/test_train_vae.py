"""The command line: what each flag does, what a run leaves behind, and what bad input gets."""

import json
import os
import shutil
import signal
import subprocess
import sys

from support.data import mnist
from support.run import options, run_folder, snapshot

import chainer
from conftest import ROOT, SMALL
import numpy as np
import pytest
from runs import (
    check_refused,
    epoch_of,
    last,
    log_of,
    needs_posix,
    rewrite,
    state_of,
    stopping_at,
    with_settings,
)

import net
import train_vae

KEYS = {'epoch', 'iteration', 'elapsed_time',
        *(f'{set_}main/{name}' for set_ in ('', 'validation/')
          for name in ('loss', 'rec_loss', 'latent_loss'))}


def files_in(folder):
    return {path: path.read_bytes() for path in folder.rglob('*') if path.is_file()}


# What a run leaves behind -----------------------------------------------------------------------


def test_out(finished):
    names = {path.name for path in finished.iterdir()}
    assert names == {'snapshot_epoch_1', 'snapshot_epoch_2', 'log', 'args.json', 'loss.png',
                     'cg.dot', 'record', '.lock'}
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
    snapshot.load_model(snapshot.read(str(tmp_path / 'run' / 'snapshot_epoch_1')), model, '')
    np.random.seed(2)
    with chainer.no_backprop_mode():
        model.get_loss_func(k=300)(mnist.get_digits(data_dir=str(data_dir)).test)
    (row,) = log_of(tmp_path / 'run')
    for name, tolerance in (('latent_loss', 1e-5), ('rec_loss', 2e-3), ('loss', 2e-3)):
        assert row[f'validation/main/{name}'] == pytest.approx(
            float(getattr(model, name).array), rel=tolerance)


REPORT = """\
            chainer.report({'rec_loss': self.rec_loss, 'latent_loss': self.latent_loss,
                            'loss': self.loss}, self)
"""
LOSSES = {              # what get_loss_func reports, and its keys in training and scores
    'only loss': ("""\
            self.total = self.rec_loss + self.latent_loss
            del self.rec_loss, self.latent_loss, self.loss
            chainer.report({'loss': self.total}, self)
            return self.total
""", {'main/loss', 'validation/main/loss'}),
    'returned': ("""\
            del self.rec_loss, self.latent_loss
            loss, self.loss = self.loss, None
            return loss
""", set()),
}


@pytest.mark.parametrize('what', LOSSES)
def test_a_loss_of_other_names_trains_and_is_scored_by_what_it_reports(
        cli, data_dir, tmp_path, edit, finished, what):
    """A score that is not on the model is the mean over minibatches; the last of them is short."""
    lines, reported = LOSSES[what]
    edit(REPORT, lines)
    assert cli('--data-dir', data_dir, *SMALL, '-o', tmp_path / 'run')[0::2] == (0, '')
    run, plain = state_of(last(tmp_path / 'run')), state_of(last(finished))
    for key in plain:
        if key.startswith('updater/model:main/'):
            ours, theirs = (np.frombuffer(of[key][2], np.float32) for of in (run, plain))
            np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-6)
    for row, plain in zip(log_of(tmp_path / 'run'), log_of(finished), strict=True):
        assert row.keys() - {'epoch', 'iteration'} == reported
        for key in row:
            exact = 'validation' not in key or what != 'only loss'
            assert row[key] == pytest.approx(plain[key], rel=1e-5 if exact else 1e-2)


@pytest.mark.parametrize('flags, kept, resumed', [
    ('', [3, 4, 5, 6, 7], [4, 5, 6, 7, 8]), ('--snapshot-every 3', [3, 6, 7], [3, 6, 7, 8]),
    ('--snapshot-every 2 --keep 2', [6, 7], [7, 8]),
    ('-b 150', [2, 5, 7], [2, 5, 7, 10])])                  # 2.5 epochs an iteration
def test_snapshots_kept(cli, data_dir, tmp_path, flags, kept, resumed):
    run = tmp_path / 'run'
    _, out, _ = cli('--data-dir', data_dir, '-o', run, *SMALL, '-e', '7', *flags.split())
    assert sorted(map(epoch_of, run_folder.find_snapshots(str(run)))) == kept
    assert ('minibatches of 150 (more than an epoch), ' in out) == (flags == '-b 150')
    cli('--resume', '-o', run, '-e', '8')
    assert sorted(map(epoch_of, run_folder.find_snapshots(str(run)))) == resumed


# The screen -------------------------------------------------------------------------------------


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


# Each flag --------------------------------------------------------------------------------------


def test_defaults_are_the_articles():
    for flags in ('', '-g -1 -o results -e 100 -b 100 -z 20 -k 1',
                  '--gpu -1 --out results --epoch 100 --batch-size 100 --dim-z 20 --k 1'):
        args = options.parse(train_vae.build_parser(), flags.split())
        assert vars(args) == {
            'autoencoder': False, 'gpu': -1, 'out': 'results', 'epoch': 100, 'batch_size': 100,
            'dim_z': 20, 'dim_h': 500, 'beta': 1.0, 'k': 1, 'initmodel': None, 'resume': None,
            'binary': False, 'test': False,
            'dataset': 'auto', 'data_dir': None, 'activation': 'softplus', 'seed': 0,
            'updater': 'fast', 'snapshot_every': 1, 'keep': 5, 'overwrite': False,
            'communicator': None, 'resumed': None, 'is_newest': False}


def first_row(cli, data_dir, out, *flags):
    status, _, err = cli('--data-dir', data_dir, '-o', out, *SMALL, '-e', '1', *flags)
    assert (status, err) == (0, '')
    return log_of(out)[0]


@pytest.mark.parametrize('flag, value', [
    ('--dim-z', 3), ('--dim-h', 9), ('--activation', 'tanh'), ('--beta', 4.0), ('-k', 3),
    ('--seed', 1), ('--binary', True)])
def test_flags_that_change_the_losses(cli, data_dir, tmp_path, finished, flag, value):
    row = first_row(cli, data_dir, tmp_path / 'run', flag, *([value] if value is not True else []))
    assert row['main/loss'] != log_of(finished)[0]['main/loss']
    settings = json.loads((tmp_path / 'run' / 'args.json').read_text())
    assert settings[flag.lstrip('-').replace('-', '_')] == value
    arrays = snapshot.read(snapshot.newest(str(tmp_path / 'run')))
    assert arrays['updater/model:main/ld1/W'].shape == (settings['dim_h'], settings['dim_z'])


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
    path = tmp_path / 'whole' / 'snapshot_epoch_4'
    assert state_of(tmp_path / 'run' / 'snapshot_epoch_4') == state_of(path)
    model = net.Autoencoder(784, 2, 16, net.ACTIVATIONS['softplus'])
    snapshot.load_model(snapshot.read(str(path)), model, str(path))
    digits = mnist.get_digits(data_dir=str(data_dir))
    assert float(model.get_loss_func()(digits.test).array) == pytest.approx(
        log[-1]['validation/main/loss'], rel=1e-5)


def test_autoencoder_and_vae_are_told_apart(cli, data_dir, tmp_path, finished):
    path, start = tmp_path / 'run' / 'snapshot_epoch_2', ['--data-dir', data_dir, *SMALL]
    assert cli(*start, '--autoencoder', '-o', tmp_path / 'run')[0] == 0
    check_refused(cli(*start, '-m', path, '-o', tmp_path / 'vae'),
                  f'{path} is of an autoencoder, and not of a VAE; give --autoencoder')
    check_refused(cli('--resume', '--autoencoder', '-o', finished), 'contradicts --autoencoder')


def test_test_takes_a_hundred_digits_and_auto_falls_back_on_the_bundled_ones(cli, tmp_path):
    status, out, err = cli('--test', '-o', tmp_path / 'run', *SMALL)
    assert status == 0
    assert "scikit-learn's bundled digits: 100 to train, 100 to test" in out
    assert err.startswith('warning: going on with the bundled digits instead of MNIST')
    assert json.loads((tmp_path / 'run' / 'args.json').read_text())['dataset'] == 'digits'
    assert cli('--dataset', 'digits', '--test', '-o', tmp_path / 'other', *SMALL)[0::2] == (0, '')
    assert log_of(tmp_path / 'other') == log_of(tmp_path / 'run')


def test_initmodel_starts_from_the_weights(cli, data_dir, tmp_path, finished, monkeypatch):
    seen = []
    monkeypatch.setattr(train_vae.net, 'draw_graph', lambda model, x, C, k: seen.append(
        {name: param.array.tobytes() for name, param in model.namedparams()}) or '')
    row = first_row(cli, data_dir, tmp_path / 'run', '-m', last(finished))
    arrays = snapshot.read(last(finished))
    assert seen[0] == {name: arrays[f'updater/model:main{name}'].tobytes() for name in seen[0]}
    assert row['epoch'] == 1
    assert row['main/loss'] < log_of(finished)[0]['main/loss']


# An OUT that is not empty; resume ---------------------------------------------------------------


def test_another_runs_snapshots_are_refused(cli, data_dir, small_run, tmp_path):
    before = files_in(small_run)
    check_refused(cli('--data-dir', data_dir, '-o', small_run, *SMALL),
                  '--resume', '--overwrite', '-o')
    other = shutil.copytree(small_run, tmp_path / 'other')
    check_refused(cli('--resume', last(other), '-o', small_run, '-e', '3'),
                  'holds the snapshots of an earlier run; name another folder')
    for flags in (['--data-dir', 'nowhere'], ['--gpu', '99'], ['-m', 'nowhere']):
        check_refused(cli('--data-dir', data_dir, '-o', small_run, *SMALL, '--overwrite', *flags))
    assert files_in(small_run) == before


@needs_posix
@pytest.mark.parametrize('stopped_at', [None, 1])
def test_overwrite_leaves_nothing_of_the_run_before(cli, data_dir, small_run, stopped_at):
    with stopping_at(stopped_at):
        status, _, err = cli('--data-dir', data_dir, '-o', small_run, *SMALL, '-e', '1',
                             '--overwrite')
    names = {path.name for path in small_run.iterdir()} - {'record'}
    noted = {path.name for path in (small_run / 'record').iterdir()}
    assert noted == {'epoch_0.npz', *['epoch_1.npz'] * (not stopped_at)}
    if stopped_at:
        assert (status, names) == (143, {'.lock', 'args.json', 'cg.dot', 'snapshot_interrupted'})
    else:
        assert (status, err) == (0, '')
        assert [row['epoch'] for row in log_of(small_run)] == [1]
        assert names == {'.lock', 'args.json', 'cg.dot', 'log', 'snapshot_epoch_1'}


def test_resume_of_a_finished_run_says_so(cli, small_run, pictures):
    before = files_in(small_run)
    status, out, err = cli('--resume', '-o', small_run)
    assert (status, err) == (0, '')
    assert 'is at epoch 2 already; go on with a larger --epoch' in out
    assert files_in(small_run) == before
    (small_run / 'loss.png').unlink()
    assert cli('--resume', '-o', small_run)[0] == 0
    assert files_in(small_run) == before
    assert cli('--resume', last(small_run), '-o', small_run / 'new')[0] == 0
    assert not (small_run / 'new').exists()
    for at in (1, 2):                       # past its end, Chainer's own trigger would go on
        assert ' already; ' in cli('--resume', small_run / f'snapshot_epoch_{at}', '-e', '1')[1]
    assert files_in(small_run) == before


@pytest.mark.parametrize('flags, said', [
    ('--activation tanh', '--activation tanh, as it was trained with softplus'),
    ('--beta 2', '--beta 2.0, as it was trained with 1.0'),
    ('--binary --seed 4 --dataset digits',
     '--binary, --seed 4, --dataset digits, as it was trained without it, with 0, with mnist')])
def test_resume_against_its_settings_is_refused(cli, small_run, flags, said):
    check_refused(cli('--resume', '-o', small_run, '-e', '4', *flags.split()),
                  f'{last(small_run)} contradicts {said}')


def test_resume_with_other_digits_is_refused(cli, small_run, data_dir):
    for kind in ('images-idx3', 'labels-idx1'):
        shutil.copy(data_dir / f't10k-{kind}-ubyte.gz', data_dir / f'train-{kind}-ubyte.gz')
    check_refused(cli('--resume', '-o', small_run, '-e', '4', '--data-dir', data_dir),
                  f'was trained on other digits than IDX files in {data_dir}')


def test_resume_finds_its_digits_where_they_moved(cli, small_run, data_dir):
    path = with_settings(last(small_run), last(small_run), data_dir='/moved')
    check_refused(cli('--resume', path, '-e', '3'), '/moved is not a folder')
    assert cli('--resume', path, '-e', '3', '--data-dir', data_dir)[0] == 0


# Signals ----------------------------------------------------------------------------------------


@needs_posix
@pytest.mark.parametrize('script, module, signum, status, said', [
    ('train_vae.py', 'xavier', signal.SIGINT, -signal.SIGINT, 'interrupted\n'),     # imported last
    ('visualize.py', 'xavier', signal.SIGINT, -signal.SIGINT, 'interrupted\n'),
    ('train_vae.py', 'support.fast.updater', signal.SIGTERM, 143,
     'train_vae.py: error: interrupted\n')])
def test_a_signal_before_there_is_work_to_keep(tmp_path, script, module, signum, status, said):
    code = f"""
import os, runpy, signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)            # or it may be ignored
class Finder:
    def find_spec(self, name, *args):
        if name == {module!r}:
            os.kill(os.getpid(), {signum:d})
sys.meta_path.insert(0, Finder())
sys.argv = [{script!r}, '--dataset', 'digits', '-o', {str(tmp_path / 'run')!r}]
runpy.run_path({script!r}, run_name='__main__')
"""
    run = subprocess.run([sys.executable, '-c', code], timeout=60, capture_output=True, text=True,
                         check=False, cwd=ROOT)
    assert (run.returncode, run.stdout, run.stderr) == (status, '', said)
    assert not (tmp_path / 'run').exists()


# What bad input gets ----------------------------------------------------------------------------


@pytest.mark.parametrize('flags, said', [
    (['--epoch', 'a\nb'], 'a b is not a positive whole number'),
    (['--batch-size', 10**20], 'is not a positive whole number of at most 1000000'),
    (['--beta', 'nan'], '--beta: nan is not a positive number'), (['--keep', '0'], '--keep'),
    (['--seed', '4294967296'], 'from 0 to 4294967295'), (['--dataset', 'fashion'], '--dataset'),
    (['--activation', 'sigmoid'], '--activation'), (['--gpu', 'x'], '--gpu'),
    (['--no-such-flag'], '--no-such-flag'), (['--resume', '--overwrite'], 'leave them out'),
    (['--resume', '--initmodel', 'x'], 'leave them out'),
    (['--autoencoder', '--beta', '2'], 'neither a latent loss nor noise; leave out --beta and --k'),
    (['--data-dir', '.', '--dataset', 'digits'], 'exclude each other'),
    (['--dataset', 'mnist'], 'could not be downloaded'), (['--resume='], 'cannot read '),
    (['--resume', 'a\nb'], 'cannot read the snapshot a b'), (['--resume'], 'no snapshot in '),
    (['--dataset', 'digits', '-m', ''], 'cannot read '), (['--data-dir', ''], 'not a folder'),
    (['--dataset', 'digits', '-o', ''], 'cannot write to'),
    (['--dataset', 'digits', '-o', '/dev/null/run'], 'cannot write to')])
def test_bad_flags(cli, tmp_path, monkeypatch, flags, said):
    monkeypatch.chdir(tmp_path)
    check_refused(cli('-o', tmp_path / 'run', *flags), said)
    assert not (tmp_path / 'run').exists()


def test_no_memory(cli, data_dir, tmp_path, monkeypatch):
    def fail(*sizes):
        raise MemoryError('Unable to allocate')

    monkeypatch.setattr(net, 'VAE', fail)
    check_refused(cli('--data-dir', data_dir, '-o', tmp_path / 'run'),
                  'not enough memory; try smaller sizes (Unable to allocate)')


def test_one_line_and_nothing_of_chainers_in_a_real_process(tmp_path):
    run = subprocess.run([sys.executable, train_vae.__file__, '-o', tmp_path / 'run', '--gpu', '99',
                          '--dataset', 'digits'], capture_output=True, text=True, timeout=60,
                         check=False)
    check_refused((run.returncode, run.stdout, run.stderr))
    assert run.stdout == ''


def test_loss_that_is_not_finite_stops_the_run(cli, data_dir, small_run, tmp_path):
    status, _, err = cli('--data-dir', data_dir, '-o', tmp_path / 'inf', *SMALL, '--beta', '1e39')
    assert (status, err.count('\n')) == (1, 1)
    assert 'the training loss is not finite in epoch 1, iteration 1; ' in err
    assert 'last good snapshot: none' in err
    assert not list((tmp_path / 'inf').glob('snapshot_*'))

    huge = np.full(784, 3e38, np.float32)
    nan = rewrite(last(small_run), tmp_path / 'nan', **{'updater/model:main/ld3/b': huge * np.nan})
    check_refused(cli('--resume', nan, '-e', '3'), 'is damaged: its ld3/b is not finite')
    rewrite(last(small_run), last(small_run), **{'updater/model:main/ld3/b': huge})
    for out in (small_run, tmp_path / 'elsewhere'):
        status, _, err = cli('--resume', last(small_run), '-e', '3', '-o', out)
        assert (status, err.count('\n')) == (1, 1)
        assert f'in epoch 3, iteration 7; stopped, last good snapshot: {last(small_run)};' in err
        assert not (out / 'snapshot_epoch_3').exists()


# Real digits ---------------------------------------------------------------------------------


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
