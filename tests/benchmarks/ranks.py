"""What more ranks are worth: digits a second of 1 and 2 ranks here, and on paper of many hosts.

    python tests/benchmarks/ranks.py --data-dir path/to/mnist --torch PYTHON

Each rank is pinned to a core of its own, with one thread, and steps as train_vae.py does under
--communicator naive. One rank and two, one process of two threads, and two ranks of PyTorch's
DistributedDataParallel on gloo (where PYTHON has torch) take turns; a ratio is the median of those
of the rounds. The paper's hosts are such cores, on a network of so many Gbit/s. A step of n hosts
takes

    t(b) + 2 (n - 1) / n * bytes / bandwidth

where t(b) is the measured step of one rank with a minibatch of b, and the rest the least that a
sum over n hosts must send, without any message's delay.
"""

import argparse
import json
import os
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import time
import types

import numpy as np

HERE = os.path.dirname(os.path.abspath(__file__))
BATCHES = (50, 100, 200, 400, 800)
NETWORKS = (1, 10, 100)                 # Gbit/s
TOGETHER = (100, 1000, 10000)           # minibatches of all hosts together
PAYS = 1.2                              # what twice the hosts must speed up a step, to pay


def serve(path, seconds, is_alone):
    """Be one of the ranks, or alone; print [seconds of a step, of its exchange] by batch size."""
    sys.path[:0] = [os.path.dirname(os.path.dirname(HERE))]
    from support.fast.updater import fast  # lets chainer import
    from support.run import ranks

    from chainer import iterators, optimizers, training

    import net

    def agree(times):
        if not is_alone:
            times = comm.bcast_obj(times if comm.rank == 0 else None)
            comm.allreduce_obj(0)
        return times

    ours = ranks.start([] if is_alone else ['--communicator', 'naive'])
    comm, digits = getattr(ours, 'comm', None), np.load(path)
    if not is_alone:
        os.sched_setaffinity(0, {sorted(os.sched_getaffinity(0))[comm.intra_rank]})
    np.random.seed(0)
    model = net.VAE(digits.shape[1], 20, 500, net.ACTIVATIONS['softplus'])
    optimizer, train, _ = ours.scatter(optimizers.Adam().setup(model), digits, digits[:10],
                                       types.SimpleNamespace(seed=0, batch_size=1))
    times = {'bytes': sum(param.array.nbytes for param in model.params())}
    for batch in BATCHES:
        updater = fast(training.updaters.StandardUpdater(
            iterators.SerialIterator(train, 2 * batch if is_alone else batch), optimizer,
            device='@numpy', loss_func=model.get_loss_func()), None)
        assert updater.kind.startswith('fast'), updater.kind
        works = [updater.update] + [lambda: comm.multi_node_mean_grad(model)] * (not is_alone)
        times[batch] = [measure(work, seconds, agree) for work in works]
        updater.finalize()                      # BLAS has its threads again
    if ours.rank == 0:
        print(json.dumps(times))


def serve_torch(path, seconds):
    """Be one of two ranks of PyTorch's DistributedDataParallel; print as `serve` does."""
    import torch
    import torch.distributed
    from torch.nn.parallel import DistributedDataParallel
    from torch_vae import VAE

    def agree(times):
        times = torch.tensor([times])
        torch.distributed.broadcast(times, 0)
        torch.distributed.barrier()
        return int(times)

    rank, size = int(os.environ['RANK']), int(os.environ['WORLD_SIZE'])
    os.sched_setaffinity(0, {sorted(os.sched_getaffinity(0))[rank]})
    torch.set_num_threads(1)
    torch.distributed.init_process_group('gloo')
    train = torch.from_numpy(np.load(path))[rank::size]
    torch.manual_seed(rank)
    model = DistributedDataParallel(VAE(train.shape[1], 20, 500))
    adam = torch.optim.Adam(model.parameters(), fused=True)
    times = {}
    for batch in BATCHES:
        def step(batch=batch):
            loss = model(train[torch.randint(len(train), (batch,))])
            adam.zero_grad()
            loss.backward()
            adam.step()

        times[batch] = [measure(step, seconds, agree)]
    if rank == 0:
        print(json.dumps(times))
    torch.distributed.destroy_process_group()


