"""jit.py: threads that wait for each other, and Numba's cache where it fails."""

from concurrent import futures
import contextlib
import os
import subprocess
import sys
import time

import numpy as np
import pytest
from test_resume import check_same

import train_vae

resource = pytest.importorskip('resource', reason='needs POSIX')
jit = pytest.importorskip('support.jit', reason='needs Numba')


@pytest.mark.skipif(sys.platform != 'linux', reason='needs RUSAGE_THREAD')
def test_a_thread_that_waits_for_long_burns_no_core():
    def wait():
        before = resource.getrusage(resource.RUSAGE_THREAD).ru_nvcsw
        jit.barrier(counter, 2)
        return resource.getrusage(resource.RUSAGE_THREAD).ru_nvcsw - before

    counter = np.zeros(1, np.int64)
    jit.barrier(np.zeros(1, np.int64), 1)                  # compiles it
    with futures.ThreadPoolExecutor(1) as pool:
        slept = pool.submit(wait)
        time.sleep(0.5)
        assert not slept.done()
        counter[0] = 2
    assert slept.result() > 20                                  # it gave its core away so often


# Numba's cache --------------------------------------------------------------------------------


def plus_one(number):
    return number + 1


@pytest.fixture
def numba_cache(tmp_path, monkeypatch):
    """Let Numba keep its files in an empty folder, and return that."""
    monkeypatch.setattr(jit.numba.config, 'CACHE_DIR', str(tmp_path))
    return tmp_path


def call_as_later_runs_do():
    """Call a function compiled by `compiled`; return how often its cache gave it."""
    function = jit.compiled(plus_one)
    assert function(2) == 3
    return sum(function.stats.cache_hits.values())


@pytest.mark.parametrize('kind', ['nbi', 'nbc'])
@pytest.mark.parametrize('damage', [
    lambda content: b'', lambda content: content[:1], lambda content: content[:len(content) // 2],
    lambda content: content[:-1], lambda content: content[:-64] + bytes(64),
    lambda content: bytes(len(content))])
def test_a_damaged_cache_is_written_anew(numba_cache, kind, damage):
    assert [call_as_later_runs_do() for _ in range(2)] == [0, 1]
    path, = numba_cache.rglob('*.' + kind)
    path.write_bytes(damage(path.read_bytes()))
    assert [call_as_later_runs_do() for _ in range(2)] == [0, 1]


def test_an_edit_of_any_file_that_is_compiled_counts(numba_cache, monkeypatch):
    assert [call_as_later_runs_do() for _ in range(2)] == [0, 1]
    monkeypatch.setattr(jit, 'stamp', lambda: 'of an edited blas.py')
    assert [call_as_later_runs_do() for _ in range(2)] == [0, 1]


def test_code_of_before_an_edit_is_never_taken_for_that_of_after(numba_cache, monkeypatch):
    assert [call_as_later_runs_do() for _ in range(2)] == [0, 1]
    monkeypatch.setattr(jit, 'stamp', lambda: 'of an edited blas.py')
    with monkeypatch.context() as patch:
        patch.setattr(jit.numba.core.caching.IndexDataCacheFile, '_save_data',
                      lambda *args: None)               # killed, once the list of files is there
        assert call_as_later_runs_do() == 0
    assert [call_as_later_runs_do() for _ in range(2)] == [0, 1]


@contextlib.contextmanager
def full_disk():
    """Let no file grow, within a `with` block, as on a full disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_full_disk_of_the_cache_is_told_once(numba_cache, monkeypatch, capsys):
    monkeypatch.setattr(jit.Cache, 'is_refused', False)
    with full_disk():
        assert [call_as_later_runs_do() for _ in range(2)] == [0, 0]
    folder = jit.compiled(plus_one).stats.cache_path
    assert capsys.readouterr().err == (
        f'warning: {folder} cannot keep what Numba compiles (File too large), so that each run '
        'compiles it anew; mend that, or name a folder in NUMBA_CACHE_DIR\n')
    assert not list(numba_cache.rglob('*.nb?'))
    assert [call_as_later_runs_do() for _ in range(2)] == [0, 1]


@pytest.mark.slow
def test_the_run_that_compiles_is_bit_equal_to_later_ones(tmp_path):
    out = {}
    for name in ('cold', 'warm'):
        run = subprocess.run(
            [sys.executable, train_vae.__file__, '--dataset', 'digits', '--test', '-e', '3', '-o',
             tmp_path / name], env={**os.environ, 'NUMBA_CACHE_DIR': str(tmp_path / 'numba')},
            capture_output=True, text=True, timeout=300, check=False)
        assert (run.returncode, run.stderr) == (0, '')
        out[name] = run.stdout
    assert 'compiling the fast step' in out['cold']
    assert 'compiling the fast step' not in out['warm']
    assert 'fast (' in out['cold']
    check_same(tmp_path / 'warm', tmp_path / 'cold')


@pytest.mark.slow
def test_numba_may_be_told_what_it_cannot_do(tmp_path):
    run = subprocess.run(
        [sys.executable, train_vae.__file__, '--dataset', 'digits', '--test', '-e', '1', '-o',
         tmp_path / 'run'], env={**os.environ, 'NUMBA_NUM_THREADS': '0'},
        capture_output=True, text=True, check=False)
    assert (run.returncode, run.stderr) == (0, '')
    assert 'updater  standard (Number of threads specified must be > 0.)\n' in run.stdout
