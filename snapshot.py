"""What a run leaves behind in its folder OUT, and how it is read again.

A snapshot is a Trainer snapshot of Chainer's (an npz of the model, Adam, the iterators and the
extensions), to which `RunState` adds the run's settings and random state. It is written under
another name and renamed, and read without unpickling: to NumPy, a stranger's file is only data.
"""

import contextlib
import json
import math
import os
import re
import tempfile
import warnings
import zipfile

import compat  # repairs what chainer imports

from chainer import serializers, training
from chainer.training.extensions import snapshot_writers
import numpy as np

INTERRUPTED = 'snapshot_interrupted'
EPOCH_PREFIX = 'snapshot_epoch_'            # followed by the number of the epoch
KEEP = 5                                    # snapshots of the newest epochs
# where things are in a Trainer snapshot
MODEL_PREFIX = 'updater/model:main/'
ITERATION_KEY = 'updater/iteration'
ORDER_KEY = 'updater/iterator:main/order'
SETTINGS_KEY = 'extensions/run/settings'
SETTING_TYPES = {
    'n_in': int, 'dim_z': int, 'dim_h': int, 'activation': str, 'dataset': str,
    'data_dir': (str, type(None)), 'checksum': str, 'binary': bool, 'test': bool, 'seed': int,
    'beta': float, 'k': int, 'batch_size': int, 'epoch': int}


class SnapshotError(compat.UserError):
    """A snapshot or results folder cannot be used."""


class RunState(training.Extension):
    """Extension that puts into a snapshot what the Trainer alone would forget.

    Args:
        settings (dict): The settings of the run: all that a reader of the snapshot needs, with
            the keys and types of `SETTING_TYPES`.
    """

    default_name = 'run'

    def __init__(self, settings):
        self.settings = settings

    def trigger(self, trainer):
        """Never fire: there is only something to save."""
        return False

    def serialize(self, serializer):
        """Save the settings, and save or restore the state of NumPy's global generator."""
        serializer('settings', json.dumps(self.settings))
        _, keys, position, has_gauss, cached = np.random.get_state()
        np.random.set_state((
            'MT19937', serializer('random_keys', keys), serializer('random_position', position),
            serializer('random_has_gauss', has_gauss), serializer('random_cached', cached)))


# Writing --------------------------------------------------------------------------------------


@contextlib.contextmanager
def replacing(path):
    """Open a binary file that takes the name `path` only once it is whole and on the disk.

    Raises:
        SnapshotError: If it cannot be written; what was at `path` is then as before.
    """
    folder, name = os.path.split(path)
    part = os.path.join(folder, f'.{name}.part')
    try:
        with open(part, 'wb') as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(part, path)
    except BaseException as error:
        with contextlib.suppress(OSError):
            os.remove(part)
        if isinstance(error, OSError):
            raise SnapshotError(f'cannot write {path} ({error.strerror}); make room there, or name '
                                'another folder with -o') from None
        raise


def write_text(out, name, text):
    """Write OUT/name whole, in UTF-8."""
    with replacing(os.path.join(out, name)) as file:
        file.write(text.encode())


class Writer(snapshot_writers.Writer):
    """Writer for `chainer.training.extensions.snapshot`: whole files of finite weights only.

    Of the snapshots up to the epoch just written it keeps the newest `KEEP`.
    """

    def __call__(self, filename, outdir, target):
        """Write the arrays `target` as OUT/filename.

        Raises:
            FloatingPointError: If a weight of the model is not finite; nothing is written then.
        """
        for key, array in target.items():
            if key.startswith(MODEL_PREFIX) and not np.isfinite(array).all():
                raise FloatingPointError(f'{key[len(MODEL_PREFIX):]} is not finite, so {filename} '
                                         'is not written')
        with replacing(os.path.join(outdir, filename)) as file:
            np.savez(file, **target)
        epochs = sorted((epoch_of(path), path) for path in find(outdir))
        for _, path in [item for item in epochs if 0 <= item[0] <= epoch_of(filename)][:-KEEP]:
            os.remove(path)


def write_interrupted(trainer):
    """Write `snapshot_interrupted`, which stands at an iteration rather than at an epoch."""
    Writer()(INTERRUPTED, trainer.out, serializers.npz.serialize(trainer))


