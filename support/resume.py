"""Exact resume: what a snapshot needs so that a run goes on as if it had never been stopped.

`RunState` adds the settings and the state of the random generator to a Trainer snapshot, of each of
several ranks; `make_exact` gives it to a Trainer, and brings that to where a snapshot was taken.
"""

import contextlib
import json
import sys
import warnings

from support import files, losses, models, snapshot, watch  # lets chainer import

import chainer
from chainer import serializers, training
from chainer.optimizers import adam
import numpy as np

# where things are in a Trainer snapshot
ITERATOR_PREFIX = 'updater/iterator:main/'
POSITION_KEY = ITERATOR_PREFIX + 'current_position'
ORDER_KEY = ITERATOR_PREFIX + 'order'
OPTIMIZER_PREFIX = 'updater/optimizer:main/'
SUMMARY_PREFIX = 'extensions/LogReport/_summary/'
RUN_PREFIX = 'extensions/run/'              # of RunState
RANDOM_PREFIX = RUN_PREFIX + 'random_'
RANK_PREFIX = 'rank{}/'                     # there, of what another rank has for itself:
OWN_KEYS = (ORDER_KEY, *(RANDOM_PREFIX + of for of in ('keys', 'position', 'has_gauss', 'cached')))
LOG_TYPES = {'epoch': int, 'iteration': int, 'elapsed_time': (int, float)} | {
    f'{of}main/{name}': (int, float) for of in ('', 'validation/') for name in snapshot.LOSSES}
MOST_LOSS = 1e30                            # float32 ends at 3e38, and pictures of it before


class RunState(training.Extension):
    """Extension that makes a snapshot decide the future: what the Trainer alone would forget.

    That is the settings of the run, and the state of NumPy's generator. CuPy's has no state to
    save: the noise of an iteration follows from the seed and its number instead, from which CuPy is
    seeded anew before each.

    Args:
        settings (dict): All that a reader of the snapshot needs, with the keys and types of
            `snapshot.SETTING_TYPES`. What it tells of the updater is kept up to date.
        updater (Updater): That of the run.
        comm: As from `ranks.start`.
    """

    default_name = 'run'

    def __init__(self, settings, updater, comm):
        self.settings = settings
        self.updater = updater
        self.comm = comm
        self.others = []        # what the snapshot needs of the ranks 1, 2, ...

    def trigger(self, trainer):
        """Fire after each iteration where CuPy makes the noise."""
        return self.settings['device'] == 'GPU'

    def initialize(self, trainer):
        """Seed the noise of the first iteration of a run, or of the first after a snapshot."""
        if self.trigger(trainer):
            self(trainer)

    def __call__(self, trainer):
        """Seed the noise of the next iteration."""
        seed = (self.settings['seed'] << 32) + trainer.updater.iteration
        if self.comm.rank > 0:
            mixed = np.random.SeedSequence([seed, self.comm.rank])
            seed = int(mixed.generate_state(1, np.uint64)[0])
        self.updater.device.xp.random.seed(seed)

    def gather(self, trainer):
        """Bring what each rank has for itself to rank 0, for its snapshot; all ranks call this."""
        if self.comm.size > 1:
            self.others = self.comm.gather(state_of_rank(trainer))[1:]

    def now(self):
        """Return the settings of the run as they are at this moment."""
        trained_by = kind_of(self.updater).split()[0]
        trained_on = getattr(self.updater, 'on', '') if trained_by == 'fast' else ''
        return self.settings | {'trained_by': trained_by, 'trained_on': trained_on}

    def serialize(self, serializer):
        """Save the settings and the other ranks' states; save or restore NumPy's generator."""
        is_saved = isinstance(serializer, chainer.Serializer)
        serializer('settings', json.dumps(self.now()) if is_saved else None)
        for rank, state in enumerate(self.others, 1):
            for key, array in state.items():
                serializer(RANK_PREFIX.format(rank) + key, array)
        _, keys, position, has_gauss, cached = np.random.get_state()
        np.random.set_state((
            'MT19937', serializer('random_keys', keys), serializer('random_position', position),
            serializer('random_has_gauss', has_gauss), serializer('random_cached', cached)))


