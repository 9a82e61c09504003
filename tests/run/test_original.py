"""original.py: whether the code that runs is net.py's as it came."""

from support.run import models, original  # lets chainer import

import pytest

import net
import train_vae


@pytest.mark.parametrize('function, ours', [
    *((getattr(net.VAE, name), getattr(original.VAE, name)) for name in original.METHODS),
    (net.Autoencoder.get_loss_func, original.Autoencoder.get_loss_func),
    (train_vae.score_func, original.score_func)], ids=lambda function: function.__qualname__)
def test_the_code_that_was_compiled_is_that_of_net_py(function, ours):
    assert original.is_same(function, ours), (
        'net.py has changed: what mirrors it has to change, and then original.py')


@pytest.mark.parametrize('change, edited', [
    (lambda model: None, []),
    (lambda model: setattr(model, 'encode', len), ['VAE.encode']),              # no Python
    (lambda model: setattr(model, 'decode', net.VAE(9, 2, 7).decode), ['VAE.decode']),
    (lambda model: setattr(model, '__class__', Other), ['Other.get_loss_func']),
])
def test_edited_methods_are_named(change, edited):
    model = net.VAE(9, 2, 7)
    change(model)
    assert original.edited(model) == edited


class Other(net.VAE):
    def get_loss_func(self, C=1.0, k=2):
        return super().get_loss_func(C, k)


@pytest.mark.parametrize('text, same', [
    ('def f(x):\n    # why\n    def g(y):\n        """Say."""\n        return  F.relu(y\n + 1)\n'
     '    return g\n', True),
    ('def f(x):\n    def g(y):\n        return F.relu(y + 1.0)\n    return g\n', False),
    ('def f(x):\n    def g(y):\n        return F.relu(x + 1)\n    return g\n', False),
    ('def f(x, k=1):\n    def g(y):\n        return F.relu(y + 1)\n    return g\n', False),
    ('f = print\n', False)])
def test_code_is_told_from_comments_and_from_other_globals(text, same):
    def made(text, **space):
        exec(text, space)
        return space['f']

    ours = 'def f(x):\n    def g(y):\n        return F.relu(y + 1)\n    return g\n'
    assert original.is_same(made(text, F=models.net.F), made(ours)) == same
    assert not original.is_same(made(ours, F=models), made(ours))
