"""The state of a Trainer in a snapshot: whether it is safe, what it lacks, and how it is loaded.

What Chainer's serializers can load into what train_vae.py builds, is loaded. Where that fails, the
message names the part that is another now; `damaged` is only what would be unsafe.
"""

import contextlib
import copy
import json
import sys
import warnings

from support.base import files  # lets chainer import
from support.run import snapshot

from chainer import serializers
from chainer.optimizers import adam
import numpy as np

# where things are in a Trainer snapshot
ITERATOR_PREFIX = 'updater/iterator:main/'
POSITION_KEY = ITERATOR_PREFIX + 'current_position'
ORDER_KEYS = ITERATOR_PREFIX + 'order', ITERATOR_PREFIX + '_order'      # of MultithreadIterator
OPTIMIZER_PREFIX = 'updater/optimizer:main/'
RANDOM_PREFIX = 'extensions/run/random_'    # of resume.RunState
ELAPSED_KEY = '_snapshot_elapsed_time'
PARTS = {                                   # of train_vae.py, by how their keys begin
    ITERATOR_PREFIX: 'the iterator', OPTIMIZER_PREFIX: 'the optimizer',
    snapshot.MODEL_PREFIX: 'the model', 'updater/': 'the updater',
    'stop_trigger/': 'the stop trigger'}
MEND = 'go on with the train_vae.py that wrote it, or start a run from its weights, with -m'
MOST = 2**53                                # of what is counted; floats count no further
LARGEST, LEAST = np.finfo(float).max, np.finfo(float).tiny


def load(arrays, trainer, path):
    """Load a Trainer from the arrays of a snapshot.

    Args:
        arrays (dict): As from `snapshot.read`, which `check` has seen.
        trainer (Trainer): Fresh.
        path (str): Where they come from, for the message.

    Raises:
        SnapshotError: If they do not fit a part of it.
    """
    check_places(arrays, trainer.updater.get_iterator('main'), path)
    loader, cause = Loader(completed(arrays, trainer, path)), None
    try:
        with warnings.catch_warnings():
            warnings.simplefilter('ignore')     # of triggers, which guess what is not there
            loader.load(trainer)
    except KeyError:
        cause = 'it is not there'
    except (ValueError, TypeError, IndexError, OverflowError, RecursionError) as error:
        cause = files.describe(error)
    if cause:
        raise unfit(path, loader.at[0], cause)


class Loader(serializers.NpzDeserializer):
    """NpzDeserializer that takes no array for another, and knows where it was last.

    Args:
        arrays (dict): As from `snapshot.read`.
        path (str): What all its keys begin with.
        at (list of str): The key where it was last, or how some begin, for all its parts to share.
    """

    def __init__(self, arrays, path='', at=None):
        super().__init__(arrays, path)
        self.at = [path] if at is None else at

    def __getitem__(self, key):
        """Return the deserializer of a part."""
        self.at[0] = self.path + key.strip('/') + '/'
        return Loader(self.npz, self.at[0], self.at)

    def __call__(self, key, value):
        """Return the array of a key, as such a value.

        Raises:
            KeyError: If there is none.
            ValueError, TypeError: If it is of another shape or kind.
        """
        self.at[0] = self.path + key.lstrip('/')
        array = self.npz[self.at[0]]
        if value is not None and not array.dtype.hasobject:
            dtype = value.dtype if hasattr(value, 'dtype') else np.asarray(value).dtype
            kinds = {'f': 'fiu', 'i': 'iu', 'u': 'iu'}.get(dtype.kind, dtype.kind)
            fits = (array.dtype.kind in kinds if np.ndim(value) == 0 else
                    array.dtype.kind == dtype.kind
                    and (dtype.kind in 'iU' or array.itemsize == dtype.itemsize))
            if not fits or array.shape != np.shape(value):
                raise ValueError(f'{array.dtype} of shape {array.shape}, not {dtype} of shape '
                                 f'{np.shape(value)}')
        return super().__call__(key, value)


def part_of(key):
    """Return in words which part of train_vae.py a key of a snapshot is of."""
    for prefix, part in PARTS.items():
        if key.startswith(prefix):
            return part
    kind, _, rest = key.partition('/')
    name = rest.partition('/')[0]
    return {'extensions': f'the extension {name}',
            'extension_triggers': f'the trigger of the extension {name}'}.get(kind, 'the trainer')


def unfit(path, key, cause):
    """Return the SnapshotError that the state of a part, by its key, is not that of train_vae.py's.

    Args:
        path (str): The snapshot.
        key (str): Where in it that shows.
        cause (str): What is wrong there.
    """
    return snapshot.SnapshotError(
        f'{path} does not fit {part_of(key)} of train_vae.py ({key}: {cause}); {MEND}')


def check(arrays, updater, path):
    """Make sure that it is safe to go on from the arrays of a snapshot.

    Args:
        arrays (dict): As from `snapshot.read`, of this rank.
        updater (Updater): Updater of the same model.
        path (str): Where they come from, for the message.

    Raises:
        SnapshotError: If it is not.
    """
    none = np.array(None)
    keys, position, has_gauss, cached = (
        arrays.get(RANDOM_PREFIX + of, none) for of in ('keys', 'position', 'has_gauss', 'cached'))
    possible = {
        'counts': all(is_number(array, 'iu', 0, MOST) for key, array in arrays.items()
                      if key == snapshot.ITERATION_KEY or (
                          key.startswith((ITERATOR_PREFIX, OPTIMIZER_PREFIX))
                          and key.endswith(('/epoch', '/current_position', '/t')))),
        # from zeros alone, the generator would never come to a number
        'random state': keys.shape == (624,) and keys.dtype.kind == 'u'
            and (keys[1:].any() or keys[0] >= 2**31) and is_number(position, 'iu', 0, 624)
            and is_number(has_gauss, 'iu', 0, 1) and is_number(cached),
        'elapsed time': is_number(arrays.get(ELAPSED_KEY, none), least=0),
        'log': all(is_log(array) for key, array in arrays.items()
                   if key.startswith('extensions/') and key.endswith('/_log')),
        'count of losses': all(is_number(array, least=LEAST)
                               for key, array in arrays.items()
                               if '_summaries/' in key and key.endswith('/_n')),
        'moments': are_moments(arrays, updater.get_optimizer('main')),
    }
    for what, holds in possible.items():
        if not holds:
            raise snapshot.SnapshotError(
                f'{path} is damaged: its {what} cannot be; use another snapshot')


