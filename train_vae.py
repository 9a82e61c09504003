#!/usr/bin/env python3
"""Train the Variational Autoencoder of the article on handwritten digits (section 2).

A run leaves in its folder OUT: `snapshot_epoch_N` (after Ctrl-C `snapshot_interrupted`), `log`
(losses, JSON), `args.json` (settings), `loss.png` (learning curves) and `cg.dot` (computational
graph).
"""

import argparse
import contextlib
import functools
import json
import math
import os
import shlex
import signal
import sys
import time
import warnings

from support import compat, mnist, snapshot  # lets chainer import

import chainer
from chainer import iterators, optimizers, training
from chainer.training import extensions, triggers
import numpy as np

import net

TEST_K = 10         # Monte Carlo samples that score the test set, as in the article's log
NEWEST = object()   # --resume without a file
STOPPING = signal.SIGINT, signal.SIGTERM
EPILOG = """\
examples:
  train_vae.py -o results/mnist                       MNIST, z = 20, with the article's settings
  train_vae.py -z 2 -o results/z2                     z = 2, for its plots of the latent space
  train_vae.py --dataset digits -o results/digits     small digits that need no download
  train_vae.py --resume -o results/mnist              go on where that run ended
  mpiexec -n 4 python train_vae.py --communicator naive -b 25       four processes, one model
"""


def main(argv=None):
    """Train as the command line `argv` (default: the program's) says; return the exit status."""
    comm = start_ranks(argv)            # None without --communicator
    with ending_together(comm), contextlib.ExitStack() as held:
        args, resumed = on_root(comm, parse_arguments, argv, 1 if comm is None else comm.size)
        device = together(comm, get_device, comm, args.gpu)
        comm = together(comm, choose_communicator, comm, args.communicator)
        on_root(comm, held.enter_context, snapshot.claim(args.out, args.overwrite, args.resume))
        return train_vae(args, device, resumed, comm)


def train_vae(args, device, resumed, comm=None):
    """Train, and leave in the folder `args.out` what the head of this file names.

    Args:
        args (argparse.Namespace): The command line.
        device (chainer.backend.Device): Where to train.
        resumed (dict): Arrays of the snapshot `args.resume` to go on from, or None.
        comm (chainermn.CommunicatorBase): Where this is one of several ranks, that of all.

    Returns:
        int: The exit status.
    """
    rank, ranks = (0, 1) if comm is None else (comm.rank, comm.size)
    device.use()
    np.random.seed(args.seed)

    # digits
    digits = on_root(comm, load_digits, args, ranks)
    train, test = digits.train, digits.test                     # (N, 784), (M, 784)

    # model
    model = net.VAE(train.shape[1], args.dim_z, args.dim_h, net.ACTIVATIONS[args.activation])
    if args.initmodel is not None:
        on_root(comm, snapshot.load_weights, args.initmodel, model, args.activation)
    graph = net.draw_graph(model, train[:args.batch_size], args.beta, args.k)
    model.to_device(device)

    # optimizer, iterators, updater
    optimizer = optimizers.Adam()
    optimizer.setup(model)
    if comm is not None:                # this rank's part
        optimizer, train, test = scatter(comm, optimizer, train, test, args.seed)
    train_iter = iterators.SerialIterator(train, args.batch_size)
    test_iter = iterators.SerialIterator(test, args.batch_size, repeat=False, shuffle=False)
    updater, score, kind = make_updater(args, train_iter, optimizer, device)

    # trainer
    stop, writer = UntilStopped(args.epoch, comm), snapshot.Writer(args.keep, args.resume)
    trainer = training.Trainer(updater, stop, args.out if rank == 0 else os.curdir)
    trainer.extend(extensions.Evaluator(
        test_iter, model, device=device, eval_func=score))
    settings = {key: getattr(args, key, None) for key in snapshot.SETTING_TYPES} | {
        'n_in': train.shape[1], 'dataset': digits.dataset, 'data_dir': digits.data_dir,
        'checksum': digits.checksum, 'device': 'CPU' if device.xp is np else 'GPU',
        'trained_by': kind.split()[0], 'ranks': ranks, 'ranks_changed': False}
    state = snapshot.RunState(
        settings, None if device.xp is np else device.xp.random.seed, comm)
    trainer.extend(state)
    due = snapshot_trigger(args.snapshot_every, args.epoch)
    if comm is not None:                # what all ranks do together
        average(comm, trainer, stop)
        trainer.extend(functools.partial(state.gather), name='gather', trigger=due,
                       priority=0)      # after all else but the snapshot
    if rank == 0:
        trainer.extend(make_check_finite(args.resume))
        trainer.extend(LogReport())
        trainer.extend(PrintReport())
        trainer.extend(PlotReport())
        if sys.stdout.isatty():
            trainer.extend(extensions.ProgressBar(update_interval=10))
        trainer.extend(
            extensions.snapshot(filename=snapshot.EPOCH_PREFIX + '{.updater.epoch}', writer=writer),
            trigger=due)

    # run
    if resumed:
        together(comm, load, resumed, trainer, digits, args.resume)
        if updater.epoch >= args.epoch:
            if rank == 0:
                report_no_more(trainer, args)
            return 0
    on_root(comm, prepare_folder, args, trainer, settings, graph)
    if rank == 0:
        print_header(args, device, digits, kind, comm, updater.epoch_detail)
    with stop.on_signals(), np.errstate(all='ignore'):          # check_finite looks for itself
        trainer.run(show_loop_exception_msg=False)
        if stop.signum:
            state.gather(trainer)
            if rank == 0 and updater.iteration not in (0, writer.iteration):
                writer.interrupt(trainer)
    if rank > 0:
        return 0                        # what mpiexec returns is rank 0's
    status = report_end(updater, stop.signum, args, ranks)
    plot_losses(trainer)
    return status


