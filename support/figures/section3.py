"""Figures of section 3 beyond the article: the gap under log p(x), the posterior, KL, the noise.

The article draws the gap as a bar with a "?"; here evidence.py measures it.
"""

from collections import namedtuple

from support.base import drawing
from support.data import mnist
from support.figures import evidence, pictures, plots

from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch, Rectangle
from matplotlib.ticker import LogLocator
import numpy as np
from scipy.special import logsumexp

BLUE, ORANGE, RED, *_ = drawing.PALETTE
GRAY, RINGS = '#777777', '#bbbbbb'
CANDIDATES = 100        # test digits, of which ROWS are chosen by their gap,
ROWS = 10               # for bound.png,
PANELS = 6              # and of those some for posterior.png
KS = (1, 10, 100, 1000, 5000)           # of L_k; each divides the next
COUNT = 10              # samples of L_k that have to count: with fewer it is far from log p(x)
LEAST = 1e-4            # nats: no axis ends below it, not even where a decoder ignores z
USED = 0.01             # nats: a dimension with a smaller KL divergence is unused
WINDOW = 56             # nodes in each direction of a picture of p(z|x)
DRAWS = 16              # frames of reparameterization.gif
# of n test digits: x (n, D), labels (n,), mu and ln_var (n, Z), log p(x, z) on a grid (n, M),
# log p(x), L, KL[q(z|x) || p(z|x)] (n,); its nodes z (M, Z); among how many these were chosen
Gaps = namedtuple('Gaps', 'x labels mu ln_var joint log_p bound kl z among')


def measure_gaps(model, digits):
    """Return the Gaps of test digits, evenly in the order of their gap. It takes seconds."""
    x, labels = pictures.spaced(digits, CANDIDATES)
    mu, ln_var = evidence.infer(model, x)
    grid = evidence.first_grid(mu, ln_var)
    joint = evidence.log_joint(model, x, grid.z)
    roughly = (evidence.log_evidence(joint, grid.volume)
               - evidence.lower_bound(model, x, mu, ln_var, nodes=5))
    places = np.argsort(roughly)[mnist.spaced_places(len(x), ROWS)]
    x, labels, mu, ln_var, joint = (array[places] for array in (x, labels, mu, ln_var, joint))
    log_p, lower, kl = evidence.measure_gap(model, x, mu, ln_var, grid, joint)
    order = np.argsort(log_p - lower)
    return Gaps(*(array[order] for array in (x, labels, mu, ln_var, joint, log_p, lower, kl)),
                grid.z, len(roughly))


def draw_gap(x, least, rest, names, columns, lines, is_red):
    """Return a figure of digits (N, D), with bars of two parts of -L and a table; and a panel."""
    n = len(x)
    width, height = 640, 176 + 44 * n           # README shows it 530 pixels wide
    figure = pictures.figure_of(width, height)
    faces, left, right, table = (
        figure.add_axes((start / width, 76 / height, length / width, 44 * n / height))
        for start, length in ((10, 44), (62, 156), (270, 124), (398, 234)))
    faces.axis('off')
    for i, picture in enumerate(pictures.as_pictures(x)):
        faces.imshow(picture, cmap='gray', vmin=0, vmax=1, aspect='auto',
                     extent=(-0.44, 0.44, i + 0.44, i - 0.44))
    left.barh(range(n), least, 0.62, color=BLUE, label=names[0])
    left.barh(range(n), rest, 0.62, least, color=RED, label=names[1])
    left.set(xlabel='nats; both together: -L', xlim=(0, 1.03 * max(least + rest)), yticks=[])
    table.axis('off')
    for i, (heading, texts) in enumerate(columns):
        table.text(i + 1, -0.6, heading, ha='right', va='bottom')
        for row, text in enumerate(texts):
            table.text(i + 1, row, text, ha='right', va='center',
                       color=RED if is_red[row] else 'black')
    table.set_xlim(0, len(columns))
    for axes in (faces, left, right, table):
        axes.set(ylim=(n - 0.5, -0.5))
    height = figure.bbox.height
    for text, y, size in zip(lines, (height - 22, height - 42, 12), (11, 9, 9), strict=True):
        figure.text(0.5, y / height, text, ha='center', size=size)
    return figure, right


