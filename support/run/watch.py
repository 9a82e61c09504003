"""What training changes on a model besides its weights, and whether its snapshots have that.

Chainer saves parameters and persistent values. A plain attribute, such as a counter, is lost.
"""

import sys
import zlib

from support.base import command  # lets chainer import
from support.run import losses, snapshot

import chainer
from chainer import training
import numpy as np


class Watch(training.Extension):
    """Warns at the first snapshot of what that lacks, and sees the weight of the KL change.

    Args:
        settings (settings.Settings): Of the run; its `kl_weight` becomes None once the loss
            function is another and has another weight.
    """

    default_name = 'watch'

    def __init__(self, settings):
        self.settings = settings
        self.trainer = self.at_start = self.loss_func = None

    def trigger(self, trainer):
        """Fire after each iteration; without a state, which snapshots would hold."""
        return True

    def initialize(self, trainer):
        """Remember what the model is like at the start of training."""
        self.trainer, self.at_start = trainer, unsaved(model_of(trainer))
        self.loss_func = getattr(trainer.updater, 'loss_func', None)

    def __call__(self, trainer):
        """If the loss function is another than before, look at its weight."""
        now = getattr(trainer.updater, 'loss_func', None)
        if now is not self.loss_func and self.settings.kl_weight is not None:
            self.loss_func = now
            if losses.kl_weight(now, model_of(trainer)) != self.settings.kl_weight:
                self.settings.kl_weight = None

    def serialize(self, serializer):
        """Save and load nothing; at the first snapshot of a run, warn."""
        if self.at_start is None or not isinstance(serializer, chainer.Serializer):
            return
        at_start, self.at_start = self.at_start, None
        reported = {*snapshot.LOSSES, *(key.split('/')[-1] for key in self.trainer.observation)}
        changed = [name for name, value in unsaved(model_of(self.trainer)).items()
                   if name.split('/')[-1] not in reported and value != at_start.get(name)]
        if changed:
            print(command.printable(
                f'warning: training changes {", ".join(changed)} of the model, which snapshots '
                'lack and a resumed run does not get back; self.add_persistent(NAME, START) in '
                '__init__, in the place of self.NAME = START, keeps it'), file=sys.stderr)


def model_of(trainer):
    """Return the model that a trainer trains."""
    return trainer.updater.get_optimizer('main').target


def unsaved(model):
    """Return digests of a model's plain attributes, and its links', by name such as `le1/steps`."""
    digests = {f'{path}/{name}'.lstrip('/'): digest(value)
               for path, link in model.namedlinks() for name, value in vars(link).items()
               if name not in link._persistent}
    return {name: value for name, value in digests.items() if value is not None}


def digest(value):
    """Return a number as text, of an array shape, type and checksum; None for anything else."""
    if isinstance(value, (int, float, np.number, np.bool_)):
        return repr(np.asarray(value).item())
    if isinstance(value, chainer.get_array_types()):
        array = np.ascontiguousarray(chainer.get_device('@numpy').send(value))
        return None if array.dtype.hasobject else (
            value.shape, array.dtype.str, zlib.crc32(array.reshape(-1).view(np.uint8)))
    return None
