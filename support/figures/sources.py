"""What figures are drawn from: the snapshot of a run, or weights alone.

Cell 12 of the article's notebook saves weights alone, by `chainer.serializers.save_npz`.
"""

import argparse
import contextlib

from support.base import command, devices, kinds
from support.data import mnist
from support.figures import pictures
from support.run import models, settings, snapshot

import chainer
import chainer.functions as F

import net


def read_run(args):
    """Return the model and the digits of the snapshot in a command line, and its settings.

    These are a dict of the `Settings`, but with sizes of this model and facts of these digits; and
    the `path` of the snapshot, its `epochs_done`, and its `log` (a list of rows).
    """
    device = devices.get_device(args.gpu)
    path, arrays = ((args.snapshot, snapshot.read(args.snapshot)) if args.snapshot else
                    snapshot.read_newest(args.out))
    is_run = snapshot.SETTINGS_KEY in arrays
    run = snapshot.read_settings(arrays, path) if is_run else guess(arrays, args, path)
    if is_run and (args.dataset or args.activation):
        raise command.UserError(f'{path} is the snapshot of a run, which has its own activation '
                               'and dataset; leave out --activation and --dataset')
    digits = mnist.get_digits(run.dataset, args.data_dir or run.data_dir, run.test, run.binary)
    if is_run:
        snapshot.check_digits(run, digits, path)
    model_class = net.Autoencoder if run.autoencoder else net.VAE
    try:
        model = model_class(digits.test.shape[1], run.dim_z, run.dim_h,
                            net.ACTIVATIONS.get(run.activation, F.softplus))
    except Exception as error:      # an edited __init__ can raise anything
        if chainer.is_debug() or isinstance(error, MemoryError):
            raise
        raise snapshot.SnapshotError(
            f'this net.py cannot make the model of {path} ({pictures.cause_of(error)}); use the '
            'net.py that trained it') from None
    if is_run:
        models.check_activation(run, model, path)
    snapshot.load_model(arrays, model, path)
    models.warn_of_edits(run, path)
    device.use()
    model.to_device(device)
    sizes = models.sizes_of(model)
    with contextlib.suppress(Exception):        # each figure that calls `encode` will report it
        sizes['dim_z'] = pictures.encode(model, digits.test[:1]).shape[1]
    return model, digits, vars(run) | sizes | {
        'dataset': digits.dataset, 'data_dir': digits.data_dir, 'checksum': digits.checksum,
        'path': path, 'epochs_done': snapshot.count_of(arrays, snapshot.EPOCH_KEY) or 0,
        'log': snapshot.rows_of(arrays.get(snapshot.LOG_KEY) if is_run else None) or []}


def guess(arrays, args, path):
    """Return the Settings of the weights in a file, from their shapes and the command line."""
    prefix = snapshot.prefix_of(arrays)     # also of a Trainer without settings, as Chainer's own
    is_plain = f'{prefix}le3/W' in arrays and f'{prefix}le3_mu/W' not in arrays
    layers = [f'{prefix}{link}/W' for link in ('le1', 'le3' if is_plain else 'le3_mu')]
    for layer in layers:
        if layer not in arrays:
            raise snapshot.of_another_network(arrays, layer, path)
    shapes = [arrays[layer].shape for layer in layers]
    if not all(len(shape) == 2 and min(shape) for shape in shapes):
        raise snapshot.SnapshotError(f'{path} does not hold the weights of a VAE; {kinds.OURS}')
    (dim_h, n_in), (dim_z, _) = shapes
    snapshot.check_memory(arrays, prefix, n_in, dim_h, dim_z, path)
    return settings.Settings(
        autoencoder=is_plain, n_in=n_in, dim_h=dim_h, dim_z=dim_z, seed=None,
        activation=args.activation or 'softplus', dataset=args.dataset or 'auto',
        data_dir=args.data_dir)


def read_beside(args, settings):
    """Return the Autoencoder of --beside, of z = 2; UserError if its digits are not the run's."""
    model, _, its_own = read_run(argparse.Namespace(**vars(args) | {
        'out': args.beside, 'snapshot': None, 'dataset': None, 'activation': None}))
    if (its_own['autoencoder'], its_own['dim_z']) != (True, 2):
        raise command.UserError(f'--beside {args.beside} is no run of train_vae.py --autoencoder '
                               '-z 2; name one')
    if any(settings[key] != its_own[key] for key in ('checksum', 'binary', 'test')):
        raise command.UserError(f'--beside {args.beside} was trained on other digits than the VAE; '
                               'name another')
    return model
