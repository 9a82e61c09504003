"""Codes of N digits in a plane of the Z latent dimensions, or as points that turn in space."""

import os

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
DEGREES = np.arange(0, 360, 10)
# views, as elevation and azimuth: once around, and to both sides
AROUND = [(12, angle - 90) for angle in DEGREES]
SWING = [(20 + 10 * np.cos(angle), -80 + 40 * np.sin(angle)) for angle in np.radians(DEGREES)]


def calm_openmp():
    """Set how many threads scikit-learn uses and how they wait, before it is imported."""
    import joblib  # it also sets some variables for OpenMP

    # else it warns where it finds no physical cores, and t-SNE is slow where others compute, too
    os.environ.setdefault('OMP_NUM_THREADS', str(joblib.cpu_count()))
    os.environ.setdefault('OMP_WAIT_POLICY', 'PASSIVE')


def plane(mu):
    """Return a function from codes (N, Z) to a plane (N, 2) that keeps N(0, I) round; two names."""
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


def put_points(axes, points, labels, colors=CLASS_COLORS, size=None, edge='white'):
    """Draw points (N, 2 or 3), coloured by label (N,)."""
    shown = [colors[i % len(colors)] for i in np.unique(labels, return_inverse=True)[1]]
    axes.scatter(*points.T, s=size or np.clip(60000 / max(1, len(points)), 14, 36),
                 c=shown, edgecolors=edge, linewidths=0.3,
                 **{'depthshade': False} if points.shape[1] == 3 else {})


def put_legend(figure, labels, **look):
    """Put a legend of the colour of each label on a figure."""
    handles = [Line2D([], [], linestyle='', marker='o', color=CLASS_COLORS[i % 10], label=label,
                      markeredgecolor='white', markeredgewidth=0.3)
               for i, label in enumerate(np.unique(labels))]
    figure.legend(handles=handles, title='label', handletextpad=0, **look or {
        'loc': 'outside right center', 'ncols': -(-len(handles) // 30), 'markerscale': 1.5,
        'fontsize': 16 if len(handles) <= 10 else 9})


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
    """Write each label at the medoid of its points (N, 2 or 3), in a plane a gap from `others`."""
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


def put_ellipses(axes, mu, sigma, color, **look):
    """Draw the ellipses of N(mu, sigma^2), (2,) each, 1 to 3 sigma."""
    for times in (1, 2, 3):
        axes.add_patch(Ellipse(mu, *(2 * times * np.asarray(sigma)), fill=False, edgecolor=color,
                               **look))


def put_square(axes, half, **look):
    """Draw a square around the origin, of so much to each side."""
    axes.add_patch(Rectangle((-half, -half), 2 * half, 2 * half, fill=False, **look))


def put_codes(axes, points, labels, limit, size=None, **circles):
    """Draw codes (N, 2) on axes from -limit to limit, and the circles of N(0, I)."""
    axes.set(xlim=(-limit, limit), ylim=(-limit, limit))
    put_ellipses(axes, (0, 0), (1, 1), '#666666', linestyle='--', **circles)
    put_points(axes, points, labels, size=size)


def scatter_plot(model, x, labels, span, ends=None, way=''):
    """Return a figure of the codes of digits (N, D) in a plane of the latent space.

    `span` is half a side of the square of map.png; between the codes `ends`, (2, Z), is an arrow.
    """
    mu = pictures.encode(model, x)                              # (N, Z)
    project, names = plane(mu)
    points, ends = project(mu), [] if ends is None else project(ends)       # (N, 2), (2, 2)
    limit = max(3.3, 1.05 * np.abs([*points, *ends]).max())
    figure = Figure(figsize=(7.6, 7.2), layout='constrained')
    axes = figure.add_subplot(aspect='equal')
    axes.set_xlabel(names[0], size=13)
    axes.set_ylabel(names[1], size=13)
    axes.tick_params(labelsize=13)
    put_codes(axes, points, labels, limit, zorder=3)            # the circles above the points
    put_legend(figure, labels)
    put_numerals(axes, points, labels, limit / 13,              # which stand beside the arrow
                 np.linspace(*ends, 60) if len(ends) else ends)
    title = f'{pictures.name_codes(model)} of {len(mu)} test digits'
    notes = 'dashed: 1, 2 and 3 σ of N(0, I)'
    if mu.shape[1] > 2:
        notes += f'; all is projected from {mu.shape[1]} dimensions'
    else:
        put_square(axes, span, linestyle=':', linewidth=1.5, edgecolor='black', zorder=3)
        notes += '; dotted: the square of map.png'
    if way:
        title += f'; arrow: {way}'
        axes.annotate('', ends[1], ends[0], zorder=6, arrowprops={
            'arrowstyle': '-|>', 'linewidth': 1.8, 'color': 'black', 'shrinkA': 5, 'shrinkB': 5,
            'path_effects': HALO, 'mutation_scale': 18})
        axes.plot(*ends.T, 'o', markersize=10, markerfacecolor='none', markeredgecolor='black',
                  markeredgewidth=1.8, path_effects=HALO, zorder=6)
    axes.set_title(f'{title}\n{notes}', size=13)
    return figure


def turning(points, draw, title, width=400, height=400, zoom=0.95, views=AROUND):
    """Draw points (N, 3) by draw(axes); yield the figure as they turn in a square at its left."""
    figure = pictures.figure_of(width, height)
    figure.text(height / width / 2, 1 - 8 / height, title, size=12, ha='center', va='top')
    axes = figure.add_axes((0, 0, height / width, 1), projection='3d')
    draw(axes)
    axes.set_box_aspect(np.ptp(points, axis=0), zoom=zoom)
    axes.tick_params(labelcolor='none')
    for elevation, azimuth in views:
        axes.view_init(elevation, azimuth)
        yield figure
