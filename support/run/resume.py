"""Exact resume: what a snapshot needs so that a run goes on as if it had never been stopped.

`RunState` adds the settings and the state of the random generator to a Trainer snapshot, of each of
several ranks; `make_exact` gives it to a Trainer, and brings that to where a snapshot was taken.
What Chainer's serializers can load into what train_vae.py builds, goes on.
"""

import inspect
import json
import sys

from support.run import losses, models, snapshot, state, stopping, watch  # lets chainer import

import chainer
from chainer import serializers, training
from chainer.iterators import MultiprocessIterator
import numpy as np

# where things are in a Trainer snapshot
RUN_PREFIX = 'extensions/run/'              # of RunState
RANK_PREFIX = 'rank{}/'                     # there, of what another rank has for itself:
AFTER_ALL = -150           # priority; PlotReport, which has no state, is later
OWN_KEYS = (*state.ORDER_KEYS, *(state.RANDOM_PREFIX + of for of in (
    'keys', 'position', 'has_gauss', 'cached')))


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
        self.first = {}         # what `varied` returned at the start
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
        trained_on = getattr(self.updater, 'on', '') if trained_by != 'standard' else ''
        now = varied(self.updater) if self.first else {}
        changed = {name: [self.first[name], number] for name, number in now.items()
                   if number != self.first.get(name, number)}
        return self.settings | {
            'trained_by': trained_by, 'trained_on': trained_on, 'varied': changed}

    def serialize(self, serializer):
        """Save the settings and the other ranks' states; save or restore NumPy's generator."""
        is_saved = isinstance(serializer, chainer.Serializer)
        serializer('settings', json.dumps(self.now()) if is_saved else None)
        for rank, own in enumerate(self.others, 1):
            for key, array in own.items():
                serializer(RANK_PREFIX.format(rank) + key, array)
        _, keys, position, has_gauss, cached = np.random.get_state()
        np.random.set_state((
            'MT19937', serializer('random_keys', keys), serializer('random_position', position),
            serializer('random_has_gauss', has_gauss), serializer('random_cached', cached)))


def varied(updater):
    """Return by name what extensions may vary in mid-run, as numbers.

    These are Adam's numbers, C of the loss, the batch size, and by its path whether a parameter is
    updated: 0 where it is frozen.
    """
    optimizer = updater.get_optimizer('main')
    own = getattr(getattr(optimizer, 'actual_optimizer', optimizer), 'hyperparam', None)
    found = (own.get_dict() if own else {}) | {
        name: C for name, C in models.given_to_loss(updater.loss_func, optimizer.target).items()
        if name == 'C'}
    found['batch_size'] = getattr(updater.get_iterator('main'), 'batch_size', None)
    found |= {path: int(param.update_rule.enabled)
              for path, param in optimizer.target.namedparams() if param.update_rule is not None}
    return {name: number for name, number in found.items() if type(number) in (int, float)}


def vary(updater, had):
    """Give an updater the numbers that a run had where a snapshot was taken.

    Only those which the script starts with as it did then: an edit of the script counts.

    Args:
        updater (Updater): As the script made it.
        had (dict): By name [the number at the start, the number then].
    """
    optimizer, first = updater.get_optimizer('main'), varied(updater)
    optimizer = getattr(optimizer, 'actual_optimizer', optimizer)
    for name, (before, number) in had.items():
        if first.get(name) != before:
            continue
        if name == 'batch_size':
            updater.get_iterator('main').batch_size = min(max(1, int(number)), snapshot.MOST)
        elif name.startswith('/'):
            dict(optimizer.target.namedparams())[name].update_rule.enabled = bool(number)
        elif name != 'C':
            setattr(optimizer.hyperparam, name, number)
        elif {'C', 'k'} <= inspect.signature(optimizer.target.get_loss_func).parameters.keys():
            given = models.given_to_loss(updater.loss_func, optimizer.target)
            updater.loss_func = optimizer.target.get_loss_func(number, given.get('k', 1))


def kind_of(updater):
    """Say how it trains: `fast (how)`, `compiled parts (why)`, `standard (why)` or `standard`."""
    return getattr(updater, 'kind', 'standard')


def state_of_rank(trainer):
    """Return what one of several ranks has for itself: the order of its digits, and its noise.

    Args:
        trainer (Trainer): That of this rank, extended with a `RunState`.

    Returns:
        dict: Arrays, with such of the keys of `OWN_KEYS` as it has. Its place in the order is that
        of all ranks.
    """
    serializer = serializers.DictionarySerializer()
    trainer.updater.get_iterator('main').serialize(serializer[state.ITERATOR_PREFIX])
    trainer.get_extension('run').serialize(serializer[RUN_PREFIX])
    return {key: serializer.target[key] for key in OWN_KEYS if key in serializer.target}


def of_rank(arrays, rank):
    """Return the arrays of a snapshot with what this rank had for itself, not any other.

    Args:
        arrays (dict): As from `snapshot.read`; rank 0 wrote them, for as many ranks as now.
        rank (int): This process's.
    """
    prefix = RUN_PREFIX + RANK_PREFIX.format(rank)
    own = {key: arrays[prefix + key] for key in OWN_KEYS if prefix + key in arrays}
    return {key: array for key, array in of_root(arrays).items()
            if rank == 0 or key not in OWN_KEYS} | own


