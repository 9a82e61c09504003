#!/usr/bin/env python3
"""Draw the article's figures from the snapshot of a run.

One function draws one figure: it takes a model, digits and a path, writes that file and holds no
state; `FIGURES`, at the end, names them all. Shapes in the comments: N digits of D = 784 pixels, Z
latent dimensions.
"""

import argparse
from collections.abc import Callable
import os
import re
import shlex
import shutil
import subprocess
import sys
from typing import NamedTuple

from support import compat, mnist, snapshot  # lets chainer import

import chainer
from chainer.backends import cuda
import joblib
import matplotlib
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patches import Circle
from matplotlib.patheffects import withStroke
import matplotlib.style
import numpy as np
from PIL import Image
from tqdm import tqdm

import net

BATCH = 1000            # digits encoded or decoded at once
MOST = 5000             # test digits in a scatter plot and in the projector,
MOST_TSNE = 2000        # and in t-SNE, which takes minutes for more
STEPS = 80              # of the walk from one digit to another
TURN = 40               # steps from every digit to every digit, and as many back
HOLD = 1000             # milliseconds that a GIF rests at both ends
DPI = 100               # pixels per inch
PALETTE = matplotlib.color_sequences['petroff10']   # safe for the colour-blind, arXiv:2107.02270
RED = '#ff3b30'         # of the walk across the map
STYLE = {'font.size': 9, 'axes.titlesize': 10, 'axes.spines.top': False,
         'axes.spines.right': False, 'legend.frameon': False, 'savefig.dpi': DPI,
         'figure.constrained_layout.w_pad': 0.1, 'figure.constrained_layout.h_pad': 0.1}
EXAMPLES = '''
examples:
  visualize.py -o results/mnist                  every figure that fits the snapshot there
  visualize.py scatter map -o results/mnist_z2   just those two
  visualize.py interpolation --start 3 --end 5   the walk from a 3 to a 5, as .png and .gif
  visualize.py --skip tsne -o results/mnist      all but the slowest'''
# for scikit-learn: left to itself, it warns at length where it finds no physical cores, and its
# threads wait so actively that t-SNE is many times slower on a machine that does something else too
os.environ.setdefault('OMP_NUM_THREADS', str(joblib.cpu_count()))
os.environ.setdefault('OMP_WAIT_POLICY', 'PASSIVE')
HALO = [withStroke(linewidth=3, foreground='white')]


class FigureError(compat.UserError):
    """A figure cannot be drawn of this snapshot, or on this machine."""


def main(argv=None):
    """Draw as the command line `argv` (default: the program's) says; return the exit status."""
    args = parse_arguments(argv)
    model, digits, options = None, None, {}
    if any(figure.dims for figure in args.files.values()):
        model, digits, options = load(args)
        if args.walk:
            endpoints(model, digits, args.start, args.end)
    misfits = {file: misfit(file, figure.dims, options, args)
               for file, figure in args.files.items()}
    for file, reason in misfits.items():
        if reason and args.figure:
            raise FigureError(f'{file}: {reason}')
    snapshot.make_folder(args.out)

    with matplotlib.style.context(['default', STYLE]):
        for file, figure in args.files.items():
            path = os.path.join(args.out, file)
            try:
                if misfits[file]:
                    raise FigureError(misfits[file])
                written = figure.draw(model, digits, path,
                                      **{key: options[key] for key in figure.options})
            except FigureError as error:
                if args.figure:
                    raise FigureError(f'{file}: {error}') from None
                print(f'skipped {file}:', *str(error).splitlines(), flush=True)
            else:
                print(*written or [path], sep='\n', flush=True)
    return 0


