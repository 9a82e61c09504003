"""A snapshot: what a run leaves, how its reader finds the newest, its settings and its weights.

It is a Trainer snapshot of Chainer's, an npz of the model, Adam, the iterators and the extensions,
with the settings of the run as JSON beside them. Nothing in it is believed before it is checked.
"""

import contextlib
import json
import math
import os
import sys

from support.base import files, npz  # lets chainer import
from support.run import foreign, run_folder

from chainer import serializers
from chainer.training.extensions import snapshot_writers
import numpy as np

EVERY, KEEP = 1, 5                          # epochs to a snapshot, and snapshots kept, by default
MOST = 10**6                                # of whatever a setting counts; more is a slip
MOST_K = 1000                               # samples, each of which takes a digit's memory
SMALL = 3 * 10**7                           # weights that any file may ask for, 120 MB
LOOKS = 20                                  # for a newest snapshot that another run deletes
# where things are in a Trainer snapshot
MODEL_PREFIX = 'updater/model:main/'
ITERATION_KEY = 'updater/iteration'
EPOCH_KEY = 'updater/iterator:main/epoch'
SETTINGS_KEY = 'extensions/run/settings'
LOG_KEY = 'extensions/LogReport/_log'
SETTING_TYPES = {
    'autoencoder': bool, 'n_in': int, 'dim_z': int, 'dim_h': int, 'activation': str, 'dataset': str,
    'data_dir': (str, type(None)), 'checksum': str, 'binary': bool, 'test': bool, 'seed': int,
    'beta': float, 'k': int, 'batch_size': int, 'epoch': int, 'snapshot_every': int, 'keep': int,
    'device': str, 'updater': str, 'trained_by': str, 'trained_on': str, 'ranks': int,
    'ranks_changed': bool, 'methods': dict,
    'optimizer': str, 'loss': str, 'kl_weight': (float, type(None)), 'varied': dict}
LOSSES = ('loss', 'rec_loss', 'latent_loss')


class SnapshotError(files.FileError):
    """A snapshot cannot be used."""


# Writing ----------------------------------------------------------------------------------------


class Writer(snapshot_writers.Writer):
    """Writer for `chainer.training.extensions.snapshot`: whole files of finite weights only.

    Of the snapshots of one kind of name, up to the one just written, it keeps the newest, and
    deletes a `snapshot_interrupted` of no more iterations.

    Args:
        keep (int): How many to keep.
        resumed (str): The snapshot that the run goes on from, if it does.

    Attributes:
        path (str), iteration (int): Of the last snapshot, and at which it was taken; or None.
    """

    def __init__(self, keep, resumed=None):
        super().__init__()
        self.keep = keep
        self.resumed = resumed
        self.path = self.iteration = None

    def __call__(self, filename, outdir, target):
        """Write the arrays `target` as OUT/filename.

        Raises:
            FloatingPointError: If a weight of the model is not finite; nothing is written then.
        """
        arrays = {key: np.asarray(array) for key, array in target.items()}
        for key, array in arrays.items():
            if key.startswith(MODEL_PREFIX) and array.dtype.kind == 'f' and (
                    not np.isfinite(array).all()):
                epoch = int(arrays.get(EPOCH_KEY, 0)) + (filename == run_folder.INTERRUPTED)
                raise not_finite(f'weight {key[len(MODEL_PREFIX):]}', epoch,
                                 arrays[ITERATION_KEY], outdir, self.resumed)
        run_folder.make_again(outdir)
        self.path = os.path.join(outdir, filename)
        # Chainer's serializers make objects of nothing but None, which a load can do without
        files.write_npz(self.path, {key: array for key, array in arrays.items()
                                    if not array.dtype.hasobject}, run_folder.go_on(outdir))
        self.iteration = int(arrays[ITERATION_KEY])
        self.clean(outdir, filename)

    def save(self, filename, trainer):
        """Write a snapshot of a trainer as OUT/filename."""
        self(filename, trainer.out, serializers.npz.serialize(trainer))

    def clean(self, outdir, path):
        """Delete what a snapshot, now whole, makes superfluous."""
        if os.path.basename(path) == run_folder.INTERRUPTED:
            return
        kind, number = run_folder.series_of(path)
        series = [(run_folder.series_of(path), path) for path in run_folder.find_snapshots(outdir)]
        old = [path for (of, i), path in series if of == kind and i <= number][:-self.keep]
        interrupted = os.path.join(outdir, run_folder.INTERRUPTED)
        if os.path.exists(interrupted):
            with contextlib.suppress(SnapshotError):
                old += [interrupted] * (read_iteration(interrupted) <= self.iteration)
        for path in old:
            with contextlib.suppress(FileNotFoundError):
                os.remove(path)


