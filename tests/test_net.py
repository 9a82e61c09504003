"""The VAE against a float64 NumPy reference, numerical gradients and the article's own formulas."""

from collections import Counter
import re

from support import compat  # noqa: F401  (lets chainer import)

import chainer
from chainer import computational_graph, gradient_check
from chainer.backends import cuda
import chainer.functions as F
import chainer.links as L
from conftest import needs_gpu
import numpy as np
import pytest
from scipy import special

import net
from xavier import Xavier

N, D, H, Z = 5, 12, 7, 3
ACTIVATIONS = {'softplus': lambda a: np.logaddexp(0, a), 'tanh': np.tanh,
               'relu': lambda a: np.maximum(a, 0)}
SETTINGS = [(name, C, k) for name in ACTIVATIONS for C, k in ((0.0, 1), (4.0, 1), (1.0, 3))]


def make(name='softplus', sizes=(D, Z, H), model_class=net.VAE):
    """Return a model, its biases not zero (where relu has its kink), and digits (N, D) float32."""
    np.random.seed(0)
    model = model_class(*sizes, net.ACTIVATIONS[name])
    rng = np.random.RandomState(0)
    for link in model.children():
        link.b.array[...] = rng.normal(scale=0.3, size=link.b.shape)
    return model, rng.uniform(size=(N, sizes[0])).astype(np.float32)


class Reference:
    """The VAE in float64 NumPy, straight from Kingma & Welling, appendices B and C."""

    def __init__(self, model, name):
        self.W = {link.name: (link.W.array.astype(float), link.b.array.astype(float))
                  for link in model.children()}
        self.act = ACTIVATIONS[name]

    def layer(self, name, x):
        W, b = self.W[name]
        return x @ W.T + b

    def encode(self, x, *heads):
        h = self.act(self.layer('le2', self.act(self.layer('le1', x))))
        return [self.layer(head, h) for head in heads or ('le3_mu', 'le3_ln_var')]

    def decode(self, z):
        return self.layer('ld3', self.act(self.layer('ld2', self.act(self.layer('ld1', z)))))

    def losses(self, x, C, k):
        """Return both loss terms, with the noise of NumPy's global generator."""
        mu, ln_var = self.encode(x)
        rec = 0
        for _ in range(k):
            z = mu + np.exp(ln_var / 2) * np.random.standard_normal(mu.shape)
            p = special.expit(self.decode(z))
            rec -= (x * np.log(p) + (1 - x) * np.log1p(-p)).sum() / len(x) / k
        kl = -0.5 * (1 + ln_var - mu ** 2 - np.exp(ln_var)).sum() / len(x)
        return rec, C * kl


