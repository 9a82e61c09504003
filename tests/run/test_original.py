"""original.py: whether the code that runs is net.py's as it came."""

from support.run import models, original  # lets chainer import

import pytest

import net
import train_vae


@pytest.mark.parametrize('name', original.METHODS)
def test_the_code_that_was_compiled_is_that_of_net_py(name):
    assert original.is_same(getattr(net.VAE, name), getattr(original.VAE, name)), (
        'net.py has changed: what mirrors it has to change, and then original.py')


def test_so_are_the_autoencoders_loss_and_the_score():
    assert original.is_same(net.Autoencoder.get_loss_func, original.Autoencoder.get_loss_func)
    assert original.is_same(train_vae.score_func, original.score_func)


@pytest.mark.parametrize('change, edited', [
    (lambda model: None, []),
    (lambda model: setattr(model, 'encode', len), ['VAE.encode']),              # no Python
    (lambda model: setattr(model, 'decode', lambda z, sigmoid=True: z), ['VAE.decode']),
    (lambda model: setattr(model, 'decode', net.VAE(9, 2, 7).decode), ['VAE.decode']),
    (lambda model: setattr(model, '__class__', Other), ['Other.get_loss_func']),
])
def test_edited_methods_are_named(change, edited):
    model = net.VAE(9, 2, 7)
    change(model)
    assert original.edited(model) == edited


class Other(net.VAE):
    """A VAE with a loss of its own."""

    def get_loss_func(self, C=1.0, k=2):
        """Return the usual one, of two samples by default."""
        return super().get_loss_func(C, k)


def function(text, **space):
    """Return the function f of a text."""
    exec(text, space)
    return space['f']


@pytest.mark.parametrize('text, same', [
    ('def f(x):\n    # why\n    return  x + 1\n', True),
    ('def f(x):\n    """Say."""\n\n    return (x\n        + 1)\n', True),
    ('def f(x):\n    return x + 1.0\n', False),
    ('def f(y):\n    return y + 1\n', False),
    ('def f(x):\n    return x - 1\n', False),
    ('def f(x, k=1):\n    return x + 1\n', False),
    ('f = lambda x: x + 1\n', True),
    ('f = print\n', False),
])
def test_code_is_told_from_comments(text, same):
    assert original.is_same(function(text), function('def f(x):\n    return x + 1\n')) == same


def test_functions_within_are_compared_too():
    text = 'def f(a):\n    def g(x):\n        return {}\n    return g\n'
    assert original.is_same(function(text.format('a * x')), function(text.format('a  *  x')))
    assert not original.is_same(function(text.format('a * x')), function(text.format('x * a')))


def test_other_globals_are_another_function():
    text = 'def f(x):\n    return F.relu(x)\n'
    assert original.is_same(function(text, F=models.net.F), function(text))
    assert not original.is_same(function(text, F=models), function(text))
