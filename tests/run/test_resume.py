"""A run that is stopped, killed or denied room goes on to the result that it would have had."""

import functools
import json
import os
import random
import subprocess
import sys
from types import SimpleNamespace

from support.run import ranks, resume, run_folder, settings, snapshot  # lets chainer import

import chainer
from chainer import optimizers
from conftest import ROOT, SMALL, needs_gpu
import numpy as np
import pytest
from runs import (
    check_refused,
    check_same,
    epoch_of,
    last,
    log_of,
    needs_posix,
    state_of,
    stopping_at,
    wait_for,
    with_settings,
)

import net
import train_vae

pytestmark = pytest.mark.usefixtures('pictures')


# Exactly as if never stopped ------------------------------------------------------------------


SETTINGS = {
    'batches over the end': ('-b 7', 52),   # of 60 digits, for 6 epochs: iterations
    'more than there are': ('-b 150', 3),
    'k, beta, relu': ('-b 11 -k 3 --beta 2 --activation relu', 33),
    'not every epoch': ('-b 20 --snapshot-every 3 --keep 2', 18),
}


@needs_posix
@pytest.mark.parametrize('name', [
    name if name.startswith('batches') else pytest.param(name, marks=pytest.mark.slow)
    for name in SETTINGS])
def test_stopped_anywhere_and_resumed(cli, data_dir, tmp_path, name):
    flags, iterations = SETTINGS[name]
    start = ['--data-dir', data_dir, *SMALL, *flags.split(), '-e', '6']
    assert cli(*start, '-o', tmp_path / 'whole')[0] == 0
    newest = snapshot.newest(str(tmp_path / 'whole'))
    assert snapshot.read_iteration(newest) == iterations
    run = tmp_path / 'run'
    stops = sorted(random.Random(name).sample(range(1, iterations), 2))
    command = [*start, '-o', run]
    for stop in stops:
        with stopping_at(stop):
            status, out, err = cli(*command)
        assert (status, err) == (143, '')
        assert out.splitlines()[-1].startswith('interrupted at epoch ')
        assert snapshot.read_iteration(snapshot.newest(str(run))) == stop
        command = ['--resume', '-o', run]
    assert cli(*command)[0] == 0
    check_same(run, tmp_path / 'whole')


def test_a_folder_that_is_moved_away_meanwhile_is_made_anew(cli, data_dir, tmp_path, monkeypatch):
    def call(self, trainer):
        report(self, trainer)
        if trainer.updater.is_new_epoch and trainer.updater.epoch == 2:
            os.rename(tmp_path / 'run', tmp_path / 'moved')

    report = train_vae.PrintReport.__call__
    monkeypatch.setattr(train_vae.PrintReport, '__call__', call)
    flags = (*SMALL, '--data-dir', data_dir, '-e', '3', '--snapshot-every', '3')
    status, _, err = cli(*flags, '-o', tmp_path / 'run')
    assert (status, err) == (0, f'warning: {tmp_path / "run"} was moved or deleted; the run goes '
                             'on in a new one\n')
    assert len(json.loads((tmp_path / 'run' / 'log').read_text())) == 3
    monkeypatch.undo()
    assert cli(*flags, '-o', tmp_path / 'whole')[0] == 0
    anew, whole = (state_of(tmp_path / name / 'snapshot_epoch_3') for name in ('run', 'whole'))
    assert anew == whole


@pytest.mark.parametrize('make, name', [
    (optimizers.MomentumSGD, 'MomentumSGD(lr=0.001)'), (optimizers.SMORMS3, 'SMORMS3'),
    (optimizers.AdaDelta, 'AdaDelta(rho=0.001)'),
    (functools.partial(optimizers.Adam, amsgrad=True), 'Adam(amsgrad=True)')])
def test_another_optimizer_resumes_exactly_and_is_not_taken_for_adam(
        cli, data_dir, tmp_path, monkeypatch, make, name):
    adam = optimizers.Adam
    flags = ('--data-dir', data_dir, *SMALL)
    monkeypatch.setattr(train_vae.optimizers, 'Adam', lambda: make(0.001))
    status, text, err = cli(*flags, '-e', '3', '-o', tmp_path / 'whole')
    assert (status, err) == (0, '')
    assert 'updater  compiled parts (optimizer is not plain Adam)\n' in text
    assert f', {name}, seed' in text
    assert cli(*flags, '-o', tmp_path / 'run')[::2] == (0, '')
    assert cli('--resume', '-e', '3', '-o', tmp_path / 'run')[::2] == (0, '')
    check_same(tmp_path / 'run', tmp_path / 'whole')
    monkeypatch.setattr(train_vae.optimizers, 'Adam', adam)
    check_refused(cli('--resume', '-e', '4', '-o', tmp_path / 'run'),
                  f'was trained by {name}, and train_vae.py has Adam; ')


