"""What a training step is made of, on a CPU and on a GPU alike: layers, arrays, noise, losses.

Shapes: N digits, D = 784 pixels, H hidden units, Z latent dimensions; M = N * k samples of z, a
digit's side by side. A delta is the gradient of the loss by what a layer hands to its activation.
"""

import collections

from support import compat  # noqa: F401  (lets chainer import)

import chainer
import chainer.functions as F
import numpy as np

ACTIVATIONS = {F.softplus: 0, F.tanh: 1, F.relu: 2}     # as `compiled.activate` knows them
f32 = np.float32
FLOW = {                                    # layer: its input, output and delta in a Space
    'le1': ('x', 'enc_h1', 'enc_d1'), 'le2': ('enc_h1', 'enc_h2', 'enc_d2'),
    'le3_mu': ('enc_h2', 'mu', 'mu'), 'le3_ln_var': ('enc_h2', 'ln_var', 'ln_var'),
    'ld1': ('z', 'dec_h1', 'dec_d1'), 'ld2': ('dec_h1', 'dec_h2', 'dec_d2'),
    'ld3': ('dec_h2', 'dec_d3', 'dec_d3')}

Layer = collections.namedtuple('Layer', 'W b')
Layers = collections.namedtuple('Layers', FLOW)
# What a minibatch leaves in the layers: h is what comes out of one, d the activation's derivative
# and then the delta, which in the heads takes the place of mu and ln_var; back is scratch.
Space = collections.namedtuple('Space', (
    'x', 'enc_h1', 'enc_d1', 'enc_h2', 'enc_d2', 'mu', 'ln_var', 'sigma',                   # N rows
    'enc_back', 'enc_back2',
    'eps', 'z', 'z_back', 'dec_h1', 'dec_d1', 'dec_h2', 'dec_d2', 'dec_d3', 'dec_back'))    # M rows
# The numbers of a step of Adam. NO_ADAM changes nothing: it leaves just the gradients.
Adam = collections.namedtuple('Adam', 'alpha_t one_minus_beta1 one_minus_beta2 eps')
NO_ADAM = Adam(f32(0), f32(0), f32(0), f32(1))


def make_space(model, n, k, xp=np):
    """Return a Space of zeros for n digits and k samples of each, of NumPy or CuPy."""
    D, H, Z = (len(layer.b.array) for layer in (model.ld3, model.le1, model.le3_mu))
    sizes = [(n, size) for size in (D, H, H, H, H, Z, Z, Z, H, H)]
    sizes += [(n * k, size) for size in (Z, Z, Z, H, H, H, H, D, H)]
    return Space(*(xp.zeros(shape, np.float32) for shape in sizes))


def layers_of(model):
    """Return the weights of a model as compiled functions take them."""
    return Layers(*(Layer(model[name].W.array, model[name].b.array) for name in FLOW))


def draw_noise(eps, k):
    """Fill eps (M, Z) with noise as `VAE.get_loss_func` draws it: k times for all digits."""
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


def count_step(optimizer, params):
    """Count a step of Adam in the optimizer and its params; return Adam's numbers for it."""
    optimizer.t += 1
    for param in params:
        param.update_rule.t += 1
    had, alpha_t = optimizer.hyperparam, params[0].update_rule.alpha_t
    return Adam(*map(f32, (alpha_t * had.eta, 1 - had.beta1, 1 - had.beta2, had.eps)))
