#!/usr/bin/env python3
"""Draw the article's figures from the snapshot of a run.

One function draws one figure: it takes a model, digits and a path, and writes that file. They stand
in the order of the article. `FIGURES`, below them, lists them all, with those of support/figures/
that go beyond the article. Shapes in the comments: N digits of D = 784 pixels, Z latent dimensions.
"""

import functools
import sys

# support comes first, as it lets chainer import
from support.base import command, drawing
from support.data import mnist
from support.figures import (
    command_line,
    diagrams,
    explorer,
    graphs,
    pictures,
    plots,
    section1,
    section3,
    sources,
    tensorboard,
    training,
)
from support.figures.command_line import PLANE, WALK, Recipe
from support.figures.pictures import decode, encode
from support.run import observe

from matplotlib import colormaps
from matplotlib.figure import Figure
from matplotlib.patheffects import withStroke
import numpy as np

import net

POINTS = 5000           # test digits in a scatter plot and in the projector,
POINTS_TSNE = 2000      # and in t-SNE, which takes minutes for more
SPAN = 2                # the map goes from -SPAN to SPAN in z_1 and z_2
STEPS = 80              # of the walk from one digit to another
TURN = 40               # steps from every digit to every digit, and as many back


# Section 1-1: a plain autoencoder: section1.autoencoder draws it beside the VAE -------------------


# Section 1-2: digits and their reconstructions --------------------------------------------------


def weight_of(run):
    """Return what titles say of the weight of the KL divergence, if it has one that is known."""
    weight = run.get('kl_weight', run['beta'])
    return '' if weight is None else f', beta = {weight:g}'


def reconstruction(model, digits, path, run):
    """Test digits of each class, above reconstructions (1-2)."""
    x = digits.test[list(mnist.first_of_each(digits).values())]
    z = encode(model, x)
    rows = np.concatenate([pictures.as_pictures(x), decode(model, z)])
    drawing.save(pictures.sheet(rows, len(x), gap=5, names=['input', 'recon-\nstruction'],
                                heading=f'{z.shape[1]}-dimensional z{weight_of(run)}'), path)


def first_digits(model, digits, path):
    """The reconstruction of a test digit of each class (1-2)."""
    places = list(mnist.first_of_each(digits).values())
    decoded = decode(model, encode(model, digits.test[places]))
    heading = 'reconstruction of a test digit of each class'
    drawing.save(pictures.sheet(decoded, 5, heading=heading, zoom=5), path)


def samples(model, digits, path, run):
    """Digits decoded from z ~ N(0, I)."""
    dims = encode(model, digits.test[:1]).shape[1]
    z = np.random.RandomState(0).standard_normal((100, dims))
    heading = f'decoded from {dims}-dimensional z ~ N(0, I){weight_of(run)}'
    drawing.save(pictures.sheet(decode(model, z), 10, heading=heading, gap=3), path)


# Section 1-2: the latent space ------------------------------------------------------------------


def ends_of(digits, start, end):
    """Return the ends of the walk, (2, D): the first test digits `start` and `end`."""
    places = mnist.first_of_each(digits)
    for flag, label in (('start', start), ('end', end)):
        if label not in places:
            raise pictures.FigureError(
                f'there is no {label} among the test digits; choose --{flag} from '
                f'{", ".join(map(str, places))}')
    return digits.test[[places[start], places[end]]]


def endpoints(model, digits, start, end):
    """Return their codes, (2, Z)."""
    return encode(model, ends_of(digits, start, end))


def scatter(model, digits, path):
    """Codes of test digits, coloured by label (1-2)."""
    drawing.save(plots.scatter_plot(model, *pictures.spaced(digits, POINTS), SPAN), path)


def scatter_arrow(model, digits, path, start, end):
    """The same, with the arrow of the walk (1-2)."""
    ends = endpoints(model, digits, start, end)
    drawing.save(plots.scatter_plot(model, *pictures.spaced(digits, POINTS), SPAN, ends,
                                    f'from a {start} to a {end}'), path)


# Section 1-2: the walk from digit to digit ------------------------------------------------------


