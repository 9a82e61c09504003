"""What several of the article's figures share: batches of digits, sheets, maps and GIFs.

visualize.py says what a figure shows; this file and plots.py say how it is made. A figure is a
matplotlib Figure, a picture is an array (height, width) of pixels in [0, 1]. Shapes in the
comments: N digits of D = 784 pixels, Z latent dimensions.
"""

import os
import traceback

from support.base import command, drawing, files
from support.data import mnist
from support.run import observe, original, snapshot

import chainer
from chainer.backends import cuda
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
import numpy as np
from PIL import Image
from tqdm import tqdm

import net

BATCH = 1000            # digits encoded or decoded at once
HOLD = 1000             # milliseconds that a GIF rests at both ends


class FigureError(command.UserError):
    """A figure cannot be drawn of this snapshot, or on this machine."""


def cause_of(error):
    """Return an exception in one line, with its type: TypeError: ..."""
    return f'{type(error).__name__}: {" ".join(str(error).split())[:300]}'.removesuffix(': ')


def why(error, model):
    """Return in one line why a figure cannot be drawn. CHAINER_DEBUG=1 shows the traceback, too.

    Args:
        error (Exception): What was raised.
        model (VAE): The model, whose net.py may be edited; None where the figure needs none.

    Raises:
        Exception: The same, if it ends the command: no memory, a file that cannot be written.
    """
    if isinstance(error, (FigureError, snapshot.SnapshotError)):
        return ' '.join(str(error).splitlines())
    if isinstance(error, (files.FileError, MemoryError, BrokenPipeError)):
        raise error
    if chainer.is_debug():
        traceback.print_exception(error)
    edited = [] if model is None or isinstance(model, net.Autoencoder) else original.edited(model)
    where = f'net.py is edited in {", ".join(edited)}; ' if edited else ''
    return f'{cause_of(error)}; {where}CHAINER_DEBUG=1 shows the traceback'


# Digits -----------------------------------------------------------------------------------------


def spaced(digits, most):
    """Return up to `most` test digits (N, D), evenly spaced among them, and their labels (N,)."""
    places = mnist.spaced_places(len(digits.test), most)
    return digits.test[places], digits.test_labels[places]


def in_batches(model, function, inputs):
    """Apply a function of `model` to inputs (N, ...), BATCH rows at once, in test mode.

    Args:
        model (VAE): The model.
        function (callable): From an array (N, ...) float32 to a Variable or array (N, ...).
        inputs (ndarray): (N, ...).

    Returns:
        ndarray: (N, ...) float32, on the CPU.

    Raises:
        snapshot.SnapshotError: If it is not finite.
    """
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


# Sheets -----------------------------------------------------------------------------------------


def figure_of(width, height):
    """Return an empty figure of so many pixels."""
    size = (width + 1e-6) / drawing.DPI, (height + 1e-6) / drawing.DPI
    return Figure(figsize=size, dpi=drawing.DPI)


def put_pixels(figure, canvas, left=0, bottom=0):
    """Put an array of [0, 1] on a figure, pixel on pixel; where it is nan, nothing."""
    figure.figimage(canvas, left, bottom, cmap='gray', vmin=0, vmax=1, origin='upper')


def as_pictures(x):
    """Return digits (N, D) as pictures (N, 28, 28)."""
    return x.reshape(-1, mnist.SIDE, mnist.SIDE)


def tiled(tiles):
    """Join tiles (rows, columns, height, width) into one picture."""
    rows, columns, height, width = tiles.shape
    return tiles.swapaxes(1, 2).reshape(rows * height, columns * width)


def joined(pictures, side):
    """Join side x side pictures (side * side, 28, 28), row by row, into one square."""
    return tiled(pictures.reshape(side, side, mnist.SIDE, mnist.SIDE))


