"""A run that is stopped, killed or denied room goes on to the result that it would have had."""

import contextlib
import glob
import json
import os
import random
import signal
import subprocess
import sys
import time
from types import SimpleNamespace

from support.run import ranks, resume, run_folder, snapshot, stopping  # lets chainer import

import chainer
from conftest import ROOT, SMALL, needs_gpu, write_files
import numpy as np
import pytest
from test_train_vae import STOPPING, check_refused, log_of

import net
import train_vae

pytestmark = pytest.mark.usefixtures('pictures')
needs_posix = pytest.mark.skipif(os.name != 'posix', reason='needs POSIX signals')


def state_of(path):
    """Return every array of a snapshot as bytes, with its dtype and shape, but no elapsed time."""
    arrays = snapshot.read(str(path))
    del arrays['_snapshot_elapsed_time']
    rows = json.loads(str(arrays.pop(snapshot.LOG_KEY)))
    for row in rows:
        row.pop('elapsed_time', None)
    return {'log': rows} | {key: (array.dtype.str, array.shape, array.tobytes())
                            for key, array in arrays.items()}


def check_same(out, undisturbed):
    """Assert that a run ended as another did: the same files, and the same in them."""
    names = {path.name for path in undisturbed.iterdir()}
    assert {path.name for path in out.iterdir()} == names
    assert log_of(out) == log_of(undisturbed)
    assert (out / 'loss.png').read_bytes() == (undisturbed / 'loss.png').read_bytes()
    assert (out / 'args.json').read_bytes() == (undisturbed / 'args.json').read_bytes()
    last = os.path.basename(snapshot.newest(str(undisturbed)))
    assert state_of(out / last) == state_of(undisturbed / last)


@contextlib.contextmanager
def stopping_at(iteration):
    """Let a run in this process meet a SIGTERM in its iteration of this number."""
    def call(self, trainer):
        if trainer.updater.iteration == iteration and self.signum is None:
            os.kill(os.getpid(), signal.SIGTERM)
        return plain(self, trainer)

    with pytest.MonkeyPatch.context() as patch:
        plain = stopping.UntilStopped.__call__
        patch.setattr(stopping.UntilStopped, '__call__', call)
        yield


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


def test_resumed_from_any_snapshot_file(cli, data_dir, tmp_path, finished):
    assert cli('--resume', finished / 'snapshot_epoch_1', '-o', tmp_path / 'run')[0] == 0
    assert state_of(tmp_path / 'run' / 'snapshot_epoch_2') == state_of(
        finished / 'snapshot_epoch_2')
    assert log_of(tmp_path / 'run') == log_of(finished)


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


def test_a_frozen_layer_resumes_exactly(cli, data_dir, tmp_path, monkeypatch):
    def freezing():
        def setup(model):
            Adam.setup(optimizer, model)
            model.le1.disable_update()

        optimizer = Adam()
        optimizer.setup = setup
        return optimizer

    Adam = chainer.optimizers.Adam
    monkeypatch.setattr(train_vae.optimizers, 'Adam', freezing)
    for flags in (['--data-dir', data_dir, *SMALL, '-e', '3', '-o', tmp_path / 'whole'],
                  ['--data-dir', data_dir, *SMALL, '-o', tmp_path / 'run'],
                  ['--resume', '-e', '3', '-o', tmp_path / 'run']):
        assert cli(*flags)[::2] == (0, '')
    resumed, whole = (state_of(tmp_path / run / 'snapshot_epoch_3') for run in ('run', 'whole'))
    assert {key for key in whole if whole[key] != resumed[key]} == set()


@pytest.mark.parametrize('name', ['MomentumSGD', *(
    pytest.param(name, marks=pytest.mark.slow) for name in ('SGD', 'AdaGrad'))])
def test_another_optimizer_resumes_exactly_and_is_not_taken_for_adam(
        cli, data_dir, tmp_path, monkeypatch, name):
    adam, other = chainer.optimizers.Adam, getattr(chainer.optimizers, name)
    flags = ('--data-dir', data_dir, *SMALL)
    monkeypatch.setattr(train_vae.optimizers, 'Adam', lambda: other(0.001))
    status, text, err = cli(*flags, '-e', '3', '-o', tmp_path / 'whole')
    assert (status, err) == (0, '')
    assert 'updater  compiled parts (optimizer is not plain Adam)\n' in text
    assert f', {name}' in text
    assert cli(*flags, '-o', tmp_path / 'run')[::2] == (0, '')
    assert cli('--resume', '-e', '3', '-o', tmp_path / 'run')[::2] == (0, '')
    resumed, whole = (state_of(tmp_path / run / 'snapshot_epoch_3') for run in ('run', 'whole'))
    assert {key for key in whole if whole[key] != resumed[key]} == set()
    monkeypatch.setattr(train_vae.optimizers, 'Adam', adam)
    check_refused(cli('--resume', '-e', '4', '-o', tmp_path / 'run'),
                  f'was trained by {name}', ', and train_vae.py has Adam; ')
    assert cli(*flags, '-o', tmp_path / 'adam')[0] == 0
    monkeypatch.setattr(train_vae.optimizers, 'Adam', lambda: adam(alpha=0.01))
    status, _, err = cli('--resume', '-e', '3', '-o', tmp_path / 'adam')
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
    path.write_bytes(path.read_bytes()[:-1])
    status, out, err = cli('--resume', '-o', small_run, '-e', '1')
    assert (status, err.count('\n')) == (0, 1)      # said once
    assert 'is at epoch 1 already' in out