def bound(model, digits, path, gaps):
    """The gap between log p(x) and its bound, measured (3)."""
    evidence.check_loss(model, digits.test[:ROWS])
    is_exact = pictures.encode(model, digits.test[:1]).shape[1] in evidence.FEW
    figure = draw_exact_gap(gaps()) if is_exact else draw_sampled_gap(model, digits)
    for axes in figure.axes[1:3]:
        axes.legend(loc='lower center', bbox_to_anchor=(0.5, 1), ncols=2, columnspacing=1,
                    handlelength=1, handletextpad=0.4)
    drawing.save(figure, path)


def draw_exact_gap(gaps):
    """Return the figure of -L = -log p(x) + KL, by quadrature."""
    gap = gaps.log_p - gaps.bound
    numbers = [(name, [f'{value:.{3 if value < 100 else 1}f}' for value in values])
               for name, values in (('gap', gap), ('KL', gaps.kl))]
    figure, right = draw_gap(
        gaps.x, -gaps.log_p, gap, ('-log p(x)', 'the gap'),
        [('-log p(x)', [f'{value:.2f}' for value in -gaps.log_p]),
         ('-L', [f'{value:.2f}' for value in -gaps.bound]), *numbers],
        ('the loss:  -L(x, z) = -log p(x) + KL[q(z|x) || p(z|x)]',
         f'{len(gap)} of {gaps.among} test digits, evenly in the order of their gap, log p(x) - L',
         'the gap and the KL, each by its own sum over z, agree to within '
         f'{np.abs(gap - gaps.kl).max():.1g} nats'), np.zeros(len(gap), bool))
    rows = range(len(gap))
    least, most = np.log10(np.maximum([gap.min() / 1.5, gap.max() * 1.5], LEAST))
    decades = 10 ** np.floor(least), 10 ** np.ceil(most + LEAST)
    right.hlines(rows, decades[0], gap, color='#dddddd', zorder=0)
    right.plot(gap, rows, 'o', color=RED, markersize=7, label='the gap')
    right.plot(gaps.kl, rows, 'o', color='black', markersize=11, fillstyle='none', label='KL')
    right.set(xlabel='nats, logarithmic', xscale='log', xlim=decades, yticks=[])
    right.xaxis.set_major_locator(LogLocator(numticks=4))
    right.xaxis.set_major_formatter('{x:g}')
    right.minorticks_off()
    return figure


def draw_sampled_gap(model, digits):
    """Return the figure of L_k, from L up to log p(x), by importance sampling."""
    x, _ = pictures.spaced(digits, ROWS)
    log_w = evidence.log_weights(model, x, *evidence.infer(model, x), KS[-1])
    l_k = evidence.importance_bounds(log_w, KS)                 # (N, len(KS))
    order = np.argsort(l_k[:, -1] - l_k[:, 0])
    x, l_k, log_w = x[order], l_k[order], log_w[order]
    # how many samples carry the mean: (sum w)^2 / sum w^2 (Owen, "Monte Carlo theory", 9.3)
    count = np.exp(2 * logsumexp(log_w, axis=1) - logsumexp(2 * log_w, axis=1))
    rise = l_k - l_k[:, :1]
    name = f'$L_{{{KS[-1]}}}$'
    figure, right = draw_gap(
        x, -l_k[:, -1], rise[:, -1], (f'-{name}', f'{name} - L'),
        [*((heading, [f'{value:.2f}' for value in values]) for heading, values in (
            ('-L', -l_k[:, 0]), (f'-{name}', -l_k[:, -1]), ('gap ≥', rise[:, -1]))),
         ('samples', [f'{n:,.0f}' if n >= COUNT else 'too few' for n in count])],
        (f'the loss:  -L ≥ -{name} ≥ -log p(x).  The gap is {name} - L or more: '
         f'{rise[:, -1].mean():.2f} on average',
         '$L_k$: the logarithm of the mean of k values of p(x, z) / q(z|x), for z from q(z|x); '
         '$L_1$ = L',
         f'{len(x)} test digits; samples: how many of {KS[-1]:,} carry the mean; red: '
         f'too few, less than {COUNT}'), count < COUNT)
    right.plot(KS, rise.T, color='#aaaaaa', linewidth=1)
    right.plot([], [], color='#aaaaaa', linewidth=1, label='$L_k$ - L')
    right.plot(KS, rise.mean(axis=0), color=RED, linewidth=2.5, marker='o', label='mean')
    right.set(xscale='log', xlabel='samples k', ylim=(0, 1.05 * max(rise.max(), LEAST)))
    right.set_xticks(KS[::2], [f'{k:,}' for k in KS[::2]])
    right.minorticks_off()
    return figure


