"""The fast training step: the mathematics of net.py, written out (article, sections 2 and 3).

`Updater` does what Chainer's StandardUpdater does with `VAE.get_loss_func`, from the same random
draws and on the same arrays; `score_func` does what its namesake in train_vae.py does. Instead of
walking a graph they run functions that Numba compiled, each thread on its share: `learn` (loss and
deltas of some digits), `descend` (gradients and Adam of some rows of every weight) and `score`.
Matrix products are BLAS's, on one thread each. On a GPU, `GraphUpdater` replays a CUDA graph of the
same steps instead.

A delta is the gradient of the loss by what a layer hands to its activation. Shapes: N digits,
D = 784 pixels, H hidden units, Z latent dimensions; M = N * k samples of z, a digit's side by side.
"""

import collections
from concurrent import futures
import ctypes
import functools
import glob
import itertools
import math
import os
import sys
import types

from support import compat  # lets chainer import

import chainer
from chainer import training
import chainer.functions as F
from chainer.optimizers import adam
import numba
import numba.extending
import numpy as np
import scipy.linalg  # noqa: F401  (Numba takes its BLAS, which has to be found below)
import threadpoolctl

if numba.config.DISABLE_JIT:
    raise ImportError('NUMBA_DISABLE_JIT is set')

ACTIVATIONS = {F.softplus: 0, F.tanh: 1, F.relu: 2}     # as `activate` knows them
f32 = np.float32
SHARE = 16                                              # digits that are worth a thread
FLOW = {                                                # layer: its input, its delta in a Space
    'le1': ('x', 'enc_d1'), 'le2': ('enc_h1', 'enc_d2'), 'le3_mu': ('enc_h2', 'mu'),
    'le3_ln_var': ('enc_h2', 'ln_var'), 'ld1': ('z', 'dec_d1'), 'ld2': ('dec_h1', 'dec_d2'),
    'ld3': ('dec_h2', 'dec_d3')}

Layer = collections.namedtuple('Layer', 'W b')
Layers = collections.namedtuple('Layers', FLOW)
# What a minibatch leaves in the layers: h is what comes out of one, d the activation's derivative
# and then the delta, which in the heads takes the place of mu and ln_var; back is scratch.
Space = collections.namedtuple('Space', (
    'x', 'enc_h1', 'enc_d1', 'enc_h2', 'enc_d2', 'mu', 'ln_var', 'sigma',                   # N rows
    'enc_back', 'enc_back2',
    'eps', 'z', 'z_back', 'dec_h1', 'dec_d1', 'dec_h2', 'dec_d2', 'dec_d3', 'dec_back'))    # M rows
# A layer as `descend` takes it, with the gradients, and Adam's moments m and v.
Descent = collections.namedtuple('Descent', 'h delta W W_grad W_m W_v b b_grad b_m b_v')
Adam = collections.namedtuple('Adam', 'alpha_t one_minus_beta1 one_minus_beta2 eps')

BLAS = threadpoolctl.ThreadpoolController().select(user_api='blas')
THREADS = max((library['num_threads'] for library in BLAS.info()), default=1)


def obstacle(optimizer):
    """Say what keeps `Updater` and `GraphUpdater` from training.

    Args:
        optimizer (chainer.Optimizer): Set up with a `VAE`.

    Returns:
        str: What stands in the way; empty where nothing does.
    """
    model, hyperparam = optimizer.target, optimizer.hyperparam
    if model.act_func not in ACTIVATIONS:
        return 'unknown activation'
    if any(param.dtype != np.float32 or not param.array.flags.c_contiguous
           for param in model.params()):
        return 'weights are not plain float32'
    rules = [param.update_rule for param in model.params()]
    hooked = [hookable for hookable in (optimizer, *rules)
              if hookable._hookable._pre_update_hooks or hookable._hookable._post_update_hooks]
    if (type(optimizer) is not adam.Adam or hooked or hyperparam.amsgrad or hyperparam.adabound
            or hyperparam.weight_decay_rate
            or any(type(rule) is not adam.AdamRule or not rule.enabled
                   or rule.hyperparam.get_dict() != hyperparam.get_dict() for rule in rules)):
        return 'optimizer is not plain Adam'
    return ''


def make(iterator, optimizer, device, C=1.0, k=1):
    """Make the updater for a device, and say how it works.

    Args:
        iterator, optimizer, C, k: As for `Updater`.
        device (chainer.backend.Device): The CPU, or a GPU.

    Returns:
        tuple: An `Updater` or a `GraphUpdater`, and a description of it.

    Raises:
        ImportError: If there is a GPU, but no cuBLAS.
    """
    if device.xp is not np:
        return GraphUpdater(iterator, optimizer, device, C, k), 'CUDA graph'
    how = f'{THREADS} thread{"s" * (THREADS != 1)}'
    cache = work.stats.cache_path
    if not cache:
        how += '; compiled anew each time, unless NUMBA_CACHE_DIR names a folder to keep it in'
    elif not glob.glob(os.path.join(glob.escape(cache), 'updater.work-*.nbc')):
        how += '; to be compiled first, once per installation'
    return Updater(iterator, optimizer, C, k), how


