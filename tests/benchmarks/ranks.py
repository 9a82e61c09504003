"""What more ranks are worth: digits a second of 1 and 2 ranks here, and on paper of many hosts.

    python tests/benchmarks/ranks.py --data-dir path/to/mnist

Each rank is pinned to a core of its own, with one thread, and steps as train_vae.py does under
--communicator naive. One rank and two take turns; a ratio is the median of those of the rounds.
The paper's hosts are such cores, on a network of so many Gbit/s. A step of n hosts takes

    t(b) + 2 (n - 1) / n * bytes / bandwidth

where t(b) is the measured step of one rank with a minibatch of b, and the rest the least that a
sum over n hosts must send, without any message's delay.
"""

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import time
import types

import numpy as np

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
BATCHES = (50, 100, 200, 400, 800)
NETWORKS = (1, 10, 100)                 # Gbit/s
TOGETHER = (100, 1000, 10000)           # minibatches of all hosts together
PAYS = 1.2                              # what twice the hosts must speed up a step, to pay


# One rank -------------------------------------------------------------------------------------


def serve(data_dir, seconds):
    """Be one of the ranks; rank 0 prints [seconds of a step, of its exchange] by batch size."""
    sys.path[:0] = [ROOT]
    from support import mnist, ranks  # lets chainer import

    from chainer import iterators, optimizers, training

    import net

    ours = ranks.start(['--communicator', 'naive'])
    comm = ours.comm
    os.sched_setaffinity(0, {sorted(os.sched_getaffinity(0))[comm.intra_rank]})
    digits = mnist.get_digits('mnist', data_dir)
    np.random.seed(0)
    model = net.VAE(digits.train.shape[1], 20, 500, net.ACTIVATIONS['softplus'])
    optimizer, train, _ = ours.scatter(
        optimizers.Adam().setup(model), digits.train, digits.test,
        types.SimpleNamespace(seed=0, batch_size=1))
    times = {'bytes': sum(param.array.nbytes for param in model.params())}
    for batch in BATCHES:
        updater = training.updaters.StandardUpdater(
            iterators.SerialIterator(train, batch), optimizer, loss_func=model.get_loss_func())
        times[batch] = [measure(comm, work, seconds) for work in (
            updater.update, lambda: comm.multi_node_mean_grad(model))]
    if comm.rank == 0:
        print(json.dumps(times))


def measure(comm, work, seconds):
    """Return the seconds that some work takes, from doing it again and again for so long."""
    for _ in range(3):
        work()
    comm.allreduce_obj(0)
    before = time.perf_counter()
    work()
    times = comm.bcast_obj(
        max(1, int(seconds / (time.perf_counter() - before))) if comm.rank == 0 else None)
    comm.allreduce_obj(0)
    before = time.perf_counter()
    for _ in range(times):
        work()
    return (time.perf_counter() - before) / times


# All of them ------------------------------------------------------------------------------------


def main():
    """Print what is measured, and what follows on paper."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add('--data-dir', help="folder of MNIST; without it, Chainer's cache or a mirror")
    add('--rounds', type=int, default=7, help='of some 25 seconds each (default: 7)')
    add('--seconds', type=float, default=1.0, help='to measure each batch size (default: 1)')
    add('--serve', action='store_true', help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.serve:
        serve(args.data_dir, args.seconds)
        return
    rounds = [{ranks: launch(ranks, args) for ranks in (1, 2)} for _ in range(args.rounds)]
    n_bytes = rounds[0][1]['bytes']

    def median(of):
        return statistics.median(map(of, rounds))

    print(f'{len(os.sched_getaffinity(0))} cores, {args.rounds} rounds, {n_bytes / 1e6:.2f} MB of '
          'gradients\n\n'
          '| digits in a minibatch of each rank | digits a second, 1 rank | 2 ranks | ratio | '
          'step of 1 rank, ms | exchange of 2, ms |\n|---:|---:|---:|---:|---:|---:|')
    for b in map(str, BATCHES):
        one, two = median(lambda r, b=b: r[1][b][0]), median(lambda r, b=b: r[2][b][0])
        print(f'| {b} | {int(b) / one:.0f} | {2 * int(b) / two:.0f} | '
              f'{median(lambda r, b=b: 2 * r[1][b][0] / r[2][b][0]):.2f} | {1e3 * one:.1f} | '
              f'{1e3 * median(lambda r, b=b: r[2][b][1]):.1f} |')
    steps = [median(lambda r, b=b: r[1][str(b)][0]) for b in BATCHES]
    each, fixed = np.polyfit(BATCHES, steps, 1)
    print(f'\na step of one rank takes {1e3 * fixed:.1f} ms and {1e6 * each:.0f} us a digit\n\n'
          '| network | exchange of 2 hosts, of many, ms | 2 hosts overtake one from | many reach '
          'half of their sum from |', *(f'hosts that pay for {b} together |' for b in TOGETHER))
    print('|---:' * (4 + len(TOGETHER)) + '|')
    for network in NETWORKS:
        sent = n_bytes / (network * 1e9 / 8)
        print(f'| {network} Gbit/s | {1e3 * sent:.2f}, {2e3 * sent:.2f} |',
              *(f'-b {max(1, int(np.ceil((s - fixed) / each)))} |' for s in (sent, 2 * sent)),
              *(f'{hosts_that_pay(b, fixed, each, sent)} |' for b in TOGETHER))


def hosts_that_pay(batch, fixed, each, sent):
    """Return up to how many hosts each doubling makes a step on one minibatch PAYS times faster.

    Args:
        batch (int): Digits in the minibatch, of all hosts together.
        fixed, each (float): Seconds of a step, and of each digit in it.
        sent (float): Seconds in which the network sends the gradients once.
    """
    def step(hosts):
        return fixed + each * batch / hosts + 2 * (hosts - 1) / hosts * sent

    hosts = 1
    while hosts < batch and step(hosts) > PAYS * step(2 * hosts):
        hosts *= 2
    return hosts


def launch(ranks, args):
    """Let so many ranks serve; return what rank 0 printed."""
    mpiexec = shutil.which('mpiexec', path=os.path.dirname(sys.executable)) or 'mpiexec'
    data = ['--data-dir', args.data_dir] if args.data_dir else []
    served = subprocess.run(
        [mpiexec, '-n', str(ranks), sys.executable, __file__, '--serve', *data, '--seconds',
         str(args.seconds)], check=True, stdout=subprocess.PIPE, text=True,
        env={**os.environ, 'OPENBLAS_NUM_THREADS': '1', 'OMP_NUM_THREADS': '1'})
    return json.loads(served.stdout)


if __name__ == '__main__':
    main()
