"""The first minutes on a GPU: does all run there, and how fast. Prints one table for results/.

    python tests/benchmarks/first_gpu.py --data-dir path/to/mnist --torch PYTHON >gpu.md

It takes some five minutes. PYTHON is an interpreter that has PyTorch for CUDA; without it, its rows
are left out. What fails has its last words in the table, the rest goes on, and the status is 1.
"""

import argparse
import datetime
import json
import os
import platform
import re
import shutil
import subprocess
import sys
import tempfile
import time

import epoch

TRAIN = [sys.executable, os.path.join(epoch.ROOT, 'train_vae.py'), '--gpu', '0']
DIGITS = ['--dataset', 'digits', '--test', '-b', '10', '-e', '3']


def run(command, seconds):
    """Run a command in the project's root; return its stdout, or raise its last words."""
    done = subprocess.run(command, cwd=epoch.ROOT, capture_output=True, text=True, timeout=seconds,
                          check=False)
    if done.returncode:
        said = (done.stderr.strip() or done.stdout.strip() or 'nothing').splitlines()
        raise RuntimeError(f'status {done.returncode}: {said[-1]}')
    return done.stdout


def versions(args, folder):
    sys.path[:0] = [epoch.ROOT]
    from support import compat  # noqa: F401  (lets chainer import)

    import chainer
    import cupy
    import numpy as np

    runtime = cupy.cuda.runtime
    return (f'{epoch.gpu()}, driver for CUDA {runtime.driverGetVersion()}, CUDA '
            f'{runtime.runtimeGetVersion()}, CuPy {cupy.__version__}, Chainer '
            f'{chainer.__version__}, NumPy {np.__version__}, Python {platform.python_version()}')


def tests(args, folder):
    out = run([sys.executable, '-m', 'pytest', '-n', '0', '-q', '-m', 'gpu'], args.limit)
    return out.splitlines()[-1].strip('= ')


def both_steps(args, folder):
    """Train some epochs by each step, and compare the losses."""
    losses = {}
    for kind in ('fast', 'standard'):
        out = os.path.join(folder, kind)
        said = run([*TRAIN, *DIGITS, '--updater', kind, '-o', out], args.limit)
        how = re.search(r'^updater +(.*)', said, re.MULTILINE)[1]
        if not how.startswith(kind):
            raise RuntimeError(f'the updater is {how}')
        with open(os.path.join(out, 'log')) as log:
            losses[how] = json.load(log)[-1]['validation/main/loss']
    apart = abs(1 - min(losses.values()) / max(losses.values()))
    return ', '.join(f'{how}: {loss:.4f}' for how, loss in losses.items()) + f'; {apart:.1e} apart'


def nccl(args, folder):
    mpiexec = shutil.which('mpiexec', path=os.path.dirname(sys.executable)) or 'mpiexec'
    said = run([mpiexec, '-n', '1', *TRAIN, *DIGITS, '--communicator', 'pure_nccl', '-o',
                os.path.join(folder, 'nccl')], args.limit)
    return re.search(r'^updater +(.*)', said, re.MULTILINE)[1]


def an_epoch(args, folder):
    """Let this project, stock Chainer and PyTorch train in turn; return a row for each."""
    data = ['--data-dir', args.data_dir] if args.data_dir else []
    said = run([sys.executable, epoch.__file__, '--device', 'cuda', '--torch', args.torch, *data,
                '--rounds', '3', '--only', 'ours', 'stock', 'torch', 'torch_fused', 'torch_graph'],
               args.limit)
    rows = re.findall(r'^\| (.*?) \| ([\d.]+) \| ([\d.]+) \| *\d* \|$', said, re.MULTILINE)
    return [(what if what.startswith('ours: ') else f'an epoch of MNIST: {what}',
             f'{seconds} s, {ratio} of ours') for what, ratio, seconds in rows]


PARTS = {'what is there': versions, 'both steps, test loss of 3 epochs': both_steps,
         'pure_nccl on one rank, the updater': nccl, 'an epoch of MNIST': an_epoch,
         'the tests of a GPU': tests}


def main():
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
        for what, part in PARTS.items():
            before = time.perf_counter()
            try:
                found = part(args, folder)
            except Exception as error:      # whatever CuPy, CUDA or a command may say
                found, failed = f'FAILED: {error}'.replace('|', '/').replace('\n', ' '), True
            print(f'{what}: {time.perf_counter() - before:.0f} s', file=sys.stderr)
            for row in found if isinstance(found, list) else [(what, found)]:
                print(f'| {row[0]} | {row[1]} |', flush=True)
    return int(failed)


if __name__ == '__main__':
    sys.exit(main())