def test_another_step_size_than_that_of_the_snapshot_is_told(cli, small_run, monkeypatch):
    monkeypatch.setattr(train_vae.optimizers, 'Adam', lambda make=optimizers.Adam: make(0.01))
    status, _, err = cli('--resume', '-e', '3', '-o', small_run)
    assert (status, err.count('\n')) == (0, 1)
    assert 'was trained by Adam; by Adam(alpha=0.01) the run goes on, but not to exactly' in err


def test_a_number_made_persistent_since_then_starts_anew(
        cli, draw, data_dir, tmp_path, small_run, monkeypatch):
    """As the warning of a plain attribute that training changes tells one to make it."""
    def init(self, *args):
        plain(self, *args)
        self.add_persistent('steps', 5)

    plain = net.VAE.__init__
    monkeypatch.setattr(net.VAE, '__init__', init)
    path = small_run / 'snapshot_epoch_2'
    status, _, err = cli('--resume', '-o', small_run, '-e', '3')
    assert (status, err.splitlines()[0]) == (0, (
        f'warning: {path} holds nothing of steps of the model, which starts anew'))
    status, _, err = cli('--resume', '-o', small_run, '-e', '4')
    assert (status, 'starts anew' in err) == (0, False)
    assert int(snapshot.read(str(small_run / 'snapshot_epoch_4'))['updater/model:main/steps']) == 5
    assert draw('digits', '-s', path)[0] == 0
    assert cli('--data-dir', data_dir, *SMALL, '-m', path, '-o', tmp_path / 'm')[0] == 0


def test_a_damaged_snapshot_is_passed_over(cli, small_run, tmp_path, finished):
    path = small_run / 'snapshot_epoch_2'
    path.write_bytes(path.read_bytes()[:-1])
    status, out, err = cli('--resume', '-o', small_run)
    assert (status, err.count('\n')) == (0, 1)
    assert err.startswith(f'warning: passed over: {path} is damaged (')
    assert f"epochs   2, from 1 of {small_run / 'snapshot_epoch_1'}" in out
    check_same(small_run, finished)


@needs_posix
def test_stopped_before_the_first_iteration(cli, data_dir, tmp_path):
    start = ['--data-dir', data_dir, '-o', tmp_path / 'run', *SMALL]
    with stopping_at(0):
        status, out, err = cli(*start)
    assert (status, err) == (143, '')
    assert out.endswith('interrupted before the first iteration; start it again\n')
    assert not list((tmp_path / 'run').glob('snapshot_*'))
    assert cli(*start)[0] == 0


def test_each_rank_seeds_the_noise_of_a_gpu_by_seed_and_iteration():
    """CuPy's generator has no state to save; `test_gpu_resumes_exactly` goes on with it."""
    seeds, trainer = [], SimpleNamespace(updater=SimpleNamespace(iteration=7))
    random = SimpleNamespace(seed=seeds.append)
    updater = SimpleNamespace(device=SimpleNamespace(xp=SimpleNamespace(random=random)))
    about = settings.Settings(n_in=784, seed=2**32 - 1, device='GPU')
    for comm in (ranks.Alone(), *(SimpleNamespace(rank=rank) for rank in range(3))):
        resume.RunState(about, updater, comm)(trainer)
    assert seeds[0] == seeds[1] == (2**32 - 1 << 32) + 7
    assert len({*seeds[1:]}) == 3
    assert all(type(seed) is int and 0 <= seed < 2**64 for seed in seeds)


def test_another_number_of_ranks_does_not_go_on(cli, small_run, data_dir):
    path = with_settings(last(small_run), small_run / 'snapshot_epoch_3', ranks=2)
    check_refused(cli('--resume', path, '-e', '4'), f'{path} is of 2 ranks, and this run has 1; ',
                  ', with -m')
    assert cli('--data-dir', data_dir, *SMALL, '-m', path, '-o', small_run / 'new')[0] == 0


def test_another_device_goes_on_with_a_warning(cli, small_run):
    path = with_settings(last(small_run), small_run / 'snapshot_epoch_3', device='GPU')
    status, _, err = cli('--resume', path, '-e', '4')
    assert (status, err) == (0, f'warning: {path} was trained on a GPU; on a CPU the run goes on, '
                                'but not to exactly the same result\n')


@needs_posix
@needs_gpu
def test_gpu_trains_and_resumes_exactly(cli, data_dir, tmp_path):
    start = ['--gpu', '0', '--data-dir', data_dir, *SMALL]
    status, out, err = cli(*start, '-o', tmp_path / 'whole')
    assert (status, 'GPU 0' in out, err) == (0, True, '')
    first, last = log_of(tmp_path / 'whole')
    assert last['main/loss'] < first['main/loss']
    with stopping_at(4):
        assert cli(*start, '-o', tmp_path / 'run')[0] == 143
    assert cli('--resume', '--gpu', '0', '-o', tmp_path / 'run')[0] == 0
    check_same(tmp_path / 'run', tmp_path / 'whole')
    assert cli('--resume', '-o', tmp_path / 'run', '-e', '3')[0] == 0       # and on the CPU


# What snapshots lack of a model ---------------------------------------------------------------