@needs_posix
def test_stopped_before_the_first_iteration(cli, data_dir, tmp_path):
    start = ['--data-dir', data_dir, '-o', tmp_path / 'run', *SMALL]
    with stopping_at(0):
        status, out, err = cli(*start)
    assert (status, err) == (143, '')
    assert out.endswith('interrupted before the first iteration; start it again\n')
    assert not list((tmp_path / 'run').glob('snapshot_*'))
    assert cli(*start)[0] == 0


class OnGPU:
    """An updater that seems to be on a GPU, where `random` makes the noise."""

    def __init__(self, updater, random):
        self.updater = updater
        self.device = SimpleNamespace(xp=SimpleNamespace(random=random))

    def __getattr__(self, name):
        """Return what the updater has besides."""
        return getattr(self.updater, name)

    @property
    def kind(self):
        """Tell how it trains."""
        return resume.kind_of(self.updater)


class Noise:
    """A generator without a state to save, in place of CuPy's, for the noise of `F.gaussian`."""

    def __init__(self, patch):
        gaussian = net.F.gaussian
        patch.setattr(net.F, 'gaussian', lambda mu, ln_var: gaussian(
            mu, ln_var, eps=self.state.standard_normal(mu.shape).astype(np.float32)))
        run_state = resume.RunState
        patch.setattr(resume, 'RunState', lambda settings, updater, comm: run_state(
            settings | {'device': 'GPU'}, OnGPU(updater, self), comm))
        self.state, self.seeds = np.random.RandomState(), []

    def seed(self, value):
        """Do what `cupy.random.seed` does."""
        assert 0 <= value < 2**64
        self.seeds.append(value)
        self.state = np.random.RandomState([value >> 32, value % 2**32])


@needs_posix
def test_noise_of_a_generator_without_a_state_follows_from_seed_and_iteration(
        cli, data_dir, tmp_path, monkeypatch):
    noise = Noise(monkeypatch)
    start = ['--data-dir', data_dir, *SMALL, '--seed', 2**32 - 1]
    assert cli(*start, '-o', tmp_path / 'whole')[0] == 0
    assert noise.seeds == [((2**32 - 1) << 32) + i for i in range(7)]
    with stopping_at(4):
        assert cli(*start, '-o', tmp_path / 'run')[0] == 143
    assert cli('--resume', '-o', tmp_path / 'run')[0] == 0
    check_same(tmp_path / 'run', tmp_path / 'whole')


def test_each_rank_seeds_the_noise_of_a_gpu_for_itself():
    seeds, trainer = {}, SimpleNamespace(updater=SimpleNamespace(iteration=7))
    for rank in (None, 0, 1, 2):
        comm = ranks.Alone() if rank is None else SimpleNamespace(rank=rank)
        random = SimpleNamespace(seed=lambda seed, of=rank: seeds.update({of: seed}))
        state = resume.RunState({'seed': 2**32 - 1}, OnGPU(None, random), comm)
        state(trainer)
    assert seeds[None] == seeds[0] == (2**32 - 1 << 32) + 7
    assert len({seeds[0], seeds[1], seeds[2]}) == 3
    assert all(type(seed) is int and 0 <= seed < 2**64 for seed in seeds.values())


@pytest.mark.parametrize('device, fires', [('CPU', False), ('GPU', True)])
def test_noise_is_seeded_on_a_gpu_alone(device, fires):
    seeds, trainer = [], SimpleNamespace(updater=SimpleNamespace(iteration=0))
    state = resume.RunState({'seed': 5, 'device': device},
                            OnGPU(None, SimpleNamespace(seed=seeds.append)), ranks.Alone())
    state.initialize(trainer)
    assert (state.trigger(trainer), seeds) == (fires, [5 << 32] * fires)