def of_root(arrays):
    """Return the arrays of a snapshot without what other ranks than 0 had for themselves."""
    others = RUN_PREFIX + RANK_PREFIX.partition('{')[0]
    return {key: array for key, array in arrays.items() if not key.startswith(others)}


def share_anew(arrays, trainer, share):
    """Return the arrays of a snapshot for another number of ranks than it was taken on.

    Each rank begins its own share anew, as far in as the snapshot was, in an order and with noise
    that follow from seed, rank and iteration: NumPy's generator is seeded with these, and the
    trainer's iterator reset.

    Args:
        arrays (dict): Rank 0's, as from `of_rank`, checked.
        trainer (Trainer): That of this rank, fresh.
        share (int): How many digits each rank had.
    """
    iterator = trainer.updater.get_iterator('main')
    n, run = len(iterator.dataset), trainer.get_extension('run')
    np.random.seed([run.settings['seed'], run.comm.rank, int(arrays[snapshot.ITERATION_KEY])])
    iterator.reset()            # to a new order
    position = min(int(arrays[state.POSITION_KEY]) * n // share, n - 1)
    detail = np.array(int(arrays[snapshot.EPOCH_KEY]) + position / n)
    return arrays | state_of_rank(trainer) | {state.POSITION_KEY: np.array(position)} | {
        key: detail for key in arrays
        if key.startswith('extension') and key.endswith('/previous_epoch_detail')}


def load_trainer(arrays, had, trainer, digits, path):
    """Bring a Trainer, random state included, to where a snapshot was taken.

    Where that was on another number of ranks, it comes only near to there, and its `RunState` keeps
    that in mind.

    Args:
        arrays (dict): As from `snapshot.read`.
        had (dict): The settings in them, as from `snapshot.read_settings`.
        trainer (Trainer): That of this rank, extended with a `RunState`.
        digits (mnist.Digits): Those of this run.
        path (str): Where they come from, for the message.

    Raises:
        SnapshotError: If they are damaged, or do not fit a part of the trainer.
    """
    snapshot.load_model(arrays, trainer.updater.get_optimizer('main').target, path)
    run = trainer.get_extension('run')
    same = had['ranks'] == run.settings['ranks']
    run.settings['ranks_changed'] = had['ranks_changed'] or not same
    own = of_rank(arrays, run.comm.rank if same else 0)
    state.check(own, trainer.updater, path)
    if not same:
        for key in (snapshot.ITERATION_KEY, snapshot.EPOCH_KEY, state.POSITION_KEY):
            if key not in own:
                raise state.unfit(path, key, 'it is not there')
        orders = [own[key].size for key in state.ORDER_KEYS if key in own]
        own = share_anew(own, trainer, *orders or [-(-len(digits.train) // had['ranks'])])
    state.load(own, trainer, path)


def make_exact(trainer, args, digits):
    """Let the snapshots of a trainer decide its future; where it resumes, bring it to that point.

    Args:
        trainer (Trainer): That of this rank, with all its other extensions.
        args (argparse.Namespace): The command line; as from `options.parsed`.
        digits (mnist.Digits): Those that the run trains on.

    Raises:
        SnapshotError: If the snapshot to resume from does not fit.
    """
    comm, updater, stop = args.comm, trainer.updater, stopping.until_stopped(trainer)
    model, iterator = updater.get_optimizer('main').target, updater.get_iterator('main')
    if isinstance(iterator, MultiprocessIterator) and iterator.order_sampler is None:
        # its serialize needs an order: shuffle=False, with the order that this stands for
        iterator.order_sampler = iterator._prefetch_loop.order_sampler = lambda order, _: order
        iterator.reset()
    settings = {key: getattr(args, key, None) for key in snapshot.SETTING_TYPES} | {
        'activation': models.activation_of(model, args.activation), 'n_in': digits.train.shape[1],
        'batch_size': getattr(iterator, 'batch_size', args.batch_size),
        'dataset': digits.dataset, 'data_dir': digits.data_dir, 'checksum': digits.checksum,
        'device': 'CPU' if model.xp is np else 'GPU', 'ranks': comm.size,
        'ranks_changed': False, 'trained_on': '', 'methods': models.notes_of_net(),
        'loss': models.describe_loss(updater.loss_func, model),
        'kl_weight': losses.kl_weight(updater.loss_func, model),
        'optimizer': models.describe_optimizer(updater.get_optimizer('main'))}
    for entry in trainer._extensions.values():
        # a snapshot comes after all extensions whose triggers have a state, so that it holds that
        if hasattr(entry.extension, 'writer') and entry.extension._target is None:
            entry.priority = min(entry.priority, AFTER_ALL)
    trainer.extend(RunState(settings, updater, comm))
    trainer.get_extension('run').first = varied(updater)
    trainer.extend(watch.Watch(settings))
    if args.resumed is not None:
        had = comm.together(go_on, trainer, digits, args.resumed, args.resume)
    if hasattr(updater, 'prove') and not stop.is_past(trainer):
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
    load_trainer(arrays, had, trainer, digits, path)
    vary(trainer.updater, had['varied'])
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
