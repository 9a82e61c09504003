"""The first minutes on a GPU: does all run there, and how fast. Prints one table for results/.

    python tests/benchmarks/first_gpu.py --data-dir path/to/mnist --torch PYTHON >gpu.md

It takes some five minutes. PYTHON is an interpreter that has PyTorch for CUDA; without it, its rows
are left out. What fails has its last words in the table, the rest goes on, and the status is 1.
"""

import argparse
import datetime
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time

import epoch

VERSIONS = """
import epoch, platform, sys
sys.path[:0] = [epoch.ROOT]
from support import compat
import chainer, cupy, numpy
runtime = cupy.cuda.runtime
print(f'{epoch.gpu()}, driver for CUDA {runtime.driverGetVersion()}, CUDA '
      f'{runtime.runtimeGetVersion()}, CuPy {cupy.__version__}, Chainer {chainer.__version__}, '
      f'NumPy {numpy.__version__}, Python {platform.python_version()}')
"""


def commands(args, folder):
    """Return what is tried: what it is, the command, and a pattern of what it shows."""
    mpiexec = shutil.which('mpiexec', path=os.path.dirname(sys.executable)) or 'mpiexec'
    train = [sys.executable, os.path.join(epoch.ROOT, 'train_vae.py'), '--gpu', '0', '--dataset',
             'digits', '--test', '-b', '10', '-e', '3', '--overwrite', '-o', folder]
    data = ['--data-dir', args.data_dir] if args.data_dir else []
    return [
        ('what is there', [sys.executable, '-c', VERSIONS], r'.+'),
        ('the fast step', [*train, '--updater', 'fast'], r'^updater +fast.*|^ +3 .*'),
        ("Chainer's step, with the same losses", [*train, '--updater', 'standard'],
         r'^updater +standard.*|^ +3 .*'),
        ('pure_nccl on one rank', [mpiexec, '-n', '1', *train, '--communicator', 'pure_nccl'],
         r'^updater .*'),
        ('an epoch of MNIST: who, seconds of ours, seconds, MB',
         [sys.executable, epoch.__file__, '--device', 'cuda', '--torch', args.torch, *data,
          '--rounds', '3', '--only', 'ours', 'stock', 'torch', 'torch_fused', 'torch_graph'],
         r'^\| .* \| [\d.]+ \| [\d.]+ \| *\d* \|$'),
        ('the tests of a GPU', [sys.executable, '-m', 'pytest', '-n', '0', '-q', '-m', 'gpu'],
         r'.* passed.*')]


def main():
    """Try all, and print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add('--data-dir', help="folder of MNIST; without it, Chainer's cache or a mirror")
    add('--torch', metavar='PYTHON', default=sys.executable, help='interpreter with PyTorch')
    add('--limit', type=int, default=120, help='seconds that a command may take (default: 120)')
    args = parser.parse_args()
    print(f'| on a GPU, {datetime.date.today()} | |\n|---|---|', flush=True)
    failed = False
    with tempfile.TemporaryDirectory() as folder:
        for what, command, pattern in commands(args, folder):
            before = time.perf_counter()
            try:
                done = subprocess.run(
                    command, cwd=epoch.ROOT, capture_output=True, text=True, timeout=args.limit,
                    check=False, env={**os.environ, 'PYTHONPATH': epoch.HERE})
                status, shown = done.returncode, re.findall(pattern, done.stdout, re.MULTILINE)
                last = (done.stderr.strip() or done.stdout.strip() or 'nothing').splitlines()[-1]
            except subprocess.TimeoutExpired:
                status, shown, last = 1, [], f'not done in {args.limit} s'
            if status or not shown:
                shown, failed = [f'FAILED: {last}'], True
            print(f'{what}: {time.perf_counter() - before:.0f} s', file=sys.stderr)
            for line in shown:
                print(f'| {what} | {" ".join(line.replace("|", " ").split())} |', flush=True)
    return int(failed)


if __name__ == '__main__':
    sys.exit(main())