def not_finite(what, epoch, iteration, out, resumed):
    """Return the FloatingPointError that ends a run, which names its last good snapshot.

    Args:
        what (str): What is not finite.
        epoch, iteration (int): Where that was seen; epochs count from 1.
        out (str): The folder of the run.
        resumed (str): The snapshot that it went on from, or None.
    """
    last = resumed or 'none'
    with contextlib.suppress(files.FileError):
        last = newest(out)
    return FloatingPointError(
        f'the {what} is not finite in epoch {epoch}, iteration {iteration}; stopped, last good '
        f'snapshot: {last}; try a smaller --beta, or other weights')


# Reading ----------------------------------------------------------------------------------------


def newest(out, mend='name the folder of the run with -o, or train first'):
    """Return the path of the snapshot that `read_newest` reads."""
    return read_newest(out, mend)[0]


def read_newest(out, mend='name the folder of the run with -o, or train first'):
    """Read the whole snapshot with the most iterations in the folder `out`.

    Of each damaged one that has more, or does not tell, it warns on stderr.

    Args:
        out (str): The folder; a run may write there meanwhile, and delete older ones.
        mend (str): What helps where it has none, for the message.

    Returns:
        tuple: Its path, and its arrays, as from `read`.

    Raises:
        SnapshotError: If there is none.
    """
    for _ in range(LOOKS):
        paths = run_folder.find_snapshots(out) if os.path.isdir(out) else []
        found, troubles = read_first(paths)
        if found or all(map(os.path.exists, paths)):
            break
    for path, error in troubles.items():
        if os.path.exists(path):
            cause = str(error).rpartition('; ')[0]      # without its advice
            print(f'warning: passed over: {cause}', file=sys.stderr)
    if found:
        return found
    raise SnapshotError(
        f'there is no whole snapshot in {out}; name another folder with -o, or move those files '
        'away' if paths else f'there is no snapshot in {out}; {mend}')


def read_first(paths):
    """Read, of these snapshots, the whole one with the most iterations.

    Returns:
        tuple: Its path and arrays, or None where there is none; a dict of the SnapshotErrors, by
        their paths, of those that were passed over.
    """
    iterations, troubles = {}, {}
    for path in paths:
        try:
            iterations[path] = read_iteration(path)
        except SnapshotError as error:
            troubles[path] = error
    # of two with as many, not the interrupted one
    for path in sorted(iterations, key=lambda path: (iterations[path], run_folder.series_of(path)),
                       reverse=True):
        try:
            arrays = read(path)
            read_settings(arrays, path)
            return (path, arrays), troubles
        except SnapshotError as error:
            troubles[path] = error
    return None, troubles


def read_iteration(path):
    """Read from a snapshot just the iteration at which it was taken.

    Raises:
        SnapshotError: If it does not tell.
    """
    iteration = read(path, only=ITERATION_KEY).get(ITERATION_KEY)
    if iteration is None or iteration.shape != () or iteration.dtype.kind not in 'iu':
        raise SnapshotError(f'{path} is not a snapshot of a run; use another, or move it away')
    return int(iteration)


