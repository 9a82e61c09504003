"""Exact resume: what a snapshot needs so that a resumed run ends as one that nothing stopped.

`RunState` adds the settings and the state of the random generator to a Trainer snapshot, of each of
several ranks. `make_exact` gives it to a Trainer, and brings that to where a snapshot was taken.
"""

import dataclasses
import inspect
import sys

from support.run import losses, models, settings, snapshot, state, stopping, watch  # chainer, too

import chainer
from chainer import serializers, training
from chainer.iterators import MultiprocessIterator
import numpy as np

RUN_PREFIX = 'extensions/run/'              # of RunState in a Trainer snapshot
RANK_PREFIX = 'rank{}/'                     # there, of what another rank has for itself:
AFTER_ALL = -150            # priority of snapshots; only PlotReport, which has no state, is later
OWN_KEYS = (*state.ORDER_KEYS, *(state.RANDOM_PREFIX + name for name in (
    'keys', 'position', 'has_gauss', 'cached')))


class RunState(training.Extension):
    """Extension that saves what the Trainer alone would forget, so that a resumed run is exact.

    That is the settings of the run, and the state of NumPy's generator. CuPy's state cannot be
    saved: before each iteration it is seeded anew, from the seed of the run and the iteration.

    Args:
        settings (settings.Settings): Those of the run.
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
        return self.settings.device == 'GPU'

    def initialize(self, trainer):
        """Seed the noise of the first iteration of a run, or of the first after a snapshot."""
        if self.trigger(trainer):
            self(trainer)

    def __call__(self, trainer):
        """Seed the noise of the next iteration."""
        seed = (self.settings.seed << 32) + trainer.updater.iteration
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
        now = varied(self.updater) if self.first else {}
        changed = {name: [self.first[name], number] for name, number in now.items()
                   if number != self.first.get(name, number)}
        return dataclasses.replace(self.settings, trained_by=trained_by, trained_on=trained_on,
                                   varied=changed)

    def serialize(self, serializer):
        """Save the settings and the other ranks' states; save or restore NumPy's generator."""
        is_saved = isinstance(serializer, chainer.Serializer)
        serializer('settings', self.now().to_json() if is_saved else None)
        for rank, own in enumerate(self.others, 1):
            for key, array in own.items():
                serializer(RANK_PREFIX.format(rank) + key, array)
        _, keys, position, has_gauss, cached = np.random.get_state()
        np.random.set_state((
            'MT19937', serializer('random_keys', keys), serializer('random_position', position),
            serializer('random_has_gauss', has_gauss), serializer('random_cached', cached)))


# What extensions vary in mid-run ----------------------------------------------------------------


def varied(updater):
    """Return by name what extensions may vary in mid-run, as numbers.

    These are Adam's numbers, C of the loss, the batch size, and for each parameter, by its path, 1,
    or 0 where it is frozen.
    """
    optimizer = updater.get_optimizer('main')
    hyperparam = getattr(models.without_ranks(optimizer), 'hyperparam', None)
    found = hyperparam.get_dict() if hyperparam else {}
    given = models.given_to_loss(updater.loss_func, optimizer.target)
    found |= {'C': given.get('C'),
              'batch_size': getattr(updater.get_iterator('main'), 'batch_size', None)}
    found |= {path: int(param.update_rule.enabled)
              for path, param in optimizer.target.namedparams() if param.update_rule is not None}
    return {name: number for name, number in found.items() if type(number) in (int, float)}


def vary(updater, had):
    """Give an updater the numbers that a run had when a snapshot was taken.

    If the script was edited to start with another number, that number stays.

    Args:
        updater (Updater): As the script made it.
        had (dict): By name [the number at the start, the number in the snapshot].
    """
    optimizer, first = updater.get_optimizer('main'), varied(updater)
    for name, (before, number) in had.items():
        if first.get(name) != before:
            continue
        if name == 'batch_size':
            updater.get_iterator('main').batch_size = min(
                max(1, int(number)), settings.MOST_COUNTED)
        elif name.startswith('/'):
            dict(optimizer.target.namedparams())[name].update_rule.enabled = bool(number)
        elif name != 'C':
            setattr(models.without_ranks(optimizer).hyperparam, name, number)
        elif {'C', 'k'} <= inspect.signature(optimizer.target.get_loss_func).parameters.keys():
            given = models.given_to_loss(updater.loss_func, optimizer.target)
            updater.loss_func = optimizer.target.get_loss_func(number, given.get('k', 1))


def kind_of(updater):
    """Say how it trains: `fast (how)`, `compiled parts (why)`, `standard (why)` or `standard`."""
    return getattr(updater, 'kind', 'standard')


# What each rank has for itself ------------------------------------------------------------------


def state_of_rank(trainer):
    """Return the arrays of `OWN_KEYS` that a rank has for itself: order of digits, and noise.

    All ranks are at the same place in their order.
    """
    serializer = serializers.DictionarySerializer()
    trainer.updater.get_iterator('main').serialize(serializer[state.ITERATOR_PREFIX])
    trainer.get_extension('run').serialize(serializer[RUN_PREFIX])
    return {key: serializer.target[key] for key in OWN_KEYS if key in serializer.target}


def of_rank(arrays, rank):
    """Return the arrays of a snapshot, which rank 0 wrote, as if this rank had written it."""
    prefix = RUN_PREFIX + RANK_PREFIX.format(rank)
    own = {key: arrays[prefix + key] for key in OWN_KEYS if prefix + key in arrays}
    others = RUN_PREFIX + RANK_PREFIX.partition('{')[0]
    return {key: array for key, array in arrays.items() if not key.startswith(others)
            and (rank == 0 or key not in OWN_KEYS)} | own


# Resuming ---------------------------------------------------------------------------------------


def make_exact(trainer, args, digits):
    """Let the snapshots of a trainer resume exactly; where it resumes, bring it to that point.

    Args:
        trainer (Trainer): That of this rank, with all its other extensions.
        args (argparse.Namespace): The command line; as from `options.parsed`.
        digits (mnist.Digits): Those that the run trains on.

    Raises:
        SnapshotError: If the snapshot to resume from does not fit.
    """
    comm, updater, stop = args.comm, trainer.updater, stopping.until_stopped(trainer)
    iterator = updater.get_iterator('main')
    if isinstance(iterator, MultiprocessIterator) and iterator.order_sampler is None:
        # with shuffle=False it has no order, and its serialize fails: this gives it 0, 1, 2, ...
        iterator.order_sampler = iterator._prefetch_loop.order_sampler = lambda order, _: order
        iterator.reset()
    for entry in trainer._extensions.values():
        # a snapshot comes after all extensions whose triggers have a state, so that it holds that
        if hasattr(entry.extension, 'writer') and entry.extension._target is None:
            entry.priority = min(entry.priority, AFTER_ALL)
    run = RunState(settings_of(updater, args, digits), updater, comm)
    run.first = varied(updater)
    trainer.extend(run)
    trainer.extend(watch.Watch(run.settings))
    if args.resumed is not None:
        had = comm.together(restore, trainer, digits, args.resumed, args.resume)
    if hasattr(updater, 'prove') and not stop.is_past(trainer):
        updater.prove()                         # the fast one, on the minibatch that comes now
    if args.resumed is not None and comm.rank == 0:
        warn_of_changes(had, run.now(), args.resume)
        models.warn_of_edits(had, args.resume)
        run.settings.methods = models.joined(had.methods)
        if had.kl_weight != run.settings.kl_weight:
            run.settings.kl_weight = None


def settings_of(updater, args, digits):
    """Return the settings of a run, of what the script made, and else of its command line."""
    model, iterator = updater.get_optimizer('main').target, updater.get_iterator('main')
    return settings.Settings(**{
        name: getattr(args, name) for name in settings.FIELDS if hasattr(args, name)} | {
        'activation': models.activation_of(model, args.activation), 'n_in': digits.train.shape[1],
        'batch_size': getattr(iterator, 'batch_size', args.batch_size),
        'dataset': digits.dataset, 'data_dir': digits.data_dir, 'checksum': digits.checksum,
        'device': 'CPU' if model.xp is np else 'GPU', 'ranks': args.comm.size,
        'methods': models.notes_of_net(), 'loss': models.describe_loss(updater.loss_func, model),
        'kl_weight': losses.kl_weight(updater.loss_func, model),
        'optimizer': models.describe_optimizer(updater.get_optimizer('main'))})


def restore(trainer, digits, arrays, path):
    """Bring the trainer of this rank to where a snapshot was taken; return the settings in that."""
    run, model = trainer.get_extension('run'), trainer.updater.get_optimizer('main').target
    had, ranks = snapshot.read_settings(arrays, path), run.settings.ranks
    snapshot.check_digits(had, digits, path)
    models.check_activation(had, model, path)
    models.check_optimizer(had, run.settings, path)
    if had.ranks != ranks:
        raise snapshot.SnapshotError(
            f'{path} is of {had.ranks} rank{"s" * (had.ranks > 1)}, and this run has {ranks}; '
            'start as many, or start a run from its weights, with -m')
    snapshot.check_model(arrays, model, path)
    state.load(of_rank(arrays, run.comm.rank), trainer, path)
    vary(trainer.updater, had.varied)
    return had


def warn_of_changes(had, now, path):
    """Warn of each change from the settings `had` to `now` that makes a resumed run differ."""
    words = {'device': 'on a {}', 'trained_by': 'by the {} updater', 'trained_on': 'on {}',
             'optimizer': 'by {}', 'loss': 'for the loss {}'}
    changes = [[text.format(getattr(run, name)) for run in (had, now)]
               for name, text in words.items() if getattr(had, name) and getattr(now, name)]
    changes += [[f'with {snapshot.describe_step(run.batch_size, run.ranks)}' for run in (had, now)]]
    for then, here in changes:
        if then != here:
            print(f'warning: {path} was trained {then}; {here} the run goes on, but not to '
                  'exactly the same result', file=sys.stderr)
