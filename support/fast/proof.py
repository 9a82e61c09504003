"""Does the fast step do what net.py says? Its guards, and how its numbers are compared.

Who edits net.py or train_vae.py must see that edit run. So before each step a `Guard` looks at all
that the step was compiled for, on the objects that run: net.py's code, links, arrays, activation,
optimizer, hooks, loss function. And because not only these decide what net.py does, updater.py
compares losses and gradients with net.py's once an epoch, from the same random state.
"""

import operator

from support.fast import step  # lets chainer import
from support.run import models, original

import chainer
from chainer import iterators
from chainer.dataset import convert
import chainer.functions as F
import chainer.links as L
from chainer.optimizers import adam
import numpy as np

import net

OWN = {                 # methods whose replacement on an object is another step
    'update', 'update_core', 'update_core_cpu', 'next', '__next__', 'forward', 'cleargrads'}
# How far two gradients may be apart, of their size, and two losses; float32 gives some 1e-6. But
# rounding decides on which side of its kink a relu is, and that is a digit's share in a gradient:
# so only what differs on `TRIES` minibatches differs.
GRADIENT_TOLERANCE, LOSS_TOLERANCE, TRIES = 1e-3, 1e-4, 3
TINY = 1e-9             # norms below it are rounding alone
MOST_GRADIENT = 1e18    # whose square is still a float32
NOT_COMPILED = 'net.py is not what updater.py compiles: '


class Guard:
    """What a compiled function was made for, compared in microseconds with what is there now.

    Args:
        watch (callable): Returns two lists: the objects that decide what is computed, and the
            arrays that it is computed on. Each has to be the very same as before. What may be
            another each time, as C, is in neither.
        judge (callable): Says at length what stands in the way; '' for nothing.
        renew (callable): Makes the compiled function anew, for other objects that do as well.

    Attributes:
        is_new (bool): Whether other objects than before decide, by the last call.
    """

    def __init__(self, watch, judge, renew):
        self.watch, self.judge, self.renew = watch, judge, renew
        self.held, self.why, self.is_new = ([], []), '', False

    def __call__(self):
        """Return why the compiled function cannot be taken now; '' if it can."""
        now = self.look()
        is_same = [len(a) == len(b) and all(map(operator.is_, a, b))
                   for a, b in zip(now, self.held, strict=True)]
        self.is_new = not (now[0] and is_same[0])
        if self.is_new or not is_same[1]:
            self.why = self.judge()
            if not self.why:
                self.renew()
                now = self.look()           # Adam may have its moments by now
            self.held = now
        return self.why

    def look(self):
        """Return the objects that are there now; empty lists where there are others."""
        try:
            return self.watch()
        except (AttributeError, LookupError, TypeError, ValueError):
            return [], []


def chainers_own():
    """Return the functions of Chainer whose mathematics is compiled, as they are now."""
    return (L.Linear.forward, adam.AdamRule.update, adam.AdamRule.update_core,
            adam.AdamRule.update_core_cpu, adam.Adam.update, chainer.Chain.cleargrads,
            chainer.Variable.backward, iterators.SerialIterator.next,
            # of these numbers tell whether another does the same
            F.gaussian, F.gaussian_kl_divergence, F.bernoulli_nll)


AT_IMPORT = chainers_own()


def watch_model(model):
    """Return what compiled functions were made for of a model, as `Guard` takes it."""
    seen = [model.act_func, len(model._children), len(model._params), chainer.is_debug(),
            bool(model._local_link_hooks or chainer._get_link_hooks()
                 or chainer.get_function_hooks()), *chainers_own()]
    had = model.__dict__
    for method in (model.encode, model.decode, model.get_loss_func):
        function = method.__func__
        names = function.__globals__
        seen += (method.__self__, function.__code__, function.__defaults__, names.get('F'),
                 names.get('chainer'), names.get('six'))
    for name in step.FLOW:
        link = had[name]
        seen += (link, type(link), link.W, link.b, len(link._params),
                 bool(link._local_link_hooks), link.forward.__func__)
    return seen, [param.array for name in step.FLOW for param in (had[name].W, had[name].b)]


def watch_training(updater):
    """Return what a compiled step was made for, as `Guard` takes it: model, Adam, loss, digits.

    Args:
        updater (FastUpdater): With the `k` that it was made for.
    """
    optimizer, lf = updater.get_optimizer('main'), updater.loss_func
    its_adam = getattr(optimizer, 'actual_optimizer', optimizer)
    hyperparam, hooks = its_adam.hyperparam, its_adam._hookable
    model, iterator = updater.model, updater.get_iterator('main')
    given = models.closure_of(lf)
    seen, arrays = watch_model(model)
    seen += (
        optimizer, its_adam, its_adam.target, optimizer.update.__func__, hyperparam,
        bool(hyperparam.amsgrad or hyperparam.adabound or hyperparam.weight_decay_rate),
        bool(hooks._pre_update_hooks or hooks._post_update_hooks),
        updater.converter, iterator, iterator.dataset, iterator.next.__func__,
        model.__dict__.get('cleargrads'), chainer.config.enable_backprop,
        lf.__code__, lf.__globals__, given['self'], given['k'] == updater.k, type(given['C']))
    t = model.le1.W.update_rule.t
    for name in step.FLOW:
        for param in (model[name].W, model[name].b):
            rule = param.update_rule
            hooks, state = rule._hookable, rule.state or {'m': None, 'v': None}
            seen += (rule, rule.enabled, rule.t == t, rule.update.__func__,
                     rule.update_core.__func__, rule.update_core_cpu.__func__,
                     rule.hyperparam, len(rule.hyperparam.__dict__), rule.hyperparam._parent,
                     param.requires_grad, bool(hooks._pre_update_hooks or hooks._post_update_hooks))
            arrays += state['m'], state['v']
    return seen, arrays


