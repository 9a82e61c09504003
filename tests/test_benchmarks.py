"""tests/benchmarks/epoch.py and ranks.py, on few digits."""

import os
import subprocess
import sys

from on_ranks import needs_mpi
import pytest

EPOCH, RANKS = (os.path.join(os.path.dirname(__file__), 'benchmarks', name)
                for name in ('epoch.py', 'ranks.py'))


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


@needs_mpi
@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, 'sched_setaffinity') or os.cpu_count() < 2,
                    reason='pins two ranks to two cores')
def test_ranks_prints_its_tables(data_dir):
    run = subprocess.run(
        [sys.executable, RANKS, '--data-dir', data_dir, '--rounds', '1', '--seconds', '0.01'],
        capture_output=True, text=True, check=False)
    assert (run.returncode, run.stderr) == (0, '')
    assert ' 5.27 MB of gradients' in run.stdout
    for line in ('| 50 | ', '| 800 | ', '| 1 Gbit/s | 42.14, 84.28 | ',
                 '| 100 Gbit/s | 0.42, 0.84 | '):
        assert line in run.stdout
