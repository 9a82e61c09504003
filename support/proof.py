"""Does the fast step do what net.py says? What it needs, what was compiled, and how to compare.

Who edits net.py must see that edit run. So the text of the methods in `models.ORIGINAL` has to be
the one that was compiled: an edit may matter only later in a run. And because not only net.py's
text decides what it does, updater.py compares losses and gradients with net.py's, from the same
random state.
"""

import contextlib
import inspect

from support import models, step  # lets chainer import

import chainer
from chainer import iterators
from chainer.dataset import convert
import chainer.links as L
from chainer.optimizers import adam
from chainer.training import extensions, updaters
import numpy as np

import net

SCORE = '7a880e939a23'  # `models.fingerprint` of what train_vae.py's `score_func` returns
# How far two gradients may be apart, of their size, and two losses; float32 gives some 1e-6. But
# rounding decides on which side of its kink a relu is, and that is a digit's share in a gradient:
# so only what differs on `TRIES` minibatches differs.
GRADIENT_TOLERANCE, LOSS_TOLERANCE, TRIES = 1e-3, 1e-4, 3
TINY = 1e-9             # norms below it are rounding alone
MOST_GRADIENT = 1e18    # whose square is still a float32
NOT_COMPILED = 'net.py is not what updater.py compiles: '


def uncovered(updater):
    """Say what the fast step lacks of an updater; '' for nothing.

    Args:
        updater (StandardUpdater): As the script made it.
    """
    iterator = updater.get_iterator('main')
    digits = iterator.dataset
    if (type(updater) is not updaters.StandardUpdater or updater.loss_scale is not None
            or updater.converter is not convert.concat_examples):
        return 'updater is not plain StandardUpdater'
    if (type(iterator) is not iterators.SerialIterator or not isinstance(digits, np.ndarray)
            or digits.ndim != 2 or digits.dtype != np.float32):
        return 'digits are not one array of float32'
    if loss_settings(updater.loss_func, updater.get_optimizer('main').target) is None:
        return 'loss_func is not what get_loss_func of the model returns'
    return ''


def loss_settings(function, model):
    """Return C and k, where a function is what `model.get_loss_func(C, k)` returns; else None."""
    given = models.given_to_loss(function, model)
    return (given['C'], given['k']) if given else None


def score_samples(evaluator, model):
    """Return k, where an Evaluator scores by train_vae.py's `score_func(model, k)`; else None."""
    if (type(evaluator) is not extensions.Evaluator
            or models.fingerprint(evaluator.eval_func) != SCORE
            or evaluator.converter is not convert.concat_examples):
        return None
    given = inspect.getclosurevars(evaluator.eval_func).nonlocals
    C, k = loss_settings(given['lf'], model) or (None, None)
    return k if given['model'] is model and C == 1 else None


def obstacle(optimizer):
    """Say what keeps the fast step from training.

    Args:
        optimizer (chainer.Optimizer): Set up with a `VAE`; or the multi-node one around it.

    Returns:
        str: What stands in the way; empty where nothing does.
    """
    whole, optimizer = optimizer, getattr(optimizer, 'actual_optimizer', optimizer)
    model, hyperparam = optimizer.target, getattr(optimizer, 'hyperparam', None)
    if isinstance(model, net.Autoencoder):
        return 'an autoencoder is not compiled'
    if whole is not optimizer and type(whole).__name__ != '_MultiNodeOptimizer':
        return 'optimizer is not plain Adam'
    if whole is not optimizer and model.xp is not np:
        return 'as ranks on GPUs step together'
    links = {link.name: link for link in model.children()}
    for name in [*links, *step.FLOW]:
        if name not in links:
            return NOT_COMPILED + f'there is no link {name}'
        if name not in step.FLOW or type(links[name]) is not L.Linear:
            return NOT_COMPILED + f'there is another link, {name}'
    if len(list(model.params())) != 2 * len(step.FLOW):
        return NOT_COMPILED + 'there are other parameters than W and b of each link'
    if any(param.array is None for param in model.params()):
        return NOT_COMPILED + 'a link has no size yet'
    D, H, Z = (len(links[name].b.array) for name in ('ld3', 'le1', 'le3_mu'))
    shapes = {'le1': (H, D), 'le2': (H, H), 'le3_mu': (Z, H), 'le3_ln_var': (Z, H), 'ld1': (H, Z),
              'ld2': (H, H), 'ld3': (D, H)}
    for name, shape in shapes.items():
        if links[name].W.shape != shape:
            return NOT_COMPILED + f'link {name} has another size'
    act_func = getattr(model, 'act_func', None)
    if act_func not in step.ACTIVATIONS:
        return f'activation {getattr(act_func, "__name__", act_func)} is not compiled'
    if chainer.get_function_hooks() or chainer._get_link_hooks() or any(
            link.local_link_hooks for link in model.links()):
        return NOT_COMPILED + 'a hook watches it'
    if any(param.dtype != np.float32 or not param.array.flags.c_contiguous
           for param in model.params()):
        return 'weights are not plain float32'
    rules = [param.update_rule for param in model.params()]
    if type(optimizer) is not adam.Adam or hyperparam.amsgrad or hyperparam.adabound or (
            hyperparam.weight_decay_rate):
        return 'optimizer is not plain Adam'
    if any(hookable._hookable._pre_update_hooks or hookable._hookable._post_update_hooks
           for hookable in (optimizer, *rules)):
        return 'optimizer is not plain Adam: it has a hook'
    if any(type(rule) is not adam.AdamRule or not rule.enabled
           or rule.hyperparam.get_dict() != hyperparam.get_dict() for rule in rules):
        return 'optimizer is not plain Adam: a parameter has a rule of its own'
    return ''


