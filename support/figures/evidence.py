"""log p(x) = log of the integral of p(x|z) p(z) dz = L(x, z) + KL[q(z|x) || p(z|x)], measured (3).

With one or two latent dimensions the integral is a sum over a grid. With more, importance sampling
gives a bound (Burda, Grosse & Salakhutdinov, arXiv:1509.00519). The model computes in float32, sums
are float64, in nats. Shapes: N digits of D pixels, Z latent dimensions, M nodes, K samples.
"""

from collections import namedtuple

from support.figures import pictures  # lets chainer import
from support.run import observe

import chainer
from chainer.backends import cuda
import chainer.functions as F
import numpy as np
from scipy.ndimage import binary_dilation
from scipy.special import logsumexp

LIMIT = 4.5             # the first grid covers -LIMIT..LIMIT: all of N(0, I) but 1 part in 70,000;
NODES = 161             # its nodes in each direction; more if codes lie farther out,
MOST_NODES = 501        # but at most these
CUT = 20                # nodes below e^-CUT of the largest value are left out
CELLS = 1500            # nodes, about, of the second grid; each digit has its own
FEW = range(1, 3)       # numbers of latent dimensions for which a grid is possible
Grid = namedtuple('Grid', 'z volume')   # nodes (M, Z), and the volume of the cell around each


def one_draw(model, x):
    """Let net.py's loss draw z; return its losses, all that it decoded, and our mu, ln_var, z."""
    decoded = []
    with observe.as_tested(model), observe.same_noise(model.xp) as rewind:
        decode = model.decode

        def watched(*given, **named):
            decoded.append(cuda.to_cpu(chainer.as_variable([*given, *named.values()][0]).array))
            return decode(*given, **named)

        model.decode = watched          # within this block
        loss, losses = observe.reported(model.get_loss_func(), model.xp.asarray(x), model)
        losses['loss'] = float(loss.array)          # which trains
        rewind()
        mu, ln_var = infer(model, x)
        eps = model.xp.zeros(mu.shape, np.float32)
        eps[...] = model.xp.random.standard_normal(mu.shape, **(
            {} if model.xp is np else {'dtype': np.float32}))           # as in F.gaussian
    return losses, decoded, mu, ln_var, mu + cuda.to_cpu(eps) * np.exp(ln_var / 2)


def check_loss(model, x):
    """Raise a FigureError if net.py's loss has other terms than these, on some digits (N, D)."""
    is_same, cause = False, ''
    try:
        theirs, _, mu, ln_var, z = one_draw(model, x)
        ours = {'rec_loss': -np.diag(log_likelihood(model, x, z)).mean(),
                'latent_loss': kl_to_prior(mu, ln_var).sum(axis=1).mean()}
        ours['loss'] = sum(ours.values())
        lacking = [name for name in ours if name not in theirs]
        cause = f'the loss of this net.py reports no {lacking[0]}; ' if lacking else ''
        is_same = not lacking and all(
            np.isclose(theirs[name], ours[name], rtol=1e-3, atol=1e-2) for name in ours)
    except (TypeError, ValueError, LookupError, AttributeError) as error:   # an edit may take
        cause = f'{pictures.cause_of(error)}; '                             # other arguments
    if not is_same:
        raise pictures.FigureError(
            f'{cause}it shows the loss of a Bernoulli likelihood, a normal q(z|x) and the prior '
            'N(0, I), and this net.py has another loss')


def check_noise(model, x):
    """Raise a FigureError if net.py's loss decodes another z than mu + eps * sigma."""
    _, decoded, *_, z = one_draw(model, x)
    if not any(each.shape == z.shape and np.allclose(each, z, 1e-3, 1e-3) for each in decoded):
        raise pictures.FigureError(
            'it shows z = µ + ε·σ, where encode returns µ and log σ²; the loss of this net.py '
            'decodes another z')


def log_normal(z, mu=0.0, ln_var=0.0):
    """Return log N(z; mu, sigma^2), summed over the last axis: (..., Z) -> (...)."""
    return -0.5 * np.sum((z - mu) ** 2 / np.exp(ln_var) + ln_var + np.log(2 * np.pi), axis=-1)


def log_likelihood(model, x, z):
    """Return log p(x|z) of each digit x (N, D) at each z (M, Z), (N, M) float64.

    sum_i [x_i log y_i + (1 - x_i) log(1 - y_i)] = x . l - sum_i log(1 + e^l_i), with the logits l
    of the pixels' probabilities y (Kingma & Welling, appendix C.1).
    """
    x = model.xp.asarray(x, np.float64)

    def of_batch(z):
        logits = model.decode(z, sigmoid=False).array           # (M, D)
        # log(1 + e^l) = max(l, 0) + log(1 + e^-|l|). The product of 784 factors of at most 2 fits
        # into a float64: one logarithm is enough
        total = model.xp.maximum(logits, 0).sum(axis=1, keepdims=True, dtype=np.float64)
        total += model.xp.log((1 + model.xp.exp(-abs(logits))).prod(
            axis=1, keepdims=True, dtype=np.float64))
        return logits.astype(np.float64) @ x.T - total

    return pictures.in_batches(model, of_batch, z).T


def log_joint(model, x, z):
    """Return log p(x, z) = log p(x|z) + log p(z), (N, M), of digits (N, D) and z (M, Z)."""
    return log_likelihood(model, x, z) + log_normal(z)


def infer(model, x):
    """Return mu and ln_var of q(z|x), (N, Z) float64 each, of digits (N, D)."""
    def both(x):
        found = model.encode(x)
        if not isinstance(found, (tuple, list)) or len(found) != 2:
            raise ValueError('encode does not return mu and ln_var')
        return F.concat(found)

    return np.split(pictures.in_batches(model, both, x).astype(np.float64), 2, axis=1)


