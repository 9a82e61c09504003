"""The losses in a log as curves over the epochs, training beside test; loss.png.

A log has the losses as they trained: only in training does a weight C multiply the KL divergence.
"""

import itertools

from support.run import models, snapshot  # lets chainer import

import numpy as np

TRAINING, TEST = 'main/', 'validation/main/'        # before the names of the losses
COLLAPSED = 0.1         # nats of latent loss, below which q(z|x) tells nothing of x


def column(log, key):
    """Return the values of a key in the rows of a log, (rows,) float; NaN for what is no number."""
    values = [row.get(key) for row in log]
    return np.array([value if isinstance(value, (int, float)) else np.nan for value in values],
                    float)


def curves(log, C):
    """Return the losses of a log by key, each (rows,), so that training compares with test.

    If C is known, they are those of C = 1: the negative ELBO, its terms. If C is 0, the log does
    not tell these of training, so they are NaN. If C is None, all are as logged.
    """
    found = {of + name: column(log, of + name)
             for of in (TRAINING, TEST) for name in snapshot.LOSSES}
    if C not in (None, 1):
        kl = found['main/latent_loss'] / C if C else np.full(len(log), np.nan)
        found |= {'main/latent_loss': kl, 'main/loss': found['main/rec_loss'] + kl}
    return found


def collapse(log):
    """Return what to say of a run whose test digits have next to no latent loss; else ''."""
    latent = column(log[-1:], TEST + 'latent_loss')
    if not (latent < COLLAPSED).any():
        return ''
    return (f'the latent loss of the test digits is {latent[-1]:.2g} nats: q(z|x) is the same for '
            'every x (a collapsed posterior), and every z decodes to the same blur; train for more '
            'epochs, or with a smaller --beta')


def is_finer(log):
    """Tell whether a log has rows within an epoch, or rows without their epoch."""
    epochs = [0, *(row.get('epoch') for row in log)]
    return any(after in (before, None) for before, after in itertools.pairwise(epochs))


def plot(log, loss, C, per_iteration, path):
    """Draw loss.png from a log: the loss in words (`models.describe_loss`) and its two terms.

    Of four epochs or more the first is left out, since it would flatten the others. A loss that the
    log lacks has no curve; a panel without a curve is left out.
    """
    from support.base import drawing

    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    epochs, xlabel = column(log, 'epoch'), 'epoch'
    if is_finer(log):
        epochs = np.fmin(np.fmax(column(log, 'iteration') * per_iteration, epochs), epochs + 1)
    if len(log) > 3 and epochs[-1] > 3:
        log, epochs = (of[max(1, np.sum(epochs <= 1)):] for of in (log, epochs))
        xlabel = 'epoch (the first is left out)'
    found = curves(log, C)
    both = {name: np.array([found[of + name] for of in (TRAINING, TEST)])       # (2, rows)
            for name in snapshot.LOSSES}
    names = [name for name, losses in both.items() if np.nan_to_num(losses).any()]
    if np.array_equal(both['rec_loss'], both['loss'], equal_nan=True):      # of an autoencoder
        names = [name for name in names if name != 'rec_loss']
    if not names:
        return
    which, _, _ = loss.partition(',')
    titles = {'loss': f'loss ({which})', 'rec_loss': 'reconstruction error',
              'latent_loss': 'latent loss (KL divergence)'}
    if C is None and which != models.SQUARED_ERROR:
        titles |= {'loss': 'loss as logged', 'latent_loss': 'latent loss as logged'}
    unit = {models.ELBO: 'nats ', models.SQUARED_ERROR: 'squared error '}.get(which, '')
    with drawing.style():
        figure = Figure(figsize=((None, 4.4, 7.2, 10)[len(names)], 3.4), layout='constrained')
        for axes, name in zip(figure.subplots(1, len(names), squeeze=False)[0], names, strict=True):
            for losses, label, color in zip(both[name], ('training', 'test'),
                                            (drawing.PALETTE[0], drawing.PALETTE[2]),
                                            strict=True):
                at = np.isfinite(losses) & np.isfinite(epochs)
                if at.any():
                    axes.plot(epochs[at], losses[at], color=color,
                              marker='.' if at.sum() < 20 else None,
                              label=f'{label}: {losses[at][-1]:.2f} in epoch {epochs[at][-1]:.4g}')
            axes.set(title=titles[name], xlabel=xlabel)
            axes.xaxis.set_major_locator(MaxNLocator(integer=True, steps=[1, 2, 5, 10],
                                                       min_n_ticks=1))
            axes.legend()
        figure.axes[0].set_ylabel(unit + 'per digit')
        drawing.save(figure, path)
