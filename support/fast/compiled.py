"""The step in compiled functions: net.py's mathematics, written out for Numba.

Each thread takes its share of a minibatch (`backward`: loss and deltas of some digits), and then of
the weights (`descend`: gradients of some rows of each, and a step of Adam in them). Ranks take the
mean of their gradients in between. Names and shapes are those of step.py.
"""

import collections
import contextlib
import functools
import math
import sys

from support.fast import blas
from support.fast.step import f32

import numba
import numpy as np

LANES = 16                      # of a sum, so that vectors can add it up
# BLAS takes addresses. If its sizes have 32 bits, it reads the lower half of ours. (Numba's manual
# does not tell of `ExternalFunction`; 0.60 to 0.68 have it.)
sgemm = numba.types.ExternalFunction(blas.NAME, numba.types.void(*[numba.types.voidptr] * 13))
PLAIN, TRANSPOSED = np.array([ord('N')], np.uint8), np.array([ord('T')], np.uint8)
ONE, ZERO = np.array([1], np.float32), np.array([0], np.float32)
# A layer as `descend` takes it, with the gradients, and Adam's moments m and v.
Descent = collections.namedtuple('Descent', 'h delta W W_grad W_m W_v b b_grad b_m b_v')

if numba.config.DISABLE_JIT:
    raise ImportError('NUMBA_DISABLE_JIT is set')
COMPILED = {}               # by function and types
# LLVM may take -0 for 0. It must not reorder sums or fuse them with products: the last bits would
# then depend on the processor, and on whether this run compiled or an earlier one.
compiled = numba.njit(nogil=True, error_model='numpy', fastmath={'nsz'})


def kept(function):
    """Mark a function that is kept for later runs; it must call no other: their caches may fail."""
    entry = compiled(function)
    with contextlib.suppress(RuntimeError):     # there is no folder for it
        entry.enable_caching()
    return entry


def compile_for(function, args):
    """Return a kept function, compiled for such arguments whatever is wrong with Numba's cache."""
    signature = tuple(map(numba.typeof, args))
    if (function, signature) not in COMPILED:
        made = function
        try:
            function.compile(signature)
        except Exception as error:
            if signature in function.overloads:     # it is compiled, but cannot be written
                warn(function.stats.cache_path, getattr(error, 'strerror', error))
            else:                                   # what was written cannot be read
                with contextlib.suppress(OSError):
                    function.recompile()            # empties the cache
                made = compiled(function.py_func)
                made.compile(signature)
        COMPILED[function, signature] = made.get_overload(signature)
    return COMPILED[function, signature]


@functools.cache
def warn(folder, reason):
    """Say, once for all functions, that Numba's folder cannot keep them."""
    print(f'warning: {folder} cannot keep what Numba compiles ({reason}), so that each run '
          'compiles it anew; mend that, or name a folder in NUMBA_CACHE_DIR', file=sys.stderr)


@kept
def backward(layers, space, activation, k, rec_scale, latent_scale, digits, rows):
    """Compute the losses of digits of these numbers (N,), as `forward`, and all deltas."""
    for i in range(len(rows)):
        space.x[i] = digits[rows[i]]
    sums = forward(layers, space, activation, k, rec_scale)
    dot(space.dec_d3, layers.ld3.W, space.dec_back)      # (M, H)
    np.multiply(space.dec_d2, space.dec_back, space.dec_d2)
    dot(space.dec_d2, layers.ld2.W, space.dec_back)      # (M, H)
    np.multiply(space.dec_d1, space.dec_back, space.dec_d1)
    dot(space.dec_d1, layers.ld1.W, space.z_back)        # (M, Z)
    infer_back(space.mu, space.ln_var, space.sigma, space.eps, space.z_back, k, latent_scale)
    dot(space.mu, layers.le3_mu.W, space.enc_back)       # (N, H)
    dot(space.ln_var, layers.le3_ln_var.W, space.enc_back2)  # (N, H)
    np.add(space.enc_back, space.enc_back2, space.enc_back)
    np.multiply(space.enc_d2, space.enc_back, space.enc_d2)
    dot(space.enc_d2, layers.le2.W, space.enc_back)      # (N, H)
    np.multiply(space.enc_d1, space.enc_back, space.enc_d1)
    return sums


@compiled
def forward(layers, space, activation, k, rec_scale):
    """Return the sums of reconstruction errors and of KL divergences of the digits in `space.x`."""
    dot(space.x, layers.le1.W.T, space.enc_h1)           # (N, H)
    activate(space.enc_h1, layers.le1.b, space.enc_d1, activation)
    dot(space.enc_h1, layers.le2.W.T, space.enc_h2)      # (N, H)
    activate(space.enc_h2, layers.le2.b, space.enc_d2, activation)
    dot(space.enc_h2, layers.le3_mu.W.T, space.mu)       # (N, Z)
    dot(space.enc_h2, layers.le3_ln_var.W.T, space.ln_var)  # (N, Z)
    latent = infer(space.mu, layers.le3_mu.b, space.ln_var, layers.le3_ln_var.b, space.sigma,
                   space.eps, space.z, k)
    dot(space.z, layers.ld1.W.T, space.dec_h1)           # (M, H)
    activate(space.dec_h1, layers.ld1.b, space.dec_d1, activation)
    dot(space.dec_h1, layers.ld2.W.T, space.dec_h2)      # (M, H)
    activate(space.dec_h2, layers.ld2.b, space.dec_d2, activation)
    dot(space.dec_h2, layers.ld3.W.T, space.dec_d3)      # (M, D)
    rec = bernoulli_nll(space.dec_d3, layers.ld3.b, space.x, k, rec_scale)
    return rec, latent