def load(args):
    """Return what figures are drawn from: the model and the digits of a snapshot, and its settings.

    Raises:
        snapshot.SnapshotError, mnist.DatasetError, compat.DeviceError: If one cannot be had.
    """
    device = compat.get_device(args.gpu)
    path = args.snapshot or snapshot.newest(args.out)
    arrays = snapshot.read(path)
    settings = snapshot.settings(arrays, path)
    snapshot.check_activation(settings, net.ACTIVATIONS, path)
    digits = mnist.load(settings['dataset'], args.data_dir or settings['data_dir'])
    snapshot.check_digits(settings, digits, path)
    digits = mnist.prepare(digits, settings['test'], settings['binary'])
    model = net.VAE(digits.test.shape[1], settings['dim_z'], settings['dim_h'],
                    net.ACTIVATIONS[settings['activation']])
    snapshot.load_model(arrays, model, path)
    device.use()
    model.to_device(device)
    return model, digits, settings | {'dataset': digits.dataset, 'data_dir': digits.data_dir,
                                      'start': args.start, 'end': args.end}


# The model, in batches --------------------------------------------------------------------------


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
        outputs = [cuda.to_cpu(function(model.xp.asarray(inputs[i:i + BATCH])).array)
                   for i in range(0, len(inputs), BATCH)]
    outputs = np.concatenate(outputs)
    if not np.isfinite(outputs).all():
        raise snapshot.SnapshotError('what the model makes of its input is not finite; use another '
                                     'snapshot')
    return outputs


def encode(model, x):
    """Return the means of q(z|x), (N, Z), of digits (N, D)."""
    return in_batches(model, lambda x: model.encode(x)[0], x)


def decode(model, z):
    """Return the pictures p(x|z), (N, 28, 28) in [0, 1], of latent variables (N, Z)."""
    return as_pictures(in_batches(model, model.decode, z))


def as_pictures(x):
    """Return digits (N, D) as pictures (N, 28, 28)."""
    return x.reshape(-1, mnist.SIDE, mnist.SIDE)


def first_of_each(digits):
    """Return, by label, the place of the first test digit of each class."""
    labels, places = np.unique(digits.test_labels, return_index=True)
    return dict(zip(labels.tolist(), places.tolist(), strict=True))


def endpoints(model, digits, start, end):
    """Return the codes (2, Z) between which the walk goes: of the first `start` and `end`.

    Raises:
        FigureError: If the test digits lack one of them.
    """
    places = first_of_each(digits)
    for flag, label in (('start', start), ('end', end)):
        if label not in places:
            raise FigureError(f'there is no {label} among the test digits; choose --{flag} from '
                              f'{", ".join(map(str, places))}')
    return encode(model, digits.test[[places[start], places[end]]])


def spaced(digits, most):
    """Return up to `most` test digits (N, D), evenly spaced among them, and their labels (N,)."""
    n = len(digits.test)
    places = np.linspace(0, n - 1, min(n, most)).round().astype(int)
    return digits.test[places], digits.test_labels[places]


def walk(ends, steps):
    """Return t (steps + 1,) from 0 to 1, and z(t) = (1 - t) z_start + t z_end, (steps + 1, ..., Z).

    Args:
        ends (tuple of ndarray): z_start and z_end, (..., Z).
        steps (int): Number of steps.
    """
    t = np.linspace(0, 1, steps + 1)
    share = t.reshape(-1, *[1] * ends[0].ndim)
    return t, (1 - share) * ends[0] + share * ends[1]


# Pictures and files -----------------------------------------------------------------------------


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


def joined(pictures, side):
    """Join side x side pictures (side * side, 28, 28), row by row, into one square."""
    rows = pictures.reshape(side, side, mnist.SIDE, mnist.SIDE).swapaxes(1, 2)
    return rows.reshape(side * mnist.SIDE, side * mnist.SIDE)


def figure_of(width, height):
    """Return an empty figure of so many pixels."""
    return Figure(figsize=((width + 1e-6) / DPI, (height + 1e-6) / DPI), dpi=DPI)


def put_pixels(figure, canvas, left=0, bottom=0):
    """Put an array of [0, 1], nan where nothing is, on a figure, pixel on pixel."""
    figure.figimage(canvas, left, bottom, cmap='gray', vmin=0, vmax=1, origin='upper')


