"""Does the fast step do what net.py says? Its guards, and how its numbers are compared."""

import operator

from support.base import command  # lets chainer import
from support.fast import step
from support.run import models, observe, original

import chainer
from chainer import iterators
from chainer.dataset import convert
import chainer.functions as F
import chainer.links as L
from chainer.optimizers import adam
from chainer.training import updaters
import numpy as np

import net

OWN = {                 # methods that make another step where an object has one of its own
    'update', 'update_core', 'update_core_cpu', 'next', '__next__', 'forward', 'cleargrads'}
# How far two gradients may be apart, of their size, and two losses; float32 gives some 1e-6.
# Rounding may put a relu on the other side of its kink, and that is a digit's share in a gradient.
# So only what differs on `TRIES` minibatches differs.
GRADIENT_TOLERANCE, LOSS_TOLERANCE, TRIES = 1e-3, 1e-4, 3
TINY = 1e-9             # norms below it are rounding alone
MOST_COMPARABLE = 1e18  # whose square is still a float32; `check_finite` stops a run with more
NOT_COMPILED = 'net.py: '
OTHER_PARAMS = NOT_COMPILED + 'there are other parameters than W and b of each link'
HOOKED = NOT_COMPILED + 'a hook watches it'
NOT_ADAM = 'optimizer is not plain Adam'
NOT_UPDATER = 'updater is not plain StandardUpdater'
SCORE = [original.essence(code) for code in original.score_func.__code__.co_consts
         if hasattr(code, 'co_code')]


class NotCompiledError(Exception):
    """Compiled functions do not do what the objects say; the text says why."""


def require(condition, why):
    """Raise NotCompiledError where a condition is not met."""
    if not condition:
        raise NotCompiledError(why)


class Guard:
    """Tells before each step or score why compiled functions cannot take it; '' if they can.

    `watch` returns objects that decide what is computed, and the arrays that it is computed on, in
    lists. If one was replaced, the model is checked, and `renew` prepares the functions. On the
    first call of each epoch, and where there are other objects, `difference` compares numbers with
    net.py's; what it says is said for good. All ranks of the optimizer then agree, once an epoch.
    """

    def __init__(self, model, watch, difference=None, renew=lambda: None, optimizer=None):
        self.model, self.watch, self.renew = model, watch, renew
        self.difference, self.optimizer = difference, optimizer
        self.seen, self.is_new, self.refused, self.proved_in = None, False, '', None
        self.told = set()                   # reasons of which a warning told

    def __call__(self, epoch):
        """Return the reason, in microseconds where nothing is new."""
        why, is_due = self.look() or self.refused, self.proved_in != epoch
        self.proved_in = epoch
        if is_due or (self.is_new and not why):
            differs = '' if why else self.difference()
            if is_due:                      # all ranks ask, even one that already steps aside
                differs = agreed(self.optimizer, self.refused or differs)
            self.refused = self.refused or differs
        return why or self.refused

    def look(self):
        """Return the reason that the objects give."""
        had, self.seen = self.seen or ([], []), None
        try:
            now = self.watch()
            changed = [len(now[i]) != len(had[i]) or not all(map(operator.is_, now[i], had[i]))
                       for i in (0, 1)]
            self.is_new = changed[0]
            if any(changed):
                check_model(self.model)
                self.renew()
                now = self.watch()          # Adam may have its moments by now
        except NotCompiledError as error:
            return str(error)
        except (AttributeError, LookupError, TypeError, ValueError) as error:
            return NOT_COMPILED + str(error)
        self.seen = now
        return ''


def chainers_own():
    """Return the functions of Chainer whose mathematics is compiled, as they are now."""
    return (L.Linear.forward, adam.AdamRule.update, adam.AdamRule.update_core,
            adam.AdamRule.update_core_cpu, adam.Adam.update, chainer.Chain.cleargrads,
            chainer.Variable.backward, iterators.SerialIterator.next)


AT_IMPORT = chainers_own()


def watch_model(model):
    """Return objects and arrays on which compiled functions stand, and a model's parameters."""
    require(not isinstance(model, net.Autoencoder), 'an autoencoder is not compiled')
    require(not chainer.is_debug(), 'Chainer is in debug mode')
    require(chainers_own() == AT_IMPORT, "a method of Chainer's is another than it was")
    require(not (model._local_link_hooks or chainer._get_link_hooks()
                 or chainer.get_function_hooks()), HOOKED)
    require(not model._params and OWN.isdisjoint(vars(model)), OTHER_PARAMS)
    for name in model._children - step.FLOW.keys():
        raise NotCompiledError(f'{NOT_COMPILED}there is another link, {name}')
    # of these functions the comparison of numbers tells whether another one does the same
    objects, params = [model.act_func, F.gaussian, F.gaussian_kl_divergence, F.bernoulli_nll], []
    for method in (model.encode, model.decode, model.get_loss_func):
        function = method.__func__
        names = function.__globals__
        objects += (method.__self__, function.__code__, function.__defaults__, names.get('F'),
                    names.get('chainer'), names.get('six'))
    for name in step.FLOW:
        link = getattr(model, name)
        params += link.W, link.b
        require(not link._local_link_hooks, HOOKED)
        if (type(link) is not L.Linear or link.name != name or len(link._params) != 2
                or not OWN.isdisjoint(vars(link))):
            raise NotCompiledError(f'{NOT_COMPILED}link {name} is no plain Linear layer')
        objects.append(link)
    return objects + params, [param.array for param in params], params