def test_a_snapshot_tells_which_updater_trains_now():
    updater = SimpleNamespace(kind='fast (somehow)')
    state = resume.RunState({'seed': 5, 'trained_by': None}, updater, ranks.Alone())
    for kind, name in (('fast (somehow)', 'fast'), ('compiled parts (as it is)', 'compiled'),
                       ('standard', 'standard')):
        updater.kind = kind
        target = {}
        state.serialize(chainer.serializers.DictionarySerializer(target))
        assert json.loads(str(target['settings'])) == state.now() == {
            'seed': 5, 'trained_by': name, 'trained_on': '', 'varied': {}}
    del updater.kind                        # Chainer's own has none
    assert state.now()['trained_by'] == 'standard'


@needs_posix
@needs_gpu
def test_gpu_resumes_exactly(cli, data_dir, tmp_path):
    start = ['--gpu', '0', '--data-dir', data_dir, *SMALL]
    assert cli(*start, '-o', tmp_path / 'whole')[0] == 0
    with stopping_at(4):
        assert cli(*start, '-o', tmp_path / 'run')[0] == 143
    assert cli('--resume', '--gpu', '0', '-o', tmp_path / 'run')[0] == 0
    check_same(tmp_path / 'run', tmp_path / 'whole')


# In processes of their own --------------------------------------------------------------------


SLOW = [*SMALL, '-b', '1', '--updater', 'standard']     # a snapshot is not gone at once


def start(*argv, **options):
    """Start train_vae.py with one thread, so that its sums have one order wherever it runs."""
    return subprocess.Popen(
        [sys.executable, train_vae.__file__, *map(str, argv)], stdout=subprocess.PIPE,
        stderr=subprocess.PIPE, text=True,
        env={**os.environ, 'OPENBLAS_NUM_THREADS': '1', 'OMP_NUM_THREADS': '1'}, **options)


def finish(*argv):
    """Run train_vae.py to its end, which must be a good one."""
    process = start(*argv)
    _, err = process.communicate(timeout=120)
    assert (process.returncode, err) == (0, '')


def wait_for(path, process):
    """Wait until a file is there."""
    deadline = time.monotonic() + 60
    while not path.exists():
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.005)


@pytest.fixture
def endless(data_dir, tmp_path):
    """Return a run that goes on for ever, in tmp_path/run, once it has written two snapshots."""
    process = start('--data-dir', data_dir, '-o', tmp_path / 'run', *SLOW, '-e', 10**6)
    wait_for(tmp_path / 'run' / 'snapshot_epoch_2', process)
    yield process
    process.kill()
    process.communicate()


def check_goes_on(out, data_dir, whole):
    """Assert that a run goes on to the end that it would have had."""
    epochs = run_folder.epoch_of(snapshot.newest(str(out))) + 2
    finish('--resume', '-o', out, '-e', epochs)
    finish('--data-dir', data_dir, '-o', whole, *SLOW, '-e', epochs)
    check_same(out, whole)


@needs_posix
@pytest.mark.slow
def test_a_second_run_is_refused_while_the_first_lives(cli, data_dir, tmp_path, endless):
    out = tmp_path / 'run'
    for flags in (['--resume'], ['--overwrite', *SLOW, '--data-dir', data_dir],
                  [*SLOW, '--data-dir', data_dir]):
        check_refused(cli(*flags, '-o', out), f'{out} is in use by another run')
    assert endless.poll() is None
    endless.kill()
    endless.wait()
    check_goes_on(out, data_dir, tmp_path / 'whole')


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != 'linux', reason='needs prlimit')
def test_a_snapshot_that_finds_no_room(data_dir, tmp_path, endless):
    import resource

    out = tmp_path / 'run'
    room = (out / 'snapshot_epoch_2').stat().st_size // 2
    resource.prlimit(endless.pid, resource.RLIMIT_FSIZE, (room, room))
    _, err = endless.communicate(timeout=60)
    whole = sorted(map(run_folder.epoch_of, run_folder.find_snapshots(str(out))))
    check_refused((endless.returncode, '', err),
                  f'cannot write {out / "snapshot_epoch_"}{whole[-1] + 1} (File too large); '
                  'put that right, then go on with --resume')
    assert len(whole) <= 5
    assert not list(out.glob('.*.part'))
    check_goes_on(out, data_dir, tmp_path / 'whole')


@pytest.fixture
def small_disk(tmp_path):
    """Return a file system of 2 MB."""
    disk = tmp_path / 'disk'
    disk.mkdir()
    if sys.platform != 'linux' or subprocess.run(
            ['mount', '-t', 'tmpfs', '-o', 'size=2m', 'none', disk], capture_output=True,
            check=False).returncode:
        pytest.skip('needs the right to mount a file system')
    yield disk
    subprocess.run(['umount', '-l', disk], check=True)