def save(figure, path):
    """Write a figure as PNG, whole or not at all."""
    with snapshot.replacing(path) as file:
        figure.savefig(file, format='png', dpi=DPI)


def save_gif(figures, path, frames, colors=(), milliseconds=100, rests=(0, -1)):
    """Write figures as a GIF that loops and rests at both ends.

    Args:
        figures (iterable of Figure): The frames, all of one size.
        path (str): The file.
        frames (int): How many they are, for the progress bar.
        colors (list): Which of `PALETTE` they show, besides grays; by default 32 grays only.
        milliseconds (int): For each frame that is no rest.
        rests (tuple of int): Which frames last longer.
    """
    palette = Image.new('P', (1, 1))
    palette.putpalette(shades(colors).tobytes())
    images = []
    for figure in tqdm(figures, os.path.basename(path), frames, False, unit='frame', disable=None):
        canvas = FigureCanvasAgg(figure)
        canvas.draw()
        pixels = np.array(canvas.buffer_rgba())[..., :3]        # (height, width, 3) uint8
        if not colors:                                          # so that they become exact grays
            pixels = (np.round(pixels / 255 * 31) / 31 * 255).round().astype(np.uint8)
        images.append(Image.fromarray(pixels).quantize(palette=palette, dither=Image.Dither.NONE))
    durations = [milliseconds] * len(images)
    for i in rests:
        durations[i] = HOLD
    with snapshot.replacing(path) as file:
        images[0].save(file, 'GIF', save_all=True, append_images=images[1:], duration=durations,
                       loop=0)


def shades(colors):
    """Return a palette, (n, 3) uint8: 32 grays; colours, each whole, lighter and darker."""
    mixed = [(1 - share) * 255 * np.array(color) + share * other for color in colors
             for share, other in ((0, 0), (1 / 3, 255), (2 / 3, 255), (1 / 3, 68), (2 / 3, 68))]
    grays = np.linspace(0, 255, 32)[:, None].repeat(3, axis=1)
    return np.vstack([grays, *mixed]).round().astype(np.uint8)


# Section 1-2: digits ----------------------------------------------------------------------------


def reconstruction(model, digits, path):
    """Ten test digits, each beside its reconstruction (section 1-2)."""
    x = digits.test[:10]
    gap = np.full((len(x), mnist.SIDE, 1), np.nan)
    pairs = as_pictures(x), gap, decode(model, encode(model, x))
    save(sheet(np.concatenate(pairs, axis=2), 5, heading='test digits, each beside its '
               'reconstruction'), path)


def first_digits(model, digits, path):
    """Of each class the reconstruction of its first test digit (section 1-2)."""
    labels, places = zip(*first_of_each(digits).items(), strict=True)
    pictures = decode(model, encode(model, digits.test[list(places)]))
    save(sheet(pictures, 5, [f'reconstruction of a {label}' for label in labels], zoom=5), path)


def samples(model, digits, path):
    """Digits decoded from z ~ N(0, I)."""
    z = np.random.RandomState(0).standard_normal((100, model.le3_mu.out_size))
    save(sheet(decode(model, z), 10, heading='decoded from z ~ N(0, I)', gap=3), path)


def walk_sheet(model, digits, path, start, end):
    """The walk: digits decoded on the line from a 0 to a 7 (section 1-2)."""
    t, z = walk(endpoints(model, digits, start, end), STEPS)
    save(sheet(decode(model, z), 9, [f't = {share:.4f}' for share in t],
               f'from a {start} to a {end}'), path)


def walk_gif(model, digits, path, start, end):
    """The walk as an animation (section 1-2)."""
    t, z = walk(endpoints(model, digits, start, end), STEPS)
    title = f'from a {start} to a {end}, t = '
    figures = (sheet(picture[None], 1, heading=f'{title}{share:.4f}', zoom=8)
               for share, picture in zip(t, decode(model, z), strict=True))
    save_gif(figures, path, len(t))


