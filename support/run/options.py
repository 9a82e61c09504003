"""The command line of train_vae.py: its further flags, and what --resume takes from a snapshot."""

import contextlib
import os

from support.run import ranks, run_folder, settings, snapshot  # lets chainer import

import net

NEWEST = object()           # --resume without a file


def add_further(parser):
    """Add the flags that the article's script does not need."""
    add, flag = parser.add_argument_group('beyond the article').add_argument, settings.flag
    add('--dataset', **flag(
        'dataset', 'auto: MNIST from the cache or the network, else the bundled digits; mnist: '
                   'only MNIST; digits: the bundled digits, without the network'))
    add('--data-dir', metavar='DIR',
        help="read this folder of four IDX files, plain or .gz: MNIST's, Fashion-MNIST's, ...")
    add('--seed', **flag('seed', 'seed of weights, noise and shuffling'))
    add('--updater', **flag(
        'updater', 'fast: the training step compiled by Numba, or parts of it where net.py is '
                   "edited; standard: Chainer's own, which takes three times as long"))
    add('--communicator', choices=('naive', 'pure_nccl'),
        help='train one model in several processes that mpiexec starts, each on minibatches of '
             'its own: naive on CPUs, pure_nccl on GPUs')
    add('--snapshot-every', **flag('snapshot_every', 'epochs from one snapshot to the next'))
    add('--keep', **flag('keep', 'keep only the newest N snapshots'))
    add('--overwrite', action='store_true',
        help='replace the snapshots of an earlier run in OUT')


@contextlib.contextmanager
def parsed(parser, argv):
    """Parse the command line, and hold the folder OUT for this run within a `with` block.

    It yields what `parse` returns, with `comm`, as from `ranks.start`, and `device` to train on.

    Raises:
        UserError: If what it asks for cannot be had.
    """
    comm = ranks.start(argv)
    with comm.ending_together(), contextlib.ExitStack() as stack:
        args = comm.on_root(parse, parser, argv)
        args.comm, args.device = comm, comm.get_device(args.gpu, args.communicator)
        comm.on_root(stack.enter_context, run_folder.claim(args.out, args.overwrite, args.resume))
        yield args


def parse(parser, argv):
    """Parse the command line; where it resumes, settings not given are those of that snapshot.

    It adds `resumed`, the arrays of that snapshot, or None, and `is_newest`: whether --resume named
    no file.
    """
    args = parser.parse_args(argv)
    args.resumed, args.is_newest = None, False
    for is_wrong, message in (
            (args.data_dir is not None and args.dataset == 'digits',
             '--dataset digits and --data-dir exclude each other; leave one out'),
            (args.communicator is not None and (args.communicator == 'naive') != (args.gpu < 0),
             '--communicator naive is for CPUs, and pure_nccl for GPUs, with --gpu 0; take the one '
             'that fits'),
            (args.autoencoder and (args.beta, args.k) != (1, 1),
             '--autoencoder has neither a latent loss nor noise; leave out --beta and --k'),
            (args.resume is not None and (args.initmodel is not None or args.overwrite),
             '--resume excludes --initmodel and --overwrite; leave them out')):
        if is_wrong:
            parser.error(message)
    if args.resume is None:
        return args

    is_newest = args.resume is NEWEST
    path, arrays = (snapshot.read_newest(args.out) if is_newest else
                    (args.resume, snapshot.read(args.resume)))
    had = snapshot.read_settings(arrays, path)
    if args.dataset == 'auto' and args.data_dir is None:    # else its digits are elsewhere now
        parser.set_defaults(dataset=had.dataset, data_dir=had.data_dir)
    same = [name for name in settings.names_of(settings.SAME)
            if name != 'activation' or had.activation in net.ACTIVATIONS]   # else net.py's own
    parser.set_defaults(out=os.path.dirname(path) or '.', **{
        name: getattr(had, name) for name in same + settings.names_of(settings.TAKEN)})
    args = parser.parse_args(argv)
    args.resume, args.resumed, args.is_newest = path, arrays, is_newest
    same += ['dataset'] * (args.data_dir is None and args.dataset != 'auto')
    wrong = [name for name in same if getattr(args, name) != getattr(had, name)]
    if wrong:
        flags = ', '.join(f'--{name.replace("_", "-")} {getattr(args, name)}' for name in wrong)
        values = ', '.join(f'with {getattr(had, name)}' for name in wrong)
        parser.error(f'{path} contradicts {flags.replace(" True", "")}, as it was trained '
                     f'{values.replace("with False", "without it")}; leave that out, or train anew '
                     'with another -o')
    return args
