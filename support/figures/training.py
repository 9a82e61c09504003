"""The training as pictures, from what a run noted after each epoch (beyond the article).

At epoch 0 all codes lie in one spot and every z decodes to noise. Then the codes part, and the
digits sharpen. Shapes in the comments: N digits of D = 784 pixels, Z latent dimensions.
"""

import os

from support.base import drawing  # lets chainer import
from support.data import mnist
from support.figures import evidence, pictures, plots
from support.run import losses, record

from matplotlib.colors import to_rgb
from matplotlib.ticker import FixedLocator, StrMethodFormatter
import numpy as np

FRAMES, PANELS = 60, 6          # epochs in training.gif and in training.png, at most
WIDTH, HEIGHT = 790, 640        # pixels of a frame
NAMES = {'rec_loss': 'reconstruction error', 'latent_loss': 'latent loss (KL divergence)',
         'loss': 'loss'}


def frames_of(epochs, most=FRAMES):
    """Choose up to `most` of the epochs, dense at the start, with the first and the last."""
    wanted = np.linspace(0, 1, most) ** 2 * (len(epochs) - 1)
    return [epochs[i] for i in (range(len(epochs)) if len(epochs) <= most else
                                np.unique(np.rint(wanted).astype(int)))]


def kl_of(noted):
    """Return the mean KL divergence of codes from N(0, I); None where `ln_var` is not noted."""
    if 'ln_var' not in noted:
        return None
    mu, ln_var = noted['mu'].astype(float), noted['ln_var'].astype(float)
    return evidence.kl_to_prior(mu, ln_var).sum(axis=1).mean()


def panels_of(noted, most=PANELS):
    """Choose up to `most` epochs: the first, the last, the end of the plateau, and some between."""
    epochs = [*noted]
    chosen = {epochs[0], epochs[-1]}
    kls = [kl_of(noted[epoch]) for epoch in epochs]
    flat = next((i for i, kl in enumerate(kls[1:], 1)
                 if kl is None or kl >= losses.COLLAPSED), len(epochs))
    chosen |= {*epochs[max(1, flat - 1):flat + 1]}  # the last of the plateau, the first after it
    while len(chosen) < min(most, len(epochs)):     # the farthest from all others, by ratio
        chosen.add(max(epochs, key=lambda epoch: min(
            abs(np.log((1 + epoch) / (1 + other))) for other in chosen)))
    return sorted(chosen)


class Story:
    """What all epochs of a run share: the plane of their codes, its limits, labels, the losses.

    Args:
        digits (mnist.Digits): Those of the run.
        run (dict): Its settings, as from `sources.read_run`.

    Raises:
        FigureError: If the record has fewer than two epochs of this run, or z has one dimension.
    """

    def __init__(self, digits, run):
        noted = record.read(os.path.dirname(run['path']) or '.', run['epochs_done'])
        self.noted = {of: arrays for of, arrays in noted.items()
                      if is_whole(arrays, digits, run['dim_z'])}
        if len(self.noted) < 2 or run['dim_z'] < 2:
            raise pictures.FigureError('needs z = 2 or more, and two epochs in the folder record/, '
                                       'which train_vae.py writes beside its snapshots')
        last = [*self.noted.values()][-1]
        project, self.names = plots.plane(last['mu'])
        self.points = {of: project(arrays['mu']) for of, arrays in self.noted.items()}
        self.limit = max(3.3, *(1.03 * float(np.quantile(np.abs(points).max(axis=1), 0.998))
                                for points in self.points.values()))
        self.labels = digits.test_labels[last['places']]
        self.x = digits.test[[*mnist.first_of_each(digits).values()]]
        self.log = run['log']

    def put_codes(self, axes, epoch, size):
        """Draw the codes of an epoch, and the circles of N(0, I)."""
        axes.set(aspect='equal', xlim=(-self.limit, self.limit), ylim=(-self.limit, self.limit))
        plots.put_ellipses(axes, (0, 0), (1, 1), '#666666', linestyle='--', linewidth=0.8, zorder=1)
        plots.scatter_points(axes, self.points[epoch], self.labels, legend=False, size=size)

    def losses_of(self):
        """Return the losses of the test digits by name: epochs and values, what the log has."""
        found, epochs = {}, losses.column(self.log, 'epoch')
        for name in ('rec_loss', 'latent_loss', 'loss'):
            values = losses.column(self.log, losses.TEST + name)
            is_known = np.isfinite(values) & np.isfinite(epochs)
            if is_known.any() and len(found) < 2:
                found[name] = epochs[is_known], values[is_known]
        return found