def every_walk_gif(model, digits, path):
    """From each digit to each digit and back (section 1-2)."""
    codes = encode(model, digits.test[list(first_of_each(digits).values())[:10]])
    n = len(codes)
    t, z = walk((codes.repeat(n, axis=0), np.tile(codes, (n, 1))), TURN)        # (41, n * n, Z)
    pictures = decode(model, z.reshape(-1, z.shape[-1])).reshape(TURN + 1, n * n, mnist.SIDE, -1)
    order = [*range(TURN + 1), *range(TURN - 1, 0, -1)]
    figures = (sheet(pictures[i], n, heading=f't = {t[i]:.3f}', zoom=1, gap=2) for i in order)
    save_gif(figures, path, len(order), rests=(0, TURN))


# Section 1-2: the latent space ------------------------------------------------------------------


def scatter(model, digits, path):
    """The means of q(z|x) of test digits, coloured by label (section 1-2)."""
    save(draw_scatter(model, digits), path)


def scatter_arrow(model, digits, path, start, end):
    """The same, with the arrow of the walk (section 1-2)."""
    save(draw_scatter(model, digits, (start, end)), path)


def draw_scatter(model, digits, arrow=None):
    """Return the scatter plot of the codes, with an arrow between digits of two labels."""
    x, labels = spaced(digits, MOST)
    mu = encode(model, x)                                       # (N, Z)
    project, names = plane(mu)
    points = project(mu)                                        # (N, 2)
    ends = project(endpoints(model, digits, *arrow)) if arrow else points[:0]
    limit = max(3.3, 1.05 * np.abs(np.concatenate([points, ends])).max())
    figure = Figure(figsize=(7.6, 7.2), layout='constrained')
    axes = figure.add_subplot(aspect='equal', xlim=(-limit, limit), ylim=(-limit, limit),
                              xlabel=names[0], ylabel=names[1])
    for radius in (1, 2, 3):
        axes.add_patch(Circle((0, 0), radius, fill=False, linestyle='--', edgecolor='#888888'))
    scatter_points(axes, points, labels)
    put_numerals(axes, points, labels, limit / 13)
    title = f'means of q(z|x) of {len(mu)} test digits; dashed: 1, 2 and 3 σ of N(0, I)'
    if arrow:
        axes.annotate('', ends[1], ends[0], arrowprops={
            'arrowstyle': '-|>', 'linewidth': 2, 'color': RED, 'shrinkA': 0, 'shrinkB': 0,
            'path_effects': HALO, 'mutation_scale': 20})
        title += f'\narrow: from a {arrow[0]} to a {arrow[1]}'
    axes.set_title(title)
    return figure


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


def scatter_points(axes, points, labels):
    """Draw points (N, 2 or 3) in the order of the digits, coloured by label, with a legend."""
    classes = np.unique(labels)
    colors = [PALETTE[i % 10] for i in np.searchsorted(classes, labels)]
    size = np.clip(30000 / len(points), 9, 30)                  # square points
    solid = {'depthshade': False} if points.shape[1] == 3 else {}
    axes.scatter(*points.T, s=size, c=colors, alpha=0.7, linewidths=0, **solid)
    handles = [axes.plot([], [], 'o', color=PALETTE[i % 10], label=label)[0]
               for i, label in enumerate(classes)]
    axes.figure.legend(handles=handles, loc='outside right center', title='label')


def put_numerals(axes, points, labels, gap):
    """Write the numeral of each class at the mean of its points (N, 2), or beside it with a line.

    Args:
        gap (float): The least distance between two numerals, in units of the axes.
    """
    means = {label: points[labels == label].mean(axis=0) for label in np.unique(labels)}
    places = spread(np.array(list(means.values())), gap)
    for (label, mean), place in zip(means.items(), places, strict=True):
        axes.annotate(str(label), mean, place, size=15, weight='bold', ha='center', va='center',
                      zorder=5, path_effects=HALO,
                      arrowprops={'arrowstyle': '-', 'shrinkA': 0, 'shrinkB': 0})


