"""The evidence, the lower bound and the posterior, against closed forms and other integrators."""

import re
from types import SimpleNamespace

from support.figures import evidence, pictures  # lets chainer import

import chainer
import chainer.functions as F
from chainer.functions import bernoulli_nll
import numpy as np
import pytest
from scipy import stats

import net

pytestmark = pytest.mark.usefixtures('one_thread')


@pytest.fixture(autouse=True)
def coarse(monkeypatch):
    """Let the first grid be smaller: what is tested here is smooth."""
    monkeypatch.setattr(evidence, 'NODES', 61)


def make_model(dims, strength=1.0, act_func=F.softplus):
    """Return a model of nine pixels, of which the decoder makes something, and 8 digits."""
    np.random.seed(dims)
    model = net.VAE(9, dims, 12, act_func)
    for link in (model.ld1, model.ld2, model.ld3):
        link.W.array *= 2 * strength
    return model, np.random.uniform(size=(8, 9)).astype(np.float32)


def measure(model, x, mu, ln_var):
    """Return log p(x), L and KL of digits by quadrature."""
    grid = evidence.first_grid(mu, ln_var)
    joint = evidence.log_joint(model, x, grid.z)
    return evidence.measure_gap(model, x, mu, ln_var, grid, joint)


def by_sampling(model, x, mu, ln_var, k):
    return evidence.importance_bounds(evidence.log_weights(model, x, mu, ln_var, k), [k])[:, 0]


def test_log_likelihood_is_chainers_bernoulli(monkeypatch):
    monkeypatch.setattr(pictures, 'BATCH', 2)
    model, x = make_model(3)
    z = np.random.normal(size=(5, 3)).astype(np.float32)
    found = evidence.log_likelihood(model, x, z)
    assert (found.shape, found.dtype) == ((8, 5), np.float64)
    for j in range(5):
        logits = np.repeat(model.decode(z[j:j + 1], sigmoid=False).array, 8, axis=0)
        nll = bernoulli_nll(x, logits, reduce='no').array.sum(axis=1)
        np.testing.assert_allclose(found[:, j], -nll, rtol=1e-5)


def test_logits_of_any_size_are_no_overflow():
    model = SimpleNamespace(xp=np, decode=lambda z, sigmoid: chainer.as_variable(
        np.repeat(np.asarray(z), 2, axis=1)))
    found = evidence.log_likelihood(model, np.array([[1, 0], [1, 1]]), [[1000.0], [-1000.0]])
    np.testing.assert_array_equal(found, [[-1000, -1000], [0, -2000]])


def test_a_decoder_that_ignores_z_makes_the_prior_the_posterior():
    model, x = make_model(2)
    model.ld3.W.array[:] = 0
    model.ld3.b.array[:] = np.linspace(-2, 2, 9)
    y = 1 / (1 + np.exp(-model.ld3.b.array.astype(float)))
    mu, ln_var = evidence.infer(model, x)
    log_p, _, kl = measure(model, x, mu, ln_var)
    wanted = (x * np.log(y) + (1 - x) * np.log(1 - y)).sum(axis=1)
    np.testing.assert_allclose(log_p, wanted, atol=1e-4)
    np.testing.assert_allclose(kl, evidence.kl_to_prior(mu, ln_var).sum(axis=1), atol=1e-4)
    np.testing.assert_allclose(by_sampling(model, x, mu, ln_var, 2000), wanted, atol=0.3)