def kl_to_prior(mu, ln_var):
    """Return KL[q(z_j|x) || p(z_j)] of each dimension, (N, Z); their sum is the latent loss."""
    return (mu ** 2 + np.exp(ln_var) - ln_var - 1) / 2          # Kingma & Welling, appendix B


def product(line, dims):
    """Return all nodes (n ** dims, dims) whose coordinates are among those of a line (n,)."""
    return np.stack(np.meshgrid(*[line] * dims, indexing='ij'), axis=-1).reshape(-1, dims)


def even_grid(limit, nodes, dims):
    """Return the Grid of nodes ** dims nodes in -limit..limit."""
    line, step = np.linspace(-limit, limit, nodes, retstep=True)
    return Grid(product(line, dims), step ** dims)


def first_grid(mu, ln_var):
    """Return the Grid that holds the prior, and five sigma of each q(z|x), (N, Z) each."""
    limit = max(LIMIT, (np.abs(mu) + 5 * np.exp(ln_var / 2)).max())
    nodes = min(1 + round((NODES - 1) * limit / LIMIT), MOST_NODES)
    return even_grid(limit, nodes, mu.shape[1])


def own_grid(grid, joint):
    """Return the Grid of one digit: where its log p(x, z) on the first grid, (M,), is large."""
    # a sum over even nodes of a smooth function is exact once the step is no wider than the sigma
    # of its narrowest peak: the fewer cells are kept, the more parts each is cut into
    dims = grid.z.shape[1]
    keep = (joint > joint.max() - CUT).reshape([round(len(joint) ** (1 / dims))] * dims)
    keep = binary_dilation(keep, np.ones([3] * dims))           # a peak may lie between nodes
    parts = (CELLS / keep.sum()) ** (1 / dims)
    if parts < 1:                                               # only some of the nodes
        stride = round(1 / parts)
        some = np.zeros_like(keep)
        some[(slice(None, None, stride),) * dims] = True
        return Grid(grid.z[(keep & some).ravel()], grid.volume * stride ** dims)
    parts, step = min(round(parts), 25), grid.volume ** (1 / dims)
    offsets = product(((np.arange(parts) + 0.5) / parts - 0.5) * step, dims)
    return Grid((grid.z[keep.ravel(), None] + offsets).reshape(-1, dims), (step / parts) ** dims)


def log_evidence(joint, volume):
    """Return log p(x), the log of the integral of p(x, z) dz, of log p(x, z) (..., M) on a Grid."""
    return logsumexp(joint, axis=-1) + np.log(volume)


def lower_bound(model, x, mu, ln_var, nodes=36):
    """Return L(x, z) = -KL[q(z|x) || p(z)] + E_q[log p(x|z)] by Gauss-Hermite sums, (N,)."""
    line, weights = np.polynomial.hermite_e.hermegauss(nodes)
    dims = mu.shape[1]
    eps = product(line, dims)                                   # (M, Z)
    weights = product(weights / weights.sum(), dims).prod(axis=1)
    expected = [log_likelihood(model, x[i:i + 1], mu[i] + eps * np.exp(ln_var[i] / 2))[0] @ weights
                for i in range(len(x))]
    return np.array(expected) - kl_to_prior(mu, ln_var).sum(axis=1)


def measure_gap(model, x, mu, ln_var, grid, joint):
    """Return log p(x), L(x, z) and KL[q(z|x) || p(z|x)], (N,) each; `joint` is on `grid`."""
    # log p(x) - L = KL checks all three sums: log p(x) in the KL is of nodes between the others,
    # so a grid that is too coarse would show
    log_p, kl, eps = [], [], even_grid(7, 43, mu.shape[1])      # to +-7 sigma around mu
    for i in range(len(x)):
        own = own_grid(grid, joint[i])
        shift = 0.5 * own.volume ** (1 / mu.shape[1])
        z = mu[i] + eps.z * np.exp(ln_var[i] / 2)
        at_own, between, at_z = (log_joint(model, x[i:i + 1], nodes)[0]
                                 for nodes in (own.z, own.z + shift, z))
        log_p.append(log_evidence(at_own, own.volume))
        log_q = log_normal(z, mu[i], ln_var[i])
        q = np.exp(log_q) * eps.volume * np.exp(ln_var[i].sum() / 2)        # dz = sigma deps
        kl.append(np.sum(q * (log_q - at_z + log_evidence(between, own.volume))))
    return np.array(log_p), lower_bound(model, x, mu, ln_var), np.array(kl)


def log_weights(model, x, mu, ln_var, k):
    """Return log w = log p(x, z) - log q(z|x) of k samples of z from q(z|x), (N, k)."""
    eps = np.random.RandomState(0).standard_normal((k, mu.shape[1]))
    rows = []
    for i in range(len(x)):
        z = mu[i] + eps * np.exp(ln_var[i] / 2)
        rows.append(log_joint(model, x[i:i + 1], z)[0] - log_normal(z, mu[i], ln_var[i]))
    return np.array(rows)


def importance_bounds(log_w, ks):
    """Return L_k = E[log 1/k sum_j w_j] over all groups of k of K weights, (N, len(ks)).

    L_1 = L. L_k rises to log p(x) if each k divides the next (Burda et al., equation 8).
    """
    n, most = log_w.shape
    return np.stack([
        (logsumexp(log_w[:, :most // k * k].reshape(n, -1, k), axis=2) - np.log(k)).mean(axis=1)
        for k in ks], axis=1)