def load_digits(args, ranks):
    """Load the digits that the command line asks for.

    Raises:
        UserError: If there are none, or too few for so many ranks.
    """
    digits = mnist.prepare(mnist.load(args.dataset, args.data_dir), args.test, args.binary)
    if ranks > len(digits.test):
        raise compat.UserError(f'{len(digits.test)} test digits are too few for {ranks} ranks; '
                               'start fewer')
    if ranks > 1 and ranks * args.batch_size > len(digits.train):
        print(f'warning: {describe_step(args.batch_size, ranks)}, are more than all digits, so '
              'that a step takes more than an epoch; give a smaller -b', file=sys.stderr)
    return digits


def describe_step(batch_size, ranks):
    """Return in words what so many ranks see in a step, with so many digits each."""
    in_all = '' if ranks == 1 else f' a rank, {ranks * batch_size} in all'
    return f'minibatches of {batch_size}{in_all}'


def load(arrays, trainer, digits, path):
    """Bring a trainer to where a snapshot was taken; warn where it will go on otherwise.

    Args:
        arrays (dict): Of the snapshot.
        trainer (Trainer): That of this run.
        digits (mnist.Digits): Those of this run.
        path (str): Where the arrays come from.

    Raises:
        SnapshotError: If the snapshot does not fit.
    """
    state = trainer.get_extension('run')
    had = snapshot.settings(arrays, path)
    snapshot.check_digits(had, digits, path)
    snapshot.load_trainer(arrays, had, trainer, path)
    before, now = ((f'on a {of["device"]}', f'by the {of["trained_by"]} updater',
                    f'with {describe_step(of["batch_size"], of["ranks"])}')
                   for of in (had, state.settings))
    for then, here in zip(before, now, strict=True):
        if then != here and state.rank == 0:
            print(f'warning: {path} was trained {then}; {here} the run goes on, but not to '
                  'exactly the same result', file=sys.stderr)


def prepare_folder(args, trainer, settings, graph):
    """Make sure that the snapshots have room in OUT, and write what a run writes at its start.

    Args:
        args (argparse.Namespace): The command line.
        trainer (Trainer): Where the run starts.
        settings (dict): What `args.json` is to tell.
        graph (str): What `cg.dot` is to tell.

    Raises:
        SnapshotError: If they have not, or it cannot be written.
    """
    updater = trainer.updater
    n_digits = len(updater.get_iterator('main').dataset) * settings['ranks']
    snapshot.check_room(args.out, updater.get_optimizer('main').target, n_digits, args.keep,
                        args.overwrite,
                        more=math.ceil((args.epoch - updater.epoch) / args.snapshot_every))
    if args.overwrite:
        snapshot.clear(args.out)
    snapshot.write_text(args.out, 'args.json', json.dumps(settings, indent=4) + '\n')
    snapshot.write_text(args.out, 'cg.dot', graph)