def is_whole(arrays, digits, dims):
    """Tell whether an epoch's arrays are all there, and of these digits and of z (dims,)."""
    n, c = len(arrays.get('places', ())), len(np.unique(digits.test_labels))
    shapes = {'places': (n,), 'mu': (n, dims), 'reconstruction': (c, digits.test.shape[1]),
              'samples': (record.SAMPLES, digits.test.shape[1])}
    return n > 0 and all(name in arrays and arrays[name].shape == shape
                         for name, shape in shapes.items()) and (
        np.isin(arrays['places'], np.arange(len(digits.test))).all()
        and np.isfinite(arrays['mu']).all())


def row_of(rows, zoom, gap=2):
    """Join pictures (rows, columns, 28, 28) on black, `zoom` times as large: (height, width)."""
    large = np.kron(rows, np.ones((1, 1, zoom, zoom)))
    return pictures.tiled(np.pad(large, ((0, 0), (0, 0), (0, gap), (0, gap))))


def bytes_as_pictures(pixels):
    """Return pixels (N, D) uint8 as pictures (N, 28, 28) in [0, 1]."""
    return pictures.as_pictures(pixels / 255)


def animation(model, digits, path, run):
    """The training, epoch by epoch."""
    story = Story(digits, run)
    epochs = frames_of([*story.noted])
    colors = [to_rgb(color) for color in plots.CLASS_COLORS]
    pictures.save_gif(map(film(story, epochs[0]), epochs), path, range(len(epochs)), colors,
                      milliseconds=200)