def check_model(model):
    """Require that the code, the sizes and the activation of a model are compiled."""
    params = list(model.params())
    require(len(set(map(id, params))) == 2 * len(step.FLOW), OTHER_PARAMS)
    require(all(param.array is not None for param in params),
            NOT_COMPILED + 'a link has no size yet')
    D, H, Z = (len(getattr(model, name).b) for name in ('ld3', 'le1', 'le3_mu'))
    shapes = {'le1': (H, D), 'le2': (H, H), 'le3_mu': (Z, H), 'le3_ln_var': (Z, H), 'ld1': (H, Z),
              'ld2': (H, H), 'ld3': (D, H)}
    for name, shape in shapes.items():
        require(getattr(model, name).W.shape == shape,
                f'{NOT_COMPILED}link {name} has another size')
    require(all(param.dtype == np.float32 and param.array.flags.c_contiguous for param in params),
            'weights are not plain float32')
    act_func = model.act_func
    require(act_func in step.ACTIVATIONS,
            f'activation {getattr(act_func, "__name__", act_func)} is not compiled')
    for name in original.edited(model):
        raise NotCompiledError(f'{NOT_COMPILED}{name} is edited')


def watch_training(updater):
    """Return objects and arrays on which a compiled step stands, and C and k of the loss."""
    optimizer, iterator = updater.get_optimizer('main'), updater.get_iterator('main')
    plain, model = getattr(optimizer, 'actual_optimizer', optimizer), optimizer.target
    objects, arrays, params = watch_model(model)
    if plain is not optimizer:
        require(type(optimizer).__name__ == '_MultiNodeOptimizer', NOT_ADAM)
        require(model.xp is np, 'as ranks on GPUs step together')
    hyperparam, rules = plain.hyperparam, [param.update_rule for param in params]
    require(type(plain) is adam.Adam and OWN.isdisjoint(vars(plain)) and not (
        hyperparam.amsgrad or hyperparam.adabound or hyperparam.weight_decay_rate), NOT_ADAM)
    require(all(rule.enabled for rule in rules), NOT_ADAM + ': a parameter is frozen')
    require(not any(of._hookable._pre_update_hooks or of._hookable._post_update_hooks
                    for of in (plain, *rules)), NOT_ADAM + ': it has a hook')
    require(all(type(rule) is adam.AdamRule and rule.hyperparam._parent is hyperparam
                and len(rule.hyperparam.__dict__) == 1 and OWN.isdisjoint(rule.__dict__)
                and rule.t == rules[0].t for rule in rules),
            NOT_ADAM + ': a parameter has a rule of its own')
    require(all(param.requires_grad for param in params) and chainer.config.enable_backprop,
            'gradients are not asked for')
    require(updater.loss_scale is None and updater.converter is convert.concat_examples
            and OWN.isdisjoint(vars(updater)), NOT_UPDATER)
    require(type(iterator) is iterators.SerialIterator and OWN.isdisjoint(vars(iterator)),
            'iterator is not plain SerialIterator')
    settings, digits = loss_settings(updater.loss_func, model), iterator.dataset
    is_array = (isinstance(digits, np.ndarray) and digits.ndim == 2 and digits.dtype == np.float32
                and digits.flags.c_contiguous)
    if settings is None or not is_array:
        check_model(model)                  # may say that net.py is edited
    require(settings, 'loss_func is not what get_loss_func of the model returns')
    require(is_array, 'digits are not one array of float32')
    require(digits.shape[1] == len(model.ld3.b), 'digits have another size than the model')
    require(type(settings[0]) in (int, float, bool) or isinstance(settings[0], np.number),
            'the weight C of the latent loss is no plain number')
    states = [rule.state or {} for rule in rules]
    return ([*objects, *rules, digits],
            [*arrays, *[state.get(moment) for state in states for moment in 'mv']], settings)


def obstacle(updater):
    """Say what keeps the fast step from training for an updater; '' for nothing."""
    if type(updater) is not updaters.StandardUpdater:
        return NOT_UPDATER
    model = updater.get_optimizer('main').target
    return Guard(model, lambda: watch_training(updater)).look()


def loss_settings(function, model):
    """Return C and k, where a function is what `model.get_loss_func(C, k)` returns; else None."""
    given = models.given_to_loss(function, model)
    return (given['C'], given['k']) if {'C', 'k'} <= given.keys() else None


def score_samples(function, model):
    """Return k, if a function is what `score_func(model, k)` of train_vae.py returns; else None."""
    code = getattr(function, '__code__', None)
    if code is None or original.essence(code) not in SCORE:
        return None
    given = models.closure_of(function)
    C, k = loss_settings(given['lf'], model) or (None, None)
    return k if given['model'] is model and C == 1 else None


def agreed(optimizer, why):
    """Return why some rank must not take the fast step; '' if all may. `why` is this rank's."""
    comm = getattr(optimizer, 'communicator', None)
    if comm is None:
        return why
    return next(filter(None, comm.bcast_obj(comm.gather_obj(why))), '')


def refusal(error, xp):
    """Return in words why Chainer's own step trains, where the fast one fails."""
    return 'the GPU refuses: ' * (xp is not np) + command.printable(error)[:200]


def difference(plain, fast, xp):
    """Say which number of two functions differs, from the same random state; '' for none."""
    try:
        with observe.same_noise(xp) as rewind:
            expected, drawn = plain(), np.random.get_state()
            if not all(value is None or float(abs(value).max()) < MOST_COMPARABLE
                       for value in expected.values()):
                return ''
            rewind()
            differs = compare(fast(), expected, (drawn, np.random.get_state()))
    except Exception as error:              # whatever the compiler, CuPy, CUDA or cuBLAS may raise
        return refusal(error, xp)
    return differs and NOT_COMPILED + differs


def compare(found, expected, drawn):
    """Say which number differs, or the states of NumPy's generator after both; '' for none."""
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
    return '' if all(map(np.array_equal, *drawn)) else 'it draws other random numbers'
