"""What a snapshot notes of its model, and what is said where net.py has changed since."""

import linecache

from support import models, snapshot  # lets chainer import

import chainer.functions as F
import chainer.links as L
import pytest

import net


class Scaled(net.VAE):
    """The VAE with another encoder."""

    def encode(self, x):
        """Make the mean twice as large."""
        mu, ln_var = super().encode(x)
        return 2 * mu, ln_var


class Narrow(net.VAE):
    """The VAE with a size of its own."""

    def __init__(self, n_in, n_latent, n_h, act_func=F.tanh):
        super().__init__(n_in, n_latent, 5, act_func)


class Longer(net.VAE):
    """The VAE with a layer more."""

    def __init__(self, *args):
        super().__init__(*args)
        with self.init_scope():
            self.ld4 = L.Linear(9, 9)


@pytest.mark.parametrize('made_for, layers', [
    (net.VAE, '9-7-7-2-7-7-9'), (net.Autoencoder, '9-7-7-2-7-7-9'), (Scaled, '9-7-7-2-7-7-9'),
    (Narrow, '9-5-5-2-5-5-9'), (Longer, '397 weights')])
def test_layers_are_the_models_own(made_for, layers):
    model = made_for(9, 2, 7)
    assert models.layers_of(model) == layers


@pytest.mark.parametrize('act_func, default, name', [
    (F.softplus, 'tanh', 'softplus'), (F.elu, 'tanh', 'elu'), (None, 'tanh', 'tanh'),
    (None, 'elu', 'elu')])
def test_the_activation_is_the_models_own(act_func, default, name):
    assert models.activation_of(net.VAE(9, 2, 7, act_func), default) == name


def test_another_activation_is_refused():
    settings = {'activation': 'elu', 'methods': {}}
    models.check_activation(settings, net.VAE(9, 2, 7, F.elu), 'FILE')
    with pytest.raises(snapshot.SnapshotError, match=(
            r'FILE was trained with the activation elu, and net\.py has tanh; ')):
        models.check_activation(settings, net.VAE(9, 2, 7), 'FILE')


@pytest.mark.parametrize('made_for, edited', [
    (net.VAE, ''), (Scaled, 'Scaled.encode'), (Narrow, 'Narrow.__init__')])
def test_an_edit_since_then_is_told(made_for, edited, capsys):
    settings = {'methods': models.texts_of(net.VAE(9, 2, 7))}
    models.warn_of_edits(settings, made_for(9, 2, 7), 'FILE')
    assert capsys.readouterr().err == (edited and (
        f'warning: FILE was trained by a net.py with another text of {edited}; draw and resume it '
        'with that\n'))
    models.warn_of_edits({'methods': {}}, made_for(9, 2, 7), 'FILE')        # of an earlier commit
    assert capsys.readouterr().err == ''


@pytest.mark.parametrize('name', models.ORIGINAL)
def test_a_method_is_the_original_by_its_text(name):
    assert models.is_original(net.VAE(9, 2, 7), name)
    assert models.is_original(Scaled(9, 2, 7), name) == (name != 'encode')
    assert not models.is_original(object(), name)


def function(text):
    """Return the function f of a module of this text, whose file stays readable."""
    name = f'<text {hash(text)}>'
    linecache.cache[name] = len(text), None, text.splitlines(keepends=True), name
    space = {}
    exec(compile(text, name, 'exec'), space)
    return space['f']


@pytest.mark.parametrize('text, same', [
    ('def f(x):\n    # why\n    return  x + 1\n', True),
    ('def f(x):\n    """Say."""\n\n    return (x\n        + 1)\n', True),
    ('def f(x):\n    return x + 2\n', False),
    ('def f(y):\n    return y + 1\n', False),
    ('def f(x):\n    return x - 1\n', False),
    ('def f(x, k=1):\n    return x + 1\n', False),
    ('def f(x):\n    x += 0\n    return x + 1\n', False),
    ('def f(x):\n    return x + True\n', False),
])
def test_fingerprints_tell_code_from_comments(text, same):
    plain = function('def f(x):\n    return x + 1\n')
    assert (models.fingerprint(function(text)) == models.fingerprint(plain)) == same
    assert len(models.fingerprint(plain)) == 12