def kind_of(updater):
    """Say which kind of updater this is: `fast (how)`, `standard`, or `standard (why not fast)`."""
    return getattr(updater, 'kind', 'standard')


def state_of_rank(trainer):
    """Return what one of several ranks has for itself: the order of its digits, and its noise.

    Args:
        trainer (Trainer): That of this rank, extended with a `RunState`.

    Returns:
        dict: Arrays, with the keys of `OWN_KEYS`. Its place in the order is that of all ranks.
    """
    serializer = serializers.DictionarySerializer()
    trainer.updater.get_iterator('main').serialize(serializer[ITERATOR_PREFIX[:-1]])
    trainer.get_extension('run').serialize(serializer[RUN_PREFIX[:-1]])
    return {key: serializer.target[key] for key in OWN_KEYS}


def of_rank(arrays, rank):
    """Return the arrays of a snapshot with what this rank had for itself, not any other.

    Args:
        arrays (dict): As from `snapshot.read`; rank 0 wrote them, for as many ranks as now.
        rank (int): This process's.

    Raises:
        KeyError: If they lack it.
    """
    prefix = RUN_PREFIX + RANK_PREFIX.format(rank)
    return of_root(arrays) | ({key: arrays[prefix + key] for key in OWN_KEYS} if rank else {})


def of_root(arrays):
    """Return the arrays of a snapshot without what other ranks than 0 had for themselves."""
    others = RUN_PREFIX + RANK_PREFIX.partition('{')[0]
    return {key: array for key, array in arrays.items() if not key.startswith(others)}


def share_anew(arrays, trainer):
    """Return the arrays of a snapshot for another number of ranks than it was taken on.

    Each rank begins its own share anew, as far in as the snapshot was, in an order and with noise
    that follow from seed, rank and iteration: NumPy's generator is seeded with these, and the
    trainer's iterator reset.

    Args:
        arrays (dict): As from `snapshot.read`.
        trainer (Trainer): That of this rank, fresh.

    Raises:
        KeyError, TypeError, ValueError: If they are no snapshot's.
    """
    iterator = trainer.updater.get_iterator('main')
    n, state = len(iterator.dataset), trainer.get_extension('run')
    np.random.seed([state.settings['seed'], state.comm.rank, int(arrays[snapshot.ITERATION_KEY])])
    iterator.reset()            # to a new order
    position = int(arrays[POSITION_KEY]) * n // len(arrays[ORDER_KEY])
    detail = np.array(int(arrays[snapshot.EPOCH_KEY]) + position / n)
    return of_root(arrays) | state_of_rank(trainer) | {POSITION_KEY: np.array(position)} | {
        key: detail for key in of_root(arrays)
        if key.startswith('extension') and key.endswith('/previous_epoch_detail')}


def load_trainer(arrays, had, trainer, path):
    """Bring a Trainer, random state included, to where a snapshot was taken.

    Where that was on another number of ranks, it comes only near to there, and its `RunState` keeps
    that in mind.

    Args:
        arrays (dict): As from `snapshot.read`.
        had (dict): The settings in them, as from `snapshot.read_settings`.
        trainer (Trainer): Trainer of the same model and extensions, with a `RunState`.
        path (str): Where the arrays come from, for the message.

    Raises:
        snapshot.SnapshotError: If they do not fit the trainer.
    """
    snapshot.load_model(arrays, trainer.updater.get_optimizer('main').target, path)
    state = trainer.get_extension('run')
    same = had['ranks'] == state.settings['ranks']
    try:
        arrays = of_rank(arrays, state.comm.rank) if same else share_anew(arrays, trainer)
        state.settings['ranks_changed'] = had['ranks_changed'] or not same
        check_state(arrays, trainer.updater, state.settings['ranks_changed'])
        with warnings.catch_warnings():
            # of triggers of extensions that the run did not have, as a terminal's progress bar
            warnings.simplefilter('ignore')
            serializers.NpzDeserializer(arrays).load(trainer)
        check_loaded(arrays, trainer)
    except MemoryError:
        raise
    except Exception as error:      # whatever Chainer makes of arrays that do not fit
        raise snapshot.SnapshotError(
            f'{path} is damaged, or of another version ({files.describe(error)}); '
            'use another snapshot') from None


