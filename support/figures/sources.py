"""What figures are drawn from: the snapshot of a run, or weights alone, as the notebook saves them.

The notebook's cell 12 writes its VAE by `chainer.serializers.save_npz`: no more than the layers.
Their sizes follow from the arrays; activation and digits are the command line's.
"""

import argparse
import contextlib
import os

from support.base import command, devices, files, kinds
from support.data import mnist
from support.figures import pictures
from support.run import models, settings, snapshot

import chainer
import chainer.functions as F

import net


def read_run(args):
    """Read what figures are drawn from: the model and the digits of a snapshot, and its settings.

    Args:
        args (Namespace): The command line of visualize.py: `snapshot` (str), or None for the newest
            one in `out`, `data_dir`, `dataset`, `activation` and `gpu`.

    Returns:
        tuple: The VAE or Autoencoder, on the device of --gpu; mnist.Digits; a dict of the
        `settings.Settings`, but with `dim_h` and `dim_z` of this model, `dataset`,
        `data_dir` and `checksum` of these digits, the `path` of the snapshot, and its `log` (a list
        of rows, empty where it has none).

    Raises:
        UserError: If one cannot be had.
    """
    device = devices.get_device(args.gpu)
    path, arrays = ((args.snapshot, snapshot.read(args.snapshot)) if args.snapshot else
                    snapshot.read_newest(args.out))
    is_run = snapshot.SETTINGS_KEY in arrays
    run = snapshot.read_settings(arrays, path) if is_run else guess(arrays, args, path)
    if is_run and (args.dataset or args.activation):
        raise command.UserError(f'{path} is the snapshot of a run, which tells its activation and '
                               'dataset; leave out --activation and --dataset')
    digits = mnist.get_digits(run.dataset, args.data_dir or run.data_dir, run.test, run.binary)
    if is_run:
        snapshot.check_digits(run, digits, path)
    model_class = net.Autoencoder if run.autoencoder else net.VAE
    try:
        model = model_class(digits.test.shape[1], run.dim_z, run.dim_h,
                            net.ACTIVATIONS.get(run.activation, F.softplus))
    except Exception as error:      # whatever an edited __init__ makes of these arguments
        if chainer.is_debug() or isinstance(error, MemoryError):
            raise
        raise snapshot.SnapshotError(
            f'this net.py does not make the model of {path} ({pictures.cause_of(error)}); use the '
            'net.py that trained it') from None
    if is_run:
        models.check_activation(run, model, path)
    snapshot.load_model(arrays, model, path)
    models.warn_of_edits(run, path)
    device.use()
    model.to_device(device)
    sizes = models.sizes_of(model)
    with contextlib.suppress(Exception):        # which each figure will tell that calls `encode`
        sizes['dim_z'] = pictures.encode(model, digits.test[:1]).shape[1]
    return model, digits, vars(run) | sizes | {
        'dataset': digits.dataset, 'data_dir': digits.data_dir, 'checksum': digits.checksum,
        'path': path, 'log': snapshot.read_log(arrays) if is_run else []}


def guess(arrays, args, path):
    """Return the settings of weights alone, from their shapes and the command line.

    Args:
        arrays (dict): As from `snapshot.read`.
        args (Namespace): As for `read_run`.
        path (str): Where the arrays come from, for the message.

    Returns:
        settings.Settings: What the weights do not tell is as in the article; no seed.

    Raises:
        snapshot.SnapshotError: If they are not the weights of such a model.
    """
    prefix = snapshot.prefix_of(arrays)     # also of a Trainer without settings, as Chainer's own
    is_plain = f'{prefix}le3/W' in arrays and f'{prefix}le3_mu/W' not in arrays
    layers = [f'{prefix}{link}/W' for link in ('le1', 'le3' if is_plain else 'le3_mu')]
    for layer in layers:
        if layer not in arrays:
            raise snapshot.of_another_network(arrays, layer, path)
    shapes = [arrays[layer].shape for layer in layers]
    if not all(len(shape) == 2 and 0 < min(shape) <= max(shape) <= settings.MOST_COUNTED
               for shape in shapes):
        raise snapshot.SnapshotError(f'{path} does not hold the weights of a VAE; {kinds.OURS}')
    (dim_h, n_in), (dim_z, _) = shapes
    snapshot.check_memory(arrays, prefix, n_in, dim_h, dim_z, path)
    return settings.Settings(
        autoencoder=is_plain, n_in=n_in, dim_h=dim_h, dim_z=dim_z, seed=None,
        activation=args.activation or 'softplus', dataset=args.dataset or 'auto',
        data_dir=args.data_dir)


def read_beside(args, settings):
    """Read the autoencoder of --beside, which goes beside the VAE of a run with these settings.

    Returns:
        Autoencoder: Of two latent dimensions, on the device of --gpu.

    Raises:
        UserError: If there is none, or it was trained on other digits.
    """
    model, _, its_own = read_run(argparse.Namespace(**vars(args) | {
        'out': args.beside, 'snapshot': None, 'dataset': None, 'activation': None}))
    if (its_own['autoencoder'], its_own['dim_z']) != (True, 2):
        raise command.UserError(f'--beside {args.beside} is no run of train_vae.py --autoencoder '
                               '-z 2; name one')
    if any(settings[key] != its_own[key] for key in ('checksum', 'binary', 'test')):
        raise command.UserError(f'--beside {args.beside} was trained on other digits than the VAE; '
                               'name another')
    return model


def commands_for(figure, settings, args, fits, shows_beside):
    """Return the commands that make a figure which a run cannot show as it is.

    Args:
        figure (list of str): The figure, with its flags.
        settings (dict): Of the run, as from `read_run`.
        args (Namespace): The command line of visualize.py.
        fits (bool): Whether the run's z has a fitting size; else the commands train one of z = 2.
        shows_beside (bool): Whether it shows the autoencoder of --beside, too.

    Returns:
        list of list of str: Without what is trained already.
    """
    out = os.path.normpath(args.out)
    out = out if os.path.basename(out).strip('.') else os.path.abspath(out)
    digits = (['--data-dir', settings['data_dir']] if settings['data_dir']
              else ['--dataset', settings['dataset']])
    digits += [f'--{flag}' for flag in ('binary', 'test') if settings[flag]]
    digits += ['-e', str(settings['epoch'])] if settings.get('epoch', 100) != 100 else []
    commands = []

    def train(autoencoder, out):
        if not is_there(out, autoencoder, settings):
            commands.append(['python', 'train_vae.py', *['--autoencoder'] * autoencoder, '-z', '2',
                             *digits, '-o', out])

    draw = ['python', 'visualize.py', *figure]
    if not fits:
        train(settings['autoencoder'], f'{out}_z2')
    if shows_beside:
        draw += ['--beside', args.beside or f'{out}_autoencoder']
        if not args.beside:
            train(True, f'{out}_autoencoder')
    if fits:            # this run, as it was given
        draw += [word for flag in ('snapshot', 'dataset', 'data_dir', 'activation')
                 if getattr(args, flag)
                 for word in (f'--{flag.replace("_", "-")}', getattr(args, flag))]
    return [*commands, [*draw, '-o', out if fits else f'{out}_z2']]


def is_there(out, autoencoder, settings):
    """Tell whether a folder has a run of z = 2, of such a model and of the digits of another."""
    try:
        path, arrays = snapshot.read_newest(out)
        found = snapshot.read_settings(arrays, path)
    except files.FileError:
        return False
    return (found.dim_z, found.autoencoder) == (2, autoencoder) and all(
        getattr(found, key) == settings[key] for key in ('checksum', 'binary', 'test'))