def prepare(out, overwrite=False, resumed=None):
    """Make sure of a folder that a run may write to.

    Args:
        out (str): The folder, made if need be.
        overwrite (bool): Whether another run's snapshots in it may be lost.
        resumed (str): The snapshot that the run goes on from, if it does.

    Raises:
        SnapshotError: If it cannot be written, or holds another run's snapshots.
    """
    make_folder(out)
    own = resumed is not None and os.path.samefile(os.path.dirname(resumed) or '.', out)
    if find(out) and not own and not overwrite:
        ways = '' if resumed else 'go on with it by --resume, replace it by --overwrite, or '
        raise SnapshotError(f'{out} holds the snapshots of an earlier run; {ways}name another '
                            'folder with -o')


def make_folder(out):
    """Make the folder `out`, if need be, and make sure that it can be written to.

    Raises:
        SnapshotError: If it cannot.
    """
    try:
        os.makedirs(out, exist_ok=True)
        with tempfile.TemporaryFile(dir=out):
            pass
    except OSError as error:
        raise SnapshotError(f'cannot write to {out} ({error.strerror}); '
                            'name another folder with -o') from None


def clear(out):
    """Delete the snapshots and the log of an earlier run from the folder `out`."""
    for path in [*find(out), *(os.path.join(out, name) for name in ('log', 'loss.png'))]:
        with contextlib.suppress(FileNotFoundError):
            os.remove(path)


# Reading --------------------------------------------------------------------------------------


def find(out):
    """Return the paths of all snapshots in the folder `out`, in no particular order."""
    return [entry.path for entry in os.scandir(out) if entry.is_file()
            and (entry.name == INTERRUPTED or epoch_of(entry.name) >= 0)]


def epoch_of(path):
    """Return the number of the epoch in the name of a snapshot, -1 where it has none."""
    match = re.fullmatch(EPOCH_PREFIX + '([0-9]+)', os.path.basename(path))
    return int(match[1]) if match else -1


def newest(out):
    """Return the path of the snapshot with the most iterations in the folder `out`.

    Raises:
        SnapshotError: If there is none, or one is damaged.
    """
    paths = find(out) if os.path.isdir(out) else []
    if not paths:
        raise SnapshotError(f'there is no snapshot in {out}; name the folder of the run with -o, '
                            'or train first')
    return max(paths, key=lambda path: iteration_of(read(path), path))


def iteration_of(arrays, path):
    """Return the iteration at which a snapshot was taken.

    Raises:
        SnapshotError: If it does not tell.
    """
    iteration = arrays.get(ITERATION_KEY)
    if iteration is None or iteration.shape != () or iteration.dtype.kind not in 'iu':
        raise SnapshotError(f'{path} is not a snapshot of a run; use another, or move it away')
    return int(iteration)


def read(path):
    """Read an npz of arrays, without unpickling anything.

    Args:
        path (str): A snapshot, or a model saved by `chainer.serializers.save_npz`.

    Returns:
        dict: The arrays by name.

    Raises:
        SnapshotError: If it is missing or damaged.
    """
    try:
        with open(path, 'rb') as file:
            if not zipfile.is_zipfile(file):
                raise SnapshotError(f'{path} is not a snapshot, or damaged: it is no whole npz '
                                    'file; use another')
            file.seek(0)
            with np.load(file, allow_pickle=False) as npz:
                return {key: npz[key] for key in npz.files}
    except SnapshotError:
        raise
    except OSError as error:
        raise SnapshotError(f'cannot read the snapshot {path} ({error.strerror}); '
                            'name a file that a run left') from None
    except Exception as error:      # whatever zipfile and NumPy make of a damaged file
        raise SnapshotError(f'{path} is not a snapshot, or damaged ({describe(error)}); '
                            'use another') from None


def describe(error):
    """Return the first line of an exception's message, or its name where it has none."""
    return (str(error).splitlines() or [type(error).__name__])[0]


def settings(arrays, path):
    """Return the settings of the run that wrote a snapshot.

    Args:
        arrays (dict): As from `read`.
        path (str): Where they come from, for the message.

    Returns:
        dict: With the keys and types of `SETTING_TYPES`; numbers are positive (the seed may be 0).

    Raises:
        SnapshotError: If there are none, or they do not fit the arrays beside them.
    """
    try:
        found = json.loads(str(arrays[SETTINGS_KEY]))
        found = {key: found[key] for key in SETTING_TYPES}
        fits = (all(has_type(found[key], kind) for key, kind in SETTING_TYPES.items())
                and all(0 < value < math.inf for key, value in found.items()
                        if SETTING_TYPES[key] in (int, float) and key != 'seed')
                and 0 <= found['seed'] < 2**32
                and arrays[MODEL_PREFIX + 'le1/W'].shape == (found['dim_h'], found['n_in'])
                and arrays[MODEL_PREFIX + 'le3_mu/W'].shape == (found['dim_z'], found['dim_h']))
    except (KeyError, TypeError, ValueError):
        fits = False
    if not fits:
        raise SnapshotError(f'{path} does not hold a run of train_vae.py; use another snapshot')
    return found


