"""losses.py: a log as curves of one quantity, and loss.png."""

from support.base import drawing
from support.run import losses

import numpy as np
import pytest

NAMES = ('loss', 'rec_loss', 'latent_loss')


@pytest.fixture
def draw(monkeypatch):
    """Return a function of `losses.plot`'s arguments that returns the figure; None for none."""
    def draw(log, loss='negative ELBO', C=1.0, per_iteration=0.1):
        seen = []
        monkeypatch.setattr(drawing, 'save', lambda *saved: seen.append(saved))
        losses.plot(log, loss, C, per_iteration, 'FILE')
        assert [path for _, path in seen] == ['FILE'] * len(seen)
        return seen[0][0] if seen else None
    return draw


def lines_of(axes):
    """Return the points of each curve of a panel by the first word of its label."""
    return {line.get_label().partition(':')[0]: line.get_xydata().tolist() for line in axes.lines}


def rows(C, kls=(8.0, 4.0), test_kls=(6.0, 5.0)):
    """Return the log of a run whose weight of the KL divergence is C."""
    return [{'epoch': epoch, 'iteration': 10 * epoch, 'main/rec_loss': 100.0,
             'main/latent_loss': C * kl, 'main/loss': 100 + C * kl,
             'validation/main/rec_loss': 90.0, 'validation/main/latent_loss': test,
             'validation/main/loss': 90 + test}
            for epoch, (kl, test) in enumerate(zip(kls, test_kls, strict=True), 1)]


@pytest.mark.parametrize('C', [0.25, 4.0])
def test_both_curves_are_the_kl_and_the_negative_elbo_whatever_weighed_in_training(draw, C):
    figure = draw(rows(C), C=C)
    assert [axes.get_title() for axes in figure.axes] == [
        'loss (negative ELBO)', 'reconstruction error', 'latent loss (KL divergence)']
    assert [lines_of(axes) for axes in figure.axes] == [
        {'training': [[1, 108], [2, 104]], 'test': [[1, 96], [2, 95]]},
        {'training': [[1, 100], [2, 100]], 'test': [[1, 90], [2, 90]]},
        {'training': [[1, 8], [2, 4]], 'test': [[1, 6], [2, 5]]}]
    elbo, error, kl = map(lines_of, draw(rows(0.0), C=0.0).axes)        # of which C leaves no KL
    assert (set(elbo), set(error), set(kl)) == ({'test'}, {'training', 'test'}, {'test'})


def test_where_the_weight_is_not_known_the_curves_are_as_logged_and_titles_say_so(draw):
    figure = draw(rows(0.25), 'of an edited train_vae.py', None)
    assert [axes.get_title() for axes in figure.axes] == [
        'loss as logged', 'reconstruction error', 'latent loss as logged']
    assert lines_of(figure.axes[0])['training'] == [[1, 102], [2, 101]]
    assert lines_of(figure.axes[2])['training'] == [[1, 2], [2, 1]]


@pytest.mark.parametrize('epochs, first', [(3, 1), (4, 2)])
def test_the_curves_leave_out_the_first_epoch_and_say_the_last_losses(draw, epochs, first):
    kls = [500 / epoch ** 2 for epoch in range(1, epochs + 1)]
    figure = draw(rows(1, kls, kls), 'negative ELBO, k = 2')
    assert figure.axes[0].get_ylabel() == 'nats per digit'
    for axes, base in zip(figure.axes, (100, 100, 0), strict=True):
        assert [x for x, _ in lines_of(axes)['training']] == [*range(first, epochs + 1)]
        last = base + kls[-1] * (axes is not figure.axes[1])
        assert axes.get_legend().get_texts()[0].get_text() == (
            f'training: {last:.2f} in epoch {epochs}')
        assert all(tick == round(tick) for tick in axes.get_xticks())
        assert ('the first is left out' in axes.get_xlabel()) == (first == 2)


@pytest.mark.parametrize('loss, title, unit', [
    ('squared error', 'loss (squared error)', 'squared error per digit'),
    ('of an edited train_vae.py', 'loss as logged', 'per digit')])
def test_the_curve_of_an_autoencoder_is_one_of_squared_errors(draw, loss, title, unit):
    row = {f'{of}main/{name}': 30.0 * (name != 'latent_loss') for of in ('', 'validation/')
           for name in NAMES}
    (axes,) = draw([row | {'epoch': 1}, row | {'epoch': 2}], loss, None).axes
    assert (axes.get_title(), axes.get_ylabel()) == (title, unit)


def test_a_finer_log_is_drawn_at_fractions_of_an_epoch_and_test_losses_where_they_are(draw):
    log = [{'epoch': i // 3, 'iteration': i, 'main/loss': 100.0 - i} | (
        {'validation/main/loss': 90.0 - i} if i % 3 == 0 else {}) for i in range(1, 8)]
    # of minibatches of another size before a resume: a row lies in its own epoch
    log += [{'epoch': 2, 'iteration': i, 'main/loss': 93.0} for i in (5, 15)]
    (axes,) = draw(log, per_iteration=1 / 3).axes
    curves = lines_of(axes)
    np.testing.assert_allclose(
        curves['training'], [*([i / 3, 100 - i] for i in range(1, 8)), [2, 93], [3, 93]])
    np.testing.assert_allclose(curves['test'], [[1, 87], [2, 84]])
    assert [text.get_text() for text in axes.get_legend().get_texts()] == [
        'training: 93.00 in epoch 3', 'test: 84.00 in epoch 2']


@pytest.mark.parametrize(('keys', 'titles'), [
    ({'main/loss', 'main/rec_loss', 'main/kl'}, ['loss (negative ELBO)', 'reconstruction error']),
    ({'validation/main/latent_loss'}, ['latent loss (KL divergence)']), ({'main/elbo'}, None)])
def test_losses_that_the_log_lacks_have_no_curve(draw, keys, titles):
    log = [{'epoch': epoch, 'main/loss': float('nan')} | {
        key: 10.0 + i for i, key in enumerate(sorted(keys))} for epoch in (1, 2)]
    assert draw([]) is None
    figure = draw(log)
    assert titles == (figure and [axes.get_title() for axes in figure.axes])


@pytest.mark.parametrize('latent, said', [
    (0.011, 'the latent loss of the test digits is 0.011 nats: q(z|x) is the same for every x'),
    (0.1, ''), (float('nan'), ''), (None, '')])
def test_a_collapsed_posterior_is_named(latent, said):
    row = {} if latent is None else {'validation/main/latent_loss': latent}
    found = losses.collapse([{'validation/main/latent_loss': 0.0}, row])
    assert found.startswith(said)
    assert bool(found) == bool(said)
    assert losses.collapse([]) == ''
