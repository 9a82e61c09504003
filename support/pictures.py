"""What several of the article's figures share: batches of digits, sheets, GIFs, scatter plots.

visualize.py says what a figure shows; here stands how it is made. A figure is a matplotlib Figure,
a picture an array (height, width) of pixels in [0, 1]. Shapes in the comments: N digits of D = 784
pixels, Z latent dimensions.
"""

import os

from support import compat, files, mnist, snapshot  # lets chainer import

import chainer
from chainer.backends import cuda
import matplotlib
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Circle, Ellipse, Rectangle
from matplotlib.patheffects import withStroke
import matplotlib.style
import numpy as np
from PIL import Image
from tqdm import tqdm

BATCH = 1000            # digits encoded or decoded at once
HOLD = 1000             # milliseconds that a GIF rests at both ends
DPI = 100               # pixels per inch
PALETTE = matplotlib.color_sequences['petroff10']   # safe for the colour-blind, arXiv:2107.02270
# of the classes 0..9, in the order that keeps those apart, for every eye, which touch in the latent
# space: 3, 5 and 8, or 4 and 9
CLASS_COLORS = [PALETTE[i] for i in (5, 3, 0, 6, 1, 4, 7, 2, 9, 8)]
RED = '#ff3b30'         # of the walk, across the map
HALO = [withStroke(linewidth=3, foreground='white')]
DARK = [withStroke(linewidth=3, foreground='black')]
STYLE = {'font.size': 9, 'axes.titlesize': 10, 'axes.spines.top': False,
         'axes.spines.right': False, 'legend.frameon': False, 'savefig.dpi': DPI,
         'figure.constrained_layout.w_pad': 0.1, 'figure.constrained_layout.h_pad': 0.1}


class FigureError(compat.UserError):
    """A figure cannot be drawn of this snapshot, or on this machine."""


def style():
    """Return the context in which all figures are drawn, whatever the user's own style."""
    return matplotlib.style.context(['default', STYLE])


# Digits -----------------------------------------------------------------------------------------


def first_of_each(digits):
    """Return, by label, the place of the first test digit of each class."""
    labels, places = np.unique(digits.test_labels, return_index=True)
    return dict(zip(labels.tolist(), places.tolist(), strict=True))


def spaced_places(n, most):
    """Return up to `most` places among n, evenly spaced."""
    return np.linspace(0, n - 1, min(n, most)).round().astype(int)


def spaced(digits, most):
    """Return up to `most` test digits (N, D), evenly spaced among them, and their labels (N,)."""
    places = spaced_places(len(digits.test), most)
    return digits.test[places], digits.test_labels[places]


def in_batches(model, function, inputs):
    """Apply a function of Chainer's to an array, some rows at once, on the model's device.

    Args:
        model (VAE): Says which device.
        function (callable): From (N, ...) float32 to a Variable (N, ...).
        inputs (ndarray): (N, ...).

    Returns:
        ndarray: (N, ...) float32, on the CPU.

    Raises:
        snapshot.SnapshotError: If it is not finite.
    """
    inputs = np.asarray(inputs, np.float32)
    with chainer.no_backprop_mode(), np.errstate(all='ignore'):
        outputs = np.concatenate([
            cuda.to_cpu(function(model.xp.asarray(inputs[i:i + BATCH])).array)
            for i in range(0, len(inputs), BATCH)])
    if not np.isfinite(outputs).all():
        raise snapshot.SnapshotError('what the model makes of its input is not finite; use another '
                                     'snapshot')
    return outputs


def encode(model, x):
    """Return the means of q(z|x), (N, Z), of digits (N, D)."""
    return in_batches(model, lambda x: model.encode(x)[0], x)


def name_codes(model):
    """Return what `encode` returns, in words."""
    return 'means of q(z|x)' if hasattr(model, 'le3_ln_var') else 'codes'


def decode(model, z):
    """Return the pictures p(x|z), (N, 28, 28) in [0, 1], of latent variables (N, Z)."""
    return as_pictures(in_batches(model, model.decode, z))