@pytest.mark.parametrize('name', ACTIVATIONS)
def test_encode_and_decode_match_the_reference(name):
    model, x = make(name)
    reference = Reference(model, name)
    mu, ln_var = model.encode(x)
    assert mu.dtype == ln_var.dtype == np.float32
    for found, expected in zip((mu, ln_var), reference.encode(x), strict=True):
        np.testing.assert_allclose(found.array, expected, rtol=1e-5, atol=1e-6)
    z = np.random.RandomState(2).normal(size=(N, Z)).astype(np.float32)
    logits = reference.decode(z)
    np.testing.assert_allclose(model.decode(z, sigmoid=False).array, logits, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(model.decode(z).array, special.expit(logits), rtol=1e-5)
    for sigmoid in (True, False):
        assert np.array_equal(model(x, sigmoid).array, model.decode(mu, sigmoid).array)


@pytest.mark.parametrize('name, C, k', SETTINGS)
def test_losses_match_the_reference(name, C, k):
    model, x = make(name)
    np.random.seed(5)
    expected = Reference(model, name).losses(x.astype(float), C, k)
    np.random.seed(5)
    loss = model.get_loss_func(C, k)(x)
    np.testing.assert_allclose(model.rec_loss.array, expected[0], rtol=1e-5)
    np.testing.assert_allclose(model.latent_loss.array, expected[1], rtol=1e-5)
    np.testing.assert_allclose(loss.array, sum(expected), rtol=1e-5)
    assert loss is model.loss
    assert loss.shape == ()
    assert loss.dtype == np.float32


@pytest.mark.parametrize('name, C, k', SETTINGS)
@pytest.mark.parametrize('model_class', [net.VAE, net.Autoencoder])
def test_gradients_match_numerical_ones(model_class, name, C, k):
    with chainer.using_config('dtype', np.float64):
        model, x = make(name, model_class=model_class)
    loss_func = model.get_loss_func(C, k)

    def loss(x, *params):
        np.random.seed(7)                   # the same noise at every evaluation
        return loss_func(x)

    gradient_check.check_backward(
        loss, x.astype(float), np.array(1.0), tuple(model.params()),
        eps=1e-6, atol=1e-5, rtol=1e-5, dtype=np.float64)


@pytest.mark.parametrize('name', ACTIVATIONS)
def test_autoencoder_matches_the_reference(name):
    model, x = make(name, model_class=net.Autoencoder)
    reference = Reference(model, name)
    state = np.random.get_state()[1].copy()
    loss = model.get_loss_func()(x)
    assert np.array_equal(np.random.get_state()[1], state)          # it draws nothing
    z, = reference.encode(x.astype(float), 'le3')
    decoded = special.expit(reference.decode(z))
    np.testing.assert_allclose(model.encode(x).array, z, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(model(x).array, decoded, rtol=1e-5)
    assert float(loss.array) == pytest.approx(((x - decoded) ** 2).sum() / N, rel=1e-5)
    assert loss is model.loss


# The article's class, its formulas written anew ---------------------------------------------


class Article(chainer.Chain):
    """The article's model: the same links in the same order, its loss term by term."""

    def __init__(self, n_in, n_latent, n_h, act_func=F.tanh):
        super().__init__()
        self.act_func = act_func
        sizes = {'le1': (n_in, n_h), 'le2': (n_h, n_h), 'le3_mu': (n_h, n_latent),
                 'le3_ln_var': (n_h, n_latent), 'ld1': (n_latent, n_h), 'ld2': (n_h, n_h),
                 'ld3': (n_h, n_in)}
        with self.init_scope():
            for name, (fan_in, fan_out) in sizes.items():
                bound = np.sqrt(6.0 / (fan_in + fan_out))
                W = np.random.uniform(size=(fan_out, fan_in), high=bound, low=-bound)
                setattr(self, name, L.Linear(fan_in, fan_out, initialW=W.astype(np.float32)))

    def loss(self, x, C, k):
        f, x = self.act_func, chainer.Variable(x)
        hidden = f(self.le2(f(self.le1(x))))
        mu, ln_var = self.le3_mu(hidden), self.le3_ln_var(hidden)
        rec_loss = 0
        for _ in range(k):
            z = F.gaussian(mu, ln_var)
            y = self.ld3(f(self.ld2(f(self.ld1(z)))))
            rec_loss += F.sum(F.softplus(y) - x * y) / (k * len(x))
        kl = F.sum((mu * mu + F.exp(ln_var) - ln_var - 1) * 0.5)
        return rec_loss + C * kl / len(x)


@pytest.mark.parametrize('name, C, k', [('tanh', 1.0, 1), ('softplus', 1.0, 1), ('relu', 4.0, 3)])
def test_article_and_ours_agree_to_the_last_bit(name, C, k):
    x = np.random.RandomState(2).uniform(size=(N, 784)).astype(np.float32)
    np.random.seed(0)
    ours = net.VAE(784, 20, 50, net.ACTIVATIONS[name])
    np.random.seed(0)
    article = Article(784, 20, 50, net.ACTIVATIONS[name])
    losses = []
    for model, loss_func in ((ours, ours.get_loss_func(C, k)),
                             (article, lambda x: article.loss(x, C, k))):
        np.random.seed(1)
        model.cleargrads()
        loss = loss_func(x)
        loss.backward()
        losses.append(loss.array.tobytes())
    assert losses[0] == losses[1]
    theirs = dict(article.namedparams())
    assert theirs.keys() == dict(ours.namedparams()).keys()
    for path, param in ours.namedparams():
        assert param.array.tobytes() == theirs[path].array.tobytes(), path
        assert param.grad.tobytes() == theirs[path].grad.tobytes(), path


def test_default_activation_is_the_articles():
    assert net.VAE(4, 2, 3).act_func is F.tanh
    assert isinstance(net.VAE(4, 2, 3).le1.W.initializer, Xavier)


# The graph ----------------------------------------------------------------------------------


@pytest.mark.parametrize('wrap', [np.asarray, chainer.Variable])
def test_graph_is_the_articles(wrap):
    x = np.zeros((100, 784), np.float32)
    hidden = ('enc_h1', 'enc_h2', 'dec_h1', 'dec_h2')
    named = ['x: (100, 784)', 'dec_h3: (100, 784)', *(f'{name}: (100, 500)' for name in hidden),
             *(f'{name}: (100, 20)' for name in ('z_mu', 'z_ln_var', 'z')),
             'reconstruction error:', 'latent loss:', 'loss:']
    shapes = ['(500, 784)', '(500, 500)', '(20, 500)', '(20, 500)', '(500, 20)', '(500, 500)',
              '(784, 500)']
    weights = [f'W: {shape}' for shape in shapes] + [
        f'b: ({shape[1:-1].split(",")[0]})' for shape in shapes]
    between = ['(100, 500)'] * 4 + ['(100, 784)'] * 3 + ['(100, 20)'] * 6
    functions = Counter({
        'LinearFunction': 7, 'Softplus': 5, 'Sum': 2, '_ * _': 2, '_ + _': 2, '_ - _': 2,
        '_ * 0.01': 2, 'exp': 1, 'Gaussian': 1, '_ + (-1)': 1, '_ * 0.5': 1, '_ * 1.0': 1,
        '_ + 0': 1})
    variables = [f'{label} float32' if label.endswith(':') else f'{label}, float32'
                 for label in named + weights + between]
    loss = make(sizes=(784, 20, 500))[0].get_loss_func()(wrap(x))
    dot = computational_graph.build_computational_graph([loss]).dump()
    assert Counter(re.findall(r'label="([^"]*)"', dot)) == Counter(
        variables) + Counter({'float32': 4}) + functions
    (leaf,) = re.findall(r'(\d+) \[label="x: ', dot)
    assert len(re.findall(rf'\b{leaf} -> ', dot)) == 2      # le1, and the sample's error


def test_no_samples_is_an_error():
    with pytest.raises(ValueError, match='k must be 1 or more, not 0'):
        make()[0].get_loss_func(k=0)


@needs_gpu
@pytest.mark.parametrize('name, C, k', SETTINGS[::4])
def test_gpu_matches_the_reference(name, C, k):
    model, x = make(name)
    expected = Reference(model, name)
    model.to_device('@cupy:0')
    on_gpu = cuda.to_gpu(x)
    mu, ln_var = model.encode(on_gpu)
    for found, wanted in zip((mu, ln_var), expected.encode(x), strict=True):
        np.testing.assert_allclose(cuda.to_cpu(found.array), wanted, rtol=1e-4, atol=1e-5)
    logits = expected.decode(cuda.to_cpu(mu.array).astype(float))
    found = cuda.to_cpu(model(on_gpu).array)
    np.testing.assert_allclose(found, special.expit(logits), rtol=1e-4)
    losses = np.array([[float(model.get_loss_func(C, k)(on_gpu).array),
                        sum(expected.losses(x.astype(float), C, k))] for _ in range(200)])
    error = (losses.var(0).sum() / 200) ** 0.5
    assert abs(np.subtract(*losses.mean(0))) < 5 * error + 1e-4
