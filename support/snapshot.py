"""What a run leaves behind in its folder OUT, and how it is read again.

A snapshot is a Trainer snapshot of Chainer's (an npz of the model, Adam, the iterators and the
extensions), to which `RunState` adds the run's settings and random state. It is written under
another name and renamed. It is read without unpickling, and nothing in it is believed before it is
checked: a stranger's file is only data.
"""

import contextlib
import io
import json
import math
import os
import re
import shlex
import shutil
import sys
import tempfile
import warnings
import zipfile

from support import compat  # lets chainer import

from chainer import serializers, training
from chainer.training.extensions import snapshot_writers
import filelock
import numpy as np

INTERRUPTED = 'snapshot_interrupted'
EPOCH_PREFIX = 'snapshot_epoch_'            # followed by the number of the epoch
LOCK = '.lock'                              # file that a running run holds
EVERY, KEEP = 1, 5                          # epochs to a snapshot, and snapshots kept, by default
MOST = 10**6                                # of whatever a setting counts; more is a slip
GO_ON = 'put that right, then go on with --resume'
# where things are in a Trainer snapshot
MODEL_PREFIX = 'updater/model:main/'
ITERATION_KEY = 'updater/iteration'
ITERATOR_PREFIX = 'updater/iterator:main/'
EPOCH_KEY = ITERATOR_PREFIX + 'epoch'
POSITION_KEY = ITERATOR_PREFIX + 'current_position'
ORDER_KEY = ITERATOR_PREFIX + 'order'
OPTIMIZER_PREFIX = 'updater/optimizer:main/'
LOG_KEY = 'extensions/LogReport/_log'
SUMMARY_PREFIX = 'extensions/LogReport/_summary/'
RUN_PREFIX = 'extensions/run/'              # of RunState
SETTINGS_KEY = RUN_PREFIX + 'settings'
RANDOM_PREFIX = RUN_PREFIX + 'random_'
RANK_PREFIX = 'rank{}/'                     # there, of what another rank has for itself:
OWN_KEYS = (ORDER_KEY, *(RANDOM_PREFIX + of for of in ('keys', 'position', 'has_gauss', 'cached')))
SETTING_TYPES = {
    'n_in': int, 'dim_z': int, 'dim_h': int, 'activation': str, 'dataset': str,
    'data_dir': (str, type(None)), 'checksum': str, 'binary': bool, 'test': bool, 'seed': int,
    'beta': float, 'k': int, 'batch_size': int, 'epoch': int, 'snapshot_every': int, 'keep': int,
    'device': str, 'updater': str, 'trained_by': str, 'ranks': int, 'ranks_changed': bool}
LOSSES = ('loss', 'rec_loss', 'latent_loss')
LOG_TYPES = {'epoch': int, 'iteration': int, 'elapsed_time': (int, float)} | {
    f'{of}main/{name}': (int, float) for of in ('', 'validation/') for name in LOSSES}
MOST_LOSS = 1e30                            # float32 ends at 3e38, and pictures of it before


class SnapshotError(compat.UserError):
    """A snapshot or results folder cannot be used."""


