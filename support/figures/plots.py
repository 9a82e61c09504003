"""Codes in a plane of the latent space: coloured points, numerals, circles, arrows.

Shapes in the comments: N digits, Z latent dimensions.
"""

from support.base import drawing  # lets chainer import
from support.figures import pictures

from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Ellipse, Rectangle
from matplotlib.patheffects import withStroke
import numpy as np

# of the classes 0..9. Classes that touch in the latent space, such as 3, 5 and 8, or 4 and 9, have
# colours that differ for the colour-blind, too. The palette has two grays: a blue replaces one
CLASS_COLORS = [drawing.PALETTE[i] for i in (5, 7, 0, 6, 1, 4, 8, 2, 9)] + [to_rgb('#2d3ce1')]
RED = '#ff3b30'         # of the walk, across the map
HALO = [withStroke(linewidth=3, foreground='white')]
DARK = [withStroke(linewidth=3, foreground='black')]


def plane(mu):
    """Choose a plane of the latent space, in which to draw codes (N, Z).

    Returns:
        tuple: The function from (N, Z) to (N, 2), and the names of both axes. It leaves the origin
        and the circles of N(0, I) where they are.
    """
    if mu.shape[1] == 2:
        return lambda z: z, ('$z_1$', '$z_2$')
    rows, shares = principal(mu)
    return lambda z: z @ rows.T, [
        f'{nth} principal component of {mu.shape[1]}-dimensional z ({share:.0%} of the variance)'
        for nth, share in zip(('first', 'second'), shares, strict=True)]


def principal(mu):
    """Return the two principal components of codes (N, Z), (2, Z), and their shares, (2,)."""
    from sklearn.decomposition import PCA

    if len(mu) < 2:
        raise pictures.FigureError('needs two test digits or more, for principal components')
    if not np.ptp(mu, axis=0).any():
        raise pictures.FigureError('all codes are the same: q(z|x) tells nothing of x')
    pca = PCA(2, svd_solver='full').fit(mu)
    return pca.components_, pca.explained_variance_ratio_