def spread(points, gap):
    """Move points (N, 2) apart, by little, until no two are nearer than `gap`."""
    points = points + np.random.RandomState(0).normal(scale=gap / 1e6, size=points.shape)
    for _ in range(1000):
        apart = points[:, None] - points                        # (N, N, 2)
        distance = np.linalg.norm(apart, axis=2) + np.eye(len(points)) * gap
        if distance.min() >= gap * 0.999:
            break
        push = np.maximum(gap - distance, 0) / 2 / np.maximum(distance, 1e-9)
        points += (push[..., None] * apart).sum(axis=1) * 0.5
    return points


def latent_map(model, digits, path, start, end):
    """Digits decoded from -2 to 2 in z_1 and z_2, and the walk (section 1-2)."""
    grid = np.linspace(-2, 2, 25)
    z = np.stack(np.meshgrid(grid, grid[::-1]), axis=2)         # (25, 25, 2), z_2 points up
    canvas = joined(decode(model, z.reshape(-1, 2)), 25)        # (700, 700)
    edge = 2 + (grid[1] - grid[0]) / 2
    figure = figure_of(760, 780)
    put_pixels(figure, canvas, 48, 48)
    axes = figure.add_axes((48 / 760, 48 / 780, 700 / 760, 700 / 780), xlabel='$z_1$',
                           ylabel='$z_2$', frame_on=False, zorder=1,        # above the pixels
                           title=f'digits decoded from z; red: from a {start} to a {end}')
    axes.plot(*endpoints(model, digits, start, end).T, color=RED, linewidth=1.5, marker='o')
    axes.set(xlim=(-edge, edge), ylim=(-edge, edge), xticks=range(-2, 3), yticks=range(-2, 3))
    save(figure, path)


def tsne(model, digits, path):
    """The means of q(z|x) by t-SNE, in 2 and 3 dimensions (end of the article)."""
    from sklearn.manifold import TSNE

    x, labels = spaced(digits, MOST_TSNE)
    if len(x) < 5:
        raise FigureError('needs five test digits or more')
    mu = encode(model, x)
    figure = Figure(figsize=(11, 5.6), layout='constrained')
    for column, dims in ((121, 2), (122, 3)):
        print(f't-SNE of {len(mu)} codes into {dims} dimensions ...', flush=True)
        points = TSNE(dims, perplexity=min(30, len(mu) / 4), random_state=0,
                      init='pca' if mu.shape[1] >= dims else 'random').fit_transform(mu)
        axes = figure.add_subplot(column, projection='3d' if dims == 3 else None,
                                  title=f't-SNE of {len(mu)} codes in {dims} dimensions')
        scatter_points(axes, points, labels)
        axes.tick_params(length=0, labelcolor='none')           # t-SNE has no units
        if dims == 3:
            axes.set_box_aspect(None, zoom=1.15)
        else:
            axes.axis('off')
            put_numerals(axes, points, labels, np.ptp(points, axis=0).max() / 20)
    save(figure, path)


def projector(model, digits, path):
    """The same for TensorBoard, --logdir OUT/projector (end of the article)."""
    x, labels = spaced(digits, MOST)
    mu = encode(model, x)
    side = int(np.ceil(np.sqrt(len(mu))))
    sprite = np.zeros((side * side, mnist.SIDE, mnist.SIDE))
    sprite[:len(mu)] = as_pictures(x)
    sprite = Image.fromarray(np.round(joined(sprite, side) * 255).astype(np.uint8))
    snapshot.make_folder(path)
    with snapshot.replacing(os.path.join(path, 'sprite.png')) as file:
        sprite.save(file, 'PNG')
    rows = ('\t'.join(f'{value:.9g}' for value in row) + '\n' for row in mu)
    snapshot.write_text(path, 'tensors.tsv', ''.join(rows))
    snapshot.write_text(path, 'metadata.tsv', ''.join(f'{label}\n' for label in labels))
    snapshot.write_text(path, 'projector_config.pbtxt', f"""\
embeddings {{
  tensor_name: "codes"
  tensor_shape: {len(mu)}
  tensor_shape: {mu.shape[1]}
  tensor_path: "tensors.tsv"
  metadata_path: "metadata.tsv"
  sprite {{
    image_path: "sprite.png"
    single_image_dim: {mnist.SIDE}
    single_image_dim: {mnist.SIDE}
  }}
}}
""")
    return [os.path.join(path, name) for name in (
        'sprite.png', 'tensors.tsv', 'metadata.tsv', 'projector_config.pbtxt')]