def posterior(model, digits, path, gaps):
    """The posterior p(z|x), and q(z|x) on it (3)."""
    evidence.check_loss(model, digits.test[:ROWS])
    gaps = gaps()
    figure = Figure(figsize=(10.6, 7.5), layout='constrained')
    panels = figure.subplots(2, 3).ravel()
    for axes in panels:
        axes.axis('off')
    chosen = mnist.spaced_places(len(gaps.x), PANELS)        # of the rows of bound.png
    figure.suptitle(
        f'{len(chosen)} of {gaps.among} test digits, evenly in the order of their gap, log p(x) - '
        'L = KL[q(z|x) || p(z|x)]\neach panel has its own scale; in its corner: x, and x decoded '
        'from µ', size=10)
    figure.legend(handles=[
        Patch(color='#2171b5', label='the posterior p(z|x), by quadrature'),
        Line2D([], [], color=RED, label='q(z|x): µ ± 1, 2 and 3 σ')],
        loc='outside lower center', ncols=2, fontsize=10)
    for axes, i in zip(panels, chosen, strict=False):
        x, label, mu, ln_var, joint, log_p, lower = (array[i] for array in gaps[:7])
        sigma = np.exp(ln_var / 2)
        points = np.concatenate([gaps.z[joint > joint.max() - 8],       # where the posterior is,
                                 [mu - 4 * sigma, mu + 4 * sigma]])     # and q
        low, high = points.min(axis=0), points.max(axis=0)
        grid = evidence.even_grid(0.55 * (high - low).max(), WINDOW, 2)
        z, half = grid.z + (low + high) / 2, grid.volume ** 0.5 / 2
        joint, = evidence.log_joint(model, x[None], z)
        density = np.exp(joint - evidence.log_evidence(joint, grid.volume))
        axes.axis('on')
        axes.imshow(density.reshape(WINDOW, WINDOW).T, cmap='Blues', origin='lower',
                    extent=np.stack([z[0] - half, z[-1] + half], axis=1).ravel(),
                    interpolation='bilinear')
        plots.put_ellipses(axes, mu, sigma, RED)
        axes.set(xlabel='$z_1$', ylabel='$z_2$', title=f'a {label}: gap {log_p - lower:.3g} nats')
        axes.locator_params(nbins=5)
        corner = axes.inset_axes((0.8, 0.6, 0.19, 0.39))
        both = pictures.as_pictures(x)[0], pictures.decode(model, mu[None])[0]
        corner.imshow(np.concatenate(both), cmap='gray', vmin=0, vmax=1)
        corner.axis('off')
    drawing.save(figure, path)


def dimensions(model, digits, path):
    """The KL of each dimension of z, and what it does (3)."""
    evidence.check_loss(model, digits.test[:ROWS])
    mu, ln_var = evidence.infer(model, digits.test)
    kl = evidence.kl_to_prior(mu, ln_var).mean(axis=0)          # (Z,)
    order = np.argsort(-kl)
    shown = order[:6]
    steps = np.linspace(-3, 3, 13)
    z = np.tile(mu[0], (len(shown), len(steps), 1))
    for row, j in zip(z, shown, strict=True):
        row[:, j] = steps
    decoded = pictures.decode(model, z.reshape(-1, z.shape[-1]))        # (6 * 13, 28, 28)

    n, m = len(shown), len(steps)
    figure = Figure(figsize=(11, max(1.1 + 0.18 * len(kl), 0.9 + 0.52 * n)), layout='constrained')
    left, right = figure.subplots(1, 2, width_ratios=(1, 1.5))
    used = kl > USED
    figure.suptitle(
        f'KL[q(z|x) || p(z)], the mean of {len(mu):,} test digits: {kl.sum():.2f} nats, to which '
        f'{used.sum()} of {len(kl)} dimensions contribute more than {USED}', size=10)
    left.barh(range(len(kl)), kl[order], 0.7, color=[BLUE if used[j] else GRAY for j in order])
    left.set(yticks=range(len(kl)), yticklabels=[f'$z_{{{j + 1}}}$' for j in order],
             ylim=(len(kl) - 0.4, -0.6), xlim=(0, max(1.15 * kl.max(), 1)),
             title='of each dimension, sorted',
             xlabel='nats' if used.all() else f'nats; gray: {USED} or less, as good as unused')
    left.tick_params('y', length=0)
    for i, value in enumerate(kl[order]):
        left.annotate(f'{value:.2f}' if value > USED else f'{value:.1g}', (value, i), (4, 0),
                      textcoords='offset points', va='center', size=8,
                      color='black' if value > USED else GRAY)
    right.imshow(pictures.joined(decoded, m), cmap='gray', vmin=0, vmax=1,
                 extent=(-0.5, m - 0.5, n - 0.5, -0.5), interpolation='antialiased')
    right.set(xticks=range(0, m, 2), xticklabels=[f'{step:g}' for step in steps[::2]],
              yticks=range(n), yticklabels=[f'$z_{{{j + 1}}}$' for j in shown],
              title=f'one dimension from -3 to 3, the others at the code of a '
                    f'{digits.test_labels[0]}; framed: nearest to its own')
    right.spines[:].set_visible(False)
    right.tick_params(length=0)
    for i, j in enumerate(shown):
        own = np.abs(steps - mu[0, j]).argmin()
        right.add_patch(Rectangle((own - 0.5, i - 0.5), 1, 1, fill=False, color=ORANGE, linewidth=2,
                                  clip_on=False))
    drawing.save(figure, path)


