"""A snapshot, Chainer's npz of a Trainer: how it is written, found and read, and what it must hold.

Nothing in it is believed before it is checked.
"""

import contextlib
import json
import os
import sys
import zipfile

from support.base import command, files, kinds, npz  # lets chainer import
from support.run import run_folder, settings

from chainer import serializers
from chainer.training.extensions import snapshot_writers
import numpy as np

SMALL = 3 * 10**7                           # weights, 120 MB; a smaller model is not checked
ATTEMPTS = 20                               # to read a newest snapshot, while a run deletes older
# where things are in a Trainer snapshot
MODEL_PREFIX = 'updater/model:main/'
ITERATION_KEY = 'updater/iteration'
EPOCH_KEY = 'updater/iterator:main/epoch'
SETTINGS_KEY = 'extensions/run/settings'
LOG_KEY = 'extensions/LogReport/_log'
LOSSES = ('loss', 'rec_loss', 'latent_loss')


class SnapshotError(files.FileError):
    """A snapshot cannot be used."""


class Writer(snapshot_writers.Writer):
    """Writer for `chainer.training.extensions.snapshot`: whole files of finite weights only.

    After each it deletes older ones but `keep`, and a `snapshot_interrupted` of no more iterations.
    `path` and `iteration` are of the last; `resumed` is the one that the run goes on from, or None.
    """

    def __init__(self, keep, resumed=None):
        super().__init__()
        self.keep, self.resumed = keep, resumed
        self.path = self.iteration = None

    def __call__(self, filename, outdir, target):
        """Write arrays as OUT/filename, or raise a FloatingPointError if a weight is not finite."""
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
                                    if not array.dtype.hasobject}, run_folder.MEND)
        self.iteration = int(arrays[ITERATION_KEY])
        self.clean(outdir, filename)

    def clean(self, outdir, path):
        """Delete the snapshots that the one at `path`, now whole, replaces."""
        if os.path.basename(path) == run_folder.INTERRUPTED:
            return
        name, number = run_folder.series_of(path)
        series = [(run_folder.series_of(path), path) for path in run_folder.find_snapshots(outdir)]
        old = [path for (other, i), path in series if other == name and i <= number][:-self.keep]
        interrupted = os.path.join(outdir, run_folder.INTERRUPTED)
        if os.path.exists(interrupted):
            with contextlib.suppress(SnapshotError):
                old += [interrupted] * (read_iteration(interrupted) <= self.iteration)
        for path in old:
            with contextlib.suppress(FileNotFoundError):
                os.remove(path)


def not_finite(what, epoch, iteration, out, resumed):
    """Return the FloatingPointError that ends a run, and names its last good snapshot."""
    last = resumed or 'none'
    with contextlib.suppress(files.FileError):
        last = newest(out)
    return FloatingPointError(
        f'the {what} is not finite in epoch {epoch}, iteration {iteration}; stopped, last good '
        f'snapshot: {last}; try a smaller --beta, or other weights')


def newest(out):
    """Return the path of the snapshot that `read_newest` reads."""
    return read_newest(out)[0]


def read_newest(out):
    """Return path and arrays of the whole snapshot with the most iterations in the folder `out`.

    It warns of each damaged one that it passes over. A run may write there and delete meanwhile.

    Raises:
        SnapshotError: If there is none.
    """
    for _ in range(ATTEMPTS):
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
        'away' if paths else f'there is no snapshot in {out}; name the folder of a run, or train '
        'first')


def read_first(paths):
    """Return path and arrays of the whole one with the most iterations, or None; errors by path."""
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
    """Read from a snapshot just the iteration at which it was taken, or raise a SnapshotError."""
    iteration = count_of(read(path, only=ITERATION_KEY), ITERATION_KEY)
    if iteration is None:
        raise SnapshotError(f'{path} is not a snapshot of a run; use another, or move it away')
    return iteration


def count_of(arrays, key):
    """Return the whole number under a key of a snapshot's arrays; None if there is none."""
    array = np.asarray(arrays.get(key))
    return int(array) if array.shape == () and array.dtype.kind in 'iu' else None


def read(path, only=None):
    """Read the arrays of a snapshot, or of a model that `save_npz` wrote; or `only` that one.

    Raises:
        SnapshotError: If it is missing, damaged, or something else.
    """
    if os.path.isdir(path):
        raise SnapshotError(f'{path} is a folder; name a snapshot in it, or the folder with -o')
    try:
        return npz.read(path, only)
    except OSError as error:
        raise SnapshotError(f'cannot read the snapshot {path} ({error.strerror or error}); '
                            'name a file that a run left') from None
    except ValueError as error:
        kind = kinds.kind_of(kinds.read_head(path))
        if kind not in (None, kinds.NPZ):
            raise SnapshotError(f'{path} is {kind.name}; '
                                f'{kind.mend or kinds.OURS}') from None
        is_npz = kind or zipfile.is_zipfile(path)
        raise SnapshotError(f'{path} is {"" if is_npz else "not a snapshot, or "}damaged '
                            f'({error}); use another') from None