def canvases_of(story, epoch):
    """Return test digits above their reconstructions, and samples, as two arrays of pixels."""
    noted = story.noted[epoch]
    x, y = pictures.as_pictures(story.x), bytes_as_pictures(noted['reconstruction'])
    half = -(-len(x) // 2)
    blank = np.zeros((2 * half - len(x), 28, 28))
    x, y = (np.concatenate([of, blank]) for of in (x, y))
    samples = bytes_as_pictures(noted['samples'])[:20].reshape(2, 10, 28, 28)
    return row_of(np.stack([x[:half], y[:half], x[half:], y[half:]]), 2), row_of(samples, 1)


def film(story, first):
    """Draw the first epoch; return a function that draws another in the same figure."""
    figure, left = pictures.figure_of(WIDTH, HEIGHT), 450

    def place(left, bottom, width, height, **options):
        return figure.add_axes((left / WIDTH, bottom / HEIGHT, width / WIDTH, height / HEIGHT),
                               **options)

    heading = figure.text(0.5, 1 - 22 / HEIGHT, '', size=14, weight='bold', ha='center')
    axes = place(52, 220, 370, 370)
    story.put_codes(axes, first, 18)
    axes.set(xlabel=story.names[0].split(' of ')[0], ylabel=story.names[1].split(' of ')[0])
    dots, = axes.collections
    for canvas, top, text in zip(canvases_of(story, first), (64, 330), (
            'test digits, and below each its reconstruction', 'decoded from z ~ N(0, I)'),
            strict=True):
        figure.text(left / WIDTH, 1 - (top - 5) / HEIGHT, text, size=9)
        pictures.put_pixels(figure, canvas, left, HEIGHT - top - len(canvas))
    figure.legend(handles=plots.key(story.labels), loc='center left', ncols=5, columnspacing=1,
                  handletextpad=0, title='label', alignment='left',
                  bbox_to_anchor=((left - 12) / WIDTH, 1 - 420 / HEIGHT))
    found, marks = story.losses_of(), []
    width = (WIDTH - 60 - 60 * len(found)) / max(1, len(found))
    for i, (name, (at, values)) in enumerate(found.items()):
        axes = place(52 + i * (width + 70), 46, width, 108, title=NAMES[name] + ', test digits')
        axes.plot(at, values, color=drawing.PALETTE[2])
        last = max(1, at.max())
        axes.set(xlabel='epoch', xscale='symlog', xlim=(0, 1.08 * last))
        axes.xaxis.set_major_locator(FixedLocator(
            [0, *(of * 10**i for i in range(7) for of in (1, 2, 5) if of * 10**i <= last)]))
        axes.xaxis.set_major_formatter(StrMethodFormatter('{x:g}'))
        axes.xaxis.minorticks_off()
        marks.append((dict(zip(at, values, strict=True)),
                      axes.plot([], 'o', color='black', zorder=5)[0],
                      axes.axvline(last, color='#888888', linewidth=0.8, zorder=1)))

    def draw(epoch):
        heading.set_text(f'epoch {epoch}')
        dots.set_offsets(story.points[epoch])
        for image, canvas in zip(figure.images, canvases_of(story, epoch), strict=True):
            image.set_data(canvas)
        for values, dot, line in marks:
            dot.set_data(*([epoch], [values[epoch]]) if epoch in values else ([], []))
            line.set(xdata=[epoch] * 2, visible=epoch in values)
        return figure

    return draw


def panels(model, digits, path, run):
    """The same at up to six epochs, in a row."""
    story = Story(digits, run)
    epochs = panels_of(story.noted)
    side, gap, left, bottom = 148, 12, 18, 10
    large, small = 2 * 30, 12           # pixels of two rows of digits, and above each part
    parts = side + 2 * (large + small + 10)
    width, height = left + len(epochs) * (side + gap) + 44, bottom + parts + 40
    figure = pictures.figure_of(width, height)
    for i, epoch in enumerate(epochs):
        x, top = left + i * (side + gap), height - 24
        axes = figure.add_axes((x / width, (top - side) / height, side / width, side / height),
                               xticks=(), yticks=(), title=f'epoch {epoch}')
        axes.spines[:].set_visible(True)
        story.put_codes(axes, epoch, 5)
        noted = story.noted[epoch]
        for name, text in (('reconstruction', 'reconstructions'), ('samples', 'z ~ N(0, I)')):
            top -= (side if name == 'reconstruction' else large) + 22
            rows = bytes_as_pictures(noted[name])[:10]
            rows = np.concatenate([rows, np.zeros((10 - len(rows), 28, 28))])
            pictures.put_pixels(figure, row_of(rows.reshape(2, 5, 28, 28), 1), x, top - large)
            if i == 0:
                figure.text((x - 4) / width, (top - large / 2) / height, text, size=8, ha='right',
                            va='center', rotation=90)
    figure.legend(handles=plots.key(story.labels), loc='upper right', title='label',
                  handletextpad=0, bbox_to_anchor=(1, 1 - 10 / height))
    drawing.save(figure, path)


def for_page(digits, run):
    """Pack the record for explorer.html, whose epochs.js unpacks it.

    Returns:
        tuple: A dict for its JSON: epochs, labels, sizes, and both terms of each epoch's test loss;
        and bytes: of each epoch the points (n, 2) as int16 and digits as uint8, then the inputs.
        `(None, b'')` where the run has no record.
    """
    try:
        story = Story(digits, run)
    except pictures.FigureError:
        return None, b''
    epochs, content = frames_of([*story.noted], FRAMES // 2), []
    for epoch in epochs:
        noted = story.noted[epoch]
        points = np.clip(story.points[epoch] / story.limit, -1, 1) * 32767
        columns = len(noted['reconstruction'])
        shown = np.concatenate([noted['reconstruction'], noted['samples'][:columns]])
        content += [points.round().astype('<i2').tobytes(), shown.tobytes()]
    content.append(np.round(story.x * 255).astype(np.uint8).tobytes())
    by_epoch = {name: dict(zip(*of, strict=True)) for name, of in story.losses_of().items()}
    terms = [[by_epoch.get(name, {}).get(epoch) for name in ('rec_loss', 'latent_loss')]
             for epoch in epochs]
    return {'at': epochs, 'n': len(story.labels), 'limit': story.limit, 'columns': columns,
            'digits': len(shown), 'labels': story.labels.tolist(),
            'terms': [None if None in each else each for each in terms]}, b''.join(content)
