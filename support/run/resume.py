"""Exact resume: what a snapshot needs so that a resumed run ends as one that nothing stopped."""

import dataclasses
import inspect
import re
import sys
import zlib

from support.base import command  # lets chainer import
from support.run import models, settings, snapshot, state, stopping

import chainer
from chainer import serializers, training
from chainer.iterators import MultiprocessIterator
import numpy as np

RUN_PREFIX = 'extensions/run/'              # of RunState in a Trainer snapshot
RANK_PREFIX = RUN_PREFIX + 'rank'           # there, with a number: of what another rank has
AFTER_ALL = -150            # priority of snapshots; only PlotReport, which has no state, is later
OWN_KEYS = (*state.ORDER_KEYS, *(state.RANDOM_PREFIX + name for name in (
    'keys', 'position', 'has_gauss', 'cached')))


class RunState(training.Extension):
    """Extension that saves what the Trainer alone would forget, so that a resumed run is exact.

    That is the settings of the run, and the state of NumPy's generator. CuPy's state cannot be
    saved: before each iteration it is seeded anew, from the seed of the run and the iteration.
    It also notes that the weight of the KL changed, and warns of what snapshots lack.
    """

    default_name = 'run'
    trigger = staticmethod(lambda trainer: True)    # without a state, which snapshots would hold

    def __init__(self, settings, updater, comm):
        self.settings, self.updater, self.comm = settings, updater, comm
        self.first = {}         # what `varied` returned at the start
        self.numbers = {}       # of the optimizer, as `vary` left them
        self.others = []        # what the snapshot needs of the ranks 1, 2, ...
        self.trainer = self.at_start = self.loss_func = None

    def initialize(self, trainer):
        """Remember what the model is like at the start, and seed the noise that comes now."""
        self.trainer, self.at_start = trainer, unsaved(model_of(self.updater))
        self.loss_func = getattr(self.updater, 'loss_func', None)
        for name, number in self.numbers.items():
            setattr(self.updater.get_optimizer('main').hyperparam, name, number)
        self(trainer)

    def __call__(self, trainer):
        """Look whether the loss function is another; seed the noise of the next iteration."""
        now = getattr(self.updater, 'loss_func', None)
        if now is not self.loss_func and self.settings.kl_weight is not None:
            self.loss_func = now
            if models.describe_loss(now, model_of(self.updater))[1] != self.settings.kl_weight:
                self.settings.kl_weight = None
        if self.settings.device == 'GPU':
            seed = (self.settings.seed << 32) + trainer.updater.iteration
            if self.comm.rank > 0:
                mixed = np.random.SeedSequence([seed, self.comm.rank])
                seed = int(mixed.generate_state(1, np.uint64)[0])
            self.updater.device.xp.random.seed(seed)

    def gather(self):
        """Let all ranks have each other's order of digits and noise; all call this at once."""
        if self.comm.size > 1:
            serializer = serializers.DictionarySerializer()
            self.updater.get_iterator('main').serialize(serializer[state.ITERATOR_PREFIX])
            self.serialize_noise(serializer[RUN_PREFIX])
            own = {key: serializer.target[key] for key in OWN_KEYS if key in serializer.target}
            self.others = self.comm.of_all(own)[1:]

    def now(self):
        """Return the settings of the run as they are at this moment."""
        trained_by = getattr(self.updater, 'kind', 'standard').split()[0]
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
                serializer(f'rank{rank}/{key}', array)
        self.serialize_noise(serializer)
        if is_saved and self.at_start is not None:
            self.warn_of_unsaved()

    def serialize_noise(self, serializer):
        """Save or restore NumPy's generator."""
        _, keys, position, has_gauss, cached = np.random.get_state()
        np.random.set_state((
            'MT19937', serializer('random_keys', keys), serializer('random_position', position),
            serializer('random_has_gauss', has_gauss), serializer('random_cached', cached)))

    def warn_of_unsaved(self):
        """Warn of what training changes on the model, but snapshots lack, such as a counter."""
        at_start, self.at_start = self.at_start, None
        reported = {*snapshot.LOSSES, *(key.split('/')[-1] for key in self.trainer.observation)}
        changed = [name for name, value in unsaved(model_of(self.updater)).items()
                   if name.split('/')[-1] not in reported and value != at_start.get(name)]
        if changed:
            print(command.printable(
                f'warning: training changes {", ".join(changed)} of the model, which snapshots '
                'lack and a resumed run does not get back; self.add_persistent(NAME, START) in '
                '__init__, in the place of self.NAME = START, keeps it'), file=sys.stderr)


def model_of(updater):
    """Return the model that an updater trains."""
    return updater.get_optimizer('main').target


def unsaved(model):
    """Return shape, type and checksum of each plain attribute of a model that is a number."""
    found, send = {}, chainer.get_device('@numpy').send
    numeric = int, float, np.number, np.bool_, *chainer.get_array_types()
    for path, link in model.namedlinks():
        for name, value in vars(link).items():
            if name not in link._persistent and isinstance(value, numeric):
                array = np.ascontiguousarray(value if np.isscalar(value) else send(value))
                found[f'{path}/{name}'.lstrip('/')] = None if array.dtype.hasobject else (
                    np.shape(value), array.dtype.str, zlib.crc32(array.reshape(-1).view(np.uint8)))
    return found