def edited(model):
    """Say which of the methods that were compiled has another text now; '' where none has.

    What a comparison of numbers may miss: an edit that matters only later.
    """
    for name in models.ORIGINAL:
        if not models.is_original(model, name):
            return f'{NOT_COMPILED}{type(model).__name__}.{name} is edited'
    return ''


def agreed(optimizer, why):
    """Return what keeps the fast step from training on any rank, as all have to take the same one.

    Args:
        optimizer: As for `obstacle`; without a communicator, there is one rank alone.
        why (str): What does here; '' for nothing.
    """
    comm = getattr(optimizer, 'communicator', None)
    if comm is None:
        return why
    return next(filter(None, comm.bcast_obj(comm.gather_obj(why))), '')


@contextlib.contextmanager
def same_noise(xp):
    """Within a `with` block, draw what counts for nothing: the generators are then as before.

    Args:
        xp: NumPy, or CuPy for a GPU.

    Yields:
        callable: Brings the generators back to where they are at the start of the block.
    """
    state = np.random.get_state()
    generator = None if xp is np else xp.random.get_random_state()

    def rewind():
        np.random.set_state(state)
        if generator is not None:           # it cannot be copied: one of its own for the block
            xp.random.set_random_state(xp.random.RandomState(seed=0))

    rewind()
    try:
        yield rewind
    finally:
        np.random.set_state(state)
        if generator is not None:
            xp.random.set_random_state(generator)


def observe(function, x, model):
    """Call a loss or evaluation function on a minibatch, unseen by whoever observes the training.

    Args:
        function (callable): Of x.
        x (array): Digits, (N, D) float32.
        model (VAE): Of whose losses it reports.

    Returns:
        tuple: What the function returns; and what it reports by name, as float32.
    """
    reporter, observation = chainer.Reporter(), {}
    reporter.add_observer('', model)
    reporter.add_observers('', model.namedlinks(skipself=True))
    with reporter.scope(observation), np.errstate(all='ignore'):
        result = function(x)
    values = {key.removeprefix('/'): value[0] if isinstance(value, tuple) else value
              for key, value in observation.items()}                    # a tuple has a weight, too
    on_cpu = chainer.get_device('@numpy').send
    return result, {name: np.float32(on_cpu(getattr(value, 'array', value)))
                    for name, value in values.items()}


def comparable(losses, grads=()):
    """Tell whether all are finite, and small enough for Adam; else something else stops the run.

    Args:
        losses (iterable of float): The losses.
        grads (iterable of array): The gradients; None for one that is missing.
    """
    return bool(np.isfinite(list(losses)).all()) and all(
        grad is None or float(abs(grad).max()) < MOST_GRADIENT for grad in grads)


def compare(found, expected, drawn):
    """Say what the fast step does otherwise than net.py; '' for nothing.

    Args:
        found (dict): Its losses by name, and its gradients by path, as `gradient of /le1/W`.
        expected (dict): Those of net.py; it may lack some, or have None.
        drawn (tuple of tuple): States of NumPy's generator after both.
    """
    for name, value in found.items():
        if expected.get(name) is None:
            return f'{name} is missing'
        own, other = (np.asarray(chainer.get_device('@numpy').send(each), np.float64).ravel()
                      for each in (value, expected[name]))
        # a term of the loss may be next to nothing, where the loss is not
        size, most = ((other, GRADIENT_TOLERANCE) if name.startswith('gradient') else
                      (expected.get('loss', other), LOSS_TOLERANCE))
        if not np.linalg.norm(own - other) <= most * np.linalg.norm(size) + TINY:
            return f'{name} differs'
    if not all(map(np.array_equal, *drawn)):
        return 'it draws other random numbers'
    return ''
