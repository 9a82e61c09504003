"""What figures share: batches of digits, sheets, maps and GIFs.

A figure is matplotlib's Figure, a picture an array (height, width) of pixels in [0, 1]. Shapes in
comments, here and beside: N digits of D = 784 pixels, Z latent dimensions.
"""

import functools
import os

from support.base import command, drawing, files
from support.data import mnist
from support.run import observe, snapshot

import chainer
from chainer.backends import cuda
import matplotlib
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
import numpy as np
from PIL import Image
from tqdm import tqdm

import net

BATCH = 1000            # digits encoded or decoded at once
HOLD = 1000             # milliseconds that a GIF rests at both ends
as_gray = functools.partial(matplotlib.colormaps['gray'], bytes=True)   # of [0, 1]: RGBA, uint8


class FigureError(command.UserError):
    """A figure cannot be drawn of this snapshot, or on this machine."""


def cause_of(error):
    """Return an exception in one line, with its type: TypeError: ..."""
    return f'{type(error).__name__}: {" ".join(str(error).split())[:300]}'.removesuffix(': ')


def spaced(digits, most):
    """Return up to `most` test digits (N, D), evenly spaced among them, and their labels (N,)."""
    places = mnist.spaced_places(len(digits.test), most)
    return digits.test[places], digits.test_labels[places]


def in_batches(model, function, inputs):
    """Apply a function of `model` to inputs (N, ...) in test mode: (N, ...) on the CPU, finite."""
    inputs = np.asarray(inputs, np.float32)
    with observe.as_tested(model):
        outputs = np.concatenate([
            cuda.to_cpu(chainer.as_variable(function(model.xp.asarray(inputs[i:i + BATCH]))).array)
            for i in range(0, len(inputs), BATCH)])
    if not np.isfinite(outputs).all():
        raise snapshot.SnapshotError('the output of the model is not finite; use another snapshot')
    return outputs


def encode(model, x):
    """Return the means of q(z|x), (N, Z), of digits (N, D); of an autoencoder, their codes."""
    def codes(x):
        found = model.encode(x)
        return found[0] if isinstance(found, (tuple, list)) else found

    return in_batches(model, codes, x)


def name_codes(model):
    """Return what `encode` returns, in words."""
    return 'codes' if isinstance(model, net.Autoencoder) else 'means of q(z|x)'


def decode(model, z):
    """Return the pictures p(x|z), (N, 28, 28) in [0, 1], of latent variables (N, Z)."""
    return as_pictures(in_batches(model, model.decode, z))


def figure_of(width, height):
    """Return an empty figure of so many pixels."""
    size = (width + 1e-6) / drawing.DPI, (height + 1e-6) / drawing.DPI
    return Figure(figsize=size, dpi=drawing.DPI)


def put_pixels(figure, canvas, left=0, bottom=0):
    """Put pixels (height, width) of [0, 1] on those of a figure; where they are nan, nothing."""
    figure.figimage(as_gray(canvas), left, bottom, origin='upper')


def as_pictures(x):
    """Return digits (N, D) as pictures (N, 28, 28)."""
    return x.reshape(-1, mnist.SIDE, mnist.SIDE)