def varied(updater):
    """Return by name the numbers that extensions may vary in mid-run; of a parameter, 1 or 0."""
    optimizer = updater.get_optimizer('main')
    hyperparam = getattr(optimizer, 'hyperparam', None)
    found = hyperparam.get_dict() if hyperparam else {}
    given = models.given_to_loss(updater.loss_func, optimizer.target)
    found |= {'C': given.get('C'),
              'batch_size': getattr(updater.get_iterator('main'), 'batch_size', None)}
    found |= {path: int(param.update_rule.enabled)
              for path, param in optimizer.target.namedparams() if param.update_rule is not None}
    return {name: number for name, number in found.items() if type(number) in (int, float)}


def vary(updater, had):
    """Give an updater the numbers of a snapshot: by name, that at the start, and that then.

    Those of the optimizer are returned. They have to wait until the extensions are initialized, as
    Chainer's shifts take what they find in the optimizer for the number at the start.
    """
    optimizer, first, waiting = updater.get_optimizer('main'), varied(updater), {}
    for name, (before, number) in had.items():
        if first.get(name) != before:           # the script was edited, and that counts
            continue
        if name == 'batch_size':
            updater.get_iterator('main').batch_size = min(
                max(1, int(number)), settings.MOST_COUNTED)
        elif name.startswith('/'):
            dict(optimizer.target.namedparams())[name].update_rule.enabled = bool(number)
        elif name != 'C':
            waiting[name] = number
        elif {'C', 'k'} <= inspect.signature(optimizer.target.get_loss_func).parameters.keys():
            given = models.given_to_loss(updater.loss_func, optimizer.target)
            updater.loss_func = optimizer.target.get_loss_func(number, given.get('k', 1))
    return waiting


def make_exact(trainer, args, digits):
    """Let the snapshots of a trainer resume exactly; where it resumes, bring it to that point.

    It has all its other extensions by now; `args` are from `options.parsed`.

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
    model, iterator = model_of(updater), updater.get_iterator('main')
    loss, kl_weight = models.describe_loss(updater.loss_func, model)
    return settings.Settings(**{
        name: getattr(args, name) for name in settings.FIELDS if hasattr(args, name)} | {
        'activation': models.activation_of(model, args.activation), 'n_in': digits.train.shape[1],
        'batch_size': getattr(iterator, 'batch_size', args.batch_size),
        'dataset': digits.dataset, 'data_dir': digits.data_dir, 'checksum': digits.checksum,
        'device': 'CPU' if model.xp is np else 'GPU', 'ranks': args.comm.size,
        'methods': models.notes_of_net(), 'loss': loss, 'kl_weight': kl_weight,
        'optimizer': models.describe_optimizer(updater.get_optimizer('main'))})


def restore(trainer, digits, arrays, path):
    """Bring the trainer of this rank to where a snapshot was taken; return the settings in that."""
    run, model = trainer.get_extension('run'), model_of(trainer.updater)
    had, ranks = snapshot.read_settings(arrays, path), run.settings.ranks
    snapshot.check_digits(had, digits, path)
    models.check_activation(had, model, path)
    names = [re.findall(r'^\w+|\w+=True', of.optimizer) for of in (had, run.settings)]
    if names[0] and names[0] != names[1]:
        raise snapshot.SnapshotError(
            f'{path} was trained by {had.optimizer}, and train_vae.py has {run.settings.optimizer};'
            ' use it with the train_vae.py that trained it, or start a run from its weights, '
            'with -m')
    if had.ranks != ranks:
        raise snapshot.SnapshotError(
            f'{path} is of {had.ranks} rank{"s" * (had.ranks > 1)}, and this run has {ranks}; '
            'start as many, or start a run from its weights, with -m')
    snapshot.check_model(arrays, model, path)
    rank = run.comm.rank                        # rank 0 wrote what each has for itself
    own = {key: arrays[f'{RANK_PREFIX}{rank}/{key}'] for key in OWN_KEYS
           if f'{RANK_PREFIX}{rank}/{key}' in arrays}
    state.load({key: array for key, array in arrays.items() if not key.startswith(RANK_PREFIX)
                and (rank == 0 or key not in OWN_KEYS)} | own, trainer, path)
    run.numbers = vary(trainer.updater, had.varied)
    return had


def warn_of_changes(had, now, path):
    """Warn of each change from the settings `had` to `now` that makes a resumed run differ."""
    words = {'device': 'on a {}', 'trained_by': 'by the {} updater', 'trained_on': 'on {}',
             'optimizer': 'by {}', 'loss': 'for the loss {}',
             'batch_size': 'with minibatches of {}'}
    for name, text in words.items():
        then, here = (text.format(getattr(run, name)) for run in (had, now))
        if then != here and getattr(had, name) and getattr(now, name):
            print(f'warning: {path} was trained {then}; {here} the run goes on, but not to '
                  'exactly the same result', file=sys.stderr)