# Sheets -----------------------------------------------------------------------------------------


def figure_of(width, height):
    """Return an empty figure of so many pixels."""
    return Figure(figsize=((width + 1e-6) / DPI, (height + 1e-6) / DPI), dpi=DPI)


def put_pixels(figure, canvas, left=0, bottom=0):
    """Put an array of [0, 1], nan where nothing is, on a figure, pixel on pixel."""
    figure.figimage(canvas, left, bottom, cmap='gray', vmin=0, vmax=1, origin='upper')


def as_pictures(x):
    """Return digits (N, D) as pictures (N, 28, 28)."""
    return x.reshape(-1, mnist.SIDE, mnist.SIDE)


def joined(pictures, side):
    """Join side x side pictures (side * side, 28, 28), row by row, into one square."""
    rows = pictures.reshape(side, side, mnist.SIDE, mnist.SIDE).swapaxes(1, 2)
    return rows.reshape(side * mnist.SIDE, side * mnist.SIDE)


def sheet(pictures, columns, titles=None, heading=None, zoom=3, gap=12):
    """Lay pictures out in rows, pixel by pixel, white on black.

    Args:
        pictures (ndarray): (N, height, width) in [0, 1].
        columns (int): Pictures in a row.
        titles (list of str): One above each picture.
        heading (str): One line above them all.
        zoom (int): Pixels of the sheet, in each direction, for one of a picture.
        gap (int): Pixels between pictures.

    Returns:
        Figure: The sheet.
    """
    pictures = np.kron(pictures, np.ones((1, zoom, zoom)))
    n, height, width = pictures.shape
    above = gap + 14 * (titles is not None)
    top = 22 * (heading is not None)
    total_width = columns * (width + gap) + gap
    total_height = top + -(-n // columns) * (above + height) + gap
    canvas = np.full((total_height, total_width), np.nan)
    figure = figure_of(total_width, total_height)
    for i, picture in enumerate(pictures):
        x, y = gap + i % columns * (width + gap), top + i // columns * (above + height) + above
        canvas[y:y + height, x:x + width] = picture
        if titles:
            figure.text((x + width / 2) / total_width, 1 - (y - 4) / total_height, titles[i],
                        size=8, ha='center')
    if heading:
        figure.text(0.5, 1 - 19 / total_height, heading, ha='center')
    put_pixels(figure, canvas)
    return figure


def map_of(model, limit, side):
    """Draw side x side digits decoded from z_1 and z_2 in -limit..limit.

    Returns:
        Axes: Of a figure of its own, over the digits; each point is in the middle of its digit.
    """
    grid = np.linspace(-limit, limit, side)
    z = np.stack(np.meshgrid(grid, grid[::-1]), axis=2)         # (side, side, 2), z_2 points up
    canvas = joined(decode(model, z.reshape(-1, 2)), side)
    size = len(canvas)
    width, height = size + 60, size + 80
    figure = figure_of(width, height)
    put_pixels(figure, canvas, 48, 48)
    edge = limit + limit / (side - 1)
    return figure.add_axes(                                                 # above the pixels
        (48 / width, 48 / height, size / width, size / height), xlabel='$z_1$', ylabel='$z_2$',
        frame_on=False, zorder=1, xlim=(-edge, edge), ylim=(-edge, edge))


def square(pictures, labels, heading, zoom=2, gap=4, margin=22):
    """Lay pictures out in a square on black, with a label at each row and column.

    Args:
        pictures (ndarray): (n * n, 28, 28) in [0, 1].
        labels (sequence): n of them, for the rows and the columns.
        heading (str): One line above.
        zoom (int): Pixels of the figure, in each direction, for one of a picture.
        gap (int): Dark pixels around each picture.
        margin (int): White pixels left of them, and for each line above them.

    Returns:
        Figure: The square.
    """
    n, pitch = len(labels), mnist.SIDE * zoom + gap
    tiles = np.kron(pictures, np.ones((1, zoom, zoom))).reshape(n, n, pitch - gap, pitch - gap)
    tiles = np.pad(tiles, ((0, 0), (0, 0), (gap, 0), (gap, 0)))
    canvas = np.pad(tiles.swapaxes(1, 2).reshape(n * pitch, n * pitch), (0, gap))
    side = len(canvas)
    width, height = side + margin + gap, side + 2 * margin + gap
    figure = figure_of(width, height)
    put_pixels(figure, canvas, margin, gap)
    for i, label in enumerate(labels):
        middle = (i + 0.5) * pitch + gap / 2
        look = {'ha': 'center', 'va': 'center', 'weight': 'bold'}
        figure.text(margin / 2 / width, 1 - (2 * margin + middle) / height, str(label), **look)
        figure.text((margin + middle) / width, 1 - 1.5 * margin / height, str(label), **look)
    figure.text(0.5, 1 - margin / 2 / height, heading, ha='center', va='center')
    return figure


# Files ------------------------------------------------------------------------------------------


def save(figure, path):
    """Write a figure as PNG, whole or not at all."""
    with files.replacing(path) as file:
        figure.savefig(file, format='png', dpi=DPI)


def shades(colors, grays=32):
    """Return a palette, (n, 3) uint8: grays; colours, each whole, lighter and darker."""
    mixed = [(1 - share) * 255 * np.array(color) + share * other for color in colors
             for share, other in ((0, 0), (1 / 3, 255), (2 / 3, 255), (1 / 3, 68), (2 / 3, 68))]
    steps = np.linspace(0, 255, grays)[:, None].repeat(3, axis=1)
    return np.vstack([steps, *mixed]).round().astype(np.uint8)


def save_gif(figures, path, frames, colors=(), milliseconds=100, rests=(0, -1),
             grays=32):
    """Write figures as a GIF that loops and rests at both ends.

    Args:
        figures (iterable of Figure): The frames, all of one size.
        path (str): The file.
        frames (int): How many they are, for the progress bar.
        colors (list): What they show besides grays, each RGB in [0, 1].
        milliseconds (int): For each frame that is no rest.
        rests (tuple of int): Which frames last longer.
        grays (int): How many, from black to white.
    """
    palette = Image.new('P', (1, 1))
    palette.putpalette(shades(colors, grays).tobytes())
    images = []
    for figure in tqdm(figures, os.path.basename(path), frames, False, unit='frame', disable=None):
        canvas = FigureCanvasAgg(figure)
        canvas.draw()
        pixels = np.array(canvas.buffer_rgba())[..., :3]        # (height, width, 3) uint8
        if not colors:                                          # so that they become exact grays
            steps = np.round(pixels / 255 * (grays - 1))
            pixels = (steps / (grays - 1) * 255).round().astype(np.uint8)
        images.append(Image.fromarray(pixels).quantize(palette=palette, dither=Image.Dither.NONE))
    durations = [milliseconds] * len(images)
    for i in rests:
        durations[i] = HOLD
    with files.replacing(path) as file:
        images[0].save(file, 'GIF', save_all=True, append_images=images[1:], duration=durations,
                       loop=0)


# Scatter plots ----------------------------------------------------------------------------------


def plane(mu):
    """Choose a plane of the latent space to draw codes (N, Z) in.

    Returns:
        tuple: The function from (N, Z) to (N, 2), and the names of both axes. A projection leaves
        the origin and the circles of N(0, I) where they are.
    """
    if mu.shape[1] == 2:
        return lambda z: z, ('$z_1$', '$z_2$')
    from sklearn.decomposition import PCA

    if len(mu) < 2:
        raise FigureError('needs two test digits or more, for principal components')
    pca = PCA(2, svd_solver='full').fit(mu)
    return lambda z: z @ pca.components_.T, [
        f'{nth} principal component of {mu.shape[1]}-dimensional z ({share:.0%} of the variance)'
        for nth, share in zip(('first', 'second'), pca.explained_variance_ratio_, strict=True)]


def scatter_points(axes, points, labels, legend=True):
    """Draw points (N, 2 or 3) in the order of the digits, coloured by label."""
    classes = np.unique(labels)
    colors = [CLASS_COLORS[i % 10] for i in np.searchsorted(classes, labels)]
    size = np.clip(60000 / len(points), 14, 36)                 # square points
    look = {'edgecolors': 'white', 'linewidths': 0.3}
    solid = {'depthshade': False} if points.shape[1] == 3 else {}
    axes.scatter(*points.T, s=size, c=colors, **look, **solid)
    if not legend:
        return
    handles = [Line2D([], [], linestyle='', marker='o', color=CLASS_COLORS[i % 10], label=label,
                      markeredgecolor='white', markeredgewidth=0.3)
               for i, label in enumerate(classes)]
    axes.figure.legend(handles=handles, loc='outside right center', title='label')


def spread(points, gap, fixed=0):
    """Move points (N, 2), but the last `fixed`, by little until no two are nearer than `gap`."""
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
    """Return the one of points (N, 2 or 3) that is nearest to them all, by its mean distance."""
    distance = np.sqrt(sum((x[:, None] - x) ** 2 for x in points.T))        # (N, N)
    return points[distance.sum(axis=1).argmin()]


def put_numerals(axes, points, labels, gap=0, others=()):
    """Write the numeral of each class at a member of it, or beside it with a line.

    The member is the medoid, since the mean of a class that lies in two places is in neither.

    Args:
        axes (Axes): Where `points` are drawn.
        points (ndarray): (N, 2 or 3).
        labels (ndarray): (N,).
        gap (float): The least distance between two numerals of a plane, in units of the axes.
        others (sequence): Points (M, 2) from which they keep that distance, too.
    """
    look = {'size': 15, 'weight': 'bold', 'ha': 'center', 'va': 'center', 'zorder': 7,
            'path_effects': HALO}
    members = {label: medoid(points[labels == label]) for label in np.unique(labels)}
    if points.shape[1] == 3:
        for label, member in members.items():
            axes.text(*member, str(label), **look)
        return
    places = spread(np.array([*members.values(), *others]), gap, fixed=len(others))
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
    """Draw a thin red line between two points (2,), which leaves the digits below it legible."""
    axes.plot(*np.transpose([start, end]), color=RED, linewidth=1, marker='o', markersize=5,
              path_effects=[withStroke(linewidth=2.2, foreground='black')])


def scatter_plot(points, labels, limit, names, square=None, ends=()):
    """Draw codes in a plane of the latent space, with the circles of N(0, I), 1 to 3 sigma.

    Args:
        points (ndarray): (N, 2).
        labels (ndarray): (N,).
        limit (float): Where both axes end, on either side of the origin.
        names (sequence of str): Of both axes.
        square (float): Half a side of a square around the origin, which is drawn too.
        ends (sequence): Points (2, 2) between which an arrow is drawn, if any.

    Returns:
        Axes: Of a figure of its own.
    """
    figure = Figure(figsize=(7.6, 7.2), layout='constrained')
    axes = figure.add_subplot(aspect='equal', xlim=(-limit, limit), ylim=(-limit, limit),
                              xlabel=names[0], ylabel=names[1])
    for radius in (1, 2, 3):
        axes.add_patch(Circle((0, 0), radius, fill=False, linestyle='--', edgecolor='#666666',
                              zorder=3))                        # above the points
    if square:
        axes.add_patch(Rectangle((-square, -square), 2 * square, 2 * square, fill=False,
                                 linestyle=':', linewidth=1.5, edgecolor='black',
                                 zorder=3))
    scatter_points(axes, points, labels)
    put_numerals(axes, points, labels, limit / 13, ends)
    if len(ends):
        put_arrow(axes, *ends)
    return axes
