"""What an epoch of training costs here, in stock Chainer, in PyTorch and in JAX, side by side.

    python tests/benchmarks/epoch.py --data-dir path/to/mnist --torch PYTHON --jax PYTHON
    python tests/benchmarks/epoch.py --data-dir path/to/mnist --growth

PYTHON is an interpreter that has PyTorch, or jax and optax. Each contestant is a process of its
own, which works only when its turn comes. The first epoch, with all compiling, is not timed, but
its losses must agree. A ratio is the median over the rounds of the ratios within a round.
"""

import argparse
import contextlib
import importlib
import io
import itertools
import json
import os
import platform
import random
import statistics
import subprocess
import sys
import tempfile
import time

import numpy as np

HERE = os.path.dirname(os.path.abspath(__file__))
ROOT = os.path.dirname(os.path.dirname(HERE))
NOISE = 3                   # nats by which losses of the same work differ from seed to seed
CONTESTANTS = {             # name: what it is, module, class, further arguments
    'ours': ('this project', 'epoch', 'Ours', {}),
    'stock': ('stock Chainer', 'epoch', 'Ours', {'kind': 'standard'}),
    'torch': ('PyTorch, Adam', 'torch_vae', 'Peer', {}),
    'torch_fused': ('PyTorch, Adam(fused=True)', 'torch_vae', 'Peer', {'fused': True}),
    'torch_graph': ('PyTorch, that in a CUDA graph', 'torch_vae', 'Peer', {'graph': True}),
    'jax': ('JAX, an epoch in one scan', 'jax_vae', 'Peer', {}),
    'floor': ("the step's matrix products alone", 'epoch', 'Floor', {})}
PARTS = {                   # of this project: what else it is timed for
    'logged': 'an epoch with log, table and finite check',
    'plot': 'drawing loss.png, at most once in 30 s',
    'snapshot': 'writing a snapshot',
    'score': 'scoring the test digits with k = 10',
    'score_floor': 'its matrix products alone'}