def reparameterization(model, digits, path):
    """One digit, and z = µ + ε·σ drawn again and again (3)."""
    places = mnist.first_of_each(digits)
    x = digits.test[list(places.values())]
    evidence.check_noise(model, x)
    mu, ln_var = evidence.infer(model, x)
    i = ln_var.sum(axis=1).argmax()                             # the widest q(z|x)
    mu, sigma = mu[i], np.exp(ln_var[i] / 2)
    eps = np.random.RandomState(0).standard_normal((DRAWS, len(mu)))
    z = mu + eps * sigma                                        # (DRAWS, Z)
    decoded = pictures.decode(model, z)
    used = np.sort(np.argsort(-evidence.kl_to_prior(mu, ln_var[i]))[:2])
    numbers = 'µ = ({:.2f}, {:.2f}), σ = ({:.3f}, {:.3f})'.format(*mu[used], *sigma[used])
    heading = f'a {list(places)[i]}, {numbers}'
    if len(mu) > 2:
        heading += f'; its two most used of {len(mu)} dimensions'
    figure = Figure(figsize=(8.4, 3.52), dpi=drawing.DPI)
    head = figure.text(0.5, 0.94, '', ha='center', size=10)
    figure.legend(loc='lower left', bbox_to_anchor=(0.04, 0), ncols=3, handles=[
        Line2D([], [], linestyle='', marker='o', color=RED, markersize=9, label='this draw'),
        Line2D([], [], linestyle='', marker='o', color=BLUE, markersize=4, label='earlier draws'),
        Line2D([], [], color=RINGS, label='rings: 1, 2 and 3 standard deviations')])

    moving = []                     # points; those of earlier draws, and that of this one
    for left, title, letter, points, center, scale in (
            (0.06, 'the noise: ε ~ N(0, I)', r'\varepsilon', eps, np.zeros(2), np.ones(2)),
            (0.43, 'z = µ + ε·σ, so z ~ q(z|x)', 'z', z, mu[used], sigma[used])):
        axes = figure.add_axes((left, 0.2, 0.255, 0.608), title=title)
        plots.put_ellipses(axes, center, scale, RINGS)
        names, reach = [f'${letter}_{{{j + 1}}}$' for j in used], 3.4 * scale.max()
        axes.set(xlabel=names[0], ylabel=names[1], **{          # both have one scale
            f'{name}lim': (at - reach, at + reach) for name, at in zip('xy', center, strict=True)})
        axes.locator_params(nbins=4)
        moving.append((points[:, used], *axes.plot([], 'o', color=BLUE, markersize=4),
                       *axes.plot([], 'o', color=RED, markersize=9)))
    for bottom, picture, title in ((0.49, pictures.as_pictures(x[i])[0], 'x'),
                                   (0.05, decoded[0], 'decoded from z')):
        axes = figure.add_axes((0.79, bottom, 0.144, 0.3456), title=title)
        face = axes.imshow(picture, cmap='gray', vmin=0, vmax=1)
        axes.axis('off')

    def frame(t):
        head.set_text(f'{heading}; draw {t + 1} of {DRAWS}')
        for points, earlier, now in moving:
            earlier.set_data(*points[:t].T)
            now.set_data(*points[t:t + 1].T)
        face.set_data(decoded[t])
        return figure

    pictures.save_gif(map(frame, range(DRAWS)), path, range(DRAWS), [BLUE, RED],
                      milliseconds=500, still=figure.legends)