def measure(work, seconds, agree):
    """Return the seconds that some work takes, from doing it again and again for so long."""
    for _ in range(3):
        work()
    before = time.perf_counter()
    work()
    times = agree(max(1, int(seconds / (time.perf_counter() - before))))    # of rank 0
    before = time.perf_counter()
    for _ in range(times):
        work()
    return (time.perf_counter() - before) / times


def launch(who, path, args, ranks=1):
    """Let ranks serve, one process alone, or two ranks of PyTorch; return what rank 0 printed."""
    mpiexec = shutil.which('mpiexec', path=os.path.dirname(sys.executable)) or 'mpiexec'
    command = [args.torch if who == 'torch' else sys.executable, __file__, '--serve', who, path,
               '--seconds', str(args.seconds)]
    command = [mpiexec, '-n', str(ranks), *command] if who == 'rank' else command
    with socket.socket() as free:
        free.bind(('127.0.0.1', 0))
        port = str(free.getsockname()[1])
    threads = '2' if who == 'alone' else '1'
    served = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env={
        **os.environ, 'OPENBLAS_NUM_THREADS': threads, 'OMP_NUM_THREADS': threads,
        'RANK': str(rank), 'WORLD_SIZE': '2', 'MASTER_ADDR': '127.0.0.1', 'MASTER_PORT': port})
        for rank in range(2 if who == 'torch' else 1)]
    printed = [process.communicate()[0] for process in served]
    return json.loads(printed[0].splitlines()[-1])


def main():
    """Print what is measured, and what follows on paper."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add('--data-dir', help="folder of MNIST; without it, Chainer's cache or a mirror")
    add('--rounds', type=int, default=7, help='of some 25 seconds each (default: 7)')
    add('--seconds', type=float, default=1.0, help='to measure each batch size (default: 1)')
    add('--torch', metavar='PYTHON', help='an interpreter with torch, for its ranks')
    add('--serve', nargs=2, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.serve:
        who, path = args.serve
        if who == 'torch':
            serve_torch(path, args.seconds)
        else:
            serve(path, args.seconds, who == 'alone')
        return
    with tempfile.TemporaryDirectory() as folder:
        sys.path[:0] = [os.path.dirname(os.path.dirname(HERE))]
        from support.data import mnist

        path = os.path.join(folder, 'digits.npy')
        np.save(path, mnist.get_digits('mnist', args.data_dir).train)
        rounds = [{1: launch('rank', path, args), 2: launch('rank', path, args, 2),
                   'alone': launch('alone', path, args),
                   'torch': args.torch and launch('torch', path, args)}
                  for _ in range(args.rounds)]
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
    of_torch = bool(args.torch)
    print('\n| digits in a minibatch of each of 2 ranks | 1 process of 2 threads, both minibatches '
          f'in one | 2 ranks, of its time |{" digits a second, of those of PyTorch |" * of_torch}\n'
          f'|---:|---:|---:|{"---:|" * of_torch}')
    for b in map(str, BATCHES):
        peer = f'{median(lambda r, b=b: r["torch"][b][0] / r[2][b][0]):.2f} |' if of_torch else ''
        print(f'| {b} | {1e3 * median(lambda r, b=b: r["alone"][b][0]):.1f} ms | '
              f'{median(lambda r, b=b: r[2][b][0] / r["alone"][b][0]):.2f} |', peer)
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

    A step takes `fixed` seconds, and `each` for a digit; to send the gradients once takes `sent`.
    """
    def step(hosts):
        return fixed + each * batch / hosts + 2 * (hosts - 1) / hosts * sent

    hosts = 1
    while hosts < batch and step(hosts) > PAYS * step(2 * hosts):
        hosts *= 2
    return hosts


if __name__ == '__main__':
    main()