# Section 2: the computational graph -------------------------------------------------------------


def graph(model, digits, path, beta, k, batch_size):
    """The computational graph of the loss, by Graphviz (section 2)."""
    if not shutil.which('dot'):
        raise FigureError('needs Graphviz: apt install graphviz, brew install graphviz, or '
                          'https://graphviz.org/download')
    dot = net.draw_graph(model, model.xp.asarray(digits.train[:batch_size]), beta, k)
    try:
        done = subprocess.run(['dot', '-Tpng'], input=dot.encode(), capture_output=True, check=True)
    except (OSError, subprocess.CalledProcessError) as error:
        cause = getattr(error, 'stderr', b'').decode(errors='replace') or str(error)
        raise FigureError('needs Graphviz, which does not run here '
                          f'({" ".join(cause.split())}); install it anew') from None
    with snapshot.replacing(path) as file:
        file.write(done.stdout)


# Section 1-3: the manifold hypothesis -----------------------------------------------------------


def roll():
    """Make a swiss roll: points (N, 3), and for each the number of its ward cluster, (N,)."""
    from sklearn.cluster import AgglomerativeClustering
    from sklearn.datasets import make_swiss_roll
    from sklearn.neighbors import kneighbors_graph

    points, _ = make_swiss_roll(1500, noise=0.05, random_state=0)
    neighbours = kneighbors_graph(points, 10)
    clusters = AgglomerativeClustering(6, connectivity=neighbours, linkage='ward')
    return points, clusters.fit_predict(points)


def swiss_roll_gif(model, digits, path):
    """The swiss roll turning in three dimensions (section 1-3)."""
    points, clusters = roll()
    colors = [PALETTE[cluster] for cluster in clusters]

    def frame(angle):
        figure = Figure(figsize=(4.4, 4.0), dpi=DPI)
        axes = figure.add_axes((0, 0, 1, 1), projection='3d')
        axes.scatter(*points.T, s=14, c=colors, edgecolors='#444444', linewidths=0.3,
                     depthshade=False)
        axes.view_init(elev=12, azim=angle - 90)
        axes.set_box_aspect(np.ptp(points, axis=0), zoom=1.15)
        axes.tick_params(labelcolor='none')
        return figure

    save_gif(map(frame, range(0, 361, 10)), path, 37, PALETTE[:6], milliseconds=150)


def swiss_roll(model, digits, path):
    """The swiss roll unrolled by locally linear embedding (section 1-3)."""
    from sklearn.manifold import LocallyLinearEmbedding

    points, clusters = roll()
    embedding = LocallyLinearEmbedding(n_neighbors=12, method='modified', random_state=0)
    flat = embedding.fit_transform(points)                      # (N, 2)
    figure = Figure(figsize=(7.2, 4.4), layout='constrained')
    axes = figure.add_subplot(title='the swiss roll unrolled by locally linear embedding')
    axes.axis('off')
    axes.scatter(*flat.T, s=14, c=[PALETTE[cluster] for cluster in clusters],
                 edgecolors='#444444', linewidths=0.4)
    save(figure, path)


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
    """Return mu and sigma, (41,) each, on the way from N(2.5, 0.4^2) to N(0, 1)."""
    share = np.linspace(0, 1, 41)
    return 2.5 * (1 - share), 0.4 + 0.6 * share