class Updater(training.updaters.StandardUpdater):
    """StandardUpdater of a VAE and Adam on the CPU, made fast.

    It serializes as StandardUpdater does: each goes on from the other's snapshots. It leaves the
    gradients in `param.grad`, and `rec_loss`, `latent_loss` and `loss`, as numbers, on the model.

    Args:
        iterator (chainer.iterators.SerialIterator): Of digits, (any, D) float32 in one array.
            From now on it yields their numbers.
        optimizer (chainer.optimizers.Adam): Set up with a `VAE`, without an `obstacle`.
        C (float), k (int): As for `VAE.get_loss_func`.
    """

    def __init__(self, iterator, optimizer, C=1.0, k=1):
        super().__init__(iterator, optimizer)
        self.digits = np.ascontiguousarray(iterator.dataset)
        iterator.dataset = range(len(self.digits))
        self.C, self.k = C, k
        self.model = optimizer.target
        self.grads = {name: np.zeros_like(param.array) for name, param in self.model.namedparams()}
        self.held = []                      # parameters, their arrays and gradients
        self.workers = Workers(self.model, k)
        self.one_thread, self.prepared = None, None

    def update_core(self):
        """Train on a minibatch."""
        rows = np.array(self.get_iterator('main').next(), np.int64)
        n = len(rows)
        if self.prepared is None or self.prepared[0] != n or any(
                param.array is not array for param, array, _ in self.held):
            self.prepare(n)
        if self.one_thread is None:
            self.one_thread = BLAS.limit(limits=1)
        _, eps, shares, entry = self.prepared
        draw(eps, self.k)
        numbers = count_step(self.get_optimizer('main'))
        sums = self.workers.run(entry, [(*args, rows[digits], numbers) for digits, args in shares])
        for param, _, grad in self.held:
            if param.grad is not grad:
                param.grad = grad
        publish(self.model, mean_losses(sums, n, self.k, self.C))
        end_epoch(self)

    def prepare(self, n):
        """Prepare what the compiled functions take, for minibatches of n digits."""
        space, shares = self.workers.prepare(n)
        layers, kind = layers_of(self.model), ACTIVATIONS[self.model.act_func]
        scales = f32(1 / (n * self.k)), f32(self.C / n)
        self.held = [(param, param.array, self.grads[name])
                     for name, param in self.model.namedparams()]
        descents = tuple(self.descent(name, space) for name in FLOW)
        shares = [(digits, (layers, part, kind, self.k, *scales, descents, i, len(shares),
                            self.digits)) for i, (digits, part) in enumerate(shares)]
        no_rows, no_adam = np.zeros(0, np.int64), Adam(*[f32(0)] * len(Adam._fields))
        entry = self.workers.compile(work, (*shares[0][1], no_rows, no_adam))
        self.prepared = n, space.eps, shares, entry

    def descent(self, name, space):
        """Return what `descend` needs of a layer."""
        arrays = [getattr(space, key) for key in FLOW[name]]
        for key in Layer._fields:
            param = getattr(self.model[name], key)
            param.update_rule._init_states(param)
            state = param.update_rule.state
            for moment in 'mv':             # a file may hold them in another order
                state[moment] = np.ascontiguousarray(state[moment])
            arrays += [param.array, self.grads[f'/{name}/{key}'], state['m'], state['v']]
        return Descent(*arrays)

    def serialize(self, serializer):
        """Save or load, as StandardUpdater does."""
        super().serialize(serializer)
        if isinstance(serializer, chainer.Deserializer):
            self.prepared = None            # what was loaded may lie in other arrays

    def finalize(self):
        """End the training: BLAS has its threads again."""
        super().finalize()
        if self.one_thread is not None:
            self.one_thread.restore_original_limits()
            self.one_thread = None


def score_func(model, k):
    """Make the evaluation function of train_vae.py's namesake: the same draws, in large products.

    Args:
        model (VAE): The model to score.
        k (int): Monte Carlo samples for each digit.

    Returns:
        callable: Of a minibatch of pixels (N, D) float32.
    """
    workers, steps = Workers(model, k), {}

    def on_cpu(x):
        space, shares = workers.prepare(len(x))
        space.x[:] = x
        draw(space.eps, k)
        layers, kind = layers_of(model), ACTIVATIONS[model.act_func]
        arguments = [(layers, part, kind, k, f32(1)) for _, part in shares]
        with BLAS.limit(limits=1):
            return workers.run(workers.compile(score, arguments[0]), arguments)

    def on_gpu(x):
        if len(x) not in steps:
            steps.clear()
            steps[len(x)] = Step(model, len(x), k)
        step = steps[len(x)]
        step.space.x[:] = x
        draw(step.space.eps, k)
        step.score()
        return step.sums()

    def evaluate(x):
        sums = on_cpu(x) if model.xp is np else on_gpu(x)
        chainer.report({name: (loss, len(x))
                        for name, loss in mean_losses(sums, len(x), k).items()}, model)

    return evaluate