@pytest.mark.slow
def test_a_disk_that_fills_up(cli, data_dir, small_disk, tmp_path):
    out = small_disk / 'run'
    check_refused(cli('--data-dir', data_dir, '-o', out), f'{out} has 2.1 MB free, and 6 new ')
    assert not out.exists()
    small = ['--data-dir', data_dir, *SMALL, '--keep', '2']
    process = start(*small, '-o', out, '-e', 10**6)
    wait_for(out / 'snapshot_epoch_2', process)
    with contextlib.suppress(OSError), open(small_disk / 'other', 'wb', buffering=0) as file:
        while True:
            file.write(bytes(4096))
    _, err = process.communicate(timeout=60)
    check_refused((process.returncode, '', err), 'cannot write ', '(No space left on device); ')
    assert not list(out.glob('.*.part'))
    (small_disk / 'other').unlink()
    epochs = run_folder.epoch_of(snapshot.newest(str(out))) + 2
    finish('--resume', '-o', out, '-e', epochs)
    finish(*small, '-o', tmp_path / 'whole', '-e', epochs)
    check_same(out, tmp_path / 'whole')

    subprocess.run(['mount', '-o', 'remount,ro', small_disk], check=True)
    for folder in (out, small_disk / 'new'):
        check_refused(cli('--resume', out / f'snapshot_epoch_{epochs}', '-o', folder),
                      f'cannot write to {folder} (Read-only file system); '
                      f"give --resume {out / f'snapshot_epoch_{epochs}'} and another folder")


# Killed at random -----------------------------------------------------------------------------


KILLED = ['-b', '1', '-e', '6', '--dim-h', '400', '-z', '2',         # 11 MB a snapshot
          '--snapshot-every', '2', '--keep', '2']


@pytest.fixture(scope='module')
def undisturbed(tmp_path_factory, idx_files):
    """Return the digits, the folder and the seconds of a run that nothing disturbs."""
    base = tmp_path_factory.mktemp('undisturbed')
    data = write_files(base / 'data', idx_files)
    before = time.monotonic()
    finish('--data-dir', data, '-o', base / 'run', *KILLED)
    return data, base / 'run', time.monotonic() - before


def go_on(data, out):
    """Start a run, or go on with it from its newest snapshot."""
    has_snapshot = out.exists() and run_folder.find_snapshots(str(out))
    return start(*(['--resume'] if has_snapshot else ['--data-dir', data, *KILLED]), '-o', out)


def check_whole(out):
    """Assert that all snapshots there are whole; return what a kill hit."""
    parts = list(out.glob('.*.part'))
    for path in run_folder.find_snapshots(str(out)) if out.exists() else []:
        snapshot.read_settings(snapshot.read(path), path)
    if not parts:
        is_there = out.exists() and run_folder.find_snapshots(str(out))
        return 'between files' if is_there else 'no snapshot yet'
    return 'in ' + parts[0].name.split('.')[1].rstrip('0123456789')


@pytest.mark.slow
@needs_posix
@pytest.mark.parametrize('seed', range(4))
def test_killed_at_any_moment(undisturbed, tmp_path, seed):
    """Killed at a random moment, or while a snapshot is being written, or at both in turn."""
    data, whole, seconds = undisturbed
    out, chance, hits = tmp_path / 'run', random.Random(seed), []
    for moment in (['writing'], ['any'], ['any', 'writing'])[seed % 3]:
        process = go_on(data, out)
        if moment == 'writing':
            after = chance.randrange(3)     # of the snapshots
            while process.poll() is None and not (
                    glob.glob(f'{out}/.snapshot*.part')
                    and len(glob.glob(f'{out}/snapshot_*')) >= min(after, 2)):
                time.sleep(0.0005)
            time.sleep(chance.uniform(0, 0.01))
        else:
            time.sleep(chance.uniform(0.15, 0.75) * seconds)
        process.kill()
        process.communicate()
        hits.append(check_whole(out) if process.returncode else 'nothing: it had ended')
    print(*hits, sep='\n')
    _, err = (last := go_on(data, out)).communicate(timeout=120)
    assert (last.returncode, err) == (0, '')
    check_same(out, whole)


@pytest.mark.slow
@needs_posix
@pytest.mark.parametrize('seed', range(4))
def test_signalled_at_any_moment(undisturbed, tmp_path, seed):
    data, whole, _ = undisturbed
    out, chance = tmp_path / 'run', random.Random(seed)
    for signum in chance.sample([signal.SIGINT, signal.SIGTERM], 2):
        process = go_on(data, out)
        while process.stdout.readline() != f'results  {out}\n':
            assert process.poll() is None
        for _ in range(chance.randrange(6)):    # a blank line, two of headings, up to two epochs
            process.stdout.readline()
        time.sleep(chance.uniform(0, 0.05))
        process.send_signal(signum)
        text, err = process.communicate(timeout=60)
        assert (process.returncode, err) == (128 + signum, STOPPING)
        said = text.splitlines()[-1]
        at = snapshot.read_iteration(snapshot.newest(str(out)))
        assert f', iteration {at}; go on with: ' in said
        print(said)
    finish('--resume', '-o', out)
    check_same(out, whole)


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
