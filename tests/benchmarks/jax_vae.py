"""The same VAE in JAX: a whole epoch compiled as one scan. A peer for epoch.py.

epoch.py runs it in an environment that has jax and optax, but not Chainer.
"""

import functools

import jax
from jax import nn, random
import jax.numpy as jnp
import optax


def initialize(key, n_in, n_latent, n_h):
    """Return Xavier weights and zero biases by layer."""
    sizes = {'le1': (n_in, n_h), 'le2': (n_h, n_h), 'mu': (n_h, n_latent),
             'ln_var': (n_h, n_latent), 'ld1': (n_latent, n_h), 'ld2': (n_h, n_h),
             'ld3': (n_h, n_in)}
    draw = nn.initializers.xavier_uniform()
    return {name: (draw(key, size), jnp.zeros(size[1]))
            for (name, size), key in zip(sizes.items(), random.split(key, 7), strict=True)}


def negative_elbo(params, key, x, k=1):
    """Return the negative ELBO of k samples, summed over pixels, mean over digits (N, D)."""
    def linear(name, h):
        W, b = params[name]
        return h @ W + b

    h = nn.softplus(linear('le2', nn.softplus(linear('le1', x))))
    mu, ln_var = linear('mu', h), linear('ln_var', h)
    z = mu + jnp.exp(ln_var / 2) * random.normal(key, (k, *mu.shape))
    logits = linear('ld3', nn.softplus(linear('ld2', nn.softplus(linear('ld1', z)))))
    rec = (nn.softplus(logits) - x * logits).sum() / k
    kl = (mu ** 2 + jnp.exp(ln_var) - ln_var - 1).sum() / 2
    return (rec + kl) / len(x)


class Peer:
    """A model in training; what is over after the last whole minibatch is left out."""

    def __init__(self, train, test, dim_z, dim_h, batch_size):
        self.train, self.test = jnp.asarray(train), jnp.asarray(test)
        self.batch_size = batch_size
        adam = optax.adam(1e-3)
        self.key, key = random.split(random.key(0))
        params = initialize(key, train.shape[1], dim_z, dim_h)
        self.state = params, adam.init(params)

        @functools.partial(jax.jit, donate_argnums=0)
        def epoch(state, key, digits):
            key_order, key_noise = random.split(key)
            steps = len(digits) // batch_size
            rows = random.permutation(key_order, len(digits))[:steps * batch_size]

            def step(state, inputs):
                params, moments = state
                rows, key = inputs
                loss, grads = jax.value_and_grad(negative_elbo)(params, key, digits[rows])
                updates, moments = adam.update(grads, moments)
                return (optax.apply_updates(params, updates), moments), loss

            return jax.lax.scan(step, state, (
                rows.reshape(steps, batch_size), random.split(key_noise, steps)))

        self._epoch = epoch
        self._score = jax.jit(functools.partial(negative_elbo, k=10))

    def epoch(self):
        self.key, key = random.split(self.key)
        self.state, losses = self._epoch(self.state, key, self.train)
        return float(losses.mean())

    def score(self):
        batches = len(self.test) // self.batch_size
        digits = self.test[:batches * self.batch_size].reshape(batches, self.batch_size, -1)
        self.key, key = random.split(self.key)
        return float(sum(self._score(self.state[0], key, x) for key, x in zip(
            random.split(key, batches), digits, strict=True)) / batches)

    def version(self):
        return f'JAX {jax.__version__}'
