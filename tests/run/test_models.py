"""What a snapshot notes of its model, and what is said where net.py has changed since."""

import functools

from support.run import models, snapshot  # lets chainer import

from chainer import optimizer_hooks, optimizers
import chainer.functions as F
import chainer.links as L
import pytest

import net


class Scaled(net.VAE):
    """The VAE with another encoder and loss."""

    def encode(self, x):
        """Make the mean twice as large."""
        mu, ln_var = super().encode(x)
        return 2 * mu, ln_var

    def get_loss_func(self, C=1.0, k=1):
        """Double it."""
        lf = super().get_loss_func(C, k)
        return lambda x: 2 * lf(x)


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


class Crooked(net.VAE):
    """The VAE with layers that do not follow one another."""

    def __init__(self, *args):
        super().__init__(*args)
        del self.le1
        with self.init_scope():
            self.le1 = L.Scale(axis=1, W_shape=(9,), bias_term=True)


@pytest.mark.parametrize('made_for, layers, sizes', [
    (net.VAE, '9-7-7-2-7-7-9', (7, 2)), (net.Autoencoder, '9-7-7-2-7-7-9', (7, 2)),
    (Narrow, '9-5-5-2-5-5-9', (5, 2)), (Longer, '397 weights', (7, 2)),
    (Crooked, '255 weights', None)])
def test_layers_are_the_models_own(made_for, layers, sizes):
    model = made_for(9, 2, 7)
    assert models.describe_layers(model) == layers
    assert models.sizes_of(model) == (
        {} if sizes is None else dict(zip(('dim_h', 'dim_z'), sizes, strict=True)))


@pytest.mark.parametrize('act_func, default, name', [
    (F.softplus, 'tanh', 'softplus'), (F.elu, 'tanh', 'elu'), (None, 'tanh', 'tanh'),
    (None, 'elu', 'elu'), (functools.partial(F.elu, alpha=2), 'tanh', 'unnamed')])
def test_the_activation_is_the_models_own(act_func, default, name):
    assert models.activation_of(net.VAE(9, 2, 7, act_func), default) == name


@pytest.mark.parametrize('had, lacks', [
    ('elu', ', whose ACTIVATIONS lack it'), ('relu', '')])
def test_another_activation_is_refused(had, lacks):
    settings = {'activation': had, 'methods': {}}
    models.check_activation(settings, net.VAE(9, 2, 7, getattr(F, had)), 'FILE')
    with pytest.raises(snapshot.SnapshotError) as error:
        models.check_activation(settings, net.VAE(9, 2, 7), 'FILE', 'mend it')
    assert str(error.value) == (f'FILE was trained with the activation {had}, and this net.py has '
                                f'tanh{lacks}; mend it')


@pytest.mark.parametrize('old, new, told', [
    ('mu = self.le3_mu(h2)', 'mu = 2 * self.le3_mu(h2)', 'VAE.encode'),
    ('self.act_func = act_func', 'self.act_func = F.elu', 'VAE.__init__'),
    ('mu, _ = self.encode(x)', 'mu, ln_var = self.encode(x)', 'VAE.__call__'),
    ('    def decode(', '    @staticmethod\n    def decode(', 'VAE.decode'),
    ('def draw_graph(', 'def draw_it(', 'code outside the methods'),
    ("'relu': F.relu", "'relu': F.elu", 'code outside the methods'),
    ('class VAE(chainer.Chain):', 'class VAE(chainer.Chain):\n    scale = 2\n',
     'code outside the methods'),
    ('return F.sigmoid(self.ld3(h2))', 'return self.ld3(h2)', 'Autoencoder.decode'),
    ('"""Infer q(z|x)', '"""Guess q(z|x)', ''), ('import six\n', '# none\nimport six\n', '')])
def test_an_edit_since_then_is_told(edit, capsys, old, new, told):
    settings = {'methods': models.notes_of_net()}
    models.warn_of_edits(settings, 'FILE')
    assert capsys.readouterr().err == ''
    edit(old, new)
    models.warn_of_edits(settings, 'FILE')
    assert capsys.readouterr().err == (told and (
        f'warning: FILE was trained by a net.py that differs in {told}; this one may make '
        'something else of it\n'))
    models.warn_of_edits({'methods': {}}, 'FILE')                       # of an earlier commit
    assert capsys.readouterr().err == ''


