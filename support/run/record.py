"""What a run notes of its model at the start and after each epoch, for training.gif to show.

One small file an epoch, OUT/record/epoch_N.npz: codes, reconstructions and samples, by the model as
a test digit meets it. To note it changes neither the run nor its random numbers.
"""

import glob
import os
import re
import sys

from support.base import files, npz  # lets chainer import
from support.data import mnist
from support.run import observe

import chainer
from chainer import training
from chainer.backends import cuda
import numpy as np

FOLDER = 'record'
CODES, SAMPLES = 500, 25        # test digits whose codes are noted, and digits that are sampled


class Record(training.Extension):
    """Extension that notes what the model makes of some test digits.

    A file has the arrays `mu` and `ln_var`, (n, Z) float32, of up to `CODES` test digits spaced
    evenly, at `places` (n,); `reconstruction` (c, D) uint8 of the first test digit of each of c
    classes; and `samples` (25, D) uint8, decoded from z ~ N(0, I) that are the same in each file.
    What an edited net.py does not give is left out.

    Args:
        digits (mnist.Digits): Those of the run.
    """

    priority = training.PRIORITY_READER     # before the snapshot of the epoch

    def __init__(self, digits):
        self.places = mnist.spaced_places(len(digits.test), CODES)
        self.x = digits.test[self.places]
        self.first = digits.test[[*mnist.first_of_each(digits).values()]]
        self.has_warned = False

    def trigger(self, trainer):
        """Fire after an epoch; a trigger without a state adds nothing to snapshots."""
        return trainer.updater.is_new_epoch

    def __call__(self, trainer):
        """Note the model as it is now; delete notes of later epochs, which an earlier run left."""
        model, epoch = trainer.updater.get_optimizer('main').target, trainer.updater.epoch
        folder = os.path.join(trainer.out, FOLDER)
        try:
            os.makedirs(folder, exist_ok=True)
            files.write_npz(path_of(folder, epoch), {'places': self.places} | self.note(model), '',
                            np.savez_compressed)
            killed = glob.glob(os.path.join(glob.escape(folder), '.epoch_*.part'))
            later = [path for of, path in epochs_in(folder).items() if of > epoch]
            for path in killed + later:
                os.remove(path)
        except (OSError, files.FileError) as error:
            self.warn(f'epoch {epoch} is not noted ({files.describe(error)})')

    def note(self, model):
        """Return the arrays of a file, by name."""
        def send(x):
            return model.xp.asarray(x, np.float32)

        def codes_of(x):
            codes = model.encode(send(x))
            return codes if isinstance(codes, (tuple, list)) else (codes,)

        found = {}
        with observe.as_tested(model):
            try:
                found |= {name: array_of(code) for name, code in zip(
                    ('mu', 'ln_var'), codes_of(self.x), strict=False)}
                z = np.random.RandomState(0).standard_normal((SAMPLES, found['mu'].shape[1]))
                found['samples'] = pixels_of(model.decode(send(z)))
                found['reconstruction'] = pixels_of(model.decode(codes_of(self.first)[0]))
            except Exception as error:      # of net.py's, which may be edited
                if chainer.is_debug():
                    raise
                self.warn(f'some of it is left out ({type(error).__name__}: '
                          f'{files.describe(error)})')
        return found

    def warn(self, what):
        """Say once what the record lacks."""
        if not self.has_warned:
            print(f'warning: the record for training.gif is not whole: {what}; the run goes on',
                  file=sys.stderr)
        self.has_warned = True


def array_of(variable):
    """Return a Variable or an array as a NumPy array."""
    return cuda.to_cpu(getattr(variable, 'array', variable))


def pixels_of(variable):
    """Return pixels in [0, 1] as bytes."""
    return np.clip(np.nan_to_num(array_of(variable)) * 255, 0, 255).round().astype(np.uint8)


def path_of(folder, epoch):
    """Return the path of the file of an epoch."""
    return os.path.join(folder, f'epoch_{epoch}.npz')


def epochs_in(folder):
    """Return the files of a record by epoch, a dict in order."""
    found = {}
    for path in glob.glob(os.path.join(glob.escape(folder), 'epoch_*.npz')):
        match = re.fullmatch(r'epoch_(\d+)\.npz', os.path.basename(path))
        if match:
            found[int(match[1])] = path
    return dict(sorted(found.items()))


def read(out, last):
    """Read the record of a run.

    Args:
        out (str): The folder of the run.
        last (int): The last epoch to read.

    Returns:
        dict: For each epoch up to `last` its arrays by name, as `Record` notes them. A file that
        cannot be read is left out.
    """
    record = {}
    for epoch, path in epochs_in(os.path.join(out, FOLDER)).items():
        if epoch <= last:
            try:
                record[epoch] = npz.read(path, most=10**8)
            except (OSError, ValueError):
                continue
    return record