def read(path, only=None):
    """Read an npz of arrays, as `npz.read` does.

    Args:
        path (str): A snapshot, or a model saved by `chainer.serializers.save_npz`.
        only (str): The one array to read; by default all are read.

    Returns:
        dict: The arrays by name.

    Raises:
        SnapshotError: If it is missing, damaged, or something else.
    """
    try:
        return npz.read(path, only)
    except OSError as error:
        raise SnapshotError(f'cannot read the snapshot {path} ({error.strerror or error}); '
                            'name a file that a run left') from None
    except ValueError as error:
        raise SnapshotError(f'{path} is {foreign.instead(path, error)}') from None


# The settings of a run --------------------------------------------------------------------------


def read_settings(arrays, path):
    """Return the settings of the run that wrote a snapshot.

    Args:
        arrays (dict): As from `read`.
        path (str): Where they come from, for the message.

    Returns:
        dict: With the keys and types of `SETTING_TYPES`; numbers are positive (the seed may be 0).

    Raises:
        SnapshotError: If there are none, or they do not fit the arrays beside them.
    """
    if SETTINGS_KEY not in arrays:
        layer = prefix_of(arrays) + 'le1/W'
        raise SnapshotError(f'{path} is ' + (
            'of no run of train_vae.py; start one from its weights, with -m' if layer in arrays
            else foreign.of_another_network(arrays, layer)))
    try:
        # what the first snapshots lack
        found = {'autoencoder': False, 'snapshot_every': EVERY, 'keep': KEEP, 'device': 'CPU',
                 'updater': 'standard', 'trained_by': 'standard', 'trained_on': '',
                 'ranks': 1, 'ranks_changed': False, 'methods': {}, 'optimizer': '',
                 'loss': '', 'varied': {}}
        found |= json.loads(str(arrays[SETTINGS_KEY]))
        is_edited = str(found['loss']).startswith('of ')
        found.setdefault('kl_weight', None if is_edited else found['beta'])
        found = {key: found[key] for key in SETTING_TYPES}
        n_in, dim_h, dim_z = (found[key] for key in ('n_in', 'dim_h', 'dim_z'))
        fits = (all(has_type(found[key], kind) for key, kind in SETTING_TYPES.items())
                and all(0 < value <= MOST for key, value in found.items()
                        if SETTING_TYPES[key] is int and key != 'seed')
                and 0 <= found['seed'] < 2**32 and 0 < found['beta'] < math.inf
                and math.isfinite(found['kl_weight'] or 0)
                and all(isinstance(pair, list) and len(pair) == 2 and all(
                    has_type(number, (int, float)) and math.isfinite(number) for number in pair)
                    for pair in found['varied'].values())
                and found['dataset'] in ('mnist', 'digits') and found['device'] in ('CPU', 'GPU')
                and found['updater'] in ('fast', 'standard')
                and found['trained_by'] in ('fast', 'compiled', 'standard')
                and all(found[key].isprintable() for key in (
                    'activation', 'trained_on', 'optimizer', 'loss')))
    except (KeyError, TypeError, ValueError, RecursionError):
        fits = False
    if not fits:
        raise SnapshotError(f'{path} does not hold a run of train_vae.py; use another snapshot')
    check_memory(arrays, MODEL_PREFIX, n_in, dim_h, dim_z, path)
    return found


def read_log(arrays):
    """Return the rows of a snapshot's log, a list of dicts; an empty one where it holds none."""
    try:
        log = json.loads(str(arrays[LOG_KEY]))
    except (KeyError, ValueError, RecursionError):
        return []
    return log if isinstance(log, list) and all(isinstance(row, dict) for row in log) else []


def check_memory(arrays, prefix, n_in, dim_h, dim_z, path):
    """Make sure that a VAE of these sizes is not much larger than the weights that a file holds.

    A model is made before its weights are looked at. An edited net.py makes of its sizes what it
    likes, so that they need not be those of the weights: `SMALL` of them any file may ask for.

    Raises:
        SnapshotError: If it is.
    """
    held = sum(array.size for key, array in arrays.items()
               if key.startswith(prefix) and array.dtype.type is np.float32)
    asked = 2 * dim_h * (n_in + dim_h + 2 * dim_z)
    if asked > max(SMALL, 2 * held):
        raise SnapshotError(f'{path} asks for a model of {asked:,} weights, and holds {held:,}; '
                            'use another')