def scatter_points(axes, points, labels, legend=True, size=None):
    """Draw points (N, 2 or 3), coloured by label (N,). Up to 10 classes have a large legend."""
    classes = np.unique(labels)
    colors = [CLASS_COLORS[i % 10] for i in np.searchsorted(classes, labels)]
    size = size or np.clip(60000 / len(points), 14, 36)         # square points
    look = {'edgecolors': 'white', 'linewidths': 0.3}
    solid = {'depthshade': False} if points.shape[1] == 3 else {}
    axes.scatter(*points.T, s=size, c=colors, **look, **solid)
    if legend:
        axes.figure.legend(handles=key(labels), loc='outside right center', title='label',
                           ncols=-(-len(classes) // 30), handletextpad=0,
                           fontsize=16 if len(classes) <= 10 else 9, markerscale=1.5)


def key(labels):
    """Return what a legend shows: a point of each class's colour, with its label."""
    return [Line2D([], [], linestyle='', marker='o', color=CLASS_COLORS[i % 10], label=label,
                   markeredgecolor='white', markeredgewidth=0.3)
            for i, label in enumerate(np.unique(labels))]


def spread(points, gap, fixed=0):
    """Move points (N, 2), except the last `fixed`, a little, until all are `gap` apart."""
    free = np.arange(len(points))[:, None] < len(points) - fixed
    points = points + free * np.random.RandomState(0).normal(scale=gap / 1e6, size=points.shape)
    for _ in range(1000):
        apart = points[:, None] - points                        # (N, N, 2)
        distance = np.linalg.norm(apart, axis=2) + np.eye(len(points)) * gap
        if distance.min() >= gap * 0.999:
            break
        push = np.maximum(gap - distance, 0) / 2 / np.maximum(distance, 1e-9)
        points += free * (push[..., None] * apart).sum(axis=1) * 0.5
    return points


def medoid(points):
    """Return that one of points (N, 2 or 3) whose mean distance to all of them is the least."""
    distance = np.sqrt(sum((x[:, None] - x) ** 2 for x in points.T))        # (N, N)
    return points[distance.sum(axis=1).argmin()]


def put_numerals(axes, points, labels, gap=0, others=()):
    """Write the numeral of each class at a member of it, or beside it with a line.

    The member is the medoid. The mean of a class that lies in two places is in neither.

    Args:
        axes (Axes): Where `points` are drawn.
        points (ndarray): (N, 2 or 3).
        labels (ndarray): (N,).
        gap (float): Least distance between two numerals in a plane, in units of the axes.
        others (sequence): Points (M, 2) to which numerals keep that distance, too.
    """
    look = {'size': 15, 'weight': 'bold', 'ha': 'center', 'va': 'center', 'zorder': 7,
            'path_effects': HALO}
    members = {label: medoid(points[labels == label]) for label in np.unique(labels)}
    if points.shape[1] == 3:
        for label, member in members.items():
            axes.text(*member, str(label), **look)
        return
    places = spread(np.array([*members.values(), *others]), gap, fixed=len(others))
    axes.update_datalim(places)                 # limits that are not fixed grow with them
    axes.autoscale_view()
    for (label, member), place in zip(members.items(), places, strict=False):
        axes.annotate(str(label), member, place, **look,
                      arrowprops={'arrowstyle': '-', 'shrinkA': 0, 'shrinkB': 0})


def put_ellipses(axes, mu, sigma, color, **keywords):
    """Draw the ellipses of N(mu, sigma^2), (2,) each, 1 to 3 sigma."""
    for times in (1, 2, 3):
        axes.add_patch(Ellipse(mu, *(2 * times * np.asarray(sigma)), fill=False, edgecolor=color,
                               **keywords))


def put_arrow(axes, start, end):
    """Draw an arrow between two points (2,), each in a ring, in front of all else."""
    axes.annotate('', end, start, zorder=6, arrowprops={
        'arrowstyle': '-|>', 'linewidth': 1.8, 'color': 'black', 'shrinkA': 5, 'shrinkB': 5,
        'path_effects': HALO, 'mutation_scale': 18})
    axes.plot(*np.transpose([start, end]), 'o', markersize=10, markerfacecolor='none',
              markeredgecolor='black', markeredgewidth=1.8, path_effects=HALO, zorder=6)


def put_line(axes, start, end):
    """Draw a red arrow between two points (2,), so thin that the digits below it stay legible."""
    look = {'color': RED, 'path_effects': [withStroke(linewidth=2.5, foreground='black')]}
    axes.plot(*start, 'o', markersize=7, **look)
    axes.annotate('', end, start, arrowprops={
        'arrowstyle': '-|>', 'linewidth': 1.2, 'mutation_scale': 24, 'shrinkA': 0, 'shrinkB': 0,
        **look})


def scatter_plot(model, x, labels, span, ends=None, way=''):
    """Draw the codes of digits in a plane of the latent space, and the circles of N(0, I).

    Args:
        model (VAE or Autoencoder): Encodes the digits.
        x (ndarray): Digits, (N, D).
        labels (ndarray): (N,).
        span (float): Half a side of the square of map.png.
        ends (ndarray): Codes (2, Z) between which an arrow is drawn, if any,
        way (str): and where it goes, in words.

    Returns:
        Figure: The plot.
    """
    mu = pictures.encode(model, x)                              # (N, Z)
    dims = mu.shape[1]
    project, names = plane(mu)
    points, ends = project(mu), [] if ends is None else project(ends)       # (N, 2), (2, 2)
    limit = max(3.3, 1.05 * np.abs([*points, *ends]).max())
    figure = Figure(figsize=(7.6, 7.2), layout='constrained')
    axes = figure.add_subplot(aspect='equal', xlim=(-limit, limit), ylim=(-limit, limit))
    axes.set_xlabel(names[0], size=13)
    axes.set_ylabel(names[1], size=13)
    axes.tick_params(labelsize=13)
    put_ellipses(axes, (0, 0), (1, 1), '#666666', linestyle='--', zorder=3)     # above the points
    scatter_points(axes, points, labels)
    put_numerals(axes, points, labels, limit / 13,              # which stand beside the arrow
                 np.linspace(*ends, 60) if len(ends) else ends)
    first, second = f'{pictures.name_codes(model)} of {len(mu)} test digits', (
        'dashed: 1, 2 and 3 σ of N(0, I)')
    if dims > 2:
        second += f'; all is projected from {dims} dimensions'
    else:
        axes.add_patch(Rectangle((-span, -span), 2 * span, 2 * span, fill=False, linestyle=':',
                                 linewidth=1.5, edgecolor='black', zorder=3))
        second += '; dotted: the square of map.png'
    if way:
        put_arrow(axes, *ends)
        first += f'; arrow: {way}'
    axes.set_title(f'{first}\n{second}', size=13)
    return figure