def check_places(arrays, iterator, path):
    """Make sure that the place and the order of an iterator are of the digits that it has.

    Args:
        arrays (dict): As from `snapshot.read`, of this rank.
        iterator (Iterator): Fresh.
        path (str): Where they come from, for the message.

    Raises:
        SnapshotError: If they are not.
    """
    n = digits_of(iterator)
    for key in (POSITION_KEY, *ORDER_KEYS):
        array, last = arrays.get(key, np.array(None)), n if key == POSITION_KEY else n - 1
        if array.dtype.kind in 'iu' and array.size and not 0 <= array.min() <= array.max() <= last:
            raise unfit(path, key, f'not of {n} digits')


def digits_of(iterator):
    """Return how many digits an iterator has, as many as can be where it does not tell."""
    return len(iterator.dataset) if hasattr(iterator, 'dataset') else MOST


def is_number(array, kinds='fiu', least=-LARGEST, most=LARGEST):
    """Tell whether an array from a file is one number of these kinds and within these limits."""
    return array.shape == () and array.dtype.kind in kinds and bool(least <= array <= most)


def is_log(array):
    """Tell whether an array from a file is a LogReport's JSON: rows whose numbers are numbers."""
    with contextlib.suppress(ValueError, RecursionError, OverflowError):
        rows = json.loads(str(array))
        return isinstance(rows, list) and all(isinstance(row, dict) for row in rows) and all(
            isinstance(float(value), float) for row in rows for value in row.values()
            if isinstance(value, int))      # which Python reads of any size
    return False


def are_moments(arrays, optimizer):
    """Tell whether the arrays of an optimizer's parameters are of their shapes, and finite."""
    is_adam = isinstance(getattr(optimizer, 'actual_optimizer', optimizer), adam.Adam)
    for path, param in optimizer.target.namedparams():
        rule = copy.copy(param.update_rule)
        if rule is None or param.array is None:
            continue
        rule._state = {}
        rule.init_state(param)
        for name, value in rule.state.items():
            array = arrays.get(f'{OPTIMIZER_PREFIX}{path[1:]}/{name}')
            if array is not None and np.ndim(value) and not (
                    array.shape == value.shape and array.dtype in (value.dtype, np.float32)
                    and np.isfinite(array).all()
                    and not (is_adam and name in ('v', 'vhat') and (array < 0).any())):
                return False
    return True


def completed(arrays, trainer, path):
    """Return the arrays of a snapshot with the parts that train_vae.py has now and it has not.

    These are extensions and triggers, and numbers that somebody has just made persistent: they
    start anew where the snapshot was taken. One line names those that a run may miss.

    Args:
        arrays (dict): As from `snapshot.read`, checked.
        trainer (Trainer): Fresh.
        path (str): Where they come from, for the message.
    """
    held, iterator = serializers.DictionarySerializer(), trainer.updater.get_iterator('main')
    with contextlib.suppress(RuntimeError):     # the elapsed time, its last, needs a started run
        trainer.serialize(held)
    now = {}                                    # what triggers remember
    if {snapshot.ITERATION_KEY, snapshot.EPOCH_KEY, POSITION_KEY} <= arrays.keys():
        now = {'previous_iteration': arrays[snapshot.ITERATION_KEY],
               'previous_epoch_detail':
                   arrays[snapshot.EPOCH_KEY] + arrays[POSITION_KEY] / digits_of(iterator)}
    anew, named = {}, {}
    for key, held_value in held.target.items():
        value, (kind, *names) = np.asarray(held_value), key.split('/')
        is_lacking = key not in arrays
        is_new = is_lacking and kind == 'extensions' and not any(
            other.startswith(f'extensions/{names[0]}/') for other in arrays)
        is_stop = is_lacking and kind == 'stop_trigger'
        if value.dtype.hasobject:               # None, which snapshot.Writer leaves out
            if is_lacking or key.startswith(ITERATOR_PREFIX):
                anew[key] = value
        elif is_lacking and key.startswith(snapshot.MODEL_PREFIX):
            anew[key] = value                   # a number, as snapshot.load_model has seen
            named[f'{"/".join(names[1:])} of the model'] = None
        elif is_stop and trainer.stop_trigger.is_plain:
            anew[key] = value                   # of a trigger that nobody asks
        elif is_new or is_stop or (is_lacking and (
                kind == 'extension_triggers' or (kind == 'extensions' and len(names) > 2))):
            anew[key] = np.asarray(now.get(names[-1], value))
            if is_new or is_stop:
                named[f'{part_of(key)} of train_vae.py'] = None
    if named and trainer.get_extension('run').comm.rank == 0:
        print(f'warning: {path} holds nothing of {" and ".join(named)}, which '
              f'start{"s" * (len(named) == 1)} anew', file=sys.stderr)
    return arrays | anew
