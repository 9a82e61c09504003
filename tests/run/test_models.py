"""What a snapshot notes of its model, and what is said where net.py has changed since."""

import functools

from support.run import models, settings, snapshot  # lets chainer import

from chainer import optimizer_hooks, optimizers
import chainer.functions as F
import chainer.links as L
import numpy as np
import pytest

import net


def run_of(**given):
    return settings.Settings(n_in=9, **given)


class Narrow(net.VAE):
    def __init__(self, n_in, n_latent, n_h, act_func=F.tanh):
        super().__init__(n_in, n_latent, 5, act_func)


class Longer(net.VAE):
    def __init__(self, *args):
        super().__init__(*args)
        with self.init_scope():
            self.ld4 = L.Linear(9, 9)


@pytest.mark.parametrize('made_for, layers, sizes', [
    (net.VAE, '9-7-7-2-7-7-9', (7, 2)), (net.Autoencoder, '9-7-7-2-7-7-9', (7, 2)),
    (Narrow, '9-5-5-2-5-5-9', (5, 2)), (Longer, '397 weights', (7, 2))])
def test_layers_are_the_models_own(made_for, layers, sizes):
    model = made_for(9, 2, 7)
    assert models.describe_layers(model) == layers
    assert models.sizes_of(model) == dict(zip(('dim_h', 'dim_z'), sizes, strict=True))


def test_a_model_of_other_layers_has_no_sizes():
    model = net.VAE(9, 2, 7)
    del model.le1
    with model.init_scope():
        model.le1 = L.Scale(axis=1, W_shape=(9,), bias_term=True)
    assert (models.describe_layers(model), models.sizes_of(model)) == ('255 weights', {})


@pytest.mark.parametrize('act_func, default, name', [
    (F.softplus, 'tanh', 'softplus'), (F.elu, 'tanh', 'elu'), (None, 'tanh', 'tanh'),
    (None, 'elu', 'elu'), (functools.partial(F.elu, alpha=2), 'tanh', 'unnamed')])
def test_the_activation_is_the_models_own(act_func, default, name):
    assert models.activation_of(net.VAE(9, 2, 7, act_func), default) == name


@pytest.mark.parametrize('had, lacks', [
    ('elu', ', whose ACTIVATIONS lack it'), ('relu', '')])
def test_another_activation_is_refused(had, lacks):
    run = run_of(activation=had)
    models.check_activation(run, net.VAE(9, 2, 7, getattr(F, had)), 'FILE')
    with pytest.raises(snapshot.SnapshotError) as error:
        models.check_activation(run, net.VAE(9, 2, 7), 'FILE', 'mend it')
    assert str(error.value) == (f'FILE was trained with the activation {had}, and this net.py has '
                                f'tanh{lacks}; mend it')


@pytest.mark.parametrize('old, new, told', [
    ('mu = self.le3_mu(h2)', 'mu = 2 * self.le3_mu(h2)', 'VAE.encode'),
    ("'relu': F.relu", "'relu': F.elu", 'code outside the classes'),
    ('class VAE(chainer.Chain):', 'class VAE(chainer.Chain):\n    scale = 2\n', 'VAE'),
    ('return F.sigmoid(self.ld3(h2))', 'return self.ld3(h2)', 'Autoencoder.decode'),
    ('"""Infer q(z|x)', '"""Guess q(z|x)', ''), ('import six\n', '# none\nimport six\n', '')])
def test_an_edit_since_then_is_told(edit, capsys, old, new, told):
    is_plain = told.startswith('Autoencoder')
    run, other = (run_of(methods=models.notes_of_net(), autoencoder=of) for of in (
        is_plain, not is_plain))
    models.warn_of_edits(run, 'FILE')
    assert capsys.readouterr().err == ''
    edit(old, new)
    models.warn_of_edits(run, 'FILE')
    assert capsys.readouterr().err == (told and (
        f'warning: FILE was trained by a net.py that differs in {told}; with this one its results '
        'may be others\n'))
    models.warn_of_edits(run_of(), 'FILE')                              # of an earlier commit
    if told != models.OUTSIDE:
        models.warn_of_edits(other, 'FILE')                             # of the other model
    assert capsys.readouterr().err == ''


def test_a_net_py_that_cannot_be_read_is_told_nothing_of(monkeypatch, capsys):
    def fail(of):
        raise OSError

    run, model = run_of(methods=models.notes_of_net()), net.VAE(9, 2, 7)
    monkeypatch.setattr(models.inspect, 'getsource', fail)
    models.digests_of_net.cache_clear()
    models.warn_of_edits(run, 'FILE')
    assert capsys.readouterr().err == ''
    assert models.joined({'f': '1'}) == {'f': '1'}
    assert models.describe_loss(model.get_loss_func(), model) == ('negative ELBO', 1.0)
    monkeypatch.undo()
    models.digests_of_net.cache_clear()


@pytest.mark.parametrize('made_for, given, words, C', [
    (net.VAE, {}, 'negative ELBO', 1.0), (net.Autoencoder, {}, 'squared error', None),
    (net.VAE, {'C': 4.0, 'k': 2}, 'negative ELBO, beta = 4, k = 2', 4.0),
    (net.VAE, {'C': np.float32(0.5)}, 'negative ELBO, beta = 0.5', 0.5),
    (net.VAE, {'C': np.array(0.5)}, 'negative ELBO, beta = what train_vae.py says', None)])
def test_a_loss_is_known_by_its_text(monkeypatch, made_for, given, words, C):
    model, another = made_for(9, 2, 7), made_for(9, 2, 7)
    loss = model.get_loss_func(**given)
    assert models.describe_loss(loss, model) == (words, C)
    for function, of in ((functools.partial(loss), model), (loss, another)):
        assert models.describe_loss(function, of) == ('of an edited train_vae.py', None)
    monkeypatch.setattr(made_for, 'get_loss_func', lambda self, C=1.0, k=1: loss)
    assert models.describe_loss(loss, model) == ('of an edited get_loss_func', None)


@pytest.mark.parametrize('make, words', [
    (optimizers.Adam, 'Adam'), (lambda: optimizers.Adam(alpha=0.01), 'Adam(alpha=0.01)'),
    (lambda: optimizers.Adam(amsgrad=True), 'Adam(amsgrad=True)'), (optimizers.SGD, 'SGD'),
    (lambda: optimizers.MomentumSGD(0.5, 0.8), 'MomentumSGD(lr=0.5, momentum=0.8)')])
def test_an_optimizer_in_words(make, words):
    optimizer = make().setup(net.VAE(9, 2, 7))
    assert models.describe_optimizer(optimizer) == words
    optimizer.add_hook(optimizer_hooks.WeightDecay(1e-4))
    assert models.describe_optimizer(optimizer) == f'{words} with WeightDecay'