WARNING = ('warning: training changes steps, le1/table of the model, which snapshots lack and a '
           'resumed run does not get back; self.add_persistent(NAME, START) in __init__, in the '
           'place of self.NAME = START, keeps it\n')


class Counting(net.VAE):
    """Lets the weight of the KL divergence rise with each step of training."""

    def __init__(self, *sizes):
        super().__init__(*sizes)
        self.start()
        self.odd, self.days = np.zeros(2, [('a', 'f4')]), np.array('2017', 'M8[D]')

    def start(self):
        self.steps, self.le1.table = 0, np.zeros((2, 3), np.float32)

    def get_loss_func(self, C=1.0, k=1):
        def lf(x):
            if chainer.config.train:
                self.steps += 1
                self.le1.table[1, 2] += 1e-30
            loss = weigh(C * min(1, self.steps / 8), k)(x)
            # no numbers and arrays of a model's own, or what it reports
            self.mu, self.text, self.none = self.encode(x)[0], f'{self.steps}', np.array([None])
            self.kl = float(self.latent_loss.array)
            chainer.report({'kl': self.kl}, self)
            return loss

        weigh = super().get_loss_func
        return lf


class Kept(Counting):
    """The same, as the warning says."""

    def start(self):
        self.add_persistent('steps', 0)
        self.le1.add_persistent('table', np.zeros((2, 3), np.float32))


@pytest.mark.parametrize('kind, is_kept', [(Counting, False), (Kept, True)])
def test_what_training_changes_is_told_at_the_first_snapshot_and_kept_as_told(
        cli, data_dir, tmp_path, monkeypatch, kind, is_kept):
    monkeypatch.setattr(net, 'VAE', kind)
    said = '' if is_kept else WARNING
    for name, epochs in (('whole', 3), ('parts', 2)):       # of three minibatches
        status, _, err = cli('--data-dir', data_dir, '-o', tmp_path / name, *SMALL, '-e', epochs)
        assert (status, err) == (0, said)
    status, _, err = cli('--resume', '-e', 3, '-o', tmp_path / 'parts')
    assert (status, err) == (0, said)
    whole, parts = (state_of(tmp_path / name / 'snapshot_epoch_3') for name in ('whole', 'parts'))
    assert (whole == parts) == is_kept


# In processes of their own --------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != 'linux', reason='needs prlimit')
def test_a_snapshot_that_finds_no_room(cli, data_dir, tmp_path, one_thread):
    import resource

    out = tmp_path / 'run'                          # a snapshot is not gone at once
    flags = [str(flag) for flag in (
        '--data-dir', data_dir, *SMALL, '-b', 1, '--updater', 'standard')]
    process = subprocess.Popen(
        [sys.executable, train_vae.__file__, *flags, '-o', out, '-e', '1000000'], text=True,
        stdout=subprocess.DEVNULL, stderr=subprocess.PIPE,      # its sums have one order, too
        env={**os.environ, 'OPENBLAS_NUM_THREADS': '1', 'OMP_NUM_THREADS': '1'})
    wait_for(out / 'snapshot_epoch_2', process)
    room = (out / 'snapshot_epoch_2').stat().st_size // 2
    resource.prlimit(process.pid, resource.RLIMIT_FSIZE, (room, room))
    _, err = process.communicate(timeout=60)
    whole = sorted(map(epoch_of, run_folder.find_snapshots(str(out))))
    check_refused((process.returncode, '', err),
                  f'cannot write {out / "snapshot_epoch_"}{whole[-1] + 1} (File too large); '
                  'put that right, then go on with --resume')
    assert len(whole) <= 5
    assert not list(out.glob('.*.part'))
    assert cli('--resume', '-o', out, '-e', whole[-1] + 2)[::2] == (0, '')
    assert cli(*flags, '-o', tmp_path / 'whole', '-e', whole[-1] + 2)[::2] == (0, '')
    check_same(out, tmp_path / 'whole')


@pytest.mark.slow
@needs_posix
def test_killed_at_each_step_of_writing(data_dir, tmp_path):
    flags = ['--data-dir', data_dir, *SMALL, '-e', '3', '--keep', '2', '--updater', 'standard']
    done = subprocess.run(
        [sys.executable, os.path.join(ROOT, 'tests', 'killed.py'), tmp_path, *flags],
        capture_output=True, text=True, check=False, timeout=300,
        env=os.environ | {'PYTHONPATH': ROOT})
    assert (done.returncode, done.stderr) == (0, '')
    *killed, whole = sorted((path for path in tmp_path.iterdir() if path.name.isdecimal()),
                            key=lambda path: int(path.name))
    assert len(killed) == len(done.stdout.splitlines()) >= 50
    assert set(done.stdout.splitlines()) == {
        'in a write', *(f'{when} {call}' for when in ('before', 'after')
                        for call in ('fsync', 'replace', 'remove'))}
    for out in (*killed, whole):
        (out / 'loss.png').touch()                  # which they do without
    for out in killed:
        check_same(out, whole)
