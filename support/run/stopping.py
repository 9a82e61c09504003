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
OTHERS = (                                      # a trigger may hold these, and does not own them
    chainer.Link, chainer.Optimizer, chainer.dataset.Iterator, training.Trainer, training.Updater,
    training.Extension)


class UntilStopped:
    """Stop trigger: it ends a run where another trigger says so, or once a signal came.

    It asks the inner trigger as often as a Trainer would. After a signal it leaves that question
    to the resumed run. Attributes that it lacks, such as `period`, are the inner trigger's.
    `begin` and `end` are called before the first iteration, and after the last.
    """

    signals = command.ENDING
    caught = signum = None          # the signal that this process got, and that which stops the run
    trainer = None                  # the one that has this trigger
    ranks = None                    # ranks.Ranks, if they have to agree on `signum`
    is_over = has_begun = False     # whether the run came to its end, and had an iteration to do
    status = 0                      # exit status of the run

    def __init__(self, until):
        is_count = isinstance(until, (int, float))
        self.inner = training.get_trigger((until, 'epoch') if is_count else until)
        self.is_plain = type(self.inner) is triggers.IntervalTrigger
        self.fresh, self.unasked = plain_state(self.inner), {}
        self.begin = self.end = lambda: None
        self.pid = os.getpid()

    def __getattr__(self, name):
        if name == 'inner':                         # while a copy is made
            raise AttributeError(name)
        return getattr(self.inner, name)

    def __call__(self, trainer):
        """Tell whether the run is over."""
        is_said = False
        if not self.is_plain and self.signum is None:
            serializer = chainer.serializers.DictionarySerializer()
            self.serialize_inner(serializer)
            self.unasked = serializer.target
            is_said = bool(self.inner(trainer))
            if self.ranks is not None:
                is_said = self.ranks.of_all(is_said)[0]
        self.is_over = is_said or self.is_past(trainer)
        if not (self.is_over or self.signum is not None or self.has_begun):
            self.has_begun = True
            self.begin()
        stops = self.is_over or self.signum is not None
        if stops:
            self.end()
        return stops

    def is_past(self, trainer):
        """Tell whether a run has its full length; past that, Chainer's own triggers go on."""
        length, unit = length_of(self)
        updater = trainer.updater
        return (updater.epoch_detail if unit == 'epoch' else updater.iteration) >= length

    def serialize(self, serializer):
        """Save or restore the inner trigger's state, as it is before the trigger is asked."""
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
            self.trainer.observation = {name: np.dtype(code).type(number) for name, (code, number)
                                        in dict(json.loads(text)).items()}

    def serialize_inner(self, serializer):
        """Save or restore the inner trigger; without a `serialize`, the numbers that changed."""
        is_loaded = isinstance(serializer, chainer.Deserializer)
        if hasattr(self.inner, 'serialize'):
            # a time that was edited in the script counts
            if not (is_loaded and isinstance(self.inner, triggers.TimeTrigger)):
                self.inner.serialize(serializer)
            return
        for name, part in getattr(self.inner, '__dict__', {}).items():
            if hasattr(part, 'serialize') and not isinstance(part, OTHERS):
                part.serialize(serializer[name])
        now = plain_state(self.inner)
        changed = {name: text for name, text in now.items() if text != self.fresh.get(name)}
        changed = dict(json.loads(serializer('state', json.dumps(changed))))
        for name in now.keys() & changed.keys() if is_loaded else ():
            setattr(self.inner, name, json.loads(changed[name]))

    def on_signal(self, signum, frame):
        """Remember the signal; the same again has its default effect, at once."""
        if os.getpid() != self.pid:                 # an iterator's worker, which the iterator ends
            return
        self.stop(signum)
        # a terminal that closes sends SIGHUP twice
        signal.signal(signum, signal.SIG_IGN if signum == SIGHUP else signal.SIG_DFL)
        if self.ranks is not None and self.ranks.rank > 0:
            return
        more = b'' if signum == SIGHUP else b'; once more quits at once'
        with contextlib.suppress(OSError):          # the line break ends the terminal's ^C
            os.write(2, b'\n' * os.isatty(2) + b'stopping after this iteration' + more + b'\n')

    def stop(self, signum):
        """End the run after this iteration, or the one in which all ranks know, by this signal."""
        self.caught = signum
        if self.ranks is None:
            self.signum = signum


def until_stopped(trainer):
    """Return the stop trigger of a trainer; one of another class becomes an `UntilStopped`."""
    if not isinstance(trainer.stop_trigger, UntilStopped):
        trainer.stop_trigger = UntilStopped(trainer.stop_trigger)
    trainer.stop_trigger.trainer = trainer
    return trainer.stop_trigger


def length_of(trigger):
    """Return a run's length by its stop trigger: a number, infinite if unknown, and the unit."""
    return tuple(getattr(trigger, 'get_training_length', lambda: (math.inf, 'epoch'))())


def every(epochs, last):
    """Make the trigger of snapshots: it fires every so many epochs, and in the last epoch."""
    def is_due(trainer):
        epoch = trainer.updater.epoch
        before = int(trainer.updater.previous_epoch_detail)
        return before // epochs < epoch // epochs or before < last <= epoch

    return is_due


def scalars_of(values):
    """Return the numbers among some values, NumPy's, CuPy's or Variables, as arrays of shape ()."""
    arrays = {name: getattr(value, 'array', value) for name, value in values.items()}
    arrays = {name: np.asarray(cuda.to_cpu(array)) for name, array in arrays.items()
              if np.isscalar(array) or getattr(array, 'ndim', None) == 0}
    return {name: array for name, array in arrays.items() if array.dtype.kind in 'biuf'}


def plain_state(trigger):
    """Return the numbers among the attributes of a trigger, by name, as JSON."""
    return {name: json.dumps(array.item())
            for name, array in scalars_of(getattr(trigger, '__dict__', {})).items()}
