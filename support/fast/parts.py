"""Compiled parts: what a step of Chainer's computes, where net.py is not compiled as a whole.

The graph is net.py's own, node by node. `in_place` puts the functions below in the place of some of
Chainer's, while a run takes a step or scores. They take float32 on a CPU. For everything else, and
for gradients of gradients, they call what they replaced. Each saves 3 % of a step or more.
"""

import contextlib
import functools
import os

from support.fast import compiled, step  # lets chainer import

import chainer
from chainer import optimizers
import chainer.functions as F
from chainer.functions.activation.softplus import Softplus
from chainer.functions.connection.linear import LinearFunction
import numpy as np

WORTH = 4e6             # multiplications that are worth a thread
NO_BIAS = np.zeros(0, np.float32)
CHAINER = os.path.dirname(chainer.__file__) + os.sep
INSTEAD = {}            # by owner and name: the function that takes the place
running_on = []         # the Threads, in `in_place`


# Compiled: each call does one of `parts` shares of the work ---------------------------------------


@compiled.kept
def linear(x, W, b, y, part, parts):
    """Write some columns of x W^T + b into y; b may be empty."""
    start, end = len(W) * part // parts, len(W) * (part + 1) // parts
    compiled.dot(x, W[start:end].T, y[:, start:end])
    if len(b):
        for i in range(len(x)):
            for j in range(start, end):
                y[i, j] += b[j]


@compiled.kept
def linear_back(x, W, gy, gx, gW, gb, part, parts):
    """Write the gradients of x W^T + b, from that of the result; gx may be empty."""
    start, end = len(gx) * part // parts, len(gx) * (part + 1) // parts
    if end > start:
        compiled.dot(gy[start:end], W, gx[start:end])
    start, end = len(W) * part // parts, len(W) * (part + 1) // parts
    gb[start:end] = 0
    for i in range(len(gy)):
        for j in range(start, end):
            gb[j] += gy[i, j]
    if end > start:
        compiled.dot(gy[:, start:end].T, x, gW[start:end])


@compiled.kept
def softplus(x, y, derivative):
    """Fill y and the derivative, flat arrays."""
    for i in range(len(x)):
        y[i], derivative[i] = compiled.softplus_and_sigmoid(x[i])


@compiled.kept
def kl_divergence(mu, ln_var, derivative):
    """Return the sum of flat arrays' KL divergences; fill the derivative by ln_var."""
    total = 0.0
    for i in range(len(mu)):
        derivative[i] = (np.exp(ln_var[i]) - step.f32(1)) / step.f32(2)
        total += derivative[i] + (mu[i] ** 2 - ln_var[i]) / step.f32(2)
    return total


@compiled.kept
def update(param, grad, m, v, numbers, part, parts):
    """Take a step of Adam in flat arrays."""
    start, end = len(param) * part // parts, len(param) * (part + 1) // parts
    compiled.update(param[start:end], grad[start:end], m[start:end], v[start:end], numbers)


bernoulli_nll = compiled.kept(compiled.bernoulli_nll.py_func)


@compiled.kept
def bernoulli_nll_of_each(x, y, value, derivative):
    """Fill the value and the derivative by y, flat arrays."""
    for i in range(len(x)):
        softplus, sigmoid = compiled.softplus_and_sigmoid(y[i])
        value[i] = softplus - x[i] * y[i]
        derivative[i] = sigmoid - x[i]


@functools.cache
def entry(function):
    """Return what calls a compiled function, of which all arguments have the types of the first."""
    entries = []

    def call(*args):
        if not entries:
            entries.append(compiled.compile_for(function, args))
        return entries[0](*args)

    return call


def share(function, work, *args):
    """Call a compiled function for all parts of its work, that many multiplications, on threads."""
    parts = min(running_on[-1].count, 1 + int(work / WORTH)) if running_on else 1
    call = entry(function)
    if parts == 1:
        call(*args, 0, 1)
    else:
        running_on[-1].call(call, [(*args, part, parts) for part in range(parts)])


# In Chainer's place -------------------------------------------------------------------------------


def instead_of(owner, name):
    """Let `in_place` put a function there; its first argument is what was there."""
    def note(function):
        INSTEAD[owner, name] = function
        return function
    return note


def is_watched():
    """Tell whether Chainer was asked to look at each function."""
    return bool(chainer.get_function_hooks()) or chainer.is_debug()


def takes(*arrays):
    """Tell whether these can be computed with: float32, in one piece, and nothing watches."""
    return not is_watched() and all(
        type(array) is np.ndarray and array.dtype == np.float32 and array.flags.carray
        and array.size for array in arrays)


@instead_of(LinearFunction, 'forward')
def linear_forward(plain, node, inputs):
    """Compute F.linear."""
    x, W, *b = inputs
    if not takes(*inputs) or [x.shape[1:], *(each.shape for each in b)] != [
            W.shape[1:], *[W.shape[:1]] * len(b)] or W.ndim != 2:
        return plain(node, inputs)
    node._config_use_ideep = chainer.config.use_ideep       # as `plain`, for its backward
    node.retain_inputs((0, 1))
    y = np.empty((len(x), len(W)), np.float32)
    share(linear, len(x) * W.size, x, W, *b or [NO_BIAS], y)
    return y,


@instead_of(LinearFunction, 'backward')
def linear_backward(plain, node, indexes, grad_outputs):
    """Compute its gradients."""
    x, W = (each.array for each in node.get_retained_inputs())
    gy = grad_outputs[0].array
    if chainer.config.enable_backprop or 1 not in indexes or not takes(x, W, gy):
        return plain(node, indexes, grad_outputs)
    gx = np.empty(x.shape if 0 in indexes else (0, 1), np.float32)
    gW, gb = np.empty_like(W), np.empty(len(W), np.float32)
    share(linear_back, 2 * len(x) * W.size, x, W, gy, gx, gW, gb)
    return [chainer.Variable((gx, gW, gb)[i]) for i in indexes]


