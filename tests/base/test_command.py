"""What both commands say if they cannot go on, and their exit status then."""

import os
import subprocess
import sys

from support import compat  # noqa: F401  (lets chainer import)

import chainer
from conftest import ROOT
import numpy as np
import pytest


@pytest.mark.skipif(not os.path.exists('/dev/full'), reason='needs /dev/full')
@pytest.mark.parametrize(('script', 'redirection', 'status', 'said'), [
    ('train_vae.py', '> /dev/full', 2, '{}: error: [Errno 28] No space left on device\n'),
    ('visualize.py', '| true', 141, '')])
def test_help_that_nobody_can_read(script, redirection, status, said):
    wait = 'sleep 0.5; ' if '|' in redirection else ''
    run = subprocess.run(
        ['bash', '-c', f'({wait}exec "$0" {script} --help) {redirection}; exit ${{PIPESTATUS[0]}}',
         sys.executable], capture_output=True, text=True, check=False, cwd=ROOT,
        env={name: text for name, text in os.environ.items() if name != 'PYTHONUNBUFFERED'})
    assert (run.returncode, run.stdout, run.stderr) == (status, '', said.format(script))


@pytest.mark.parametrize('dtype', [np.float64, chainer.mixed16])
def test_another_dtype_than_float32_is_refused(cli, draw, tmp_path, dtype):
    with chainer.using_config('dtype', dtype):
        for command in (cli, draw):
            status, out, err = command('-o', tmp_path / 'run')
            assert (status, out, err.count('\n')) == (2, '', 1)
            assert 'error: CHAINER_DTYPE asks for other numbers than float32' in err
    assert not (tmp_path / 'run').exists()


@pytest.mark.slow
def test_python_without_docstrings_is_refused():
    run = subprocess.run([sys.executable, '-OO', 'visualize.py', '--help'], capture_output=True,
                         text=True, check=False, cwd=ROOT)
    assert (run.returncode, run.stdout, run.stderr.count('\n')) == (2, '', 1)
    assert 'python -OO drops the docstrings that --help shows' in run.stderr