def check_state(arrays, updater, ranks_changed):
    """Make sure that the arrays of a snapshot are a state that `updater` can be in.

    Args:
        arrays (dict): As from `snapshot.read`.
        updater (Updater): Updater of the same model, digits and minibatches.
        ranks_changed (bool): Whether the run was on another number of ranks for some time, so
            that its iterations do not tell its epochs.

    Raises:
        ValueError, KeyError: If they are not.
    """
    iterator = updater.get_iterator('main')
    n = len(iterator.dataset)
    epoch, position, iteration = (int(arrays[key]) for key in (
        snapshot.EPOCH_KEY, POSITION_KEY, snapshot.ITERATION_KEY))
    optimizer = updater.get_optimizer('main')
    actual = getattr(optimizer, 'actual_optimizer', optimizer)
    params = {OPTIMIZER_PREFIX + name[1:]: param
              for name, param in optimizer.target.namedparams() if param.update_rule.enabled}
    log = json.loads(str(arrays[snapshot.LOG_KEY]))
    keys = arrays[RANDOM_PREFIX + 'keys']
    possible = {
        'order of the digits': arrays[ORDER_KEY].shape == (n,) and np.array_equal(
            np.sort(arrays[ORDER_KEY]), np.arange(n)),
        'place in the digits': 0 <= position < n and epoch >= 0 and (
            ranks_changed or epoch * n + position == iteration * iterator.batch_size),
        'time of the optimizer': all(int(arrays[key]) == iteration for key in (
            OPTIMIZER_PREFIX + 't', *(prefix + '/t' for prefix in params))),
        'moments of Adam': not isinstance(actual, adam.Adam) or (all(
            arrays[prefix + moment].shape == param.shape
            and arrays[prefix + moment].dtype == param.dtype
            for prefix, param in params.items() for moment in ('/m', '/v'))
            and all((arrays[prefix + '/v'] >= 0).all() for prefix in params)),
        'triggers': all(
            array == (iteration if key.endswith('/previous_iteration') else epoch + position / n)
            for key, array in arrays.items()
            if key.startswith('extension') and '/previous_' in key),
        # a row an epoch; where a minibatch is more than an epoch, a row an iteration
        'log': isinstance(log, list) and (
            len(log) == min(epoch, iteration) or (ranks_changed and len(log) <= epoch)) and all(
            (row['epoch'] == max(i, i * iterator.batch_size // n) or ranks_changed)
            and all(snapshot.has_type(row[key], kind) and abs(row[key]) < MOST_LOSS
                    for key, kind in LOG_TYPES.items())
            for i, row in enumerate(log, 1)),
        # from zeros alone, the generator would never come to a number
        'random state': (keys[1:].any() or keys[0] >= 2**31)
            and 0 <= int(arrays[RANDOM_PREFIX + 'position']) <= 624
            and int(arrays[RANDOM_PREFIX + 'has_gauss']) in (0, 1),
        'count of losses': all(int(array) > 0 for key, array in arrays.items()
                               if key.startswith(SUMMARY_PREFIX) and key.endswith('/_n')),
        'numbers': all(np.isfinite(array).all() for array in arrays.values()
                       if array.dtype.kind == 'f'),
    }
    for what, holds in possible.items():
        if not holds:
            raise ValueError(f'its {what} cannot be')


def check_loaded(arrays, trainer):
    """Make sure that a Trainer now holds what a snapshot says.

    Args:
        arrays (dict): As from `snapshot.read`.
        trainer (Trainer): As it is after loading them.

    Raises:
        ValueError, KeyError: If it does not.
    """
    held = serializers.DictionarySerializer()
    with contextlib.suppress(RuntimeError):     # the elapsed time, its last, needs a started run
        trainer.serialize(held)
    for key, array in held.target.items():
        optional = key.startswith('extension_triggers/') and key not in arrays
        if key != snapshot.SETTINGS_KEY and not optional and not (
                arrays[key].shape == np.shape(array) and np.array_equal(arrays[key], array)):
            raise ValueError(f'its {key} does not fit')


def make_exact(trainer, args, digits):
    """Let the snapshots of a trainer decide its future; where it resumes, bring it to that point.

    Args:
        trainer (Trainer): That of this rank, with all its other extensions.
        args (argparse.Namespace): The command line; as from `options.parsed`.
        digits (mnist.Digits): Those that the run trains on.

    Raises:
        SnapshotError: If the snapshot to resume from does not fit.
    """
    comm, updater = args.comm, trainer.updater
    model = updater.get_optimizer('main').target
    settings = {key: getattr(args, key, None) for key in snapshot.SETTING_TYPES} | {
        'activation': models.activation_of(model, args.activation), 'n_in': digits.train.shape[1],
        'dataset': digits.dataset, 'data_dir': digits.data_dir, 'checksum': digits.checksum,
        'device': 'CPU' if updater.device.xp is np else 'GPU', 'ranks': comm.size,
        'ranks_changed': False, 'trained_on': '', 'methods': models.notes_of_net(),
        'loss': models.describe_loss(updater.loss_func, model),
        'kl_weight': losses.kl_weight(updater.loss_func, model),
        'optimizer': models.describe_optimizer(updater.get_optimizer('main'))}
    trainer.extend(RunState(settings, updater, comm))
    trainer.extend(watch.Watch(settings))
    if args.resumed is not None:
        had = comm.together(go_on, trainer, digits, args.resumed, args.resume)
    if hasattr(updater, 'prove') and updater.epoch < args.epoch:
        updater.prove()                         # the fast one, on the minibatch that comes now
    if args.resumed is not None and comm.rank == 0:
        warn_of_changes(had, trainer.get_extension('run').now(), args.resume)
        models.warn_of_edits(had, args.resume)
        settings['methods'] = models.both(had['methods'])
        if had['kl_weight'] != settings['kl_weight']:
            settings['kl_weight'] = None


def go_on(trainer, digits, arrays, path):
    """Bring a trainer to where a snapshot was taken.

    Args:
        trainer (Trainer): That of this rank, with a `RunState`.
        digits (mnist.Digits): Those of this run.
        arrays (dict): Of the snapshot, as from `snapshot.read`.
        path (str): Where they come from.

    Returns:
        dict: The settings in it.

    Raises:
        SnapshotError: If the snapshot does not fit.
    """
    had = snapshot.read_settings(arrays, path)
    snapshot.check_digits(had, digits, path)
    models.check_activation(had, trainer.updater.get_optimizer('main').target, path)
    models.check_optimizer(had, trainer.get_extension('run').settings, path)
    load_trainer(arrays, had, trainer, path)
    return had


def warn_of_changes(had, now, path):
    """Say where a run does not go on exactly: for each change from the settings `had` to `now`."""
    before, after = ((f'on a {of["device"]}', f'by the {of["trained_by"]} updater',
                      f'with {snapshot.describe_step(of["batch_size"], of["ranks"])}')
                     for of in (had, now))
    if had['trained_on'] and now['trained_on']:
        before, after = (*before, f'on {had["trained_on"]}'), (*after, f'on {now["trained_on"]}')
    for name, words in (('optimizer', 'by {}'), ('loss', 'for the loss {}')):
        if had[name]:
            before, after = ((*of, words.format(one[name])) for of, one in (
                (before, had), (after, now)))
    for then, here in zip(before, after, strict=True):
        if then != here:
            print(f'warning: {path} was trained {then}; {here} the run goes on, but not to '
                  'exactly the same result', file=sys.stderr)
