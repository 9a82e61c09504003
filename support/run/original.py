"""net.py's code as it came, and whether the code that runs is another; who mirrors it asks here.

Code objects are compared; no file is read, as net.py may have changed since it was imported.
"""

import dis
import functools
import types

from support import compat  # noqa: F401  (lets chainer import)
from support.run import snapshot

import chainer
import chainer.functions as F
import six

FLAGS = 0xfff           # of a code object: how it is called, not whether it has a docstring
GLOBALS = {'chainer': chainer, 'F': F, 'six': six, 'snapshot': snapshot}


class VAE:
    """The methods of net.py's VAE that are compiled; net.py explains them."""

    def encode(self, x):
        x = chainer.as_variable(x)
        x.name = 'x'
        h1 = self.act_func(self.le1(x))
        h1.name = 'enc_h1'
        h2 = self.act_func(self.le2(h1))
        h2.name = 'enc_h2'
        mu = self.le3_mu(h2)
        mu.name = 'z_mu'
        ln_var = self.le3_ln_var(h2)
        ln_var.name = 'z_ln_var'
        return mu, ln_var

    def decode(self, z, sigmoid=True):
        h1 = self.act_func(self.ld1(z))
        h1.name = 'dec_h1'
        h2 = self.act_func(self.ld2(h1))
        h2.name = 'dec_h2'
        h3 = self.ld3(h2)
        h3.name = 'dec_h3'
        return F.sigmoid(h3) if sigmoid else h3

    def get_loss_func(self, C=1.0, k=1):
        if k < 1:
            raise ValueError(f'the number of Monte Carlo samples k must be 1 or more, not {k}')

        def lf(x):
            x = chainer.as_variable(x)
            mu, ln_var = self.encode(x)
            batchsize = len(mu)
            rec_loss = 0
            for _ in six.moves.range(k):
                z = F.gaussian(mu, ln_var)
                z.name = 'z'
                logits = self.decode(z, sigmoid=False)
                rec_loss += F.bernoulli_nll(x, logits) / (k * batchsize)
            self.rec_loss = rec_loss
            self.rec_loss.name = 'reconstruction error'
            self.latent_loss = C * F.gaussian_kl_divergence(mu, ln_var) / batchsize
            self.latent_loss.name = 'latent loss'
            self.loss = self.rec_loss + self.latent_loss
            self.loss.name = 'loss'
            chainer.report({'rec_loss': self.rec_loss, 'latent_loss': self.latent_loss,
                            'loss': self.loss}, self)
            return self.loss

        return lf


class Autoencoder:
    """The loss of net.py's autoencoder, which loss.png names; it is not compiled."""

    def get_loss_func(self, C=1.0, k=1):
        def lf(x):
            x = chainer.as_variable(x)
            x.name = 'x'
            self.loss = F.sum((x - self(x)) ** 2) / len(x)
            self.loss.name = 'loss'
            chainer.report({'loss': self.loss}, self)
            return self.loss

        return lf


def score_func(model, k):
    """Make what scores a test digit; train_vae.py explains it."""
    lf = model.get_loss_func(k=k)

    def score(x):
        lf(x)
        chainer.report({name: (getattr(model, name), len(x)) for name in snapshot.LOSSES
                        if hasattr(model, name)}, model)

    return score


METHODS = 'encode', 'decode', 'get_loss_func'


@functools.lru_cache(maxsize=64)
def essence(code):
    """Return what a code object does, as a tuple: all but its docstring, comments and lines."""
    def argument(of):
        if isinstance(of.argval, types.CodeType):
            return essence(of.argval)
        return of.argrepr if of.opcode in dis.hasconst else (type(of.argval).__name__, of.argval)

    return (code.co_flags & FLAGS, code.co_argcount, code.co_posonlyargcount,
            code.co_kwonlyargcount, code.co_varnames, code.co_freevars, code.co_cellvars,
            tuple((of.opname, argument(of)) for of in dis.get_instructions(code)))


def is_same(function, original):
    """Tell whether a function of Python's does what another does, with the same globals."""
    function = getattr(function, '__func__', function)
    return (isinstance(function, types.FunctionType)
            and essence(function.__code__) == essence(original.__code__)
            and repr((function.__defaults__, function.__kwdefaults__)) == repr(
                (original.__defaults__, original.__kwdefaults__))
            and all(function.__globals__.get(name, ours) is ours for name, ours in GLOBALS.items()))


def edited(model):
    """Return which methods of a model are not those of net.py's VAE as it came, as `VAE.encode`."""
    return [f'{type(model).__name__}.{name}' for name in METHODS
            if getattr(getattr(model, name, None), '__self__', None) is not model
            or not is_same(getattr(model, name), getattr(VAE, name))]