class Ours:
    """The model of this project in training, as train_vae.py sets it up; `kind` is `--updater`."""

    def __init__(self, train, test, dim_z, dim_h, batch_size, device='cpu', kind='fast'):
        from support.base import devices  # lets chainer import

        from chainer import iterators, optimizers, training
        from chainer.training import extensions

        import net
        import train_vae

        self.device = devices.get_device(0 if device == 'cuda' else -1)     # and what makes noise
        self.device.use()
        np.random.seed(0)
        self.model = net.VAE(train.shape[1], dim_z, dim_h, net.ACTIVATIONS['softplus'])
        self.model.to_device(self.device)
        self.updater = training.updaters.StandardUpdater(
            iterators.SerialIterator(train, batch_size), optimizers.Adam().setup(self.model),
            device=self.device, loss_func=self.model.get_loss_func())
        self.evaluator = extensions.Evaluator(
            iterators.SerialIterator(test, batch_size, repeat=False, shuffle=False), self.model,
            device=self.device, eval_func=train_vae.score_func(self.model, train_vae.TEST_K))
        if kind == 'fast':
            from support.fast.updater import fast

            self.updater = fast(self.updater, self.evaluator)
        self.digits, self.batch_size = len(test), batch_size
        self.folder = tempfile.TemporaryDirectory()

    def epoch(self):
        total, epoch, steps = 0, self.updater.epoch, 0
        while self.updater.epoch == epoch:
            self.updater.update()
            total = total + getattr(self.model.loss, 'array', self.model.loss)
            steps += 1
        return float(total) / steps

    def trainer(self):
        """Return a Trainer for one more epoch, with a log."""
        from support.run import extensions

        from chainer import training

        until = self.updater.epoch + 1, 'epoch'
        trainer = training.Trainer(self.updater, until, self.folder.name)
        trainer.extend(extensions.LogReport())
        return trainer

    def logged(self):
        """Train for an epoch with what train_vae.py logs, prints and checks of it."""
        from support.run import extensions, terminal

        self.ran = self.trainer()
        self.ran.extend(extensions.check_finite(None))
        self.ran.extend(terminal.PrintReport())
        with contextlib.redirect_stdout(io.StringIO()):
            self.ran.run()

    def plot(self):
        from support.run import extensions, resume, settings, snapshot

        trainer = self.trainer()
        about = settings.Settings(n_in=784, loss='negative ELBO', kl_weight=1.0)
        trainer.extend(resume.RunState(about, self.updater, comm=None))
        trainer.get_extension('LogReport').log.extend(
            {'epoch': epoch, **{f'{of}main/{name}': 100.0 for of in ('', 'validation/')
                                for name in snapshot.LOSSES}} for epoch in range(100))
        extensions.plot_losses(trainer)

    def snapshot(self):
        """Write a snapshot, as after `logged`."""
        from support.run import run_folder, snapshot

        from chainer import serializers

        arrays = serializers.npz.serialize(self.ran)
        snapshot.Writer(1)(run_folder.EPOCH_PREFIX + '1', self.folder.name, arrays)

    def score(self):
        return float(self.evaluator()['main/loss'])

    def score_floor(self):
        H, D = self.model.le1.W.shape
        n, Z = self.batch_size, self.model.ld1.W.shape[1]
        multiply(products(n, D, H, H) + products(n, H, 2 * Z) + products(10 * n, Z, H, H, D),
                 self.digits // n, self.device.xp)

    def version(self):
        import chainer

        return (f'Chainer {chainer.__version__} on NumPy {np.__version__}: '
                f'{getattr(self.updater, "kind", "standard")}')


class Floor:
    """The matrix products of the training step."""

    def __init__(self, train, test, dim_z, dim_h, batch_size, device='cpu'):
        n, D, H, Z = batch_size, train.shape[1], dim_h, dim_z
        forward = products(n, D, H, H, Z) + products(n, H, Z) + products(n, Z, H, H, D)
        backward = [(shape[0], shape[2], shape[1]) for shape in forward[1:]]
        weights = [(shape[2], shape[0], shape[1]) for shape in forward]
        self.shapes, self.steps = forward + backward + weights, len(train) // n
        self.xp = np if device == 'cpu' else importlib.import_module('cupy')

    def epoch(self):
        multiply(self.shapes, self.steps, self.xp)

    def version(self):
        return f'{self.xp.__name__} {self.xp.__version__}'


def products(n, *sizes):
    """Return the shapes (rows, inner, columns) of n digits' way through layers of these sizes."""
    return [(n, before, after) for before, after in itertools.pairwise(sizes)]


def multiply(shapes, times, xp):
    """Multiply matrices of these shapes, each so many times."""
    arrays = [(xp.full((rows, inner), 0.5, np.float32), xp.full((inner, columns), 0.5, np.float32),
               xp.empty((rows, columns), np.float32)) for rows, inner, columns in shapes]
    for _ in range(times):
        for a, b, out in arrays:
            xp.matmul(a, b, out=out)
    float(arrays[0][2][0, 0])           # waits for a GPU


def serve(settings):
    """Be a contestant: do the work named in each line of stdin, and tell seconds and loss."""
    name = settings.pop('name')
    arrays = np.load(settings.pop('digits'))
    _, module, kind, more = CONTESTANTS[name]
    if name == 'jax':
        del settings['device']          # JAX_PLATFORMS tells it
    sys.path[:0] = [ROOT]
    module = sys.modules['__main__'] if module == 'epoch' else importlib.import_module(module)
    with contextlib.redirect_stdout(io.StringIO()):         # which tells that it compiles
        contestant = getattr(module, kind)(arrays['train'], arrays['test'], **settings, **more)
    print(json.dumps(contestant.version()), flush=True)
    for line in sys.stdin:
        before = time.perf_counter()
        loss = getattr(contestant, line.strip())()
        print(json.dumps([time.perf_counter() - before, loss, peak_memory()]), flush=True)


def peak_memory():
    """Return the most memory that this process had, in MB."""
    with contextlib.suppress(OSError), open('/proc/self/status') as status:
        return next(int(line.split()[1]) / 1e3 for line in status if 'VmHWM' in line)
    return float('nan')


class Contestant:
    """The other end of `serve`."""

    def __init__(self, python, script='epoch.py', **settings):
        self.process = subprocess.Popen(
            [python, os.path.join(HERE, script), '--serve', json.dumps(settings)],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
            env={**os.environ, 'JAX_PLATFORMS': settings['device']})
        self.version = json.loads(self.process.stdout.readline())

    def do(self, work):
        """Have it do some work; return seconds, loss and peak memory in MB."""
        self.process.stdin.write(work + '\n')
        self.process.stdin.flush()
        return json.loads(self.process.stdout.readline())

    def close(self):
        self.process.stdin.close()
        self.process.wait()


def main():
    """Run the contest that the command line asks for, and print its table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog='contestants:\n' + '\n'.join(
            f'  {name:12} {what}' for name, (what, *_) in CONTESTANTS.items()))
    add = parser.add_argument
    add('--data-dir', help="folder of MNIST; without it, Chainer's cache or a mirror")
    add('--device', choices=('cpu', 'cuda'), default='cpu', help='where to train (default: cpu)')
    add('--dim-z', type=int, default=20, help='as for train_vae.py (default: 20)')
    add('--dim-h', type=int, default=500, help='as for train_vae.py (default: 500)')
    add('--batch-size', type=int, default=100, help='as for train_vae.py (default: 100)')
    add('--rounds', type=int, default=7,
        help='of some 45 seconds each, on two cores (default: 7)')
    add('--torch', metavar='PYTHON', default=sys.executable, help='interpreter with PyTorch')
    add('--jax', metavar='PYTHON', default=sys.executable, help='interpreter with jax and optax')
    add('--only', metavar='NAME', nargs='+', choices=CONTESTANTS, default=list(CONTESTANTS),
        help='contestants (default: all; torch_graph on a GPU alone)')
    add('--whole', type=int, metavar='N',
        help='also time whole runs of N epochs; 100 take some 20 minutes')
    add('--growth', action='store_true', help='how the cost of this project grows with each size')
    add('--serve', help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.serve:
        serve(json.loads(args.serve))
        return

    with tempfile.TemporaryDirectory() as folder:
        sys.path[:0] = [ROOT]
        from support.data import mnist

        digits, path = mnist.get_digits('mnist', args.data_dir), os.path.join(folder, 'digits.npz')
        np.savez(path, train=digits.train, test=digits.test)
        where = f'{cpu()}, {os.cpu_count()} cores' if args.device == 'cpu' else gpu()
        print(f'{where}, {platform.platform()}, Python {platform.python_version()}; '
              f'{args.rounds} rounds')
        if args.growth:
            grow(args, path)
        else:
            compete(args, path)
            if args.device == 'cpu':
                run_commands(args, folder, path)


def cpu():
    """Return the name of the processor."""
    with contextlib.suppress(OSError), open('/proc/cpuinfo') as info:
        for line in info:
            if line.startswith('model name'):
                return line.partition(':')[2].strip()
    return platform.processor()


def gpu():
    """Return the name of the GPU."""
    import cupy

    return cupy.cuda.runtime.getDeviceProperties(0)['name'].decode()


def contestant(args, digits, name='ours', python=sys.executable, **other_sizes):
    """Start a contestant, of the sizes on the command line but for others."""
    sizes = {size: getattr(args, size) for size in ('device', 'dim_z', 'dim_h', 'batch_size')}
    return Contestant(python, name=name, digits=digits, **sizes | other_sizes)


def take_turns(contestants, works, rounds):
    """Let each contestant do its works in each round; return seconds by name and work."""
    times = {(name, work): [] for name in contestants for work in works(name)}
    for i in range(rounds):
        for name in random.Random(i).sample(list(contestants), len(contestants)):
            for work in works(name):
                times[name, work].append(contestants[name].do(work)[0])
    for each in contestants.values():
        each.close()
    return times


def ratio(seconds, others):
    """Return the median over the rounds of the ratio of two contestants' seconds."""
    return statistics.median(a / b for a, b in zip(seconds, others, strict=True))


def compete(args, digits):
    """Time all contestants in turn, and print the table."""
    contestants, first, memory = {}, {}, {}
    for name in args.only:
        needs = CONTESTANTS[name][1].removesuffix('_vae')
        python = {'torch': args.torch, 'jax': args.jax}.get(needs, sys.executable)
        if name == 'torch_graph' and args.device == 'cpu':
            continue
        if needs != 'epoch' and subprocess.run(
                [python, '-c', f'import {needs}'], capture_output=True, check=False).returncode:
            print(f'{name}: left out, as {python} has no {needs}')
            continue
        contestants[name] = each = contestant(args, digits, name, python)
        seconds, loss, memory[name] = each.do('epoch')
        said = f'{name:12} {each.version}; first epoch {seconds:.1f} s'
        if name != 'floor':
            _, test_loss, memory[name] = each.do('score')
            first[name] = loss, test_loss
            said += f', then losses of {loss:.2f} in training and {test_loss:.2f} in test'
        print(said, flush=True)
    for losses in zip(*first.values(), strict=True):
        if max(losses) - min(losses) > NOISE:
            sys.exit(f'not the same work: losses after an epoch are {losses}')
    times = take_turns(contestants, lambda name: ['epoch', *(PARTS if name == 'ours' else ())],
                       args.rounds)
    base = next(iter(contestants))
    ours = times[base, 'epoch']
    print(f'\n| an epoch in | of {base} | seconds | peak memory, MB |\n|---|---:|---:|---:|')
    for (name, work), seconds in times.items():
        what = CONTESTANTS[name][0] if work == 'epoch' else f'ours: {PARTS[work]}'
        print(f'| {what} | {ratio(seconds, ours):.2f} | {statistics.median(seconds):.2f} | '
              f'{f"{memory[name]:.0f}" if work == "epoch" else ""} |')
    if 'ours' in contestants:
        of_floor = ratio(ours, times['floor', 'epoch']) if 'floor' in contestants else np.nan
        print(f"\nours to the step's products {of_floor:.2f}, scoring to its own "
              f"{ratio(times['ours', 'score'], times['ours', 'score_floor']):.2f}")


def run_commands(args, folder, digits):
    """Time whole commands, from start to finish: ours, and PyTorch's with its fused Adam."""
    data_dir = ['--data-dir', args.data_dir] if args.data_dir else []
    tries = [('one epoch of the bundled digits', 1 + args.rounds, ['--dataset', 'digits'], [], 1)]
    if args.whole:
        tries.append((f'{args.whole} epochs of MNIST', 1, ['--dataset', 'mnist', *data_dir],
                      [digits, args.whole], args.whole))
    for what, rounds, ours, torch, epochs in tries:
        commands = {
            'train_vae.py': [sys.executable, os.path.join(ROOT, 'train_vae.py'), *ours, '--epoch',
                             epochs, '--overwrite', '-o', os.path.join(folder, 'ours')],
            'torch_vae.py': [args.torch, os.path.join(HERE, 'torch_vae.py'),
                             os.path.join(folder, 'torch'), *torch]}
        times = {name: [] for name in commands}
        for _ in range(rounds):
            for name, command in commands.items():
                before = time.perf_counter()
                done = subprocess.run(list(map(str, command)), capture_output=True, check=False)
                if done.returncode:
                    print(f'{name}: left out: {done.stderr.decode().splitlines()[-1]}')
                    return
                times[name].append(time.perf_counter() - before)
        print(f'\n| {what}, the whole command | of ours | seconds |\n|---|---:|---:|')
        for name, seconds in times.items():
            counted, others = seconds[rounds > 1:], times['train_vae.py'][rounds > 1:]
            print(f'| {name} | {ratio(counted, others):.2f} | '        # the first fills caches
                  f'{statistics.median(counted):.2f} |')


def grow(args, digits):
    """Time this project with one size after the other changed, and print the table."""
    arrays, contestants = np.load(digits), {}
    n = len(arrays['train'])
    for value in (n // 8, n // 4, n // 2, n):
        path = f'{digits}.{value}.npz'
        np.savez(path, train=arrays['train'][:value], test=arrays['test'])
        contestants['digits', value] = contestant(args, path)
    for size, most in (('batch_size', 4), ('dim_h', 2)):
        for value in (getattr(args, size) * most // part for part in (16, 8, 4, 2, 1)):
            contestants[size, value] = contestant(args, digits, **{size: value})
    for each in contestants.values():
        each.do('epoch')
    times = take_turns(contestants, lambda name: ['epoch'], args.rounds)
    print('\n| size | value | an epoch, of that before |\n|---|---:|---:|')
    before = None, None
    for ((size, value), _), seconds in times.items():
        growth = f'{ratio(seconds, before[1]):.2f}' if before[0] == size else ''
        print(f'| {size} | {value} | {growth} |')
        before = size, seconds


if __name__ == '__main__':
    with contextlib.suppress(KeyboardInterrupt):
        main()