def walk(ends, steps):
    """Return t (steps + 1,) from 0 to 1, and z(t) = (1 - t) z_start + t z_end, (steps + 1, ..., Z).

    So it is in the article's notebook and figures. Its text has t the other way round.

    Args:
        ends (tuple of ndarray): z_start and z_end, (..., Z).
        steps (int): Number of steps.
    """
    t = np.linspace(0, 1, steps + 1)
    share = t.reshape(-1, *[1] * ends[0].ndim)
    return t, (1 - share) * ends[0] + share * ends[1]


def walk_gif(model, digits, path, start, end):
    """The walk as an animation (1-2)."""
    t, z = walk(endpoints(model, digits, start, end), STEPS)
    heading = f'from a {start} to a {end}, t = '
    figures = (pictures.sheet(picture[None], 1, heading=f'{heading}{share:.3f}', zoom=8)
               for share, picture in zip(t, decode(model, z), strict=True))
    pictures.save_gif(figures, path, range(len(t)))


def walk_sheet(model, digits, path, start, end):
    """The walk: 81 digits decoded from a 0 to a 7 (1-2)."""
    t, z = walk(endpoints(model, digits, start, end), STEPS)
    titles = [f't = {share:.3f}' for share in t]
    drawing.save(pictures.sheet(decode(model, z), 9, titles, f'from a {start} to a {end}'), path)


def latent_map(model, digits, path, start, end):
    """Digits decoded from -2 to 2 in z_1 and z_2 (1-2)."""
    axes = pictures.map_of(model, SPAN, 25)
    axes.set(xticks=range(-2, 3), yticks=range(-2, 3))
    axes.set_title(f'digits decoded from z; red: from a {start} to a {end}', size=13)
    ends = endpoints(model, digits, start, end)
    look = {'color': plots.RED, 'path_effects': [withStroke(linewidth=2.5, foreground='black')]}
    axes.plot(*ends[0], 'o', markersize=7, **look)
    axes.annotate('', ends[1], ends[0], arrowprops={        # thin: digits below it stay legible
        'arrowstyle': '-|>', 'linewidth': 1.2, 'mutation_scale': 24, 'shrinkA': 0, 'shrinkB': 0,
        **look})
    drawing.save(axes.figure, path)


def wide_map(model, digits, path):
    """The same to ±4, where digits fall apart (1-2)."""
    axes = pictures.map_of(model, 2 * SPAN, 33)
    axes.set_title('digits decoded from z; circles: 1, 2 and 3 σ of N(0, I), inside which 39, 86 '
                   'and 99% of it lie')
    plots.put_ellipses(axes, (0, 0), (1, 1), plots.RED,
                       path_effects=[withStroke(linewidth=3, foreground='black')])
    drawing.save(axes.figure, path)


def every_walk_gif(model, digits, path):
    """From each digit to each digit and back (1-2)."""
    labels, places = zip(*list(mnist.first_of_each(digits).items())[:10], strict=True)
    codes = encode(model, digits.test[list(places)])
    n = len(codes)
    t, z = walk((codes.repeat(n, axis=0), np.tile(codes, (n, 1))), TURN)        # (41, n * n, Z)
    decoded = decode(model, z.reshape(-1, z.shape[-1])).reshape(TURN + 1, n * n, mnist.SIDE, -1)
    heading = 'from its row to its column, t = '
    figures = (pictures.square(picture, labels, f'{heading}{share:.3f}')
               for share, picture in zip(t, decoded, strict=True))
    order = [*range(TURN + 1), *range(TURN - 1, 0, -1)]
    pictures.save_gif(figures, path, order, rests=(0, TURN), grays=16)


# Section 1-3: the manifold hypothesis -----------------------------------------------------------


BANDS = [tuple(colormaps['viridis'](i / 5)[:3]) for i in range(6)]       # the colours of the roll


def roll():
    """Return points of a swiss roll, (N, 3), and the number of the band of each, (N,)."""
    from sklearn.cluster import AgglomerativeClustering  # here, as this takes long
    from sklearn.datasets import make_swiss_roll
    from sklearn.neighbors import kneighbors_graph

    points, along = make_swiss_roll(1500, noise=0.05, random_state=0)
    points[:, 1] /= 2           # as in the article: the clusters of a narrow roll are bands
    neighbours = kneighbors_graph(points, 10)
    clusters = AgglomerativeClustering(len(BANDS), connectivity=neighbours, linkage='ward')
    found = clusters.fit_predict(points)
    means = [along[found == cluster].mean() for cluster in range(len(BANDS))]
    return points, np.argsort(np.argsort(means))[found]


