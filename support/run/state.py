"""The state of a Trainer in a snapshot: whether it is safe, what it lacks, and how it is loaded.

All that Chainer can load is loaded. Only what would do harm is called damaged.
"""

import contextlib
import sys
import warnings

from support.base import files  # lets chainer import
from support.run import snapshot

from chainer import serializers
import numpy as np

# where things are in a Trainer snapshot
ITERATOR_PREFIX = 'updater/iterator:main/'
POSITION_KEY = ITERATOR_PREFIX + 'current_position'
ORDER_KEYS = ITERATOR_PREFIX + 'order', ITERATOR_PREFIX + '_order'      # of MultithreadIterator
OPTIMIZER_PREFIX = 'updater/optimizer:main/'
RANDOM_PREFIX = 'extensions/run/random_'    # of resume.RunState
PARTS = {                                   # of train_vae.py, by how their keys begin
    ITERATOR_PREFIX: 'the iterator', OPTIMIZER_PREFIX: 'the optimizer',
    snapshot.MODEL_PREFIX: 'the model', 'updater/': 'the updater',
    'stop_trigger/': 'the stop trigger'}
FINITE = OPTIMIZER_PREFIX, RANDOM_PREFIX, '_snapshot_elapsed_time'
COUNTED = snapshot.ITERATION_KEY, ITERATOR_PREFIX, OPTIMIZER_PREFIX, RANDOM_PREFIX + 'position'
MEND = 'go on with the train_vae.py that wrote it, or start a run from its weights, with -m'
LAST_COUNT = 2**53                          # floats count no further
RANDOM_WORDS = 624                          # of NumPy's generator; beyond them lies other memory


def load(arrays, trainer, path):
    """Load a fresh Trainer from a snapshot, whose model `snapshot.check_model` has seen."""
    check(arrays, trainer.updater, path)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter('ignore')     # of triggers, which guess what is not there
            serializers.NpzDeserializer(completed(arrays, trainer, path)).load(trainer)
    except KeyError as error:
        raise unfit(path, str(error.args[0]), 'it is not there') from None
    except (ValueError, TypeError, IndexError, OverflowError, RecursionError) as error:
        raise snapshot.SnapshotError(
            f'{path} does not fit train_vae.py ({files.describe(error)}); {MEND}') from None


def part_of(key):
    """Return in words which part of train_vae.py a key of a snapshot is of."""
    room, name = f'{key}/'.split('/')[:2]
    rooms = {'extensions': f'the extension {name}',
             'extension_triggers': f'the trigger of the extension {name}'}
    return next((part for prefix, part in PARTS.items() if key.startswith(prefix)),
                rooms.get(room, 'the trainer'))


def unfit(path, key, cause):
    """Return the SnapshotError that a part, by its key, is another in train_vae.py."""
    return snapshot.SnapshotError(
        f'{path} does not fit {part_of(key)} of train_vae.py ({key}: {cause}); {MEND}')


def check(arrays, updater, path):
    """Raise a SnapshotError if NumPy or Chainer would take numbers that do harm."""
    n = count_digits(updater)
    last = {POSITION_KEY: n, **dict.fromkeys(ORDER_KEYS, n - 1),
            RANDOM_PREFIX + 'position': RANDOM_WORDS}
    shapes = {OPTIMIZER_PREFIX + name[1:]: param.shape
              for name, param in updater.get_optimizer('main').target.namedparams()}
    for key, array in arrays.items():
        code, (of, _, name) = array.dtype.kind, key.rpartition('/')
        has_shape = shapes.get(of) is None or name == 't' or snapshot.is_float32(array, shapes[of])
        if not has_shape or (key in ORDER_KEYS and array.shape != (n,) and n < LAST_COUNT):
            raise unfit(path, key, f'{array.dtype} of shape {array.shape}')
        is_damaged = False
        if code in 'iu' and array.size and key.startswith(COUNTED):
            is_damaged = not 0 <= array.min() <= array.max() <= last.get(key, LAST_COUNT)
            if is_damaged and key.startswith(ITERATOR_PREFIX):
                raise unfit(path, key, f'not of {n} digits')
        if code == 'f' and key.startswith(FINITE):
            is_damaged = not np.isfinite(array).all()
        if code in 'iu' and key == RANDOM_PREFIX + 'keys':      # zeros never come to a number
            is_damaged = not array.ravel()[1:].any()
        if code in 'fiu' and '/_summaries/' in key and name == '_n':    # a mean divides by it
            is_damaged = not (array > 0).all()
        if key.startswith('extensions/') and name == '_log':
            is_damaged = snapshot.rows_of(array) is None
        if is_damaged:
            raise snapshot.SnapshotError(
                f'{path} is damaged: its {key} cannot be; use another snapshot')


def count_digits(updater):
    """Return how many digits an updater goes through; the largest count where that is not told."""
    iterator = updater.get_iterator('main')
    return len(iterator.dataset) if hasattr(iterator, 'dataset') else LAST_COUNT


def completed(arrays, trainer, path):
    """Return the arrays of a snapshot, and what train_vae.py has now besides, which starts anew."""
    serializer, now = serializers.DictionarySerializer(), {}
    with contextlib.suppress(RuntimeError):     # the elapsed time, its last, needs a started run
        trainer.serialize(serializer)
    if {snapshot.ITERATION_KEY, snapshot.EPOCH_KEY, POSITION_KEY} <= arrays.keys():
        now = {'previous_iteration': arrays[snapshot.ITERATION_KEY],    # what triggers remember
               'previous_epoch_detail': arrays[snapshot.EPOCH_KEY]
               + arrays[POSITION_KEY] / count_digits(trainer.updater)}
    extensions = {key.split('/')[1] for key in arrays if key.startswith('extensions/')}
    anew, named = {}, {}
    for key, fresh in serializer.target.items():
        value, (room, *names) = np.asarray(fresh), key.split('/')
        if value.dtype.hasobject:               # None, which snapshot.Writer leaves out
            if key not in arrays or key.startswith(ITERATOR_PREFIX):
                anew[key] = value
        elif key not in arrays:
            is_unasked = room == 'stop_trigger' and trainer.stop_trigger.is_plain
            if key.startswith(snapshot.MODEL_PREFIX):   # a number, as check_model has seen
                named[f'{"/".join(names[1:])} of the model'] = None
            elif ((room == 'extensions' and names[0] not in extensions)
                    or (room == 'stop_trigger' and not is_unasked)):
                named[f'{part_of(key)} of train_vae.py'] = None
            elif room not in ('stop_trigger', 'extension_triggers') and not (
                    room == 'extensions' and len(names) > 2):       # of a trigger that it has
                continue                        # the Loader will miss it
            anew[key] = value if is_unasked else np.asarray(now.get(names[-1], value))
    if named and trainer.get_extension('run').comm.rank == 0:
        print(f'warning: {path} holds nothing of {" and ".join(named)}, which '
              f'start{"s" * (len(named) == 1)} anew', file=sys.stderr)
    return arrays | anew
