"""What changes on a model in training besides its weights, and whether its snapshots have that.

Chainer saves parameters and persistent values. A plain attribute, as a counter of steps, is lost.
"""

import ast
import collections
import sys
import zlib

from support.base import command  # lets chainer import
from support.run import losses, snapshot

import chainer
from chainer import training
import numpy as np


class Watch(training.Extension):
    """Extension that warns at the first snapshot of what that lacks, and sees the loss change.

    Args:
        settings (settings.Settings): Of the run; its `kl_weight` becomes None where another loss
            function weighs otherwise.
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
        """Look at the weight of a loss function that is another than before."""
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
        now = unsaved(model_of(self.trainer))
        changed = [name for name, value in now.items()
                   if name.split('/')[-1] not in reported and value != at_start.get(name)]
        if changed:
            name, value = changed[0].split('/')[-1], now[changed[0]]
            first = 'its first array'
            if isinstance(value, str):          # a start of the same type, or Chainer refuses it
                first = repr(type(ast.literal_eval(value))())
            print(command.printable(
                f'warning: snapshots lack {", ".join(changed)} of the model, which training '
                f'changes: a run that resumes does not get it back; self.add_persistent({name!r}, '
                f'{first}) in __init__, in the place of self.{name} = ..., keeps it'),
                file=sys.stderr)


def model_of(trainer):
    """Return the model that a trainer trains."""
    return trainer.updater.get_optimizer('main').target


def unsaved(model):
    """Return what a model and its links hold besides parameters and persistent values.

    Returns:
        dict: By name, as `steps` or `le1/steps`, the `digest` of each that has one.
    """
    held = {f'{path}/{name}'.lstrip('/'): digest(value)
            for path, link in model.namedlinks() for name, value in vars(link).items()
            if name not in link._persistent}
    return {name: value for name, value in held.items() if value is not None}


def digest(value):
    """Return what tells a number, an array, or a list or the like of them from others; else None.

    It takes no memory: of an array it has shape, type and checksum.
    """
    if isinstance(value, (bool, int, float, complex, np.number, np.bool_)):
        return repr(np.asarray(value).item())
    if isinstance(value, chainer.get_array_types()):
        array = np.ascontiguousarray(chainer.get_device('@numpy').send(value))
        return None if array.dtype.hasobject else (
            value.shape, array.dtype.str, zlib.crc32(array.reshape(-1).view(np.uint8)))
    if isinstance(value, dict):
        return digest([*value, *value.values()])
    if isinstance(value, (list, tuple, set, collections.deque)):
        digests = [digest(each) for each in value]
        return None if all(each is None for each in digests) else digests
    return None