def swiss_roll_gif(model, digits, path, roll):
    """A swiss roll in three dimensions, turning (1-3)."""
    points, bands = roll()
    figures = plots.turning(
        points, lambda axes: plots.put_points(axes, points, bands, BANDS, 18, '#444444'),
        'the swiss roll: a plane, rolled up', views=plots.SWING)
    pictures.save_gif(figures, path, range(36), BANDS, milliseconds=150, rests=())


def swiss_roll(model, digits, path, roll):
    """The swiss roll, unrolled into two dimensions (1-3)."""
    from sklearn.manifold import LocallyLinearEmbedding

    points, bands = roll()
    unrolled = LocallyLinearEmbedding(n_neighbors=12, method='modified', random_state=0)
    figure = Figure(figsize=(7.2, 4.4), layout='constrained')
    axes = figure.add_subplot(title='the swiss roll unrolled by locally linear embedding')
    axes.axis('off')
    plots.put_points(axes, unrolled.fit_transform(points), bands, BANDS, 18, '#444444')
    drawing.save(figure, path)


# Section 2: the computational graph -------------------------------------------------------------


def graph(model, digits, path, beta, k, batch_size):
    """The computational graph of the loss, by Graphviz (2)."""
    if k > 3:
        print(f'{path} shows 3 of the {k} samples of z, which are all alike')
    x = model.xp.asarray(digits.train[:batch_size])
    with observe.unchanged(model):
        dot = net.draw_graph(model, x, C=beta, k=min(k, 3))
    graphs.save(dot, model, path)


# Section 3: the KL divergence -------------------------------------------------------------------


def normal(x, mu, sigma):
    """Return the density of N(mu, sigma^2) at x."""
    return np.exp(-((x - mu) / sigma) ** 2 / 2) / (sigma * np.sqrt(2 * np.pi))


def kl_divergence(mu, sigma):
    """Return KL[N(mu, sigma^2) || N(0, 1)] in nats (Kingma & Welling, appendix B)."""
    return (mu ** 2 + sigma ** 2 - np.log(sigma ** 2) - 1) / 2


def kl_integral(mu, sigma):
    """Return the same by its definition, the integral of q log(q / p), summed over a grid."""
    x, dx = np.linspace(mu - 10 * sigma, mu + 10 * sigma, 2001, retstep=True)
    q = normal(x, mu, sigma)
    return np.sum(q * np.log(q / normal(x, 0, 1))) * dx


def kl_path():
    """Return mu and sigma, (21,) each, on the way from N(2.5, 0.4^2) to N(0, 1)."""
    share = np.linspace(0, 1, 21)
    return 2.5 * (1 - share), 0.4 + 0.6 * share


