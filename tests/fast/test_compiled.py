"""compiled.py against NumPy in float64; cpu.py's threads; Numba's cache."""

import contextlib
import os
import subprocess
import sys
import time

from support.fast import step

import numpy as np
import pytest
from runs import needs_posix
from steps import check_same, make, trained

import train_vae

compiled = pytest.importorskip('support.fast.compiled', reason='needs Numba')


@pytest.mark.parametrize(('kind', 'function', 'derivative'), [
    (0, lambda a: np.logaddexp(a, 0), lambda a: 1 / (1 + np.exp(-a))),
    (1, np.tanh, lambda a: 1 - np.tanh(a) ** 2),
    (2, lambda a: np.maximum(a, 0), lambda a: (a > 0) * 1.0)])
def test_activations_are_exact_in_float32(kind, function, derivative):
    a = np.concatenate([np.linspace(-30, 30, 10001), [0, 88, -88, 1e4, -1e4]]).astype(np.float32)
    h, d, b = a[None].copy(), np.empty((1, len(a)), np.float32), np.zeros(len(a), np.float32)
    compiled.activate(h, b, d, kind)
    a = np.clip(a.astype(np.float64), -700, 1e5)
    assert np.allclose(h[0], function(a), rtol=5e-7, atol=5e-7)
    assert np.allclose(d[0], derivative(a), rtol=0, atol=5e-7)


@pytest.mark.parametrize('kind', step.ACTIVATIONS.values())
def test_what_is_not_finite_shows(kind):
    h = np.array([[np.nan, np.inf, -np.inf, 1]], np.float32)
    compiled.activate(h, np.zeros(4, np.float32), np.empty_like(h), kind)
    assert np.isnan(h[0, 0])
    assert list(h[0, 1:3]) == pytest.approx({0: [np.inf, 0], 1: [1, -1], 2: [np.inf, 0]}[kind])
    y, x = np.array([[0.5, np.nan]], np.float32), np.zeros((1, 2), np.float32)
    assert np.isnan(compiled.bernoulli_nll(y, np.zeros(2, np.float32), x, 1, np.float32(1)))


def test_a_thread_that_fails_waits_for_the_others():
    def function(is_first):
        if is_first:
            raise KeyboardInterrupt
        time.sleep(0.2)
        ended.append(True)

    ended = []
    with pytest.raises(KeyboardInterrupt):
        make('fast').stepper.call(function, [(True,), (False,)])
    assert ended == [True]


# Numba's cache --------------------------------------------------------------------------------


@pytest.fixture
def numba_cache(tmp_path, monkeypatch):
    monkeypatch.setattr(compiled.numba.config, 'CACHE_DIR', str(tmp_path))
    return tmp_path


def call_as_later_runs_do():
    """Call a function that is kept; return how often its cache gave it."""
    def plus_one(number):
        return number + 1

    function = compiled.kept(plus_one)
    assert compiled.compile_for(function, (2,))(2) == 3
    return sum(function.stats.cache_hits.values())


@pytest.mark.parametrize('kind', ['nbi', 'nbc'])
@pytest.mark.parametrize('kept', [0, 64])
def test_a_damaged_cache_is_written_anew(numba_cache, kind, kept):
    assert [call_as_later_runs_do() for _ in range(2)] == [0, 1]
    path, = numba_cache.rglob('*.' + kind)
    path.write_bytes(path.read_bytes()[:kept])
    assert [call_as_later_runs_do() for _ in range(3)] == [0, 0, 1]


@contextlib.contextmanager
def full_disk():
    import resource  # of POSIX

    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@needs_posix
def test_a_full_disk_of_the_cache_is_told_once(numba_cache, capsys):
    with full_disk():
        assert [call_as_later_runs_do() for _ in range(2)] == [0, 0]
    folder, = numba_cache.iterdir()
    assert capsys.readouterr().err == (
        f'warning: {folder} cannot keep what Numba compiles (File too large), so that each run '
        'compiles it anew; mend that, or name a folder in NUMBA_CACHE_DIR\n')
    assert not list(folder.iterdir())
    assert [call_as_later_runs_do() for _ in range(2)] == [0, 1]
    path, = numba_cache.rglob('*.nbc')
    path.write_bytes(b'')           # and now damaged, too
    with full_disk():
        assert call_as_later_runs_do() == 0


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
    check_same(*(trained(tmp_path / name / 'snapshot_epoch_3') for name in ('warm', 'cold')))