class Workers:
    """Threads that share the digits of a minibatch, and the arrays in which they work.

    There are as many as BLAS would take, but each has `SHARE` digits at least.

    Args:
        model (VAE): The model.
        k (int): Monte Carlo samples for each digit.
        count (int): The most threads.
    """

    def __init__(self, model, k, count=THREADS):
        self.model, self.k, self.count = model, k, count
        self.pool = futures.ThreadPoolExecutor(count)
        self.prepared = None, None, None

    def compile(self, function, args):
        """Return a function for `run`, compiled for such arguments.

        Calling it spares Numba's look at the type of each argument, which takes long.
        """
        signature = tuple(map(numba.typeof, (*args, np.zeros(1, np.int64))))
        function.compile(signature)
        return function.get_overload(signature)

    def run(self, function, arguments):
        """Call a function with each of the arguments, on threads.

        Args:
            function: As from `compile`; its last argument, given here, is a counter for `meet`.
            arguments (list of tuple): A thread's each, of the types that it was compiled for.

        Returns:
            list: The results.
        """
        counter = np.zeros(1, np.int64)
        others = []
        try:
            for args in arguments[1:]:
                others.append(self.pool.submit(function, *args, counter))
            return [function(*arguments[0], counter), *(other.result() for other in others)]
        finally:                            # after a Ctrl-C, say, let nobody wait for this thread
            counter[0] = len(arguments)
            futures.wait(others)

    def prepare(self, n):
        """Return the Space of a minibatch, and each thread's share of the digits and of it.

        Args:
            n (int): Digits in the minibatch.

        Returns:
            tuple: The Space, and a list of slice and Space for each thread.
        """
        if self.prepared[0] != n:
            space = make_space(self.model, n, self.k)
            count = max(1, min(self.count, n // SHARE))
            ends = [n * i // count for i in range(count + 1)]
            self.prepared = n, space, [
                (slice(start, end), Space(*(array[start * len(array) // n:end * len(array) // n]
                                            for array in space)))
                for start, end in itertools.pairwise(ends)]
        return self.prepared[1:]


def make_space(model, n, k, xp=np):
    """Return a Space of zeros for n digits and k samples of each, of NumPy or CuPy."""
    D, H, Z = (len(layer.b.array) for layer in (model.ld3, model.le1, model.le3_mu))
    sizes = [(n, size) for size in (D, H, H, H, H, Z, Z, Z, H, H)]
    sizes += [(n * k, size) for size in (Z, Z, Z, H, H, H, H, D, H)]
    return Space(*(xp.zeros(shape, np.float32) for shape in sizes))


def layers_of(model):
    """Return the weights of a model as compiled functions take them."""
    links = (model[name] for name in FLOW)
    return Layers(*(Layer(link.W.array, link.b.array) for link in links))


def draw(eps, k):
    """Draw the noise of a minibatch as `VAE.get_loss_func` does: k times for all digits.

    Args:
        eps (array): (M, Z) float32, to be filled.
        k (int): Monte Carlo samples for each digit.
    """
    xp = chainer.backend.get_array_module(eps)
    options = {} if xp is np else {'dtype': np.float32}     # as F.gaussian has it
    eps = eps.reshape(-1, k, eps.shape[1])                  # (N, k, Z)
    for sample in range(k):
        eps[:, sample] = xp.random.standard_normal((len(eps), eps.shape[2]), **options)


def mean_losses(sums, n, k, C=1.0):
    """Return the losses by name, float32, of the threads' sums over n digits and k samples."""
    rec_loss, latent_loss = (sum(terms) for terms in zip(*sums, strict=True))
    rec_loss, latent_loss = rec_loss / (k * n), C * latent_loss / n
    return {'rec_loss': f32(rec_loss), 'latent_loss': f32(latent_loss),
            'loss': f32(rec_loss + latent_loss)}


def count_step(optimizer):
    """Count a step of `chainer.optimizers.Adam` in all its times; return its numbers for it."""
    optimizer.t += 1
    for param in optimizer.target.params():
        param.update_rule.t += 1
    had = optimizer.hyperparam
    alpha_t = optimizer.target.le1.W.update_rule.alpha_t
    return Adam(*map(f32, (alpha_t * had.eta, 1 - had.beta1, 1 - had.beta2, had.eps)))


def end_epoch(its_updater):
    """Count an epoch in the optimizer when one has ended, as StandardUpdater does."""
    if its_updater.auto_new_epoch and its_updater.is_new_epoch:
        its_updater.get_optimizer('main').new_epoch(auto=True)


def publish(model, losses):
    """Leave losses on the model, and report them, as `VAE.get_loss_func` does."""
    for name, loss in losses.items():
        setattr(model, name, loss)
    chainer.report(losses, model)


# Compiled ---------------------------------------------------------------------------------------


def compiled(function):
    """Compile a function by Numba at its first call on this installation; Numba keeps the rest."""
    options = {'nogil': True, 'error_model': 'numpy', 'fastmath': {'contract', 'nsz', 'reassoc'}}
    try:
        return numba.njit(cache=True, **options)(function)
    except RuntimeError:                    # there is no folder to keep it in
        return numba.njit(**options)(function)


@compiled
def work(layers, space, kind, k, rec_scale, latent_scale, descents, part, parts, digits, rows, adam,
         counter):
    """Do one thread's share of a step: `learn`, and when all have, `descend`.

    Args:
        layers, space, kind, k, rec_scale, latent_scale, digits, rows: As for `learn`.
        descents, part, parts, adam: As for `descend`.
        counter (array): As for `meet`.

    Returns:
        tuple of float: As from `score`.
    """
    sums = learn(layers, space, kind, k, rec_scale, latent_scale, digits, rows)
    meet(counter, parts)
    descend(descents, part, parts, adam)
    return sums


@numba.extending.intrinsic
def add_atomically(context, array, number):
    """Add an int64 to the only number in an array, for all threads to see; return what it was."""
    def generate(context, builder, signature, args):
        pointer = context.make_array(signature.args[0])(context, builder, args[0]).data
        return builder.atomic_rmw('add', pointer, args[1], 'seq_cst')

    return numba.types.int64(array, numba.types.int64), generate


if os.name == 'posix':
    give_way = numba.types.ExternalFunction('sched_yield', numba.types.int32())
else:
    @compiled
    def give_way():
        """Go on: Windows has no such call."""


@compiled
def meet(counter, parts):
    """Wait until all threads have come here: without sleeping, as waking up takes longer.

    Args:
        counter (array): Of one int64, 0 at first.
        parts (int): How many threads will come.
    """
    add_atomically(counter, 1)
    while add_atomically(counter, 0) < parts:
        give_way()                          # to whom this core is due, who may be one of us


@compiled
def learn(layers, space, kind, k, rec_scale, latent_scale, digits, rows):
    """Compute the loss of some digits, and the deltas of all layers.

    Args:
        layers (Layers): The weights.
        space (Space): Its `eps` is the noise; all else is filled.
        kind (int): The activation, of `ACTIVATIONS`.
        k (int): Monte Carlo samples for each digit.
        rec_scale, latent_scale (float32): What a sample's reconstruction error and a digit's KL
            divergence weigh in the loss.
        digits (array): All digits, (any, D) float32.
        rows (array): Numbers of those that count here, (N,) int.

    Returns:
        tuple of float: As from `score`.
    """
    for i in range(len(rows)):
        space.x[i] = digits[rows[i]]
    sums = score(layers, space, kind, k, rec_scale)
    np.dot(space.dec_d3, layers.ld3.W, space.dec_back)          # (M, H)
    multiply(space.dec_d2, space.dec_back)
    np.dot(space.dec_d2, layers.ld2.W, space.dec_back)          # (M, H)
    multiply(space.dec_d1, space.dec_back)
    np.dot(space.dec_d1, layers.ld1.W, space.z_back)            # (M, Z)
    infer_back(space.mu, space.ln_var, space.sigma, space.eps, space.z_back, k, latent_scale)
    np.dot(space.mu, layers.le3_mu.W, space.enc_back)           # (N, H)
    np.dot(space.ln_var, layers.le3_ln_var.W, space.enc_back2)  # (N, H)
    add(space.enc_back, space.enc_back2)
    multiply(space.enc_d2, space.enc_back)
    np.dot(space.enc_d2, layers.le2.W, space.enc_back)          # (N, H)
    multiply(space.enc_d1, space.enc_back)
    return sums


@compiled
def score(layers, space, kind, k, rec_scale, counter=None):
    """Compute the loss of the digits in `space.x` under the noise in `space.eps`.

    Args:
        layers, space, kind, k, rec_scale: As for `learn`.
        counter: Is not used: no thread waits here.

    Returns:
        tuple of float: The sum of the reconstruction errors of all samples, and that of the KL
        divergences of all digits.
    """
    np.dot(space.x, layers.le1.W.T, space.enc_h1)               # (N, H)
    activate(space.enc_h1, layers.le1.b, space.enc_d1, kind)
    np.dot(space.enc_h1, layers.le2.W.T, space.enc_h2)          # (N, H)
    activate(space.enc_h2, layers.le2.b, space.enc_d2, kind)
    np.dot(space.enc_h2, layers.le3_mu.W.T, space.mu)           # (N, Z)
    np.dot(space.enc_h2, layers.le3_ln_var.W.T, space.ln_var)   # (N, Z)
    latent = infer(space.mu, layers.le3_mu.b, space.ln_var, layers.le3_ln_var.b, space.sigma,
                   space.eps, space.z, k)
    np.dot(space.z, layers.ld1.W.T, space.dec_h1)               # (M, H)
    activate(space.dec_h1, layers.ld1.b, space.dec_d1, kind)
    np.dot(space.dec_h1, layers.ld2.W.T, space.dec_h2)          # (M, H)
    activate(space.dec_h2, layers.ld2.b, space.dec_d2, kind)
    np.dot(space.dec_h2, layers.ld3.W.T, space.dec_d3)          # (M, D)
    rec = bernoulli_nll(space.dec_d3, layers.ld3.b, space.x, k, rec_scale)
    return rec, latent


@compiled
def descend(descents, part, parts, adam):
    """Take a step of Adam (Kingma & Ba, arXiv:1412.6980, algorithm 1) in some rows of each weight.

    Args:
        descents (tuple of Descent): The layers.
        part, parts (int): Which part of the rows, and of how many.
        adam (Adam): Its numbers, float32.
    """
    for layer in descents:
        size = len(layer.b)
        start, end = size * part // parts, size * (part + 1) // parts
        delta = np.empty((len(layer.delta), end - start), np.float32)
        grad = layer.b_grad[start:end]
        grad[:] = 0
        for i in range(len(delta)):
            for j in range(end - start):
                delta[i, j] = layer.delta[i, start + j]
                grad[j] += delta[i, j]
        np.dot(delta.T, layer.h, layer.W_grad[start:end])
        update(layer.W[start:end].ravel(), layer.W_grad[start:end].ravel(),
               layer.W_m[start:end].ravel(), layer.W_v[start:end].ravel(), adam)
        update(layer.b[start:end], grad, layer.b_m[start:end], layer.b_v[start:end], adam)


@compiled
def update(param, grad, m, v, adam):
    """Update flat arrays by Adam in one pass."""
    for i in range(len(param)):
        m[i] += adam.one_minus_beta1 * (grad[i] - m[i])
        v[i] += adam.one_minus_beta2 * (grad[i] * grad[i] - v[i])
        param[i] -= adam.alpha_t * m[i] / (np.sqrt(v[i]) + adam.eps)


@compiled
def activate(h, b, d, kind):
    """Add the bias b to h and activate it in place; fill d with the derivative."""
    for i in range(len(h)):
        for j in range(len(b)):
            a = h[i, j] + b[j]
            if kind == 2:
                h[i, j] = f32(0) if a < f32(0) else a           # lets a NaN pass
                d[i, j] = f32(1) if a > f32(0) else f32(0)
            elif kind == 1:
                h[i, j] = tanh(a)
                d[i, j] = f32(1) - h[i, j] * h[i, j]
            else:
                h[i, j], d[i, j] = softplus_and_sigmoid(a)


@compiled
def infer(mu, b_mu, ln_var, b_ln_var, sigma, eps, z, k):
    """Add the biases to mu and ln_var, fill sigma and z; return the sum of the KL divergences."""
    latent = 0.0
    for i in range(len(mu)):
        for j in range(len(b_mu)):
            mu[i, j] += b_mu[j]
            ln_var[i, j] += b_ln_var[j]
            sigma[i, j] = np.exp(ln_var[i, j] / f32(2))
            for m in range(i * k, i * k + k):
                z[m, j] = mu[i, j] + eps[m, j] * sigma[i, j]
            latent += (mu[i, j] ** 2 + sigma[i, j] ** 2 - ln_var[i, j] - f32(1)) / f32(2)
    return latent


@compiled
def infer_back(mu, ln_var, sigma, eps, z_back, k, latent_scale):
    """Replace mu and ln_var by their gradients, given that of z."""
    for i in range(len(mu)):
        for j in range(mu.shape[1]):
            mu[i, j] *= latent_scale
            ln_var[i, j] = (sigma[i, j] ** 2 - f32(1)) / f32(2) * latent_scale
            for m in range(i * k, i * k + k):
                mu[i, j] += z_back[m, j]
                ln_var[i, j] += z_back[m, j] * eps[m, j] * sigma[i, j] / f32(2)


@compiled
def bernoulli_nll(y, b, x, k, rec_scale):
    """Add the bias b to the logits y, and replace them by their gradients; return the sum."""
    rec = 0.0
    for i in range(len(y)):
        row, digit = f32(0), x[i // k]
        for j in range(len(b)):
            a = y[i, j] + b[j]
            softplus, sigmoid = softplus_and_sigmoid(a)
            row += softplus - digit[j] * a
            y[i, j] = (sigmoid - digit[j]) * rec_scale
        rec += row
    return rec


@compiled
def softplus_and_sigmoid(a):
    """Return log(1 + exp(a)) and its derivative 1 / (1 + exp(-a)), in float32."""
    e = exp_neg(abs(a))
    s = e / (e + f32(2))                # log(1 + e) = 2 artanh(s), with 0 <= s <= 1/3
    s2 = s * s
    series = f32(1 / 11)
    for n in (9, 7, 5, 3, 1):
        series = series * s2 + f32(1 / n)
    above = f32(0) if a < f32(0) else a                         # lets a NaN pass
    return above + f32(2) * s * series, (f32(1) if a > f32(0) else e) / (f32(1) + e)


@compiled
def tanh(a):
    """Return the hyperbolic tangent of a, in float32, to 1e-7."""
    e = exp_neg(f32(2) * abs(a))
    t = (f32(1) - e) / (f32(1) + e)
    return -t if a < f32(0) else t if a >= f32(0) else a        # lets a NaN pass


@compiled
def exp_neg(t):
    """Return exp(-t) for t >= 0, in float32: 2**whole * 2**rest, where abs(rest) <= 1/2.

    Written out, as a loop over `np.exp` would not become vector instructions.
    """
    y = t * f32(-1 / math.log(2))
    y = y if y > f32(-126) else f32(-126)
    whole = np.floor(y + f32(0.5))
    rest = (y - whole) * f32(math.log(2))
    series = f32(1 / 720)
    for divisor in (120, 24, 6, 2, 1, 1):
        series = series * rest + f32(1 / divisor)
    bits = np.int32((np.int32(whole) + 127) << 23)              # of 2**whole
    return series * bits.view(np.float32)


@compiled
def add(a, b):
    """Add b to a, in place."""
    for i in range(len(a)):
        for j in range(a.shape[1]):
            a[i, j] += b[i, j]


@compiled
def multiply(a, b):
    """Multiply a by b, in place."""
    for i in range(len(a)):
        for j in range(a.shape[1]):
            a[i, j] *= b[i, j]


# On a GPU ---------------------------------------------------------------------------------------


class GraphUpdater(training.updaters.StandardUpdater):
    """StandardUpdater of a VAE and Adam on a GPU, whose steps replay one CUDA graph.

    The digits lie on the GPU. What differs from step to step is written into the arrays that the
    graph reads: the numbers of the digits, the noise, and Adam's numbers.

    Args:
        iterator, optimizer, C, k: As for `Updater`.
        device (chainer.backends.cuda.GpuDevice): The GPU.

    Raises:
        ImportError: If there is no cuBLAS.
    """

    def __init__(self, iterator, optimizer, device, C=1.0, k=1):
        super().__init__(iterator, optimizer, device=device)
        with chainer.using_device(device):
            self.stream = device.xp.cuda.Stream(non_blocking=True)      # as a capture wants it
            self.cublas = Cublas(self.stream.ptr, device.xp)
        self.C, self.k = C, k
        self.model = optimizer.target
        self.digits = device.send(np.ascontiguousarray(iterator.dataset))
        iterator.dataset = range(len(self.digits))
        self.step, self.graph, self.can_capture = None, None, True

    def update_core(self):
        """Train on a minibatch."""
        rows = np.array(self.get_iterator('main').next(), np.int64)
        numbers = count_step(self.get_optimizer('main'))
        with chainer.using_device(self.device), self.stream:
            if self.step is None or len(self.step.rows) != len(rows):
                self.device.xp.cuda.Device().synchronize()      # the other streams, too
                self.step = Step(self.model, len(rows), self.k, self.C, self.digits,
                                 dot=self.cublas.dot)
                self.graph = None
            self.step.set_inputs(rows, numbers)
            if self.graph is not None:
                self.graph.launch(self.stream)
            else:
                self.step()                 # as it is, which also loads what a capture must not
                if self.can_capture:
                    self.capture()
            sums = self.step.sums()
        publish(self.model, mean_losses(sums, len(rows), self.k, self.C))
        end_epoch(self)

    def capture(self):
        """Make the graph of a step, without taking it; where that fails, warn and do without."""
        try:
            self.stream.begin_capture()
            try:
                self.step()
            finally:
                graph = self.stream.end_capture()
            self.graph = graph
        except Exception as error:          # whatever CuPy, CUDA or cuBLAS may raise
            self.can_capture = False
            print(f'warning: no CUDA graph ({compat.printable(error)}); training goes on without '
                  'one, which takes longer', file=sys.stderr)

    def serialize(self, serializer):
        """Save or load, as StandardUpdater does."""
        super().serialize(serializer)
        if isinstance(serializer, chainer.Deserializer):
            self.step = None                # what was loaded may lie in other arrays


class Cublas:
    """Matrix products that a CUDA graph can capture, which CuPy refuses for its own.

    Args:
        stream (int): Pointer of the stream.
        xp: CuPy.
        library: cuBLAS; by default that of CuPy.

    Raises:
        ImportError: If there is no cuBLAS.
        RuntimeError: From all methods, if cuBLAS fails.
    """

    def __init__(self, stream, xp, library=None):
        if library is None:
            xp.dot(xp.ones((1, 1)), xp.ones((1, 1)))    # CuPy finds cuBLAS, wherever that may be
            version = xp.cuda.runtime.runtimeGetVersion() // 1000
            try:
                library = ctypes.CDLL(f'cublas64_{version}.dll' if os.name == 'nt' else
                                      f'libcublas.so.{version}')
            except OSError as error:
                raise ImportError(f'cuBLAS does not load: {error}') from None
        self.library = library
        self.handle = ctypes.c_void_p()
        self.call('cublasCreate_v2', ctypes.byref(self.handle))
        self.call('cublasSetStream_v2', self.handle, ctypes.c_void_p(stream))
        self.workspace = xp.zeros(2**25, np.uint8)      # what a graph uses must not be freed
        self.call('cublasSetWorkspace_v2', self.handle, ctypes.c_void_p(self.workspace.data.ptr),
                  ctypes.c_size_t(self.workspace.nbytes))

    def call(self, name, *args):
        """Call a function of cuBLAS."""
        status = getattr(self.library, name)(*args)
        if status:
            raise RuntimeError(f'{name} of cuBLAS returned {status}')

    def dot(self, a, b, out):
        """Write the product of matrices (m, k) and (k, n), float32, into out (m, n)."""
        (m, k), n = a.shape, b.shape[1]
        one, zero = ctypes.c_float(1), ctypes.c_float(0)

        def operand(array):                 # pointer and row length; whether it lies transposed
            if array.flags.c_contiguous:
                return 0, ctypes.c_void_p(array.data.ptr), array.shape[1]
            return 1, ctypes.c_void_p(array.data.ptr), array.shape[0]

        # cuBLAS goes by columns: what it takes for b and a, in this order, gives out transposed
        transposed_b, b, ld_b = operand(b)
        transposed_a, a, ld_a = operand(a)
        self.call('cublasSgemm_v2', self.handle, transposed_b, transposed_a, n, m, k,
                  ctypes.byref(one), b, ld_b, a, ld_a, ctypes.byref(zero),
                  ctypes.c_void_p(out.data.ptr), n)


class Step:
    """A training step in array calls that allocate nothing, so that CUDA can capture them.

    Args:
        model (VAE): The model, on the GPU.
        n (int): Digits in the minibatch.
        k (int), C (float): As for `VAE.get_loss_func`.
        digits (array): All digits, (any, D) float32, on the GPU; None just to `score`.
        kernels: As from `cuda_kernels`.
        dot (callable): Of two matrices and their product, which it writes; by default CuPy's.
    """

    def __init__(self, model, n, k, C=1.0, digits=None, kernels=None, dot=None):
        self.xp = chainer.backend.get_array_module(model.le1.W.array)
        self.kernels = kernels or cuda_kernels(self.xp)
        self.dot = dot or self.xp.dot
        self.model, self.k, self.digits = model, k, digits
        self.kind = ACTIVATIONS[model.act_func]
        self.scales = f32(1 / (n * k)), f32(C / n)
        self.space = make_space(model, n, k, self.xp)
        self.nll = self.xp.zeros_like(self.space.dec_d3)            # (M, D)
        self.kl = self.xp.zeros_like(self.space.mu)                 # (N, Z)
        self.ones = self.xp.ones((1, n * k), np.float32)
        self.rows = self.xp.zeros(n, np.int64)
        self.adam = self.xp.zeros(len(Adam._fields), np.float32)
        if digits is not None:
            for param in model.params():
                param.grad = self.xp.zeros_like(param.array)
                param.update_rule._init_states(param)       # or sends what was loaded to the GPU

    def set_inputs(self, rows, adam):
        """Set what differs from step to step: numbers of digits (N,), Adam's numbers, and noise."""
        self.rows.set(rows)
        self.adam.set(np.array(adam, np.float32))
        draw(self.space.eps, self.k)

    def __call__(self):
        """Take the step."""
        self.kernels.fetch(self.digits, self.rows, self.digits.shape[1], self.space.x)
        self.score()
        self.learn()
        self.descend()

    def score(self):
        """Compute the losses of the digits in `space.x`, as the compiled `score` does."""
        space, kernels, kind = self.space, self.kernels, self.kind
        le1, le2, le3_mu, le3_ln_var, ld1, ld2, ld3 = layers_of(self.model)
        dot = self.dot
        dot(space.x, le1.W.T, space.enc_h1)                         # (N, H)
        kernels.activate(space.enc_h1, le1.b, kind, space.enc_h1, space.enc_d1)
        dot(space.enc_h1, le2.W.T, space.enc_h2)                    # (N, H)
        kernels.activate(space.enc_h2, le2.b, kind, space.enc_h2, space.enc_d2)
        dot(space.enc_h2, le3_mu.W.T, space.mu)                     # (N, Z)
        dot(space.enc_h2, le3_ln_var.W.T, space.ln_var)             # (N, Z)
        kernels.infer(space.mu, le3_mu.b, space.ln_var, le3_ln_var.b, space.eps, self.k,
                      space.mu.shape[1], space.mu, space.ln_var, space.sigma, self.kl, space.z)
        dot(space.z, ld1.W.T, space.dec_h1)                         # (M, H)
        kernels.activate(space.dec_h1, ld1.b, kind, space.dec_h1, space.dec_d1)
        dot(space.dec_h1, ld2.W.T, space.dec_h2)                    # (M, H)
        kernels.activate(space.dec_h2, ld2.b, kind, space.dec_h2, space.dec_d2)
        dot(space.dec_h2, ld3.W.T, space.dec_d3)                    # (M, D)
        kernels.bernoulli_nll(space.dec_d3, ld3.b, space.x, self.k, space.x.shape[1],
                              self.scales[0], space.dec_d3, self.nll)

    def learn(self):
        """Compute the deltas of all layers, as the compiled `learn` does."""
        space, kernels, dot, multiply = self.space, self.kernels, self.dot, self.xp.multiply
        _, le2, le3_mu, le3_ln_var, ld1, ld2, ld3 = layers_of(self.model)
        dot(space.dec_d3, ld3.W, space.dec_back)                    # (M, H)
        multiply(space.dec_d2, space.dec_back, space.dec_d2)
        dot(space.dec_d2, ld2.W, space.dec_back)                    # (M, H)
        multiply(space.dec_d1, space.dec_back, space.dec_d1)
        dot(space.dec_d1, ld1.W, space.z_back)                      # (M, Z)
        kernels.infer_back(space.sigma, space.eps, space.z_back, self.k, space.mu.shape[1],
                           self.scales[1], space.mu, space.ln_var)
        dot(space.mu, le3_mu.W, space.enc_back)                     # (N, H)
        dot(space.ln_var, le3_ln_var.W, space.enc_back2)            # (N, H)
        self.xp.add(space.enc_back, space.enc_back2, space.enc_back)
        multiply(space.enc_d2, space.enc_back, space.enc_d2)
        dot(space.enc_d2, le2.W, space.enc_back)                    # (N, H)
        multiply(space.enc_d1, space.enc_back, space.enc_d1)

    def descend(self):
        """Take a step of Adam, as the compiled `descend` does."""
        for name, flow in FLOW.items():
            h, delta = (getattr(self.space, key) for key in flow)
            link = self.model[name]
            self.dot(delta.T, h, link.W.grad)
            self.dot(self.ones[:, :len(delta)], delta, link.b.grad[None])
            for param in (link.W, link.b):
                state = param.update_rule.state
                self.kernels.adam(param.grad, self.adam, param.array, state['m'], state['v'])

    def sums(self):
        """Return the sums of the losses, as the threads' in `mean_losses`."""
        return [(float(self.nll.sum(dtype=np.float64)), float(self.kl.sum(dtype=np.float64)))]


@functools.cache
def cuda_kernels(xp):
    """Return the elementwise functions of `Step`, each as one CUDA kernel.

    Args:
        xp: CuPy.
    """
    return types.SimpleNamespace(**{
        name: xp.ElementwiseKernel(inputs, outputs, code, name)
        for name, (inputs, outputs, code) in CUDA.items()})


CUDA = {                # name: inputs, outputs (some are both), and what is done for an element i
    'fetch': ('raw T digits, raw int64 rows, int32 D', 'T x', """
        x = digits[rows[i / D] * D + i % D];"""),
    'activate': ('T a0, T b, int32 kind', 'T h, T d', """
        T a = a0 + b;
        if (kind == 2) { h = a < 0 ? (T)0 : a; d = a > 0 ? 1 : 0; }
        else if (kind == 1) { h = tanh(a); d = 1 - h * h; }
        else {
            T e = exp(-fabs(a));
            h = (a < 0 ? (T)0 : a) + log1p(e);
            d = (a > 0 ? (T)1 : e) / (1 + e);
        }"""),
    'infer': ('T mu0, T b_mu, T ln_var0, T b_ln_var, raw T eps, int32 k, int32 Z',
              'T mu, T ln_var, T sigma, T kl, raw T z', """
        mu = mu0 + b_mu;
        ln_var = ln_var0 + b_ln_var;
        sigma = exp(ln_var / 2);
        kl = (mu * mu + sigma * sigma - ln_var - 1) / 2;
        for (int m = i / Z * k; m < i / Z * k + k; m++)
            z[m * Z + i % Z] = mu + eps[m * Z + i % Z] * sigma;"""),
    'infer_back': ('T sigma, raw T eps, raw T z_back, int32 k, int32 Z, T scale',
                   'T mu, T ln_var', """
        T sum_mu = mu * scale, sum_ln_var = (sigma * sigma - 1) / 2 * scale;
        for (int m = i / Z * k; m < i / Z * k + k; m++) {
            T back = z_back[m * Z + i % Z];
            sum_mu += back;
            sum_ln_var += back * eps[m * Z + i % Z] * sigma / 2;
        }
        mu = sum_mu;
        ln_var = sum_ln_var;"""),
    'bernoulli_nll': ('T y0, T b, raw T x, int32 k, int32 D, T scale', 'T delta, T nll', """
        T a = y0 + b, e = exp(-fabs(a)), pixel = x[i / D / k * D + i % D];
        nll = (a < 0 ? (T)0 : a) + log1p(e) - pixel * a;
        delta = ((a > 0 ? (T)1 : e) / (1 + e) - pixel) * scale;"""),
    'adam': ('T grad, raw T adam', 'T param, T m, T v', """
        m += adam[1] * (grad - m);
        v += adam[2] * (grad * grad - v);
        param -= adam[0] * m / (sqrt(v) + adam[3]);"""),
}