def test_both_nets_of_a_run_are_noted(edit):
    first = models.notes_of_net()
    assert models.both({}) == models.both(first) == first
    edit('mu = self.le3_mu(h2)', 'mu = 2 * self.le3_mu(h2)')
    second = models.notes_of_net()
    mixed = models.both(first)
    assert {name for name in first if mixed[name] != first[name]} == {'VAE.encode'}
    assert {*mixed['VAE.encode'].split(', ')} == {first['VAE.encode'], second['VAE.encode']}
    assert models.both(mixed) == mixed


def test_a_net_py_that_cannot_be_read_is_told_nothing_of(monkeypatch, capsys):
    def fail(of):
        raise OSError

    settings = {'methods': models.notes_of_net()}
    model = net.VAE(9, 2, 7)
    monkeypatch.setattr(models.inspect, 'getsource', fail)
    models.written.cache_clear()
    models.warn_of_edits(settings, 'FILE')
    assert capsys.readouterr().err == ''
    assert models.both({'f': '1'}) == {'f': '1'}
    assert models.describe_loss(model.get_loss_func(), model) == 'negative ELBO'
    monkeypatch.undo()
    models.written.cache_clear()


def test_a_loss_is_known_by_its_text():
    model, plain, other = net.VAE(9, 2, 7), net.Autoencoder(9, 2, 7), Scaled(9, 2, 7)
    for made, settings, words in (
            (model, {}, 'negative ELBO'), (plain, {}, 'squared error'),
            (model, {'C': 4.0, 'k': 2}, 'negative ELBO, beta = 4, k = 2'),
            (model, {'C': lambda: 1}, 'negative ELBO, beta = what train_vae.py says'),
            (other, {}, 'of an edited get_loss_func')):
        assert models.describe_loss(made.get_loss_func(**settings), made) == words
    assert models.describe_loss(lambda x: 0, model) == 'of an edited train_vae.py'


@pytest.mark.parametrize('make, words', [
    (optimizers.Adam, 'Adam'), (lambda: optimizers.Adam(alpha=0.01), 'Adam(alpha=0.01)'),
    (lambda: optimizers.Adam(amsgrad=True), 'Adam(amsgrad=True)'), (optimizers.SGD, 'SGD'),
    (lambda: optimizers.MomentumSGD(0.5, 0.8), 'MomentumSGD(lr=0.5, momentum=0.8)')])
def test_an_optimizer_in_words(make, words):
    optimizer = make().setup(net.VAE(9, 2, 7))
    assert models.describe_optimizer(optimizer) == words
    optimizer.add_hook(optimizer_hooks.WeightDecay(1e-4))
    assert models.describe_optimizer(optimizer) == f'{words} with WeightDecay'
    models.check_optimizer({'optimizer': ''}, {'optimizer': words}, 'FILE')
    models.check_optimizer({'optimizer': words + ' with X'}, {'optimizer': words}, 'FILE')
    for had in ('RMSprop(lr=1)', words.split('(')[0] + '(other=True)'):
        with pytest.raises(snapshot.SnapshotError) as error:
            models.check_optimizer({'optimizer': had}, {'optimizer': words}, 'FILE')
        assert f'FILE was trained by {had}, and train_vae.py has {words}; ' in str(error.value)


def test_a_method_that_runs_is_noted_whatever_the_file_says(monkeypatch, capsys):
    settings = {'methods': models.notes_of_net()}
    monkeypatch.setattr(net.VAE, 'decode', lambda self, z, sigmoid=True: z)
    edited = {'methods': models.notes_of_net()}
    assert edited['methods'].keys() == settings['methods'].keys() - {models.OUTSIDE}
    models.warn_of_edits(edited, 'FILE')
    assert capsys.readouterr().err == ''
    models.warn_of_edits(settings, 'FILE')
    assert ' differs in VAE.decode; ' in capsys.readouterr().err
    monkeypatch.undo()
    models.warn_of_edits(edited, 'FILE')
    assert ' differs in VAE.decode; ' in capsys.readouterr().err
