"""tests/benchmarks/epoch.py on few digits."""

import os
import subprocess
import sys

import pytest

EPOCH = os.path.join(os.path.dirname(__file__), 'benchmarks', 'epoch.py')


@pytest.mark.slow
@pytest.mark.parametrize(('flags', 'lines'), [
    (['--only', 'ours', 'stock', 'floor'],
     ['| this project | 1.00 |', '| stock Chainer |', "| the step's matrix products alone |",
      '| ours: writing a snapshot |', "ours to the step's products "]),
    (['--only', 'ours', '--whole', '1', '--torch', 'true'],
     ['| 1 epochs of MNIST, the whole command |']),
    (['--only', 'ours', '--growth'], ['| digits | 60 |', '| batch_size | 80 |', '| dim_h | 16 |'])])
def test_it_prints_its_table(data_dir, flags, lines):
    run = subprocess.run(
        [sys.executable, EPOCH, '--data-dir', data_dir, '--dim-z', '2', '--dim-h', '8',
         '--batch-size', '20', '--rounds', '1', *flags],
        capture_output=True, text=True, check=False)
    assert (run.returncode, run.stderr) == (0, '')
    for line in lines:
        assert line in run.stdout