class RunState(training.Extension):
    """Extension that makes a snapshot decide the future: what the Trainer alone would forget.

    That is the state of NumPy's generator. CuPy's has no state to save: the noise of an iteration
    follows from the seed and its number instead, from which CuPy is seeded anew before each.

    Args:
        settings (dict): The settings of the run: all that a reader of the snapshot needs, with
            the keys and types of `SETTING_TYPES`.
        seed_noise (callable): CuPy's `random.seed`, or None where NumPy makes the noise.
        comm (chainermn.CommunicatorBase): Where this is one of several ranks, that of all.
    """

    default_name = 'run'

    def __init__(self, settings, seed_noise=None, comm=None):
        self.settings = settings
        self.seed_noise = seed_noise
        self.comm = comm
        self.rank = 0 if comm is None else comm.rank
        self.others = []        # what the snapshot needs of the ranks 1, 2, ...

    def trigger(self, trainer):
        """Fire after each iteration where CuPy makes the noise."""
        return self.seed_noise is not None

    def initialize(self, trainer):
        """Seed the noise of the first iteration of a run, or of the first after a snapshot."""
        if self.trigger(trainer):
            self(trainer)

    def __call__(self, trainer):
        """Seed the noise of the next iteration."""
        seed = (self.settings['seed'] << 32) + trainer.updater.iteration
        if self.rank > 0:
            mixed = np.random.SeedSequence([seed, self.rank])
            seed = int(mixed.generate_state(1, np.uint64)[0])
        self.seed_noise(seed)

    def gather(self, trainer):
        """Bring what each rank has for itself to rank 0, for its snapshot; all ranks call this."""
        if self.comm is not None:
            self.others = (self.comm.gather_obj(state_of_rank(trainer)) or [])[1:]

    def serialize(self, serializer):
        """Save the settings and the other ranks' states; save or restore NumPy's generator."""
        serializer('settings', json.dumps(self.settings))
        for rank, state in enumerate(self.others, 1):
            for key, array in state.items():
                serializer(RANK_PREFIX.format(rank) + key, array)
        _, keys, position, has_gauss, cached = np.random.get_state()
        np.random.set_state((
            'MT19937', serializer('random_keys', keys), serializer('random_position', position),
            serializer('random_has_gauss', has_gauss), serializer('random_cached', cached)))


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


# Writing --------------------------------------------------------------------------------------