def has_type(value, kind):
    """Tell whether a value read from JSON is of this type; True is no number here."""
    return isinstance(value, kind) and (kind is bool or not isinstance(value, bool))


def is_float32(array, shape):
    """Tell whether an array from a file is of this shape and float32, in whatever byte order."""
    return array.shape == shape and array.dtype.type is np.float32


def check_digits(settings, digits, path):
    """Make sure that a run was trained on these digits.

    Args:
        settings (dict): As from `read_settings`.
        digits (mnist.Digits): The digits found.
        path (str): The snapshot that the settings come from, for the message.

    Raises:
        SnapshotError: If it was trained on others.
    """
    if settings['checksum'] != digits.checksum:
        raise SnapshotError(f'{path} was trained on other digits than {digits.title}; '
                            'leave out --dataset and --data-dir, or name the folder of its own')


def describe_step(batch_size, ranks):
    """Return in words what so many ranks see in a step, with so many digits each."""
    in_all = '' if ranks == 1 else f' a rank, {ranks * batch_size} in all'
    return f'minibatches of {batch_size}{in_all}'


# Its weights ------------------------------------------------------------------------------------


def prefix_of(arrays):
    """Return what comes before the names of weights: in a snapshot something, alone nothing."""
    return MODEL_PREFIX if any(key.startswith(MODEL_PREFIX) for key in arrays) else ''


def load_model(arrays, model, path, mend='use it with the net.py that trained it'):
    """Copy weights into `model`.

    Args:
        arrays (dict): As from `read`: of a snapshot, or of a model alone.
        model (VAE): The model to fill.
        path (str): Where the arrays come from, for the message.
        mend (str): What helps where the weights are of another model, for the message.

    Raises:
        SnapshotError: If they are the weights of another model, or not finite; `model` is then as
            it was.
    """
    prefix = prefix_of(arrays)
    names = [prefix + name[1:] for name, _ in model.namedparams()]
    if arrays.keys().isdisjoint(names):
        raise SnapshotError(f'{path} is {foreign.of_another_network(arrays, names[0])}')
    for name, weights in model.namedparams():
        found = arrays.get(prefix + name[1:])
        shape = getattr(found, 'shape', None) if weights.array is None else weights.shape
        if found is None or not is_float32(found, shape):
            if found is None and prefix + 'le3/W' in arrays and name.startswith('/le3_'):
                raise SnapshotError(f'{path} is of an autoencoder, and not of a VAE; '
                                    'give --autoencoder')
            wrong = f'it has no {name[1:]}' if found is None else (
                f'its {name[1:]} is {found.dtype} of shape {found.shape}, not float32 of shape '
                f'{shape}')
            raise SnapshotError(f'{path} is of another model: {wrong}; {mend}')
        if not np.isfinite(found).all():
            raise SnapshotError(f'{path} is damaged: its {name[1:]} is not finite; use another')
    held = serializers.DictionarySerializer()
    model.serialize(held)
    # weights alone may lie beside others; a number that was made persistent since then stays as
    # the model has it
    lacking = [key for key, value in held.target.items()
               if prefix + key not in arrays and value is not None and np.ndim(value)]
    if lacking:
        raise SnapshotError(f'{path} is of another model: it has no {lacking[0]}; {mend}')
    surplus = [key[len(prefix):] for key in arrays if prefix and key.startswith(prefix)
               and key[len(prefix):] not in held.target]
    if surplus:
        raise SnapshotError(f'{path} is of another model: it has {surplus[0]} besides; {mend}')
    try:
        serializers.NpzDeserializer(arrays, prefix, strict=False).load(model)
    except (TypeError, ValueError) as error:        # of a persistent value of another kind or size
        raise SnapshotError(f'{path} is of another model: {files.describe(error)}; '
                            f'{mend}') from None
