"""The command line of train_vae.py: its further flags, and what --resume takes from a snapshot."""

import argparse
import contextlib
import math
import os

from support.run import ranks, run_folder, snapshot  # lets chainer import

import net

NEWEST = object()           # --resume without a file


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


count = positive(int, snapshot.MOST)


def add_further(parser):
    """Add the flags that the article's script does not need."""
    add = parser.add_argument_group('beyond the article').add_argument
    add('--dataset', choices=('auto', 'mnist', 'digits'), default='auto',
        help='auto: MNIST from the cache or the network, else the bundled digits; mnist: nothing '
             'else; digits: the bundled digits, without the network (default: auto)')
    add('--data-dir', metavar='DIR',
        help="read this folder of four IDX files, plain or .gz: MNIST's, Fashion-MNIST's, ...")
    add('--activation', choices=net.ACTIVATIONS, default='softplus',
        help='activation of the hidden layers (default: softplus)')
    add('--seed', type=seed, default=0, metavar='N',
        help='seed of weights, noise and shuffling (default: 0)')
    add('--updater', choices=('fast', 'standard'), default='fast',
        help="fast: the training step compiled by Numba, where that is installed, or parts of it, "
             "where net.py is edited; standard: Chainer's own, which takes three times as long "
             '(default: fast)')
    add('--communicator', choices=('naive', 'pure_nccl'),
        help='start this by mpiexec, and ChainerMN lets the processes train one model, each on '
             'minibatches of its own: naive on CPUs, pure_nccl on GPUs')
    add('--snapshot-every', type=count, default=snapshot.EVERY, metavar='N',
        help=f'epochs from one snapshot to the next (default: {snapshot.EVERY})')
    add('--keep', type=count, default=snapshot.KEEP, metavar='N',
        help=f'snapshots to keep, the newest (default: {snapshot.KEEP})')
    add('--overwrite', action='store_true',
        help='replace the snapshots of an earlier run in OUT')


@contextlib.contextmanager
def parsed(parser, argv):
    """Parse the command line, and hold the folder OUT for this run within a `with` block.

    Args:
        parser (argparse.ArgumentParser): Of the command line.
        argv (list of str): The command line, or None for the program's own.

    Yields:
        argparse.Namespace: As from `parse`; besides `comm`, as from `ranks.start`, and `device`
        (chainer.backend.Device), where to train.

    Raises:
        UserError: If what it asks for cannot be had.
    """
    comm = ranks.start(argv)
    with comm.ending_together(), contextlib.ExitStack() as held:
        args = comm.on_root(parse, parser, argv)
        args.comm, args.device = comm, comm.get_device(args.gpu, args.communicator)
        comm.on_root(held.enter_context, run_folder.claim(args.out, args.overwrite, args.resume))
        yield args


def parse(parser, argv):
    """Parse the command line; where it resumes, settings not given are the snapshot's own.

    Args:
        parser, argv: As for `parsed`.

    Returns:
        argparse.Namespace: The arguments; `resumed` has the arrays of the snapshot to go on from,
        or None, `resume` its path, and `is_newest` tells whether that was looked for.

    Raises:
        snapshot.SnapshotError: If that snapshot cannot be used.
    """
    args = parser.parse_args(argv)
    args.resumed, args.is_newest = None, False
    if args.data_dir is not None and args.dataset == 'digits':
        parser.error(f'--dataset digits and --data-dir {args.data_dir} exclude each other; '
                     'leave one out')
    if args.communicator is not None and (args.communicator == 'naive') != (args.gpu < 0):
        parser.error('--communicator naive is for CPUs, and pure_nccl for GPUs, with --gpu 0; '
                     'take the one that fits')
    if args.autoencoder and (args.beta, args.k) != (1, 1):
        parser.error('--autoencoder has neither a latent loss nor noise; leave out --beta and --k')
    if args.resume is None:
        return args
    if args.initmodel is not None or args.overwrite:
        parser.error('--resume excludes --initmodel and --overwrite; leave them out')

    is_newest = args.resume is NEWEST
    path, arrays = (snapshot.read_newest(args.out) if is_newest else
                    (args.resume, snapshot.read(args.resume)))
    settings = snapshot.read_settings(arrays, path)
    if settings['k'] > snapshot.MOST_K:
        raise snapshot.SnapshotError(f'{path} was trained with -k {settings["k"]}, which takes too '
                                     f'much memory; up to {snapshot.MOST_K} can go on')
    if args.dataset == 'auto' and args.data_dir is None:    # else its digits are elsewhere now
        parser.set_defaults(dataset=settings['dataset'], data_dir=settings['data_dir'])
    fixed = ['autoencoder', 'dim_z', 'dim_h', 'beta', 'k', 'binary', 'test', 'seed']
    fixed += ['activation'] * (settings['activation'] in net.ACTIVATIONS)   # else net.py's own
    free = ['epoch', 'snapshot_every', 'keep', 'updater', 'batch_size']
    parser.set_defaults(out=os.path.dirname(path) or '.',
                        **{name: settings[name] for name in fixed + free})
    args = parser.parse_args(argv)
    args.resume, args.resumed, args.is_newest = path, arrays, is_newest
    if would_cut_log(args):
        parser.error(f'{args.out} has a snapshot of epoch {run_folder.last_epoch(args.out)}, and '
                     f'--epoch {args.epoch} would leave it without its log; give a larger one, or '
                     'another folder with -o')
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
    return args


def would_cut_log(args):
    """Tell whether a run would write a log that ends before snapshots that lie beside it.

    Args:
        args (argparse.Namespace): As from `parse`, of a run that resumes.
    """
    try:
        epoch = int(args.resumed[snapshot.EPOCH_KEY])
        is_beside = os.path.samefile(os.path.dirname(args.resume) or '.', args.out)
    except (KeyError, TypeError, ValueError, OverflowError, OSError):
        return False                        # no run's snapshot, as is said later; or no such folder
    return is_beside and epoch < args.epoch < run_folder.last_epoch(args.out)