def of_another_network(arrays, lacking, path):
    """Return the SnapshotError that arrays are another network's, as they have no `lacking`."""
    names = sorted([name for name in arrays if name.endswith('/W')] or arrays)
    names = [command.printable(name[:60]) for name in names[:3]] + ['...'] * (len(names) > 3)
    return SnapshotError(f'{path} is of another network: it holds {", ".join(names)}, and no '
                         f'{lacking}; {kinds.OURS}')


def read_settings(arrays, path):
    """Return the `settings.Settings` of the run that wrote a snapshot, the file `path`.

    Raises:
        SnapshotError: If there are none, or they do not fit the arrays beside them.
    """
    if SETTINGS_KEY not in arrays:
        layer = prefix_of(arrays) + 'le1/W'
        if layer not in arrays:
            raise of_another_network(arrays, layer, path)
        raise SnapshotError(f'{path} is of no run of train_vae.py; start one from its weights, '
                            'with -m')
    try:
        found = settings.Settings.from_json(str(arrays[SETTINGS_KEY]))
    except ValueError as error:
        raise SnapshotError(f'{path} does not hold a run of train_vae.py ({error}); use another '
                            'snapshot') from None
    check_memory(arrays, MODEL_PREFIX, found.n_in, found.dim_h, found.dim_z, path)
    return found


def rows_of(array):
    """Return the rows in an array that holds a LogReport's JSON; None where it holds none."""
    with contextlib.suppress(ValueError, RecursionError):
        rows = json.loads(str(array))
        if isinstance(rows, list) and all(isinstance(row, dict) for row in rows):
            return rows
    return None


def check_memory(arrays, prefix, n_in, dim_h, dim_z, path):
    """Raise a SnapshotError if a VAE of these sizes is much larger than the weights in a file."""
    # as a model is made before its weights are looked at, where net.py may say other sizes
    there = sum(array.size for key, array in arrays.items()
                if key.startswith(prefix) and array.dtype.type is np.float32)
    asked = 2 * dim_h * (n_in + dim_h + 2 * dim_z)
    if asked > max(SMALL, 2 * there):
        raise SnapshotError(f'{path} asks for a model of {asked:,} weights, and holds {there:,}; '
                            'use another')


def check_digits(had, digits, path):
    """Raise a SnapshotError if a run, by its settings, was trained on other digits."""
    if had.checksum != digits.checksum:
        raise SnapshotError(f'{path} was trained on other digits than {digits.title}; '
                            'leave out --dataset and --data-dir, or name the folder of its own')


def prefix_of(arrays):
    """Return what comes before the names of weights: in a snapshot something, alone nothing."""
    return MODEL_PREFIX if any(key.startswith(MODEL_PREFIX) for key in arrays) else ''


def is_float32(array, shape):
    """Tell whether an array from a file is of this shape and float32, in whatever byte order."""
    return array.shape == shape and array.dtype.type is np.float32


def check_model(arrays, model, path, mend='use it with the net.py that trained it'):
    """Raise a SnapshotError if arrays, as from `read`, are of another model, or not finite."""
    def another(why):
        return SnapshotError(f'{path} is of another model: {why}; {mend}')

    prefix = prefix_of(arrays)
    names = [prefix + name[1:] for name, _ in model.namedparams()]
    if arrays.keys().isdisjoint(names):
        raise of_another_network(arrays, names[0], path)
    for name, weights in model.namedparams():
        found = arrays.get(prefix + name[1:])
        if found is None:
            if prefix + 'le3/W' in arrays and name.startswith('/le3_'):
                raise SnapshotError(f'{path} is of an autoencoder, and not of a VAE; '
                                    'give --autoencoder')
            raise another(f'it has no {name[1:]}')
        shape = found.shape if weights.array is None else weights.shape
        if not is_float32(found, shape):
            raise another(f'its {name[1:]} is {found.dtype} of shape {found.shape}, not float32 '
                          f'of shape {shape}')
        if not np.isfinite(found).all():
            raise SnapshotError(f'{path} is damaged: its {name[1:]} is not finite; use another')
    serializer = serializers.DictionarySerializer()
    model.serialize(serializer)
    # a file of weights may hold more than these; a number that was made persistent later keeps
    # the model's value
    wrong = [f'it has no {key}' for key, value in serializer.target.items()
             if prefix + key not in arrays and value is not None and np.ndim(value)]
    wrong += [f'it has {key[len(prefix):]} besides' for key in arrays if prefix
              and key.startswith(prefix) and key[len(prefix):] not in serializer.target]
    if wrong:
        raise another(wrong[0])


def load_model(arrays, model, path, mend='use it with the net.py that trained it'):
    """Copy weights into `model`, once `check_model` of the same arguments has seen them."""
    check_model(arrays, model, path, mend)
    try:
        serializers.NpzDeserializer(arrays, prefix_of(arrays), strict=False).load(model)
    except (TypeError, ValueError) as error:        # of a persistent value of another kind or size
        raise SnapshotError(f'{path} is of another model: {files.describe(error)}; '
                            f'{mend}') from None
