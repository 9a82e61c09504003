"""When a run stops, and when it writes: the triggers of train_vae.py's Trainer."""

import contextlib
import json
import math
import os
import signal

from support.base import command  # lets chainer import

import chainer
from chainer import training
from chainer.backends import cuda
from chainer.training import triggers
import numpy as np

SIGHUP = getattr(signal, 'SIGHUP', None)        # Windows has none
OTHERS = (                                      # what a trigger may look at, and does not own
    chainer.Link, chainer.Optimizer, chainer.dataset.Iterator, training.Trainer, training.Updater,
    training.Extension)


class UntilStopped:
    """Stop trigger: after so many epochs, or when another says so; or once a signal came.

    It asks the other as often as a Trainer would, but not after a signal: the resumed run does.
    What it does not know itself, as `period`, it has from the other.

    Args:
        until (int or trigger): Epochs after which the run ends, or any trigger of Chainer's.

    Attributes:
        caught (int): The signal that came to this process, or None.
        signum (int): The one that stops the run, or None.
        is_agreed (bool): Whether `signum` is set by others, once all ranks know of it.
        rank (int): This process's; rank 0 speaks.
        status (int): Exit status of the run.
        is_over (bool): Whether the run has come to its end, by no signal.
        has_begun (bool): Whether there was an iteration to do.
        trainer (Trainer): Whose trigger it is, as `until_stopped` knows.
        agree (callable): Of the answer of the other, which ranks may have to share.
        begin, end (callable): What to do before the first iteration and after the last, while what
            the trainer has can still be saved.
    """

    signals = command.ENDING
    caught = signum = trainer = None
    is_agreed = is_over = has_begun = False
    rank = status = 0

    def __init__(self, until):
        is_count = isinstance(until, (int, float))
        self.inner = training.get_trigger((until, 'epoch') if is_count else until)
        self.is_plain = type(self.inner) is triggers.IntervalTrigger
        self.fresh, self.unasked = plain_state(self.inner), {}
        self.agree, self.begin, self.end = bool, lambda: None, lambda: None
        self.pid = os.getpid()

    def __getattr__(self, name):
        """Return what the other trigger has."""
        if name == 'inner':                         # of a copy in the making
            raise AttributeError(name)
        return getattr(self.inner, name)

    def __call__(self, trainer):
        """Tell whether the run is over."""
        is_said = False
        if not self.is_plain and self.signum is None:
            serializer = chainer.serializers.DictionarySerializer()
            self.serialize_inner(serializer)
            self.unasked = serializer.target
            is_said = self.agree(bool(self.inner(trainer)))
        self.is_over = is_said or self.is_past(trainer)
        if not self.is_over and self.signum is None and not self.has_begun:
            self.has_begun = True
            self.begin()
        stops = self.is_over or self.signum is not None
        if stops:
            self.end()
        return stops

    def is_past(self, trainer):
        """Tell whether a run is as long as it is to be, or longer, where that is known.

        Chainer's own triggers would let a resumed run that is past their end go on to the next.
        """
        length, unit = self.length()
        updater = trainer.updater
        return (updater.epoch_detail if unit == 'epoch' else updater.iteration) >= length

    def length(self):
        """Return how long a run is to be, in epochs or iterations; infinite where nobody knows."""
        try:
            return tuple(self.inner.get_training_length())
        except AttributeError:
            return math.inf, 'epoch'

    def serialize(self, serializer):
        """Save or restore the state of the other trigger, as it is before it is asked."""
        if isinstance(serializer, chainer.Serializer) and self.is_over:
            for key, array in self.unasked.items():
                serializer(key, array)
        else:
            self.serialize_inner(serializer)
        if self.is_plain:
            return
        # a resumed run asks it first, about what was observed in the last iteration
        seen = {name: (array.dtype.str, array.item())
                for name, array in scalars_of(self.trainer.observation).items()}
        text = serializer('observation', json.dumps(seen))
        if isinstance(serializer, chainer.Deserializer):
            self.trainer.observation = {name: np.dtype(kind).type(number) for name, (kind, number)
                                        in dict(json.loads(text)).items()}

    def serialize_inner(self, serializer):
        """Save or restore the other trigger, by what changes in it where it cannot do that itself.

        A TimeTrigger that has not fired yet is as the script makes it.
        """
        is_loaded = isinstance(serializer, chainer.Deserializer)
        if hasattr(self.inner, 'serialize'):
            if not (is_loaded and isinstance(self.inner, triggers.TimeTrigger)):
                self.inner.serialize(serializer)
            return
        for name, part in vars_of(self.inner).items():
            if hasattr(part, 'serialize') and not isinstance(part, OTHERS):
                part.serialize(serializer[name])
        now = plain_state(self.inner)
        changed = {name: text for name, text in now.items() if text != self.fresh.get(name)}
        text = serializer('state', json.dumps(changed))
        if is_loaded:
            for name, value in dict(json.loads(text)).items():
                if name in now:
                    setattr(self.inner, name, json.loads(value))

    def on_signal(self, signum, frame):
        """Remember the signal; the same again has its default effect, at once."""
        if os.getpid() != self.pid:                 # a worker of an iterator, which that ends
            return
        self.stop(signum)
        # a terminal that closes says so twice
        signal.signal(signum, signal.SIG_IGN if signum == SIGHUP else signal.SIG_DFL)
        if self.rank > 0:
            return
        more = b'' if signum == SIGHUP else b'; once more quits at once'
        with contextlib.suppress(OSError):          # the line break ends that of the terminal's ^C
            os.write(2, b'\n' * os.isatty(2) + b'stopping after this iteration' + more + b'\n')

    def stop(self, signum):
        """Let the run end after this iteration, as after this signal."""
        self.caught = signum
        if not self.is_agreed:
            self.signum = signum