def kl_gif(model, digits, path):
    """q(z) = N(µ, σ²) moving onto p(z) = N(0, 1), and their KL (section 3)."""
    mu, sigma = kl_path()
    x = np.linspace(-4, 4.5, 400)
    closed = kl_divergence(mu, sigma)
    numeric = [kl_integral(*pair) for pair in zip(mu, sigma, strict=True)]

    def frame(i):
        figure = Figure(figsize=(7.2, 3.2), dpi=DPI)
        left = figure.add_axes((0.09, 0.15, 0.4, 0.72), xlabel='z', ylabel='density',
                               ylim=(0, 1.1), title=f'µ = {mu[i]:.2f}, σ = {sigma[i]:.2f}')
        left.fill_between(x, normal(x, 0, 1), color='#cccccc', label='p(z) = N(0, 1)')
        left.plot(x, normal(x, mu[i], sigma[i]), color=PALETTE[0], linewidth=2,
                  label='q(z) = N(µ, σ²)')
        left.legend(loc='upper left')
        right = figure.add_axes((0.57, 0.15, 0.41, 0.72), xlabel='step', xlim=(-2, 42),
                                ylim=(-0.2, 4), title='KL[q || p] in nats')
        right.plot(closed[:i + 1], color=PALETTE[0], linewidth=2,
                   label=f'closed form: {closed[i]:.4f}')
        right.plot(range(0, i + 1, 4), numeric[:i + 1:4], 'o', color=PALETTE[2], markersize=4,
                   label=f'numerical integral: {numeric[i]:.4f}')
        right.legend(loc='upper right')
        return figure

    save_gif(map(frame, range(41)), path, 41, PALETTE[:3])


# The table of the figures, and the command line -------------------------------------------------


class Recipe(NamedTuple):
    """How to draw a figure."""

    draw: Callable              # of model, digits, path, and the options below; returns the paths
                                # it wrote, or None for just that path
    dims: range | None = range(1, sys.maxsize)      # numbers of latent dimensions it can show;
                                                    # None: it needs no snapshot
    options: tuple = ()         # keyword arguments: the ends of the walk, or settings of the run


WALK = ('start', 'end')
PLANE = range(2, sys.maxsize)
FIGURES = {                     # the file or folder in OUT, and how to draw it
    'reconstruction.png': Recipe(reconstruction),
    'digits.png': Recipe(first_digits),
    'samples.png': Recipe(samples),
    'scatter.png': Recipe(scatter, PLANE),
    'scatter_arrow.png': Recipe(scatter_arrow, PLANE, WALK),
    'interpolation_0to7.png': Recipe(walk_sheet, options=WALK),
    'interpolation_0to7.gif': Recipe(walk_gif, options=WALK),
    'interpolation_all.gif': Recipe(every_walk_gif),
    'map.png': Recipe(latent_map, range(2, 3), WALK),
    'graph.png': Recipe(graph, options=('beta', 'k', 'batch_size')),
    'tsne.png': Recipe(tsne, PLANE),
    'projector': Recipe(projector, PLANE),
    'swiss_roll.gif': Recipe(swiss_roll_gif, None),
    'swiss_roll.png': Recipe(swiss_roll, None),
    'kl.gif': Recipe(kl_gif, None),
}


def stem(file):
    """Return the name of a figure: its file without the extension."""
    return os.path.splitext(file)[0]


def misfit(file, dims, options, args):
    """Say why a figure cannot show as many latent dimensions as the snapshot has.

    Args:
        file (str): Name of the figure's file.
        dims (range): Numbers of dimensions that it can show, or None.
        options (dict): Settings of the run.
        args (Namespace): The command line.

    Returns:
        str: The reason, with the commands that would make the figure; '' if it can.
    """
    if dims is None or options['dim_z'] in dims:
        return ''
    out = os.path.normpath(args.out)
    other = (out if os.path.basename(out).strip('.') else os.path.abspath(out)) + '_z2'
    source = (['--data-dir', options['data_dir']] if options['data_dir']
              else ['--dataset', options['dataset']])
    ends = ['--start', str(args.start), '--end', str(args.end)] if args.walk else []
    commands = [['python', 'train_vae.py', '-z', '2', *source, '-o', other],
                ['python', 'visualize.py', stem(file), *ends, '-o', other]]
    if dim_z_of(other) == 2:        # as after the commands of the README
        del commands[0]
    return (f'needs z = 2{" or more" if len(dims) > 1 else ""}, and the snapshot has z = '
            f'{options["dim_z"]}; make it by: {" && ".join(map(shlex.join, commands))}')