score = kept(forward.py_func)       # forward itself is compiled into backward


@kept
def descend(descents, part, parts, adam, has_gradients):
    """Compute gradients of a part of each layer's rows, unless it has them, and descend."""
    for layer in descents:
        size = len(layer.b)
        start, end = size * part // parts, size * (part + 1) // parts
        if not has_gradients:
            delta, grad = np.ascontiguousarray(layer.delta[:, start:end]), layer.b_grad[start:end]
            grad[:] = 0
            for i in range(len(delta)):
                for j in range(end - start):
                    grad[j] += delta[i, j]
            dot(delta.T, layer.h, layer.W_grad[start:end])
        # NO_ADAM has three zeros; the gradients are in the cache now
        if adam.alpha_t != 0 or adam.one_minus_beta1 != 0 or adam.one_minus_beta2 != 0:
            update(layer.W[start:end].ravel(), layer.W_grad[start:end].ravel(),
                   layer.W_m[start:end].ravel(), layer.W_v[start:end].ravel(), adam)
            update(layer.b[start:end], layer.b_grad[start:end], layer.b_m[start:end],
                   layer.b_v[start:end], adam)


@compiled
def update(param, grad, m, v, adam):
    """Update flat arrays by Adam (Kingma & Ba, arXiv:1412.6980, algorithm 1) in one pass."""
    for i in range(len(param)):
        m[i] += adam.one_minus_beta1 * (grad[i] - m[i])
        v[i] += adam.one_minus_beta2 * (grad[i] * grad[i] - v[i])
        param[i] -= adam.alpha_t * m[i] / (np.sqrt(v[i]) + adam.eps)


@compiled
def dot(a, b, out):
    """Write the product of a (m, k) and b (k, n), plain, transposed or parts, into out (m, n)."""
    # BLAS has columns where NumPy has rows, so it is asked for out.T = b.T a.T
    (m, k), n = a.shape, b.shape[1]
    plain_a, plain_b = a.strides[1] == a.itemsize, b.strides[1] == b.itemsize
    row_b = max(n, b.strides[0] // b.itemsize) if plain_b else max(k, b.strides[1] // b.itemsize)
    row_a = max(k, a.strides[0] // a.itemsize) if plain_a else max(m, a.strides[1] // a.itemsize)
    sizes = np.array((n, m, k, row_b, row_a, max(n, out.strides[0] // out.itemsize)))
    sgemm(PLAIN.ctypes if plain_b else TRANSPOSED.ctypes,
          PLAIN.ctypes if plain_a else TRANSPOSED.ctypes,
          sizes.ctypes, sizes[1:].ctypes, sizes[2:].ctypes, ONE.ctypes, b.ctypes, sizes[3:].ctypes,
          a.ctypes, sizes[4:].ctypes, ZERO.ctypes, out.ctypes, sizes[5:].ctypes)


@compiled
def activate(h, b, d, activation):
    """Add the bias b to h and activate it in place; fill d with the derivative."""
    for i in range(len(h)):
        for j in range(len(b)):
            a = h[i, j] + b[j]
            if activation == 2:
                h[i, j] = f32(0) if a < f32(0) else a           # lets a NaN pass
                d[i, j] = f32(1) if a > f32(0) else f32(0)
            elif activation == 1:
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
    terms = np.zeros(-(-len(b) // LANES) * LANES, np.float32)
    sums = np.empty(LANES, np.float32)
    for i in range(len(y)):
        digit = x[i // k]
        for j in range(len(b)):
            a = y[i, j] + b[j]
            softplus, sigmoid = softplus_and_sigmoid(a)
            terms[j] = softplus - digit[j] * a
            y[i, j] = (sigmoid - digit[j]) * rec_scale
        sums[:] = 0
        for j in range(0, len(terms), LANES):
            for lane in range(LANES):
                sums[lane] += terms[j + lane]
        for lane in range(LANES):
            rec += sums[lane]
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
    """Return exp(-t) for t >= 0, in float32, by vector instructions, unlike `np.exp`."""
    y = t * f32(-1 / math.log(2))
    y = f32(-126) if y < f32(-126) else y                       # lets a NaN pass
    whole = np.floor(y + f32(0.5))                              # 2**whole * 2**rest
    rest = (y - whole) * f32(math.log(2))
    series = f32(1 / 720)
    for divisor in (120, 24, 6, 2, 1, 1):
        series = series * rest + f32(1 / divisor)
    bits = np.int32((np.int32(whole) + 127) << 23)              # of 2**whole
    return series * bits.view(np.float32)