@pytest.mark.parametrize('noise', [1.0, 0.1, 0.05])
def test_a_linear_gaussian_model_is_solved(monkeypatch, noise):
    # p(x|z) = N(A z, noise^2 I): p(x) = N(0, A A' + noise^2 I), the posterior is normal
    rng = np.random.RandomState(0)
    a, x = rng.normal(size=(3, 2)), rng.normal(size=(6, 3))
    monkeypatch.setattr(evidence, 'log_likelihood', lambda model, x, z: stats.norm.logpdf(
        x[:, None], z @ a.T, noise).sum(axis=2))
    covariance = np.linalg.inv(np.eye(2) + a.T @ a / noise ** 2)
    mean = x @ a @ covariance / noise ** 2                      # (6, 2)
    log_p = stats.multivariate_normal(np.zeros(3), a @ a.T + noise ** 2 * np.eye(3)).logpdf(x)
    sigma = 1.3 * np.sqrt(np.diag(covariance))
    mu, ln_var = mean + 0.5 * sigma, np.tile(2 * np.log(sigma), (6, 1))
    difference = mu - mean
    kl = (np.trace(np.linalg.solve(covariance, np.diag(sigma ** 2))) - 2
          + (difference @ np.linalg.inv(covariance) * difference).sum(axis=1)
          + np.log(np.linalg.det(covariance)) - np.log(sigma ** 2).sum()) / 2

    found = measure(None, x, mu, ln_var)
    np.testing.assert_allclose(found, (log_p, log_p - kl, kl), atol=0.005)
    np.testing.assert_allclose(by_sampling(None, x, mu, ln_var, 5000), log_p, atol=0.15)
    # where q lies beside the posterior, importance sampling falls short, and quadrature does not
    beside = mean + 12 * sigma
    assert (log_p - by_sampling(None, x, beside, ln_var, 5000) > 1).all()
    found, lower, kl = measure(None, x, beside, ln_var)
    np.testing.assert_allclose(found - lower, kl, atol=0.01)


@pytest.mark.parametrize('dims', [1, 2])
@pytest.mark.parametrize('strength, act_func', [
    (0.5, F.softplus), (1.5, F.softplus), (0.7, F.relu), (0.7, F.tanh)])
def test_the_gap_is_the_kl(dims, strength, act_func):
    model, x = make_model(dims, strength, act_func)
    model.le3_ln_var.b.array[:] = -2
    log_p, lower, kl = measure(model, x, *evidence.infer(model, x))
    assert (kl > 0).all()
    np.testing.assert_allclose(log_p - lower, kl, atol=0.01)
    np.random.seed(0)
    for digit, found in zip(x, lower, strict=True):                 # by Monte Carlo
        loss = model.get_loss_func()(np.repeat(digit[None], 2000, axis=0))
        assert found == pytest.approx(-float(loss.array), abs=0.02 + 0.01 * abs(found))


BERNOULLI = 'rec_loss += F.bernoulli_nll(x, logits) / (k * batchsize)'
OTHER = '^it shows the .* this net.py has another loss$'


@pytest.mark.parametrize('old, new, of_loss, of_noise', [
    ('', '', '^$', '^$'),
    ('self.latent_loss = C *', 'self.latent_loss = 1.1 * C *', OTHER, '^$'),
    (BERNOULLI, 'rec_loss += F.sum((x - F.sigmoid(logits)) ** 2)', OTHER, '^$'),
    ('return self.loss', 'return 2 * self.loss', OTHER, '^$'),
    ("{'rec_loss': self.rec_loss,", '{', 'reports no rec_loss; it shows the ', '^$'),
    ('z = F.gaussian(mu, ln_var)', 'z = F.gaussian(mu, ln_var + 4)', OTHER, 'decodes another z'),
    ('def encode(self, x):', 'def encode(self, x, t):', '^TypeError: VAE.encode.* missing .* has '
                                                        'another loss$', 'TypeError')])
def test_what_is_measured_and_what_is_drawn_are_net_pys(edit, old, new, of_loss, of_noise):
    if old:
        edit(old, new)
    np.random.seed(1)
    model = net.VAE(9, 2, 12, F.softplus)
    x = np.random.uniform(size=(8, 9)).astype(np.float32)
    state = np.random.get_state()[1].copy()
    for check, wanted in ((evidence.check_loss, of_loss), (evidence.check_noise, of_noise)):
        said = ''
        try:
            check(model, x)
        except (pictures.FigureError, TypeError) as error:
            said = pictures.cause_of(error).removeprefix('FigureError: ')
        assert re.search(wanted, said), said
        np.testing.assert_array_equal(np.random.get_state()[1], state)


@pytest.mark.parametrize('pack', [lambda mu, ln_var: (mu, ln_var, ln_var), lambda mu, _: mu])
def test_mu_and_ln_var_are_not_cut_out_of_something_else(pack):
    model = net.VAE(9, 2, 12)
    encode = model.encode
    model.encode = lambda x: pack(*encode(x))
    with pytest.raises(ValueError, match='encode does not return mu and ln_var'):
        evidence.infer(model, np.zeros((2, 9), np.float32))