@contextlib.contextmanager
def replacing(path, mend='put that right, or name another folder with -o'):
    """Open a binary file that takes the name `path` only once it is whole and on the disk.

    Args:
        path (str): The file; until then its name is hidden, and this process's own.
        mend (str): What helps where it cannot be written, for the message.

    Raises:
        SnapshotError: If it cannot be written; what was at `path` is then as before.
    """
    folder, name = os.path.split(path)
    part = os.path.join(folder, f'.{name}.{os.getpid()}.part')
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
            cause = error.strerror or error
            raise SnapshotError(f'cannot write {path} ({cause}); {mend}') from None
        raise
    with contextlib.suppress(OSError):      # the new name, too; Windows cannot
        descriptor = os.open(folder or '.', os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def write_text(out, name, text, **options):
    """Write OUT/name whole, in UTF-8; `options` are for `replacing`."""
    with replacing(os.path.join(out, name), **options) as file:
        file.write(text.encode())


def write_npz(path, arrays, mend, save=np.savez):
    """Write arrays as an npz, whole.

    Args:
        path (str): The file.
        arrays (dict): The arrays by name.
        mend (str): As for `replacing`.
        save (callable): `np.savez`, or `np.savez_compressed`.
    """
    content = io.BytesIO()      # where a disk is full, NumPy 1 leaves its zip open and complains
    save(content, **arrays)
    with replacing(path, mend) as file:
        file.write(content.getbuffer())


class Writer(snapshot_writers.Writer):
    """Writer for `chainer.training.extensions.snapshot`: whole files of finite weights only.

    Of the snapshots up to the epoch just written it keeps the newest, and deletes a
    `snapshot_interrupted` of no more iterations.

    Args:
        keep (int): How many to keep.
        resumed (str): The snapshot that the run goes on from, if it does.

    Attributes:
        iteration (int): At which the last snapshot was taken, or None.
    """

    def __init__(self, keep, resumed=None):
        super().__init__()
        self.keep = keep
        self.resumed = resumed
        self.iteration = None

    def __call__(self, filename, outdir, target):
        """Write the arrays `target` as OUT/filename.

        Raises:
            FloatingPointError: If a weight of the model is not finite; nothing is written then.
        """
        for key, array in target.items():
            if key.startswith(MODEL_PREFIX) and not np.isfinite(array).all():
                epoch = int(target[EPOCH_KEY]) + (filename == INTERRUPTED)
                raise not_finite(f'weight {key[len(MODEL_PREFIX):]}', epoch,
                                 target[ITERATION_KEY], outdir, self.resumed)
        write_npz(os.path.join(outdir, filename), target, GO_ON)
        self.iteration = int(target[ITERATION_KEY])
        if filename != INTERRUPTED:
            self.clean(outdir, epoch_of(filename))

    def clean(self, outdir, epoch):
        """Delete what the snapshot of this epoch, now whole, makes superfluous."""
        old = [path for path in find(outdir) if 0 <= epoch_of(path) <= epoch][:-self.keep]
        interrupted = os.path.join(outdir, INTERRUPTED)
        if os.path.exists(interrupted):
            with contextlib.suppress(SnapshotError):
                old += [interrupted] * (read_iteration(interrupted) <= self.iteration)
        for path in old:
            with contextlib.suppress(FileNotFoundError):
                os.remove(path)

    def interrupt(self, trainer):
        """Write `snapshot_interrupted`, which stands at an iteration rather than at an epoch."""
        self(INTERRUPTED, trainer.out, serializers.npz.serialize(trainer))


def not_finite(what, epoch, iteration, out, resumed):
    """Return the FloatingPointError that ends a run, which names its last good snapshot.

    Args:
        what (str): What is not finite.
        epoch, iteration (int): Where that was seen; epochs count from 1.
        out (str): The folder of the run.
        resumed (str): The snapshot that it went on from, or None.
    """
    last = resumed or 'none'
    with contextlib.suppress(SnapshotError):
        last = newest(out)
    return FloatingPointError(
        f'the {what} is not finite in epoch {epoch}, iteration {iteration}; stopped, last good '
        f'snapshot: {last}; try a smaller --beta, or other weights')


@contextlib.contextmanager
def claim(out, overwrite=False, resumed=None):
    """Hold a folder for a run to write to, so that no second run writes there meanwhile.

    Args:
        out (str): The folder, made if need be, and deleted again where nothing comes to lie in it.
        overwrite (bool): Whether another run's snapshots in it may be lost.
        resumed (str): The snapshot that the run goes on from, if it does.

    Raises:
        SnapshotError: If it cannot be written, is in use, or holds another run's snapshots.
    """
    is_new = not os.path.exists(out)
    make_folder(out, '' if resumed is None else f'--resume {shlex.quote(resumed)} and ')
    lock = filelock.FileLock(os.path.join(out, LOCK), timeout=0)    # the system's: dies with us
    try:
        lock.acquire()
    except filelock.Timeout:
        raise SnapshotError(f'{out} is in use by another run; wait for its end, or name another '
                            'folder with -o') from None
    except (OSError, NotImplementedError) as error:
        raise SnapshotError(f'cannot lock {os.path.join(out, LOCK)} ({error}); name another '
                            'folder with -o') from None
    try:
        own = resumed is not None and os.path.samefile(os.path.dirname(resumed) or '.', out)
        if find(out) and not own and not overwrite:
            ways = '' if resumed else 'go on with it by --resume, replace it by --overwrite, or '
            raise SnapshotError(f'{out} holds the snapshots of an earlier run; {ways}name another '
                                'folder with -o')
        for name in os.listdir(out):        # what a run killed in mid-write left
            if re.fullmatch(r'\.(snapshot_.+|log|loss\.png|args\.json|cg\.dot)\.\d+\.part', name):
                os.remove(os.path.join(out, name))
        yield
    finally:
        with contextlib.suppress(OSError):
            if is_new and os.listdir(out) == [LOCK]:
                os.remove(os.path.join(out, LOCK))
                os.rmdir(out)
        lock.release()


def check_room(out, model, n_digits, keep, overwrite, more):
    """Make sure that the snapshots of a run have room on the disk.

    Args:
        out (str): The folder of the run.
        model (VAE): The model; a snapshot holds its weights, and Adam's two moments of each.
        n_digits (int): Digits to train on; a snapshot holds the order of their shuffling.
        keep (int): How many snapshots are kept, besides the one that is being written.
        overwrite (bool): Whether those that are there will be deleted.
        more (int): How many will be written.

    Raises:
        SnapshotError: If they have not.
    """
    old = find(out)
    free = shutil.disk_usage(out).free
    if overwrite:
        free += sum(os.path.getsize(path) for path in old)
        old = []
    new = max(1, min(keep + 1, len(old) + more) - len(old))
    needed = new * (3 * sum(param.array.nbytes for param in model.params()) + 8 * n_digits)
    if free < needed:
        raise SnapshotError(
            f'{out} has {free / 1e6:.1f} MB free, and {new} new snapshots take '
            f'{needed / 1e6:.1f} MB; make room there, give a smaller --keep, or name another '
            'folder with -o')


def make_folder(out, mend=''):
    """Make the folder `out`, if need be, and make sure that it can be written to.

    Args:
        out (str): The folder.
        mend (str): What else to give with another folder, for the message.

    Raises:
        SnapshotError: If it cannot.
    """
    try:
        os.makedirs(out, exist_ok=True)
        with tempfile.TemporaryFile(dir=out):
            pass
    except OSError as error:
        raise SnapshotError(f'cannot write to {shlex.quote(out)} ({error.strerror}); '
                            f'give {mend}another folder with -o') from None


def clear(out):
    """Delete the snapshots and the log of an earlier run from the folder `out`."""
    for path in [*find(out), *(os.path.join(out, name) for name in ('log', 'loss.png'))]:
        with contextlib.suppress(FileNotFoundError):
            os.remove(path)


# Reading --------------------------------------------------------------------------------------


def find(out):
    """Return the paths of all snapshots in the folder `out`, by their epochs.

    Raises:
        SnapshotError: If the folder cannot be read.
    """
    try:
        paths = [entry.path for entry in os.scandir(out) if entry.is_file()
                 and (entry.name == INTERRUPTED or epoch_of(entry.name) >= 0)]
    except OSError as error:
        raise SnapshotError(f'cannot read the folder {shlex.quote(out)} ({error.strerror}); '
                            'give another with -o') from None
    return sorted(paths, key=epoch_of)


def epoch_of(path):
    """Return the number of the epoch in the name of a snapshot, -1 where it has none."""
    match = re.fullmatch(EPOCH_PREFIX + '([0-9]+)', os.path.basename(path))
    return int(match[1]) if match else -1


def newest(out):
    """Return the path of the whole snapshot with the most iterations in the folder `out`.

    Of each damaged one that has more, or does not tell, it warns on stderr.

    Raises:
        SnapshotError: If there is none.
    """
    paths = find(out) if os.path.isdir(out) else []
    iterations = {}
    for path in paths:
        with passing_over():
            iterations[path] = read_iteration(path)
    for path in sorted(iterations, key=lambda path: (iterations[path], epoch_of(path)))[::-1]:
        with passing_over():
            settings(read(path), path)
            return path
    raise SnapshotError(
        f'there is no whole snapshot in {out}; train anew with --overwrite' if paths else
        f'there is no snapshot in {out}; name the folder of the run with -o, or train first')


@contextlib.contextmanager
def passing_over():
    """Turn a SnapshotError into a warning on stderr."""
    try:
        yield
    except SnapshotError as error:
        cause = str(error).rpartition('; ')[0]      # without its advice
        print(f'warning: passed over: {cause}', file=sys.stderr)


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
    """Read an npz of arrays, as `read_npz` does.

    Args:
        path (str): A snapshot, or a model saved by `chainer.serializers.save_npz`.
        only (str): The one array to read; by default all are read.

    Returns:
        dict: The arrays by name.

    Raises:
        SnapshotError: If it is missing or damaged.
    """
    try:
        return read_npz(path, only)
    except MemoryError:
        raise
    except OSError as error:
        raise SnapshotError(f'cannot read the snapshot {path} ({error.strerror}); '
                            'name a file that a run left') from None
    except Exception as error:      # whatever zipfile and NumPy make of a damaged file
        raise SnapshotError(f'{path} is not a snapshot, or damaged ({describe(error)}); '
                            'use another') from None


def read_npz(path, only=None, most=None):
    """Read an npz of arrays, without unpickling anything.

    What the file claims to hold is checked before memory is taken.

    Args:
        path (str): The file.
        only (str): The one array to read; by default all are read.
        most (int): Bytes that the arrays may take together; by default 1 MiB, and 4 times the
            file's own size: random floats barely compress.

    Returns:
        dict: The arrays by name.

    Raises:
        OSError, ValueError: If it is missing or damaged; zipfile and NumPy raise others, too.
    """
    if os.path.exists(path) and not os.path.isfile(path):
        raise ValueError('it is no file')       # to open a pipe might wait for ever
    with open(path, 'rb') as file:
        if not zipfile.is_zipfile(file):
            raise ValueError('it is no whole npz file')
        file.seek(0)
        # not np.load, which would believe the header of an array before the zip
        with warnings.catch_warnings(), np.lib.npyio.NpzFile(file, allow_pickle=False) as npz:
            warnings.simplefilter('ignore')     # of NumPy, about an odd header
            check_claims(npz.zip, most or 2**20 + 4 * os.path.getsize(path))
            return {key: npz[key] for key in npz.files if only in (None, key)}


def check_claims(archive, most):
    """Make sure that the members of an npz are arrays of the sizes that they claim.

    Args:
        archive (zipfile.ZipFile): The npz.
        most (int): Bytes that all may take together.

    Raises:
        ValueError: If they are not.
    """
    members = archive.infolist()
    if sum(member.file_size for member in members) > most:
        raise ValueError(f'it claims more than {most} bytes')
    for member in members:
        if member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            raise ValueError('it is compressed as no npz is')   # LZMA may claim any memory
        with archive.open(member) as file:
            version, _ = np.lib.format.read_magic(file)
            if version > 2:
                raise ValueError(f'{member.filename} is no array of numbers')
            shape, _, dtype = (np.lib.format.read_array_header_1_0 if version == 1 else
                               np.lib.format.read_array_header_2_0)(file)
            if dtype.hasobject:
                raise ValueError('it holds Python objects, which could run code')
            if not dtype.itemsize or min(shape, default=0) < 0 or member.file_size != (
                    file.tell() + math.prod(shape) * dtype.itemsize):
                raise ValueError(f'{member.filename} is not the array that it claims')


def describe(error):
    """Return the first line of an exception's message, or its name where it has none."""
    return compat.printable((str(error).splitlines() or [type(error).__name__])[0])


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
        # what the first snapshots lack
        found = {'snapshot_every': EVERY, 'keep': KEEP, 'device': 'CPU', 'updater': 'standard',
                 'trained_by': 'standard', 'ranks': 1, 'ranks_changed': False}
        found |= json.loads(str(arrays[SETTINGS_KEY]))
        found = {key: found[key] for key in SETTING_TYPES}
        n_in, dim_h, dim_z = (found[key] for key in ('n_in', 'dim_h', 'dim_z'))
        fits = (all(has_type(found[key], kind) for key, kind in SETTING_TYPES.items())
                and all(0 < value <= MOST for key, value in found.items()
                        if SETTING_TYPES[key] is int and key != 'seed')
                and 0 <= found['seed'] < 2**32 and 0 < found['beta'] < math.inf
                and found['dataset'] in ('mnist', 'digits') and found['device'] in ('CPU', 'GPU')
                and found['updater'] in ('fast', 'standard')
                and found['trained_by'] in ('fast', 'standard')
                and all(is_float32(arrays[MODEL_PREFIX + key], shape) for key, shape in (
                    ('le1/W', (dim_h, n_in)), ('le2/W', (dim_h, dim_h)),
                    ('le3_mu/W', (dim_z, dim_h)))))
    except (KeyError, TypeError, ValueError, RecursionError):
        fits = False
    if not fits:
        raise SnapshotError(f'{path} does not hold a run of train_vae.py; use another snapshot')
    return found


def is_float32(array, shape):
    """Tell whether an array from a file is of this shape and float32, in whatever byte order."""
    return array.shape == shape and array.dtype.type is np.float32


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
        if found is None or not is_float32(found, weights.shape):
            had = 'no such weights' if found is None else f'{found.dtype} of shape {found.shape}'
            raise SnapshotError(
                f'{path} is of another model: its {name[1:]} is {had}, not float32 of shape '
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


def of_rank(arrays, rank):
    """Return the arrays of a snapshot with what this rank had for itself, not any other.

    Args:
        arrays (dict): As from `read`, of a snapshot that rank 0 wrote for as many ranks as now.
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
        arrays (dict): As from `read`.
        trainer (Trainer): That of this rank, fresh.

    Raises:
        KeyError, TypeError, ValueError: If they are no snapshot's.
    """
    iterator = trainer.updater.get_iterator('main')
    n, state = len(iterator.dataset), trainer.get_extension('run')
    np.random.seed([state.settings['seed'], state.rank, int(arrays[ITERATION_KEY])])
    iterator.reset()            # to a new order
    position = int(arrays[POSITION_KEY]) * n // len(arrays[ORDER_KEY])
    detail = np.array(int(arrays[EPOCH_KEY]) + position / n)
    return of_root(arrays) | state_of_rank(trainer) | {POSITION_KEY: np.array(position)} | {
        key: detail for key in of_root(arrays)
        if key.startswith('extension') and key.endswith('/previous_epoch_detail')}


def load_trainer(arrays, had, trainer, path):
    """Bring a Trainer, random state included, to where a snapshot was taken.

    Where that was on another number of ranks, it comes only near to there, and its `RunState` keeps
    that in mind.

    Args:
        arrays (dict): As from `read`.
        had (dict): The settings in them, as from `settings`.
        trainer (Trainer): Trainer of the same model and extensions, with a `RunState`.
        path (str): Where the arrays come from, for the message.

    Raises:
        SnapshotError: If they do not fit the trainer.
    """
    load_model(arrays, trainer.updater.get_optimizer('main').target, path)
    state = trainer.get_extension('run')
    same = had['ranks'] == state.settings['ranks']
    try:
        arrays = of_rank(arrays, state.rank) if same else share_anew(arrays, trainer)
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
        raise SnapshotError(f'{path} is damaged, or of another version ({describe(error)}); '
                            'use another snapshot') from None


def check_state(arrays, updater, ranks_changed):
    """Make sure that the arrays of a snapshot are a state that `updater` can be in.

    Args:
        arrays (dict): As from `read`.
        updater (Updater): Updater of the same model, digits and minibatches.
        ranks_changed (bool): Whether the run was on another number of ranks for some time, so
            that its iterations do not tell its epochs.

    Raises:
        ValueError, KeyError: If they are not.
    """
    iterator = updater.get_iterator('main')
    n = len(iterator.dataset)
    epoch, position, iteration = (int(arrays[key]) for key in (
        EPOCH_KEY, POSITION_KEY, ITERATION_KEY))
    params = {OPTIMIZER_PREFIX + name[1:]: param
              for name, param in updater.get_optimizer('main').target.namedparams()}
    log = json.loads(str(arrays[LOG_KEY]))
    possible = {
        'order of the digits': arrays[ORDER_KEY].shape == (n,) and np.array_equal(
            np.sort(arrays[ORDER_KEY]), np.arange(n)),
        'place in the digits': 0 <= position < n and epoch >= 0 and (
            ranks_changed or epoch * n + position == iteration * iterator.batch_size),
        'time of Adam': all(int(arrays[key]) == iteration for key in (
            OPTIMIZER_PREFIX + 't', *(prefix + '/t' for prefix in params))),
        'moments of Adam': all(
            arrays[prefix + moment].shape == param.shape
            and arrays[prefix + moment].dtype == param.dtype
            for prefix, param in params.items() for moment in ('/m', '/v'))
            and all((arrays[prefix + '/v'] >= 0).all() for prefix in params),
        'triggers': all(
            array == (iteration if key.endswith('/previous_iteration') else epoch + position / n)
            for key, array in arrays.items()
            if key.startswith('extension') and '/previous_' in key),
        # a row an epoch; where a minibatch is more than an epoch, a row an iteration
        'log': isinstance(log, list) and (
            len(log) == min(epoch, iteration) or (ranks_changed and len(log) <= epoch)) and all(
            (row['epoch'] == max(i, i * iterator.batch_size // n) or ranks_changed)
            and all(has_type(row[key], kind) and abs(row[key]) < MOST_LOSS
                    for key, kind in LOG_TYPES.items())
            for i, row in enumerate(log, 1)),
        'random state': 0 <= int(arrays[RANDOM_PREFIX + 'position']) <= 624
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
        arrays (dict): As from `read`.
        trainer (Trainer): As it is after loading them.

    Raises:
        ValueError, KeyError: If it does not.
    """
    held = serializers.DictionarySerializer()
    with contextlib.suppress(RuntimeError):     # the elapsed time, its last, needs a started run
        trainer.serialize(held)
    for key, array in held.target.items():
        optional = key.startswith('extension_triggers/') and key not in arrays
        if key != SETTINGS_KEY and not optional and not (
                arrays[key].shape == np.shape(array) and np.array_equal(arrays[key], array)):
            raise ValueError(f'its {key} does not fit')