def joined(pictures, columns, zoom=1, gap=(0, 0), blank=0):
    """Join pictures (N, height, width), enlarged, row by row; gaps are below and right of each."""
    n, height, width = pictures.shape
    tiles = np.full((-(-n // columns) * columns, height * zoom + gap[0], width * zoom + gap[1]),
                    blank, float)
    tiles[:n, :height * zoom, :width * zoom] = np.kron(pictures, np.ones((1, zoom, zoom)))
    rows = tiles.reshape(-1, columns, *tiles.shape[1:])
    return rows.swapaxes(1, 2).reshape(-1, columns * tiles.shape[2])


def sheet(pictures, columns, titles=(), heading=None, zoom=3, gap=12, names=()):
    """Return a figure of pictures (N, height, width), with a title each and a name each row."""
    n, height, width = len(pictures), *(zoom * side for side in pictures.shape[1:])
    above = gap + 14 * bool(titles)
    left = 92 * bool(names) + gap
    total_width = left + columns * (width + gap)
    size = min(18, total_width / 27)
    top = round(2.4 * size) * (heading is not None) + above
    total_height = top + -(-n // columns) * (above + height) + gap - above
    figure = figure_of(total_width, total_height)
    canvas = joined(pictures, columns, zoom, (above, gap), np.nan)
    put_pixels(figure, canvas[:-above], left, gap)
    for i, title in enumerate(titles):
        x, y = left + i % columns * (width + gap), top + i // columns * (above + height)
        figure.text((x + width / 2) / total_width, 1 - (y - 4) / total_height, title, size=8,
                    ha='center')
    for i, name in enumerate(names):
        middle = top + i * (above + height) + height / 2
        figure.text((left - gap) / total_width, 1 - middle / total_height, name, size=13,
                    ha='right', va='center')
    if heading:
        figure.text(0.5, 1 - 0.86 * (top - above) / total_height, heading, size=size, ha='center')
    return figure


def map_of(model, limit, side):
    """Return axes over side x side digits, each decoded from its middle in -limit..limit."""
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
    """Return a figure of pictures (n * n, 28, 28) on black, with n labels for rows and columns."""
    pitch = mnist.SIDE * zoom + gap
    canvas = np.pad(joined(pictures, len(labels), zoom, (gap, gap)), ((gap, 0), (gap, 0)))
    width, height = len(canvas) + margin + gap, len(canvas) + 2 * margin + gap
    figure = figure_of(width, height)
    put_pixels(figure, canvas, margin, gap)
    look = {'ha': 'center', 'va': 'center', 'size': 13}
    for i, label in enumerate(labels):
        middle = (i + 0.5) * pitch + gap / 2
        for x, y in ((margin / 2, 2 * margin + middle), (margin + middle, 1.5 * margin)):
            figure.text(x / width, 1 - y / height, str(label), weight='bold', **look)
    figure.text(0.5, 1 - margin / 2 / height, heading, **look)
    return figure


def pixels_of(figure):
    """Draw a figure; return (height, width, 3) uint8."""
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return np.array(canvas.buffer_rgba())[..., :3]


def save_gif(figures, path, order, colors=(), milliseconds=100, rests=(0, -1), grays=32,
             still=None):
    """Write figures as a GIF that loops and rests at both ends.

    Args:
        figures (iterable of Figure): All of one size. They may be one figure that moves on.
        order (sequence of int), rests (tuple of int): Which figure each frame is; which last long.
        colors (list), grays (int): What they show, each RGB in [0, 1]; and how many grays.
        still (list of Artist): If given, what does not move besides all axis. These are drawn once,
            as texts take long: nothing that moves may touch them.
    """
    shades = [np.linspace(0, 255, grays)[:, None].repeat(3, axis=1)]
    for color in colors:                                        # whole, lighter and darker
        shades += [(1 - share) * 255 * np.array(color) + share * other for share, other in (
            (0, 0), (1 / 3, 255), (2 / 3, 255), (1 / 3, 68), (2 / 3, 68))]
    palette = Image.new('P', (1, 1))
    palette.putpalette(np.vstack(shades).round().astype(np.uint8).tobytes())
    exact = np.round(np.arange(256) / 255 * (grays - 1)) / (grays - 1) * 255
    exact, drawn = exact.round().astype(np.uint8), []
    for figure in tqdm(figures, os.path.basename(path), max(order) + 1, False, unit='frame',
                       disable=None):
        pixels = pixels_of(figure)
        if still is not None and not drawn:
            whole = pixels
            for artist in (*still, *(axis for axes in figure.axes
                                     for axis in (axes.xaxis, axes.yaxis))):
                artist.set_visible(False)
            pixels = pixels_of(figure)
            is_still = (whole != pixels).any(axis=2, keepdims=True)
        if still is not None:
            pixels = np.where(is_still, whole, pixels)
        if not colors:                                          # so that they become exact grays
            pixels = exact[pixels]
        drawn.append(Image.fromarray(pixels).quantize(palette=palette, dither=Image.Dither.NONE))
    first, *others = (drawn[i] for i in order)
    durations = [milliseconds] * len(order)
    for i in rests:
        durations[i] = HOLD
    with files.replacing(path) as file:
        first.save(file, 'GIF', save_all=True, append_images=others, duration=durations, loop=0)
