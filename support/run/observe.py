"""A look at a model that leaves no trace: it reports, and all is as before."""

import contextlib
import copy

from support import compat  # noqa: F401  (lets chainer import)

import chainer
import numpy as np


@contextlib.contextmanager
def same_noise(xp):
    """Within a `with` block, draw random numbers; afterwards the generators are as before.

    It yields a function that brings those of NumPy, and of `xp`, back to the start of the block.
    """
    state = np.random.get_state()
    generator = None if xp is np else xp.random.get_random_state()

    def rewind():
        np.random.set_state(state)
        if generator is not None:           # it cannot be copied; the block has one of its own
            xp.random.set_random_state(xp.random.RandomState(seed=0))

    rewind()
    try:
        yield rewind
    finally:
        np.random.set_state(state)
        if generator is not None:
            xp.random.set_random_state(generator)


@contextlib.contextmanager
def unchanged(model):
    """Within a `with` block, call a model; afterwards the model and the generators are as before.

    A call may count, or set an attribute such as `model.loss`, and in training it moves running
    statistics. So the block works on copies of each link's attributes. Parameters, which no call
    changes, are not copied, nor what cannot be. Of what is no Link, the generators alone are kept.
    """
    links = list(model.links()) if isinstance(model, chainer.Link) else []
    own = [(vars(link), dict(vars(link))) for link in links]
    copied = {id(each): each for each in [*links, *(        # deepcopy takes these for copied
        value for _, before in own for value in before.values()
        if isinstance(value, chainer.Variable))]}
    with same_noise(getattr(model, 'xp', np)):
        try:
            for now, before in own:
                for name, value in before.items():
                    with contextlib.suppress(Exception):
                        now[name] = copy.deepcopy(value, copied)
            yield
        finally:
            for now, before in own:
                now.clear()
                now.update(before)


@contextlib.contextmanager
def as_tested(model):
    """Within a `with` block, call a model as test digits meet it: no dropout, running statistics.

    Nothing is kept for backprop, noise is the same each time, and the model is then as before.
    """
    with (unchanged(model), chainer.using_config('train', False), chainer.no_backprop_mode(),
          np.errstate(all='ignore')):
        np.random.seed(0)
        yield


def reported(function, x, model):
    """Call a loss or evaluation function of a model on digits (N, D); no other reporter sees it.

    Returns:
        tuple: The function's result, and what it reports by name, as float32.
    """
    reporter, observation = chainer.Reporter(), {}
    reporter.add_observer('', model)
    reporter.add_observers('', model.namedlinks(skipself=True))
    with reporter.scope(observation), np.errstate(all='ignore'):
        result = function(x)
    values = {key.removeprefix('/'): value[0] if isinstance(value, tuple) else value
              for key, value in observation.items()}        # a tuple has a weight, too
    on_cpu = chainer.get_device('@numpy').send
    return result, {name: np.float32(on_cpu(getattr(value, 'array', value)))
                    for name, value in values.items()}