# Many processes: ChainerMN ----------------------------------------------------------------------


def start_ranks(argv):
    """Meet the other processes that mpiexec started, where the command line has --communicator.

    Args:
        argv (list of str): The command line, or None for the program's own.

    Returns:
        chainermn.CommunicatorBase: By which they agree on what follows; None without that flag.

    Raises:
        UserError: If mpi4py or an MPI is missing, mpiexec is of another MPI, or that flag is.
    """
    started = int(os.environ.get('PMI_SIZE') or os.environ.get('OMPI_COMM_WORLD_SIZE') or 1)
    place = int(os.environ.get('PMI_RANK') or os.environ.get('OMPI_COMM_WORLD_RANK') or 0)
    scan = argparse.ArgumentParser(add_help=False)
    scan.add_argument('--communicator', nargs='?', const='')
    wanted = scan.parse_known_args(argv)[0].communicator is not None
    if not wanted and started == 1:
        return None
    try:
        if not wanted:
            raise compat.UserError(f'mpiexec started {started} processes; add --communicator '
                                   'naive, or pure_nccl for GPUs')
        return connect(started)
    except compat.UserError:
        if place > 0:
            raise SystemExit(2) from None           # the first process tells
        raise


def connect(started):
    """Return a communicator of the processes that mpiexec started, so many.

    Raises:
        UserError: If mpi4py or an MPI is missing, or mpiexec is of another MPI.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter('ignore')         # of mpi4py, about what is told below
            import chainermn

            comm = chainermn.create_communicator('naive')
        if comm.size >= started:
            return comm
        why = f'mpiexec, which started {started} processes, is of another MPI than mpi4py'
    except (ImportError, RuntimeError) as error:
        cause = str(error).splitlines()[0].partition(': ChainerMN')[0]
        why = f'it needs mpi4py and an MPI ({cause})'
    raise compat.UserError(f'--communicator: {why}; pip install mpi4py mpich, and use its mpiexec')


def choose_communicator(comm, name):
    """Return the communicator of this name, of the processes that meet in `comm`.

    Raises:
        UserError: If CuPy has no NCCL.
    """
    if name in (None, 'naive'):
        return comm
    import chainermn

    try:
        return chainermn.create_communicator(name)
    except RuntimeError as error:
        raise compat.UserError(f'--communicator {name}: {error} pip install nvidia-nccl-cu13, or '
                               'nvidia-nccl-cu12 for a driver of CUDA 12') from None


def get_device(comm, gpu):
    """Return this rank's device: of several, GPU `gpu` is that of the first rank on a host.

    Raises:
        compat.DeviceError: If it cannot be used.
    """
    if comm is not None and gpu >= 0:
        gpu += comm.intra_rank
    return compat.get_device(gpu)


@contextlib.contextmanager
def ending_together(comm):
    """Let an exception within a `with` block of one rank end all ranks, not just this one."""
    try:
        yield
    except BaseException as error:
        if comm is not None and comm.size > 1 and not getattr(error, 'agreed', False):
            import mpi4py.run

            status = compat.exit_status(error)
            mpi4py.run.set_abort_status(status)         # for when this rank has ended
            if comm.rank > 0 and isinstance(error, KeyboardInterrupt):
                raise SystemExit(status) from None      # rank 0 was interrupted, too, and says it
        raise


def together(comm, function, *args):
    """Call a function on every rank; where it fails on any, end all, and let one rank say why.

    Args:
        comm (chainermn.CommunicatorBase): That of all ranks; None where there is one process.
        function (callable): The function.
        *args: Its arguments.

    Returns:
        What the function returns, here.

    Raises:
        BaseException: What the function raises; SystemExit on all ranks but the first that fails.
    """
    if comm is None:
        return function(*args)
    result = error = status = None
    try:
        result = function(*args)
    except BaseException as caught:
        error, status = caught, (compat.exit_status(caught),)
    statuses = of_all(comm, status)
    failed = [rank for rank, status in enumerate(statuses) if status is not None]
    if not failed:
        return result
    if comm.rank != failed[0]:
        error = SystemExit(*statuses[failed[0]])
    error.agreed = True
    raise error


def on_root(comm, function, *args):
    """Call a function on rank 0 only, as `together` does, and return its result on all ranks."""
    if comm is None or comm.size == 1:
        return function(*args)
    if comm.rank > 0:
        together(comm, bool)            # nothing that could fail
        return comm.bcast_obj(None)[0]
    return comm.bcast_obj((together(comm, function, *args),))[0]


def of_all(comm, value):
    """Return the values of all ranks as a list, on each of them."""
    return comm.bcast_obj(comm.gather_obj(value))


def scatter(comm, optimizer, train, test, seed):
    """Give this rank its part: gradients are of all ranks, digits and noise its own.

    Args:
        comm (chainermn.CommunicatorBase): That of all ranks.
        optimizer (chainer.Optimizer): Set up with the model, which takes rank 0's weights.
        train, test (ndarray): All digits, (N, D) and (M, D).
        seed (int): From which, with the rank, its noise and shuffling follow; a rank alone goes
            on as a single process would.

    Returns:
        tuple: The multi-node optimizer, and views of this rank's share of train and test; shares
        of train are of one size, so that all ranks come to the end of an epoch together.
    """
    import chainermn

    comm.bcast_data(optimizer.target)
    optimizer = chainermn.create_multi_node_optimizer(optimizer, comm)
    optimizer.is_changed(optimizer.target)      # else the first update would only do that bcast
    if comm.size > 1:
        np.random.seed([seed, comm.rank])
    share_cores(comm)
    first, last = chainermn.scatter_index(len(train), comm)
    first_test, last_test = chainermn.scatter_index(len(test), comm, force_equal_length=False)
    return optimizer, train[first:last], test[first_test:last_test]


def share_cores(comm):
    """Let BLAS take no more threads than this rank's part of the cores that it has with others."""
    import threadpoolctl

    cores = (os.sched_getaffinity(0) if hasattr(os, 'sched_getaffinity') else
             set(range(os.cpu_count())))
    ranks = of_all(comm, (comm.inter_rank, cores)).count((comm.inter_rank, cores))
    for library in threadpoolctl.ThreadpoolController().select(user_api='blas').lib_controllers:
        library.set_num_threads(min(library.num_threads, max(1, len(cores) // ranks)))


def average(comm, trainer, stop):
    """Let what a trainer observes be of all ranks, and a signal to any of them stop all.

    After each iteration the losses become their means over all ranks, and the test losses those
    over all test digits, of which the ranks may have shares of different sizes.

    Args:
        comm (chainermn.CommunicatorBase): That of all ranks.
        trainer (Trainer): That of this rank, with an evaluator.
        stop (UntilStopped): Its stop trigger.
    """
    import chainermn

    def agree(trainer):
        keys = [f'main/{name}' for name in snapshot.LOSSES]
        here = [float(trainer.observation[key].array) for key in keys]
        caught = [stop.caught == signum for signum in STOPPING]
        sums = comm.allreduce(np.array(here + caught, np.float64))
        trainer.observation.update(zip(keys, sums / comm.size, strict=False))
        for signum, count in zip(STOPPING, sums[len(keys):], strict=True):
            if count:
                stop.signum = signum

    evaluator = trainer.get_extension('validation')
    evaluate = evaluator.evaluate
    share = len(evaluator.get_iterator('main').dataset)
    weight = comm.size * share / comm.allreduce_obj(share)
    evaluator.evaluate = lambda: {key: mean * weight for key, mean in evaluate().items()}
    chainermn.create_multi_node_evaluator(evaluator, comm)
    trainer.extend(agree, trigger=(1, 'iteration'), priority=training.PRIORITY_EDITOR + 1)


# The command line -------------------------------------------------------------------------------


def positive(kind, most=math.inf):
    """Make a type for argparse: finite positive numbers of `kind`, int or float, up to `most`."""
    def parse(text):
        with contextlib.suppress(ValueError):
            value = kind(text)
            if 0 < value < math.inf and value <= most:
                return value
        what = 'positive whole number' if kind is int else 'positive number'
        limit = '' if most == math.inf else f' of at most {most}'
        raise argparse.ArgumentTypeError(f'{text} is not a {what}{limit}')
    return parse


def seed(text):
    """Parse a seed of NumPy's and CuPy's generators."""
    with contextlib.suppress(ValueError):
        if 0 <= int(text) < 2**32:
            return int(text)
    raise argparse.ArgumentTypeError(f'{text} is not a whole number from 0 to {2**32 - 1}')


def build_parser():
    """Return the parser of the command line."""
    parser = compat.Parser(prog='train_vae.py', description=__doc__.splitlines()[0], epilog=EPILOG,
                           formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    count = positive(int, snapshot.MOST)

    add('-g', '--gpu', type=int, default=-1, metavar='N',
        help='train on GPU N (default: on the CPU)')
    add('-o', '--out', default='results', help='folder for the results (default: results)')
    add('-e', '--epoch', type=count, default=100, metavar='N',
        help='epochs to train (default: 100)')
    add('-b', '--batch-size', type=count, default=100, metavar='N',
        help='digits in a minibatch, of each process (default: 100)')
    add('-z', '--dim-z', type=count, default=20, metavar='N',
        help='dimensions of the latent variable z (default: 20)')
    add('--dim-h', type=count, default=500, metavar='N',
        help='units of each hidden layer (default: 500)')
    add('--activation', choices=net.ACTIVATIONS, default='softplus',
        help='activation of the hidden layers (default: softplus)')
    add('--beta', type=positive(float), default=1.0, metavar='C',
        help='weight of the latent loss, the KL divergence (default: 1.0, the ELBO)')
    add('-k', '--k', type=count, default=1, metavar='N',
        help='Monte Carlo samples of z for each digit in training (default: 1)')
    add('--dataset', choices=('auto', 'mnist', 'digits'), default='auto',
        help='auto: MNIST from the cache or the network, else the bundled digits; mnist: nothing '
             'else; digits: the bundled digits, without the network (default: auto)')
    add('--data-dir', metavar='DIR',
        help="read this folder of four IDX files, plain or .gz: MNIST's, Fashion-MNIST's, ...")
    add('--binary', action='store_true', help='round pixels to 0 or 1')
    add('--test', action='store_true', help=f'use only {mnist.TINY} digits; with -e 3, a quick try')
    add('--seed', type=seed, default=0, metavar='N',
        help='seed of weights, noise and shuffling (default: 0)')
    add('-m', '--initmodel', metavar='FILE', help='start from the weights of this snapshot')
    add('-r', '--resume', nargs='?', const=NEWEST, metavar='FILE',
        help='go on from this snapshot, or from the newest in OUT, with its settings; '
             'a larger --epoch trains for longer')
    add('--communicator', choices=('naive', 'pure_nccl'),
        help='start this by mpiexec, and ChainerMN lets the processes train one model, each on '
             'minibatches of its own: naive on CPUs, pure_nccl on GPUs')
    add('--updater', choices=('fast', 'standard'), default='fast',
        help="fast: the training step compiled by Numba, where that is installed; standard: "
             "Chainer's own, which takes twice the time, and with --communicator the only one "
             '(default: fast)')
    add('--snapshot-every', type=count, default=snapshot.EVERY, metavar='N',
        help=f'epochs from one snapshot to the next (default: {snapshot.EVERY})')
    add('--keep', type=count, default=snapshot.KEEP, metavar='N',
        help=f'snapshots to keep, the newest (default: {snapshot.KEEP})')
    add('--overwrite', action='store_true',
        help='replace the snapshots of an earlier run in OUT')
    return parser


def parse_arguments(argv, ranks=1):
    """Parse the command line; where it resumes, settings not given are the snapshot's own.

    Args:
        argv (list of str): The command line, or None for the program's own.
        ranks (int): How many processes train together. On another number of them than the
            snapshot's, --batch-size may change, too.

    Returns:
        tuple: The arguments, and the arrays of the snapshot to go on from, or None.

    Raises:
        snapshot.SnapshotError: If that snapshot cannot be used.
    """
    parser = build_parser()
    args = parser.parse_args(argv)
    if args.data_dir is not None and args.dataset == 'digits':
        parser.error(f'--dataset digits and --data-dir {args.data_dir} exclude each other; '
                     'leave one out')
    if args.communicator is not None and (args.communicator == 'naive') != (args.gpu < 0):
        parser.error('--communicator naive is for CPUs, and pure_nccl for GPUs, with --gpu 0; '
                     'take the one that fits')
    if args.resume is None:
        return args, None
    if args.initmodel is not None or args.overwrite:
        parser.error('--resume excludes --initmodel and --overwrite; leave them out')

    is_newest = args.resume is NEWEST
    path = snapshot.newest(args.out) if is_newest else args.resume
    arrays = snapshot.read(path)
    settings = snapshot.settings(arrays, path)
    snapshot.check_activation(settings, net.ACTIVATIONS, path)
    if args.dataset == 'auto' and args.data_dir is None:    # else its digits are elsewhere now
        parser.set_defaults(dataset=settings['dataset'], data_dir=settings['data_dir'])
    fixed = ['dim_z', 'dim_h', 'activation', 'beta', 'k', 'binary', 'test', 'seed']
    free = ['epoch', 'snapshot_every', 'keep', 'updater']
    (fixed if ranks == settings['ranks'] else free).append('batch_size')
    parser.set_defaults(out=os.path.dirname(path) or '.',
                        **{name: settings[name] for name in fixed + free})
    args = parser.parse_args(argv)
    args.resume, args.is_newest = path, is_newest
    wrong = [name for name in fixed if getattr(args, name) != settings[name]]
    if args.data_dir is None and args.dataset not in ('auto', settings['dataset']):
        wrong.append('dataset')
    if wrong:
        flags = {name: f'--{name.replace("_", "-")}' for name in wrong}
        given = (flag if getattr(args, name) is True else f'{flag} {getattr(args, name)}'
                 for name, flag in flags.items())
        had = ('without it' if settings[name] is False else f'with {settings[name]}'
               for name in wrong)
        parser.error(f'{path} contradicts {", ".join(given)}, as it was trained {", ".join(had)}; '
                     'leave that out, or train anew with another -o')
    return args, arrays


def make_updater(args, iterator, optimizer, device):
    """Make what trains and scores the model: the fast code of updater.py, or Chainer's own.

    Args:
        args (argparse.Namespace): The command line.
        iterator (chainer.iterators.SerialIterator): Of the digits to train on.
        optimizer (chainer.Optimizer): Set up with the model.
        device (chainer.backend.Device): Where to train.

    Returns:
        tuple: The updater, the evaluation function, and which kind both are, for the header.
    """
    model, why = optimizer.target, ''
    if args.communicator is not None:
        why = 'as all ranks step together'
    elif args.updater == 'fast':
        try:
            from support import updater as fast  # loads Numba, which takes half a second

            why = fast.obstacle(optimizer)
            if not why:
                updater, how = fast.make(iterator, optimizer, device, args.beta, args.k)
                return updater, fast.score_func(model, TEST_K), f'fast ({how})'
        except ImportError as error:        # Numba or, for a GPU, cuBLAS
            why = error
    lf = model.get_loss_func(args.beta, args.k)
    return (training.StandardUpdater(iterator, optimizer, device=device, loss_func=lf),
            score_func(model, TEST_K), f'standard ({why})' if why else 'standard')


# Extensions of the trainer ----------------------------------------------------------------------


class UntilStopped(triggers.IntervalTrigger):
    """Stop trigger: after so many epochs, or after the iteration in which a signal came.

    A subclass of IntervalTrigger because ProgressBar asks its stop trigger for the length.

    Args:
        epochs (int): After which the run ends.
        comm (chainermn.CommunicatorBase): Where this is one of several ranks, that of all.

    Attributes:
        caught (int): The signal that came to this process, or None.
        signum (int): The one that stops the run: of several ranks, once all know of it.
    """

    caught = signum = None

    def __init__(self, epochs, comm=None):
        super().__init__(epochs, 'epoch')
        self.comm = comm

    def __call__(self, trainer):
        """Tell whether the run is over."""
        return self.signum is not None or trainer.updater.epoch >= self.period

    def on_signal(self, signum, frame):
        """Remember the signal; the same again has its default effect, at once."""
        self.caught = signum
        if self.comm is None:
            self.signum = signum
        signal.signal(signum, signal.SIG_DFL)
        if self.comm is not None and self.comm.rank > 0:
            return                                  # rank 0 says it
        with contextlib.suppress(OSError):          # the line break ends that of the terminal's ^C
            os.write(2, b'\n' * os.isatty(2)
                     + b'stopping after this iteration; once more quits at once\n')

    @contextlib.contextmanager
    def on_signals(self):
        """Catch Ctrl-C (SIGINT) and SIGTERM within a `with` block."""
        earlier = {signum: signal.signal(signum, self.on_signal)
                   for signum in STOPPING}
        try:
            yield
        finally:
            for signum, handler in earlier.items():
                signal.signal(signum, handler)


def snapshot_trigger(every, epochs):
    """Make the trigger of snapshots: after every so many epochs, and after the last.

    Args:
        every (int): Epochs from one to the next.
        epochs (int): After which the run ends.

    Returns:
        callable: Of the trainer, after an iteration; tells whether a snapshot is due.
    """
    def due(trainer):
        epoch = trainer.updater.epoch
        before = int(trainer.updater.previous_epoch_detail)
        return before // every < epoch // every or epoch >= epochs

    return due


def score_func(model, k):
    """Make the evaluation function: the negative ELBO (C = 1) of k Monte Carlo samples.

    Args:
        model (VAE): The model to score.
        k (int): Monte Carlo samples for each digit.

    Returns:
        callable: Of a minibatch of pixels (N, 784); what it reports weighs by N, so that a short
        last minibatch counts for as many digits as it has.
    """
    lf = model.get_loss_func(k=k)

    def score(x):
        lf(x)
        chainer.report({name: (getattr(model, name), len(x)) for name in snapshot.LOSSES},
                       model)

    return score


def make_check_finite(resumed):
    """Make the extension that stops a run when a loss is not finite.

    Args:
        resumed (str): The snapshot that the run goes on from, or None.

    Returns:
        callable: Of the trainer; it raises a FloatingPointError, with the epoch and the iteration,
        before anything is logged or saved.
    """
    @training.make_extension(trigger=(1, 'iteration'), priority=training.PRIORITY_EDITOR)
    def check_finite(trainer):
        at = trainer.updater
        for key, name in (('main/loss', 'training loss'), ('validation/main/loss', 'test loss')):
            loss = trainer.observation.get(key)
            if loss is not None and not math.isfinite(float(getattr(loss, 'array', loss))):
                raise snapshot.not_finite(name, int(at.previous_epoch_detail) + 1, at.iteration,
                                          trainer.out, resumed)

    return check_finite


class LogReport(extensions.LogReport):
    """Chainer's log of the epochs, which replaces OUT/log only when it is whole."""

    def __init__(self):
        super().__init__(log_name=None)     # its own writing may leave a folder behind

    def __call__(self, trainer):
        """Add up the losses, and after an epoch write their means."""
        rows = len(self.log)
        super().__call__(trainer)
        if len(self.log) > rows:
            snapshot.write_text(trainer.out, 'log', json.dumps(self.log, indent=4) + '\n',
                                mend=snapshot.GO_ON)


class PrintReport(extensions.PrintReport):
    """Chainer's table of the log, under shorter headings, without escape codes in a file."""

    columns = {                                     # of the log: heading, width, format
        'epoch': ('epoch', 5, 'd'),
        'main/loss': ('loss', 8, '.3f'),
        'main/rec_loss': ('rec_loss', 8, '.3f'),
        'main/latent_loss': ('latent_loss', 11, '.3f'),
        'validation/main/loss': ('test loss', 9, '.3f'),
        'validation/main/rec_loss': ('test rec_loss', 13, '.3f'),
        'validation/main/latent_loss': ('test latent_loss', 16, '.3f'),
        'elapsed_time': ('seconds', 7, '.1f')}
    trigger = 1, 'epoch'

    def __init__(self):
        super().__init__(list(self.columns), out=sys.stdout if sys.stdout.isatty() else Plain())
        self._header = '  '.join(f'{name:>{width}}'
                                 for name, width, _ in self.columns.values()) + '\n'
        self._templates = [(key, f'{{:>{width + 2 * (key != "epoch")}{form}}}', '')
                           for key, (_, width, form) in self.columns.items()]


class Plain:
    """Standard output without the escape code by which Chainer erases its progress bar."""

    def write(self, text):
        """Print `text`."""
        sys.stdout.write(text.replace('\033[J', ''))

    def flush(self):
        """Flush standard output."""
        sys.stdout.flush()


class PlotReport(training.Extension):
    """Redraws OUT/loss.png after an epoch, at most every half minute; `main` draws the last."""

    priority = -200         # after the snapshot, which is worth more where the run is killed
    seconds = 30
    due = -math.inf

    def trigger(self, trainer):
        """Fire after an epoch; without a state, which the snapshot before would hold too early."""
        return trainer.updater.is_new_epoch

    def __call__(self, trainer):
        """Draw, if that is due."""
        if time.monotonic() >= self.due and not trainer.stop_trigger(trainer):
            plot_losses(trainer)
            self.due = time.monotonic() + self.seconds


# What is written and printed besides ------------------------------------------------------------


def plot_losses(trainer):
    """Draw OUT/loss.png from the log: the loss and its two terms, in training and test."""
    from matplotlib import color_sequences
    from matplotlib.figure import Figure

    blue, _, red, *_ = color_sequences['petroff10']     # as in the figures of visualize.py
    log = trainer.get_extension('LogReport').log
    if not log:
        return
    figure = Figure(figsize=(10, 3.4), layout='constrained')
    titles = ('loss (negative ELBO)', 'reconstruction error', 'latent loss (KL divergence)')
    for axes, title, name in zip(figure.subplots(1, 3), titles, snapshot.LOSSES, strict=True):
        for label, prefix, color in (('training', 'main/', blue),
                                     ('test', 'validation/main/', red)):
            axes.plot([row['epoch'] for row in log], [row[prefix + name] for row in log],
                      marker='.' if len(log) < 20 else None, color=color, label=label)
        axes.set(title=title, xlabel='epoch')
    figure.axes[0].set_ylabel('nats per digit')
    figure.axes[0].legend()
    with snapshot.replacing(os.path.join(trainer.out, 'loss.png')) as file:
        figure.savefig(file, format='png', dpi=100)


def report_no_more(trainer, args):
    """Say that a resumed run has no epochs left, and draw what a kill may have prevented."""
    if args.is_newest:
        plot_losses(trainer)            # a run's last file
    print(f'{args.resume} is at epoch {trainer.updater.epoch} already; '
          'go on with a larger --epoch')


def print_header(args, device, digits, kind, comm, epoch):
    """Say what will happen: device, digits, model, batch, epochs, and where the results go."""
    where = 'CPU' if device.xp is np else f'GPU {args.gpu}'
    batch = describe_step(args.batch_size, 1 if comm is None else comm.size)
    if comm is not None:
        hosts = f'{comm.inter_size} host{"s" * (comm.inter_size > 1)}'
        where += f', 1 rank of {args.communicator} (mpiexec -n N starts more)' if (
            comm.size == 1) else f', {comm.size} ranks on {hosts}, by {args.communicator}'
    pixels = '' if not args.binary else ', binary'
    samples = '' if args.k == 1 else f', k = {args.k}'
    weight = '' if args.beta == 1 else f', beta = {args.beta:g}'
    start = '' if not args.resume else f', from {epoch:.4g} of {args.resume}'
    print(f"""\
device   {where}
updater  {kind}
digits   {digits.title}: {len(digits.train)} to train, {len(digits.test)} to test{pixels}
model    784-{args.dim_h}-{args.dim_h}-{args.dim_z}-{args.dim_h}-{args.dim_h}-784, \
z = {args.dim_z}, {args.activation}
loss     negative ELBO{weight}{samples}, {batch}, Adam, seed {args.seed}
epochs   {args.epoch}{start}
results  {args.out}
""", flush=True)


def report_end(updater, signum, args, ranks):
    """Say how the run ended and what comes next; return the exit status."""
    if updater.epoch >= args.epoch:
        print(f'finished at epoch {updater.epoch}: '
              f'{os.path.join(args.out, snapshot.EPOCH_PREFIX + str(updater.epoch))}\n'
              f'draw its figures with: python visualize.py -o {shlex.quote(args.out)}')
        return 0
    if updater.iteration == 0:
        print('interrupted before the first iteration; start it again')
        return 128 + signum
    gpu = f' --gpu {args.gpu}' if args.gpu >= 0 else ''
    mpiexec, communicator = ('', '') if args.communicator is None else (
        f'mpiexec -n {ranks} ', f' --communicator {args.communicator}')
    print(f'interrupted at epoch {updater.epoch_detail:.2f}, iteration {updater.iteration}; go on '
          f'with: {mpiexec}python train_vae.py --resume -o {shlex.quote(args.out)}{gpu}'
          f'{communicator}')
    return 128 + signum


def cli(argv=None):
    """Run `main`; where it fails, say why in one line on stderr. Return the exit status."""
    return compat.run('train_vae.py', main, argv)


if __name__ == '__main__':
    sys.stdout.reconfigure(errors='backslashreplace')       # names of files can be anything
    sys.exit(cli())