def kl_gif(model, digits, path):
    """q(z) moving onto p(z) = N(0, 1), and their KL (3)."""
    blue, gray, red = drawing.PALETTE[0], '#666666', drawing.PALETTE[2]
    mu, sigma = kl_path()
    z = np.linspace(-4, 4.5, 400)
    p = normal(z, 0, 1)
    closed = kl_divergence(mu, sigma)
    numeric = [kl_integral(*pair) for pair in zip(mu, sigma, strict=True)]
    figure = Figure(figsize=(7.2, 6), dpi=drawing.DPI)
    densities, logs, ratio, kl = figure.subplots(2, 2, gridspec_kw={
        'left': 0.08, 'right': 0.98, 'bottom': 0.08, 'top': 0.88, 'hspace': 0.4,
        'wspace': 0.2}).flat
    densities.set(ylim=(0, 1.25), xlabel='z', ylabel='density')
    logs.set(title='their logarithms', ylim=(-30, 8), xlabel='z', ylabel='log density')
    ratio.set(title='difference of the logarithms', ylim=(-10, 14), yticks=range(-10, 11, 5),
              xlabel='z', ylabel='nats')
    kl.set(title='KL[q || p], step by step', xlim=(-1, 21), ylim=(-0.2, 4), xlabel='step',
           ylabel='nats')
    kl.xaxis.get_major_locator().set_params(integer=True)
    for axes, of_p, name in ((densities, p, 'p(z) = N(0, 1)'), (logs, np.log(p), 'log p(z)')):
        axes.plot(z, of_p, color=gray, linewidth=2, label=name)
    lines = [axes.plot(z, p, color=color, linewidth=2, label=label)[0] for axes, color, label in (
        (densities, blue, 'q(z) = N(µ, σ²)'), (logs, blue, 'log q(z)'),
        (ratio, gray, 'log q(z) - log p(z)'))]
    densities.legend(loc='upper left')
    logs.legend(loc='upper left', ncols=2)
    figure.suptitle('q(z) moves onto p(z), in one dimension: an example, not a run')
    line, = kl.plot([], color=blue, linewidth=2)
    dots, = kl.plot([], 'o', color=red, markersize=4)

    def frame(i):
        q = normal(z, mu[i], sigma[i])
        log_ratio = np.log(q / p)
        for each, values in zip(lines, (q, np.log(q), log_ratio), strict=True):
            each.set_ydata(values)
        densities.set_title(f'densities; µ = {mu[i]:.2f}, σ = {sigma[i]:.2f}')
        for area in ratio.collections:                  # of the frame before
            area.remove()
        ratio.fill_between(z, q * log_ratio, color=red, linewidth=0,
                           label='times q(z): the area is the KL')
        ratio.legend(loc='upper left')
        line.set_data(range(i + 1), closed[:i + 1])
        dots.set_data(range(0, i + 1, 2), numeric[:i + 1:2])
        kl.legend([line, dots], [f'closed form: {closed[i]:.4f}',
                                 f'numerical integral: {numeric[i]:.4f}'], loc='upper right')
        return figure

    pictures.save_gif(map(frame, range(21)), path, range(21), [blue, red], milliseconds=200,
                      still=[*figure.texts, densities.get_legend(), logs.get_legend()])


# End of the article: the latent space by t-SNE --------------------------------------------------


def by_tsne(model, digits, dims):
    """Return codes of test digits by t-SNE, (N, dims), the largest of them 1, and their labels."""
    from sklearn.manifold import TSNE

    x, labels = pictures.spaced(digits, POINTS_TSNE)
    codes = encode(model, x)
    if len(np.unique(codes, axis=0)) < 5:
        raise pictures.FigureError('needs test digits of five different codes or more')
    print(f't-SNE of {len(codes)} codes into {dims} dimensions ...', flush=True)
    points = TSNE(dims, perplexity=min(30, len(codes) / 4), random_state=0,
                  init='pca' if codes.shape[1] >= dims else 'random').fit_transform(codes)
    points -= points.mean(axis=0)
    return points / np.abs(points).max(), labels


def tsne(model, digits, path):
    """Codes by t-SNE in two dimensions (end)."""
    points, labels = by_tsne(model, digits, 2)
    figure = Figure(figsize=(7.6, 7.2), layout='constrained')
    axes = figure.add_subplot(aspect='equal', adjustable='datalim')
    axes.margins(0.01)
    axes.set_title(f't-SNE of {len(labels)} {pictures.name_codes(model)}', size=14)
    plots.put_points(axes, points, labels)
    plots.put_legend(figure, labels)
    plots.put_numerals(axes, points, labels, 0.1)
    axes.axis('off')                                            # t-SNE has no units
    drawing.save(figure, path)


def tsne_gif(model, digits, path):
    """The same in three dimensions, turning (end)."""
    points, labels = by_tsne(model, digits, 3)

    def draw(axes):
        plots.put_points(axes, points, labels)
        plots.put_legend(axes.figure, labels)
        plots.put_numerals(axes, points, labels)
        axes.axis('off')

    title = f't-SNE of {len(labels)} {pictures.name_codes(model)} in three dimensions'
    pictures.save_gif(plots.turning(points, draw, title, 600, 520, zoom=1.35), path, range(36),
                      plots.CLASS_COLORS, milliseconds=150, rests=())