def uncovered(updater, digits=None):
    """Say what the fast step lacks of an updater; '' for nothing.

    Args:
        updater (StandardUpdater): As the script made it, or what was made of it.
        digits (ndarray): What the iterator is to have; by default any array of digits.
    """
    iterator, optimizer = updater.get_iterator('main'), updater.get_optimizer('main')
    dataset = iterator.dataset
    if updater.loss_scale is not None or updater.converter is not convert.concat_examples:
        return 'updater is not plain StandardUpdater'
    if type(iterator) is not iterators.SerialIterator or OWN & vars(iterator).keys():
        return 'iterator is not plain SerialIterator'
    if digits is not None and dataset is not digits:
        return 'the iterator has other digits than at the start'
    if (not isinstance(dataset, np.ndarray) or dataset.ndim != 2 or dataset.dtype != np.float32
            or not dataset.flags.c_contiguous):
        return 'digits are not one array of float32'
    if dataset.shape[1] != len(optimizer.target.ld3.b):
        return 'digits have another size than the model'
    C, k = loss_settings(updater.loss_func, optimizer.target) or (None, None)
    if k is None:
        return 'loss_func is not what get_loss_func of the model returns'
    if type(C) not in (int, float, bool) and not isinstance(C, np.number):
        return 'the weight C of the latent loss is no plain number'
    return 'the loss takes another number of samples k' if k != getattr(updater, 'k', k) else ''


def loss_settings(function, model):
    """Return C and k, where a function is what `model.get_loss_func(C, k)` returns; else None."""
    given = models.given_to_loss(function, model)
    return (given['C'], given['k']) if {'C', 'k'} <= given.keys() else None


def score_samples(function, model):
    """Return k, where a function is what train_vae.py's `score_func(model, k)` returns; else None.

    Its code has to be the one that was compiled.
    """
    code = getattr(function, '__code__', None)
    if code is None or original.essence(code) not in SCORE:
        return None
    given = models.closure_of(function)
    C, k = loss_settings(given['lf'], model) or (None, None)
    return k if given['model'] is model and C == 1 else None


SCORE = [original.essence(code) for code in original.score_func.__code__.co_consts
         if hasattr(code, 'co_code')]


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
    why = unlike(model)
    if why:
        return why
    if any(param.dtype != np.float32 or not param.array.flags.c_contiguous
           for param in model.params()):
        return 'weights are not plain float32'
    rules = [param.update_rule for param in model.params()]
    if type(optimizer) is not adam.Adam or hyperparam.amsgrad or hyperparam.adabound or (
            hyperparam.weight_decay_rate or OWN & vars(optimizer).keys()):
        return 'optimizer is not plain Adam'
    if any(hookable._hookable._pre_update_hooks or hookable._hookable._post_update_hooks
           for hookable in (optimizer, *rules)):
        return 'optimizer is not plain Adam: it has a hook'
    if not all(rule.enabled for rule in rules):
        return 'optimizer is not plain Adam: a parameter is frozen'
    if any(type(rule) is not adam.AdamRule or rule.t != rules[0].t
           or OWN & vars(rule).keys() or rule.hyperparam._parent is not hyperparam
           or len(vars(rule.hyperparam)) > 1 for rule in rules):
        return 'optimizer is not plain Adam: a parameter has a rule of its own'
    if not chainer.config.enable_backprop or not all(
            param.requires_grad for param in model.params()):
        return 'gradients are not asked for'
    return ''


def unlike(model):
    """Say what a model has that its compiled functions have not, in words; '' for nothing."""
    links = {link.name: link for link in model.children()}
    for name in [*links, *step.FLOW]:
        if name not in links:
            return NOT_COMPILED + f'there is no link {name}'
        if (name not in step.FLOW or type(links[name]) is not L.Linear
                or OWN & vars(links[name]).keys()):
            return NOT_COMPILED + f'there is another link, {name}'
    if any(a is not b for a, b in zip(chainers_own()[:-3], AT_IMPORT[:-3], strict=True)):
        return "a method of Chainer's is another than it was"
    if len(set(map(id, model.params()))) != 2 * len(step.FLOW) or OWN & vars(model).keys():
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
    return 'Chainer is in debug mode' if chainer.is_debug() else edited(model)


def edited(model):
    """Say which of the methods that were compiled is another now; '' where none is.

    What a comparison of numbers may miss: an edit that matters only later.
    """
    names = original.edited(model)
    return f'{NOT_COMPILED}{names[0]} is edited' if names else ''


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