@instead_of(Softplus, 'forward_cpu')
def softplus_forward(plain, node, inputs):
    """Compute F.softplus, and its derivative for `softplus_backward`."""
    x, = inputs
    if node.beta != 1 or not takes(x):
        return plain(node, inputs)
    node.retain_inputs((0,))
    y, node.derivative = np.empty_like(x), np.empty_like(x)
    entry(softplus)(x.reshape(-1), y.reshape(-1), node.derivative.reshape(-1))
    return y,


@instead_of(Softplus, 'backward')
def softplus_backward(plain, node, indexes, grad_outputs):
    """Compute its gradient."""
    if chainer.config.enable_backprop or not hasattr(node, 'derivative'):
        return plain(node, indexes, grad_outputs)
    return chainer.Variable(grad_outputs[0].array * node.derivative),


class Known(chainer.FunctionNode):
    """A function whose value and gradients by each input are known; `plain` computes the same."""

    def __init__(self, value, gradients, plain):
        self.value, self.gradients, self.plain = value, gradients, plain

    def forward(self, inputs):
        """Return the value."""
        self.retain_inputs(tuple(range(len(inputs))))
        return self.value,

    def backward(self, indexes, grad_outputs):
        """Return the gradients."""
        if chainer.config.enable_backprop:
            inputs = self.get_retained_inputs()
            return chainer.grad([self.plain(*inputs)], [inputs[i] for i in indexes], grad_outputs,
                                enable_double_backprop=True)
        return [chainer.Variable(grad_outputs[0].array * self.gradients[i]) for i in indexes]


@instead_of(F, 'bernoulli_nll')
def bernoulli_nll_of(plain, x, y, reduce='sum'):
    """Compute F.bernoulli_nll of pixels x and logits y, (N, D)."""
    x, y = chainer.as_variable(x), chainer.as_variable(y)
    if (reduce not in ('sum', 'no') or not takes(x.array, y.array) or x.shape != y.shape
            or y.ndim != 2 or x.requires_grad):
        return plain(x, y, reduce)
    if reduce == 'no':
        value, gradient = np.empty_like(y.array), np.empty_like(y.array)
        entry(bernoulli_nll_of_each)(*(each.reshape(-1) for each in (
            x.array, y.array, value, gradient)))
    else:
        gradient, zero = y.array.copy(), np.zeros(y.shape[1], np.float32)
        value = np.array(entry(bernoulli_nll)(gradient, zero, x.array, 1, step.f32(1)), np.float32)
    return Known(value, [None, gradient], lambda x, y: plain(x, y, reduce)).apply((x, y))[0]


@instead_of(F, 'gaussian_kl_divergence')
def gaussian_kl_divergence(plain, mean, ln_var, reduce='sum'):
    """Compute F.gaussian_kl_divergence."""
    mean, ln_var = chainer.as_variable(mean), chainer.as_variable(ln_var)
    if reduce != 'sum' or not takes(mean.array, ln_var.array) or mean.shape != ln_var.shape:
        return plain(mean, ln_var, reduce)
    gradient = np.empty_like(ln_var.array)
    value = entry(kl_divergence)(mean.array.reshape(-1), ln_var.array.reshape(-1),
                                 gradient.reshape(-1))
    return Known(np.array(value, np.float32), [mean.array, gradient], plain).apply(
        (mean, ln_var))[0]


@instead_of(optimizers.adam.AdamRule, 'update_core_cpu')
def adam_update(plain, rule, param):
    """Take a step of Adam."""
    numbers, arrays = rule.hyperparam, (param.array, param.grad, *map(rule.state.get, 'mv'))
    if (numbers.amsgrad or numbers.adabound or numbers.weight_decay_rate or not takes(*arrays)
            or {array.shape for array in arrays} != {param.shape}):
        plain(rule, param)
        return
    rule._check_eps(np.float32)
    numbers = step.Adam(*map(step.f32, (
        rule.alpha_t * numbers.eta, 1 - numbers.beta1, 1 - numbers.beta2, numbers.eps)))
    share(update, 20 * param.size, *(array.reshape(-1) for array in arrays), numbers)


@functools.cache
def method(function, plain):
    """Return what stands in Chainer's place."""
    @functools.wraps(plain)
    def called(*args, **kwargs):
        return function(plain, *args, **kwargs)
    return called


def is_chainers(function, name):
    """Tell whether a function is the one that Chainer came with, not an edit's."""
    code = getattr(function, '__code__', None)
    return code is not None and code.co_filename.startswith(CHAINER) and code.co_name == name


@contextlib.contextmanager
def in_place(threads):
    """Within a `with` block, let compiled parts compute what Chainer is asked for, on threads.

    What an edit put in Chainer's place stays there.
    """
    put = []
    running_on.append(threads)
    try:
        found = {key: getattr(*key) for key in INSTEAD}
        own = {key for key, plain in found.items() if is_chainers(plain, key[1])}
        # of Chainer's dump_graph, nodes are to be Chainer's
        if not (is_watched() or chainer.config.keep_graph_on_report):
            for key in own:
                if key[0] is not F or len(own) == len(found):   # those of F call the others
                    ours = method(INSTEAD[key], found[key])
                    put.append((key, ours))
                    setattr(*key, ours)
        yield
    finally:
        running_on.pop()
        for key, ours in put:
            if getattr(*key) is ours:
                setattr(*key, found[key])