def projector(model, digits, path):
    """Codes for TensorBoard, --logdir OUT/projector (end)."""
    places = mnist.spaced_places(len(digits.test), POINTS)
    x, labels = digits.test[places], digits.test_labels[places]
    metadata = {'label': labels, 'index': places,
                'loss': [f'{loss:.2f}' for loss in tensorboard.losses(model, x)]}
    return tensorboard.save(path, encode(model, x), x, metadata)


# The table of the figures -----------------------------------------------------------------------


FIGURES = {             # the file or folder in OUT: how to draw it; "+" goes beyond the article
    'explorer.html': Recipe(explorer.save, keywords=('run',), of_vae=True),             # +
    # section 1-1
    'autoencoder_net.png': Recipe(diagrams.autoencoder, None),
    'autoencoder.png': Recipe(section1.autoencoder, range(2, 3), ('beside',), of_vae=True),     # +
    # section 1-2
    'vae_net.png': Recipe(diagrams.vae, None),
    'reconstruction.png': Recipe(reconstruction, keywords=('run',)),
    'digits.png': Recipe(first_digits),
    'samples.png': Recipe(samples, keywords=('run',)),                                  # +
    'scatter.png': Recipe(scatter, PLANE),
    'scatter_arrow.png': Recipe(scatter_arrow, PLANE, WALK),
    'interpolation_0to7.png': Recipe(walk_sheet, keywords=WALK),
    'interpolation_0to7.gif': Recipe(walk_gif, keywords=WALK),
    'interpolation_all.gif': Recipe(every_walk_gif),
    'map.png': Recipe(latent_map, range(2, 3), WALK),
    'map_wide.png': Recipe(wide_map, range(2, 3)),                                      # +
    # section 1-3
    'swiss_roll.gif': Recipe(swiss_roll_gif, None, ('roll',)),
    'swiss_roll.png': Recipe(swiss_roll, None, ('roll',)),
    # section 2
    'training.gif': Recipe(training.animation, PLANE, ('run',)),                        # +
    'training.png': Recipe(training.panels, PLANE, ('run',)),                           # +
    'graph.png': Recipe(graph, keywords=('beta', 'k', 'batch_size')),
    # section 3
    'graphical_model.png': Recipe(diagrams.graphical_model, None),
    'bound.png': Recipe(section3.bound, keywords=('gaps',), of_vae=True),               # +
    'posterior.png': Recipe(section3.posterior, range(2, 3), ('gaps',), of_vae=True),   # +
    'dimensions.png': Recipe(section3.dimensions, of_vae=True),                         # +
    'kl.gif': Recipe(kl_gif, None),
    'reparameterization.gif': Recipe(section3.reparameterization, PLANE, of_vae=True),          # +
    'reparameterization.png': Recipe(diagrams.reparameterization, None),
    # end
    'tsne.png': Recipe(tsne, PLANE),
    'tsne.gif': Recipe(tsne_gif, PLANE),
    'projector': Recipe(projector),
}


# The command line -------------------------------------------------------------------------------


def parse_arguments(argv):
    """Return the command line, whose `files` are the chosen figures: `command_line.parse`."""
    return command_line.parse(FIGURES, argv, __doc__)


def main(argv=None):
    """Draw as the command line `argv` (default: the program's) says; return the exit status."""
    args = parse_arguments(argv)
    plots.calm_openmp()      # before scikit-learn is imported
    model, digits, settings = None, None, {}
    if any(recipe.dims for recipe in args.files.values()):
        model, digits, settings = sources.read_run(args)
        if (args.start, args.end) != (0, 7):            # asked for: then they have to be there
            ends_of(digits, args.start, args.end)
    values = settings | {
        'start': args.start, 'end': args.end, 'run': settings,
        # what two figures share is computed once
        'roll': functools.cache(roll),
        'gaps': functools.cache(lambda: section3.measure_gaps(model, digits))}
    if args.beside:
        values['beside'] = sources.read_beside(args, settings)
    with drawing.style():
        return command_line.draw(args, model, digits, settings, values)


def cli(argv=None):
    """Run `main`; where it fails, say why in one line on stderr. Return the exit status."""
    return command.status_of('visualize.py', main, argv)


if __name__ == '__main__':
    sys.exit(cli())