def has_type(value, kind):
    """Tell whether a value read from JSON is of this type; True is no number here."""
    return isinstance(value, kind) and (kind is bool or not isinstance(value, bool))


def check_activation(settings, activations, path):
    """Make sure that the activation of a run is a known one.

    Args:
        settings (dict): As from `settings`.
        activations (dict): The known ones, by name.
        path (str): The snapshot that the settings come from, for the message.

    Raises:
        SnapshotError: If it is not.
    """
    if settings['activation'] not in activations:
        raise SnapshotError(f'{path} has an unknown activation, {settings["activation"]}; '
                            'use another')


def check_digits(settings, digits, path):
    """Make sure that a run was trained on these digits.

    Args:
        settings (dict): As from `settings`.
        digits (mnist.Digits): The digits found.
        path (str): The snapshot that the settings come from, for the message.

    Raises:
        SnapshotError: If it was trained on others.
    """
    if settings['checksum'] != digits.checksum:
        raise SnapshotError(f'{path} was trained on other digits than {digits.title}; '
                            'leave out --dataset and --data-dir, or name the folder of its own')


def load_model(arrays, model, path):
    """Copy weights into `model`.

    Args:
        arrays (dict): As from `read`: of a snapshot, or of a model alone.
        model (VAE): The model to fill.
        path (str): Where the arrays come from, for the message.

    Raises:
        SnapshotError: If they are the weights of another model, or not finite; `model` is then as
            it was.
    """
    prefix = MODEL_PREFIX if any(key.startswith(MODEL_PREFIX) for key in arrays) else ''
    for name, weights in model.namedparams():
        found = arrays.get(prefix + name[1:])
        if found is None or found.dtype.kind != 'f' or found.shape != weights.shape:
            had = 'no such weights' if found is None else f'{found.dtype} of shape {found.shape}'
            raise SnapshotError(
                f'{path} is of another model: its {name[1:]} is {had}, not of shape '
                f'{weights.shape}; give --dim-z and --dim-h as that model was trained')
        if not np.isfinite(found).all():
            raise SnapshotError(f'{path} is damaged: its {name[1:]} is not finite; use another')
    serializers.NpzDeserializer(arrays, prefix).load(model)


def load_weights(path, model, activation):
    """Start `model` from the weights in a snapshot, or in an npz of a model alone.

    Args:
        path (str): The file.
        model (VAE): The model to fill.
        activation (str): Name of its activation.

    Raises:
        SnapshotError: If they are those of another model.
    """
    arrays = read(path)
    load_model(arrays, model, path)
    if SETTINGS_KEY in arrays:
        its_own = settings(arrays, path)['activation']
        if its_own != activation:
            raise SnapshotError(f'{path} is of another model, of {its_own} units rather than '
                                f'{activation}; give --activation {its_own}')


def load_trainer(arrays, trainer, path):
    """Bring a Trainer, random state included, to where a snapshot was taken.

    Args:
        arrays (dict): As from `read`.
        trainer (Trainer): Trainer of the same model and extensions.
        path (str): Where the arrays come from, for the message.

    Raises:
        SnapshotError: If they do not fit the trainer.
    """
    load_model(arrays, trainer.updater.get_optimizer('main').target, path)
    n = len(trainer.updater.get_iterator('main').dataset)
    try:
        if not np.array_equal(np.sort(arrays[ORDER_KEY]), np.arange(n)):
            raise ValueError('its order of the digits is none')
        with warnings.catch_warnings():
            # of triggers of extensions that the run did not have, as a terminal's progress bar
            warnings.simplefilter('ignore')
            serializers.NpzDeserializer(arrays).load(trainer)
    except Exception as error:      # whatever Chainer makes of arrays that do not fit
        raise SnapshotError(f'{path} is damaged, or of another version ({describe(error)}); '
                            'use another snapshot') from None