def sheet(pictures, columns, titles=None, heading=None, zoom=3, gap=12, names=()):
    """Lay pictures out in rows, pixel by pixel, white on black.

    Args:
        pictures (ndarray): (N, height, width) in [0, 1].
        columns (int): Pictures in a row.
        titles (list of str): One above each picture.
        heading (str): One line above them all.
        zoom (int): Pixels of the sheet, in each direction, for one of a picture.
        gap (int): Pixels between pictures.
        names (list of str): One at the left of each row.

    Returns:
        Figure: The sheet.
    """
    pictures = np.kron(pictures, np.ones((1, zoom, zoom)))
    n, height, width = pictures.shape
    above = gap + 14 * (titles is not None)
    left = 92 * bool(names)
    total_width = left + columns * (width + gap) + gap
    size = min(18, total_width / 27)
    top = round(2.4 * size) * (heading is not None)
    total_height = top + -(-n // columns) * (above + height) + gap
    canvas = np.full((total_height, total_width), np.nan)
    figure = figure_of(total_width, total_height)
    for i, picture in enumerate(pictures):
        x = left + gap + i % columns * (width + gap)
        y = top + above + i // columns * (above + height)
        canvas[y:y + height, x:x + width] = picture
        if titles:
            figure.text((x + width / 2) / total_width, 1 - (y - 4) / total_height, titles[i],
                        size=8, ha='center')
    for i, name in enumerate(names):
        middle = top + above + i * (above + height) + height / 2
        figure.text(left / total_width, 1 - middle / total_height, name, size=13, ha='right',
                    va='center')
    if heading:
        figure.text(0.5, 1 - 0.86 * top / total_height, heading, size=size, ha='center')
    put_pixels(figure, canvas)
    return figure


def map_of(model, limit, side):
    """Draw side x side digits decoded from z_1 and z_2 in -limit..limit, on a figure of its own.

    Returns:
        Axes: Over the digits; each point is in the middle of its digit.
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
    """Lay pictures (n * n, 28, 28) out in a square on black, with a label at each row and column.

    Args:
        pictures (ndarray): (n * n, 28, 28) in [0, 1].
        labels (sequence): n of them, for the rows and the columns.
        heading (str): One line above.
        zoom, gap, margin (int): Pixels for one of a picture, dark ones around each picture, and
            white ones left of them and for each line above them.
    """
    n, pitch = len(labels), mnist.SIDE * zoom + gap
    tiles = np.kron(pictures, np.ones((1, zoom, zoom))).reshape(n, n, pitch - gap, pitch - gap)
    tiles = np.pad(tiles, ((0, 0), (0, 0), (gap, 0), (gap, 0)))
    canvas = np.pad(tiled(tiles), (0, gap))
    side = len(canvas)
    width, height = side + margin + gap, side + 2 * margin + gap
    figure = figure_of(width, height)
    put_pixels(figure, canvas, margin, gap)
    for i, label in enumerate(labels):
        middle = (i + 0.5) * pitch + gap / 2
        look = {'ha': 'center', 'va': 'center', 'weight': 'bold', 'size': 13}
        figure.text(margin / 2 / width, 1 - (2 * margin + middle) / height, str(label), **look)
        figure.text((margin + middle) / width, 1 - 1.5 * margin / height, str(label), **look)
    figure.text(0.5, 1 - margin / 2 / height, heading, size=13, ha='center', va='center')
    return figure


# Files ------------------------------------------------------------------------------------------


def shades(colors, grays=32):
    """Return a palette, (n, 3) uint8: grays; colours, each whole, lighter and darker."""
    mixed = [(1 - share) * 255 * np.array(color) + share * other for color in colors
             for share, other in ((0, 0), (1 / 3, 255), (2 / 3, 255), (1 / 3, 68), (2 / 3, 68))]
    steps = np.linspace(0, 255, grays)[:, None].repeat(3, axis=1)
    return np.vstack([steps, *mixed]).round().astype(np.uint8)


def save_gif(figures, path, order, colors=(), milliseconds=100, rests=(0, -1), grays=32):
    """Write figures as a GIF that loops and rests at both ends.

    Args:
        figures (iterable of Figure): All of one size. They may be one figure that moves on.
        path (str): The file.
        order (sequence of int): Which figure each frame is.
        colors (list): What they show besides grays, each RGB in [0, 1].
        milliseconds (int): For each frame that is no rest.
        rests (tuple of int): Which frames last longer.
        grays (int): How many, from black to white.
    """
    palette = Image.new('P', (1, 1))
    palette.putpalette(shades(colors, grays).tobytes())
    drawn = []
    for figure in tqdm(figures, os.path.basename(path), max(order) + 1, False, unit='frame',
                       disable=None):
        canvas = FigureCanvasAgg(figure)
        canvas.draw()
        pixels = np.array(canvas.buffer_rgba())[..., :3]        # (height, width, 3) uint8
        if not colors:                                          # so that they become exact grays
            steps = np.round(pixels / 255 * (grays - 1))
            pixels = (steps / (grays - 1) * 255).round().astype(np.uint8)
        drawn.append(Image.fromarray(pixels).quantize(palette=palette, dither=Image.Dither.NONE))
    first, *others = (drawn[i] for i in order)
    durations = [milliseconds] * len(order)
    for i in rests:
        durations[i] = HOLD
    with files.replacing(path) as file:
        first.save(file, 'GIF', save_all=True, append_images=others, duration=durations, loop=0)