def dim_z_of(out):
    """Return the latent dimensions of the newest snapshot in a folder, None if there is none."""
    try:
        path = snapshot.newest(out)
        return snapshot.settings(snapshot.read(path), path)['dim_z']
    except snapshot.SnapshotError:
        return None


def build_parser():
    """Return the parser of the command line."""
    parser = compat.Parser(
        prog='visualize.py', description=__doc__.splitlines()[0],
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog='\n'.join(['figures:', *(f'  {file:<23}{recipe.draw.__doc__.splitlines()[0]}'
                                        for file, recipe in FIGURES.items()), EXAMPLES]))
    add = parser.add_argument
    add('figure', nargs='*', metavar='FIGURE',
        help='figures to draw, with or without the extension (default: all that fit the snapshot)')
    add('-s', '--snapshot', metavar='FILE',
        help='draw from this snapshot (default: the one in --out with the most iterations)')
    add('-o', '--out', default='results', metavar='DIR',
        help='folder for the figures (default: results)')
    add('--skip', action='append', default=[], metavar='FIGURE',
        help='leave out this figure; may be given several times')
    add('--start', type=int, metavar='D', help='digit where the walk starts (default: 0)')
    add('--end', type=int, metavar='D', help='digit where it ends (default: 7)')
    add('--data-dir', metavar='DIR',
        help="folder of the digits (default: where the run found them)")
    add('-g', '--gpu', type=int, default=-1, metavar='N',
        help='encode and decode on GPU N (default: on the CPU)')
    return parser


def parse_arguments(argv):
    """Parse the command line.

    Returns:
        Namespace: The arguments; `files` has the chosen figures by the names of their files, and
        `walk` tells whether --start or --end was given.
    """
    parser = build_parser()
    args = parser.parse_args(argv)
    args.walk = args.start is not None or args.end is not None
    args.start = 0 if args.start is None else args.start
    args.end = 7 if args.end is None else args.end
    if args.start == args.end:
        parser.error(f'the walk starts and ends at {args.start}; choose another --start or --end '
                     '(which are 0 and 7 where they are not given)')

    all_files = {file.replace('0to7', f'{args.start}to{args.end}'): file for file in FIGURES}
    names = {}                      # what a user may call a figure: its files
    for file, key in all_files.items():
        short = key.replace('_0to7', '')
        for name in {file, stem(file), key, stem(key), short, stem(short)}:
            names.setdefault(name, []).append(file)
    for name in args.figure + args.skip:
        if name.rstrip('/') not in names:
            ends = re.match('interpolation_([0-9]+)to([0-9]+)', name)
            mend = (f'it is interpolation with --start {ends[1]} --end {ends[2]}' if ends else
                    'the figures are ' + ', '.join(dict.fromkeys(map(stem, FIGURES))))
            parser.error(f'unknown figure {name}; {mend}')
    chosen, skipped = ([file for name in given for file in names[name.rstrip('/')]]
                       for given in (args.figure, args.skip))
    args.files = {file: FIGURES[key] for file, key in all_files.items()
                  if (file in chosen or not args.figure) and file not in skipped}
    if not args.files:
        parser.error('--skip leaves no figure; leave it out')
    return args


def cli(argv=None):
    """Run `main`; where it fails, say why in one line on stderr. Return the exit status."""
    return compat.run('visualize.py', main, argv)


if __name__ == '__main__':
    sys.stdout.reconfigure(errors='backslashreplace')       # names of files can be anything
    sys.exit(cli())
