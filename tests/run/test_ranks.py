"""train_vae.py --communicator: several processes under a real mpiexec train one model."""

import contextlib
import gzip
import itertools
import os
import signal
import subprocess
import sys

from support.base import files  # lets chainer import
from support.data import mnist
from support.run import snapshot

from chainer.backends import cuda
from conftest import HAS_GPU, ROOT, SMALL, idx, make_digits, write_files
import numpy as np
import on_ranks
from on_ranks import MPIEXEC, NAIVE, needs_mpi
import pytest
from runs import check_same, epoch_of, log_of, needs_posix, state_of, wait_for

import train_vae

pytestmark = pytest.mark.usefixtures('pictures')


@contextlib.contextmanager
def started(n, *argv):
    """Have n ranks of a script run within a `with` block, with one thread each."""
    process = subprocess.Popen(
        [MPIEXEC, '-n', str(n), sys.executable, *map(str, argv)], stdout=subprocess.PIPE,
        stderr=subprocess.PIPE, text=True, env={
            **os.environ, 'PYTHONPATH': ROOT, 'OPENBLAS_NUM_THREADS': '1', 'OMP_NUM_THREADS': '1',
            'OMPI_ALLOW_RUN_AS_ROOT': '1', 'OMPI_ALLOW_RUN_AS_ROOT_CONFIRM': '1'})
    try:
        yield process
    finally:
        process.terminate()             # SIGTERM, as mpiexec has ranks to end
        try:
            process.communicate(timeout=20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.communicate()


def run(n, *argv):
    with started(n, *argv) as process:
        return *process.communicate(timeout=120), process.returncode


def ours(err):
    """Return the lines of stderr that are not MPI's own, which differ from machine to machine."""
    return [line for line in err.splitlines()
            if line.startswith(('train_vae.py:', 'warning:', 'Traceback'))]


def finish(n, *argv):
    out, err, status = run(n, *argv)
    assert (status, ours(err)) == (0, [])
    return out


def train(n, *argv):
    """Run train_vae.py on n ranks to its end, which must be a good one; return stdout."""
    return finish(n, train_vae.__file__, *NAIVE, *argv)


def results(folder, ranks=2):
    return [dict(np.load(f'{folder}/rank{rank}.npz')) for rank in range(ranks)]


@needs_mpi
@pytest.mark.slow
def test_one_rank_trains_as_one_process_does(data_dir, tmp_path, cli):
    flags = ['--data-dir', data_dir, *SMALL, '--updater', 'standard']
    train(1, *flags, '-o', tmp_path / 'rank')
    assert cli(*flags, '-o', tmp_path / 'alone')[0] == 0
    rank, alone = (state_of(tmp_path / name / 'snapshot_epoch_2') for name in ('rank', 'alone'))
    assert {key for key in alone if alone[key] != rank[key]} <= {'log'}


@needs_mpi
@pytest.mark.parametrize('kind', ['fast', 'standard'])
def test_two_ranks_take_the_steps_of_one_process(tmp_path, kind):
    finish(2, on_ranks.__file__, 'steps', tmp_path, kind)
    alone = on_ranks.steps_alone()
    start_from = on_ranks.make(0).target
    for of_rank in results(tmp_path):
        assert set(of_rank) == set(alone)
        for name, param in alone.items():
            assert np.abs(of_rank[name] - param).max() < 2e-5
    moved = np.abs(alone['le1_W'] - start_from.le1.W.array).max()
    assert moved > 0.01                 # a step more or less would show


@needs_mpi
@pytest.mark.parametrize('found_by', ['obstacle', 'compare'])   # at the start, in an epoch
def test_what_one_rank_finds_keeps_all_from_the_fast_step(tmp_path, found_by):
    _, err, status = run(2, on_ranks.__file__, 'disagreeing', tmp_path, found_by)
    assert status == 0
    assert len(ours(err)) == (found_by == 'compare')            # one warning, of rank 0
    one, other = results(tmp_path)
    assert str(one['kind']) == str(other['kind'])
    assert str(one['kind']).startswith('compiled parts (')
    assert 'rank 1 says' in str(one['kind'])
    np.testing.assert_array_equal(one['le1_W'], other['le1_W'])


@needs_mpi
def test_shares_of_different_sizes_give_the_mean_over_all_digits(tmp_path):
    finish(2, on_ranks.__file__, 'evaluation', tmp_path)
    one, other = results(tmp_path)
    assert (one['size'], other['size']) == (16, 15)
    assert set(one['threads']) == set(other['threads']) == {2}      # of 4 cores for both
    expected = on_ranks.digits_of(31).sum(axis=1, dtype=np.float64).mean()
    np.testing.assert_allclose([one['loss'], other['loss']], expected, rtol=1e-6)


RUN = [*SMALL, '-b', '7', '-e', '6', '--seed', '3']       # batches end in mid-epoch


@pytest.fixture(scope='module')
def whole(tmp_path_factory):
    """Return digits, folder and stdout of a run of two ranks that nothing disturbs."""
    base = tmp_path_factory.mktemp('ranks')
    arrays = *make_digits(61, 0), *make_digits(31, 1)           # no even shares
    data, out = base / 'data', base / 'run'
    write_files(data, {name: gzip.compress(idx(array))
                       for name, array in zip(mnist.SHA256, arrays, strict=True)})
    text = finish(2, on_ranks.__file__, 'watched', base, *NAIVE, '--data-dir', data, *RUN,
                  '-o', out)
    return data, out, text


@needs_mpi
@pytest.mark.slow
def test_one_rank_prints_and_logs_and_noise_is_each_ranks_own(whole):
    _, out, text = whole
    assert text.count('device ') == text.count('finished at epoch 6') == 1
    assert 'device   CPU, 2 ranks on 1 host, by naive\n' in text
    assert 'updater  fast (1 thread, ' in text
    assert 'minibatches of 7 a rank, 14 in all' in text
    assert ': 61 to train, 31 to test\n' in text
    log = log_of(out)
    assert [row['epoch'] for row in log] == [1, 2, 3, 4, 5, 6]
    ends = [-(-epoch * 31 // 7) for epoch in range(7)]      # of 31 digits on each rank
    assert [row['iteration'] for row in log] == ends[1:]
    losses = np.array([of_rank['losses'] for of_rank in results(out.parent)])   # (2, iterations)
    assert (losses[0] != losses[1]).all()
    means = [losses[:, a:b].mean() for a, b in itertools.pairwise(ends)]
    np.testing.assert_allclose([row['main/loss'] for row in log], means, rtol=1e-6)
    assert log[-1]['validation/main/loss'] < log[0]['validation/main/loss']
    one, other = results(out.parent)
    assert len(np.unique(one['params'], axis=0)) == 6
    assert np.array_equal(one['params'], other['params'])
    # the graph is drawn before the ranks part ways, and a proof draws what it then rewinds
    assert not np.intersect1d(*(rank['noise'][1:] for rank in (one, other))).size


@needs_mpi
@needs_posix
@pytest.mark.slow
@pytest.mark.parametrize('signum', [signal.SIGINT, signal.SIGKILL])     # to all, and to rank 1
def test_a_signal_ends_all_and_the_run_resumes_exactly(whole, tmp_path, signum):
    data, _, _ = whole
    out = tmp_path / 'run'
    with started(2, on_ranks.__file__, 'watched', tmp_path, *NAIVE, '--data-dir', data, *RUN,
                 '-o', out, '-e', 10**6) as process:
        wait_for(out / 'snapshot_epoch_2', process)
        pids = [int((tmp_path / f'pid{rank}').read_text()) for rank in (0, 1)]
        os.kill(process.pid if signum == signal.SIGINT else pids[1], signum)
        text, err = process.communicate(timeout=60)     # else some would wait for ever
    newest = snapshot.newest(str(out))
    if signum == signal.SIGKILL:
        assert process.returncode != 0
        assert ours(err) == []              # mpiexec tells
    elif process.returncode != 130:
        pytest.skip('this mpiexec kills its ranks at Ctrl-C')
    else:
        assert text.splitlines()[-1].endswith(
            f', iteration {snapshot.read_iteration(newest)}; go on with: mpiexec -n 2 python '
            f'train_vae.py --resume -o {out} --communicator naive')
    for pid in pids:
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)
    epochs = epoch_of(max(out.glob('snapshot_epoch_*'), key=epoch_of)) + 2
    train(2, '--data-dir', data, *RUN, '-o', tmp_path / 'undisturbed', '-e', epochs)
    train(2, '--resume', '-o', out, '-e', epochs)
    check_same(out, tmp_path / 'undisturbed')


@needs_mpi
@pytest.mark.slow
def test_a_failing_rank_ends_all_with_one_line(whole, tmp_path):
    data, _, _ = whole
    _, err, status = run(2, on_ranks.__file__, 'failing', tmp_path, *NAIVE, '--data-dir', data,
                           *RUN, '-o', tmp_path / 'run')
    assert status == 2
    assert ours(err) == [
        'train_vae.py: error: not enough memory; try smaller sizes (so many bytes)']
    assert epoch_of(snapshot.newest(str(tmp_path / 'run'))) == 2


@needs_mpi
@pytest.mark.slow
@pytest.mark.parametrize('change, line', [
    ({'updater/model:main/le1/W': lambda arrays: 0.9 * arrays['updater/model:main/le1/W'],
      'updater/iterator:main/current_position': lambda arrays: np.array(0)}, None),
    ({'updater/iterator:main/order': None}, 'does not fit the iterator of train_vae.py (updater/')])
def test_a_snapshot_with_a_bad_part_of_a_rank(whole, tmp_path, change, line):
    _, of_two, _ = whole
    path = str(tmp_path / 'snapshot_epoch_6')
    arrays = snapshot.read(snapshot.newest(str(of_two)))
    for key, make in change.items():
        arrays.pop(f'extensions/run/rank1/{key}', None)
        if make is not None:
            arrays[f'extensions/run/rank1/{key}'] = make(arrays)
    files.write_npz(path, arrays, '')
    _, err, status = run(2, on_ranks.__file__, 'watched', tmp_path, *NAIVE, '--resume', path,
                         '-e', '7')
    if line is None:                    # what is not a rank's own is no one's
        assert (status, ours(err)) == (0, [])
        one, other = results(tmp_path)
        assert np.array_equal(one['params'], other['params'])
    else:
        said, = ours(err)
        assert (status, said.startswith(f'train_vae.py: error: {path} {line}')) == (2, True)


@needs_mpi
@pytest.mark.slow
def test_a_rank_without_a_test_digit(data_dir, tmp_path):
    for name, array in zip(('images-idx3', 'labels-idx1'), make_digits(1, 1), strict=True):
        (data_dir / f't10k-{name}-ubyte.gz').write_bytes(idx(array))
    _, err, status = run(2, train_vae.__file__, *NAIVE, '--data-dir', data_dir, *SMALL,
                         '-o', tmp_path / 'run')
    assert (status, ours(err)) == (
        2, ['train_vae.py: error: 1 test digits are too few for 2 ranks; start fewer'])


@needs_mpi
@pytest.mark.slow
@pytest.mark.parametrize('flags, line', [
    ('--communicator pure_nccl', '--communicator naive is for CPUs, and pure_nccl for GPUs'),
    ('--communicator pure_nccl --gpu 99', '--gpu '),
    ('--communicator naive --data-dir no_such', 'no_such is not a folder')])
def test_one_rank_says_what_is_wrong(tmp_path, flags, line):
    _, err, status = run(2, train_vae.__file__, '-o', tmp_path / 'run', *flags.split())
    assert status == 2
    said, = ours(err)
    assert said.startswith(f'train_vae.py: error: {line}')
    assert not (tmp_path / 'run').exists()


def test_without_mpi4py(cli, monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, 'mpi4py', None)
    for name in [name for name in sys.modules if name.partition('.')[0] == 'chainermn']:
        monkeypatch.delitem(sys.modules, name)
    status, out, err = cli(*NAIVE, '-o', tmp_path / 'run')
    assert (status, out, err.count('\n')) == (2, '', 1)
    assert 'needs mpi4py and an MPI' in err
    assert 'pip install mpi4py mpich' in err
    monkeypatch.setenv('PMI_RANK', '1')
    assert cli(*NAIVE, '-o', tmp_path / 'run') == (2, '', '')   # rank 0 has said it
    assert not (tmp_path / 'run').exists()


def test_mpiexec_without_communicator(cli, monkeypatch, tmp_path):
    monkeypatch.setenv('OMPI_COMM_WORLD_SIZE', '2')
    monkeypatch.setenv('PMI_SIZE', '')                  # as a batch system may leave it
    status, out, err = cli('-o', tmp_path / 'run')
    assert (status, out, err) == (2, '', 'train_vae.py: error: mpiexec started 2 processes; add '
                                  '--communicator naive, or pure_nccl for GPUs\n')
    monkeypatch.setenv('OMPI_COMM_WORLD_RANK', '1')
    assert cli('-o', tmp_path / 'run') == (2, '', '')
    assert not (tmp_path / 'run').exists()


@needs_mpi
def test_mpiexec_of_another_mpi(tmp_path):
    ended = subprocess.run(
        [sys.executable, train_vae.__file__, *NAIVE, '-o', tmp_path / 'run'], check=False,
        capture_output=True, text=True, env={**os.environ, 'OMPI_COMM_WORLD_SIZE': '2'})
    assert ended.returncode == 2
    said, = ours(ended.stderr)
    assert 'mpiexec, which started 2 processes, is of another MPI than mpi4py' in said
    assert 'suspicious' not in ended.stderr     # mpi4py's own warning of it


def gpus():
    """Return how many GPUs there are that ChainerMN can use, two at most."""
    if not HAS_GPU or MPIEXEC is None:
        return 0
    try:
        from cupy.cuda.nccl import get_build_version  # noqa: F401
    except ImportError:
        return 0
    return min(2, cuda.cupy.cuda.runtime.getDeviceCount())


@pytest.mark.gpu
@pytest.mark.slow
@pytest.mark.skipif(gpus() == 0, reason='needs CuPy, NCCL, MPI and a GPU')
def test_ranks_on_gpus(data_dir, tmp_path):
    flags = ['--communicator', 'pure_nccl', '--gpu', '0']
    start = [on_ranks.__file__, 'watched', tmp_path, *flags]
    text = finish(gpus(), *start, '--data-dir', data_dir, *RUN, '-o', tmp_path / 'whole')
    assert f'{gpus()} rank' in text
    one, *others = results(tmp_path, gpus())
    for other in others:
        assert np.array_equal(one['params'], other['params'])
    finish(gpus(), *start, '--data-dir', data_dir, *RUN, '-e', '3', '-o', tmp_path / 'run')
    finish(gpus(), *start, '--resume', '-e', '6', '-o', tmp_path / 'run')
    check_same(tmp_path / 'run', tmp_path / 'whole')