def until_stopped(trainer):
    """Return the stop trigger of a trainer, made an `UntilStopped` where the script has another."""
    if not isinstance(trainer.stop_trigger, UntilStopped):
        trainer.stop_trigger = UntilStopped(trainer.stop_trigger)
    trainer.stop_trigger.trainer = trainer
    return trainer.stop_trigger


def every(epochs, last):
    """Make the trigger of snapshots: after every so many epochs, and after the last.

    Args:
        epochs (int): Epochs from one to the next.
        last (int): The last epoch of the run.

    Returns:
        callable: Of the trainer, after an iteration; tells whether a snapshot is due.
    """
    def due(trainer):
        epoch = trainer.updater.epoch
        before = int(trainer.updater.previous_epoch_detail)
        return before // epochs < epoch // epochs or before < last <= epoch

    return due


# What triggers hold -----------------------------------------------------------------------------


def scalars_of(observation):
    """Return the numbers in what a trainer observes as arrays of shape (), by name."""
    arrays = {name: getattr(value, 'array', value) for name, value in observation.items()}
    arrays = {name: np.asarray(cuda.to_cpu(array)) for name, array in arrays.items()
              if np.isscalar(array) or getattr(array, 'ndim', None) == 0}
    return {name: array for name, array in arrays.items() if array.dtype.kind in 'biuf'}


def vars_of(thing):
    """Return the attributes of an object, a dict; empty where it has none of its own."""
    return getattr(thing, '__dict__', {})


def plain_state(trigger):
    """Return the attributes of a trigger that JSON can hold, numbers of NumPy too, as texts."""
    texts = {}
    for name, value in vars_of(trigger).items():
        with contextlib.suppress(TypeError, ValueError, AttributeError, RecursionError):
            text = json.dumps(value, default=lambda number: number.item())
            back = json.loads(text)
            if back == value and (type(back) is type(value) or isinstance(value, np.generic)):
                texts[name] = text          # else it would come back as something else
    return texts
