"""The training as pictures, from what a run noted after each epoch (beyond the article)."""

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
CIRCLES = {'linewidth': 0.8, 'zorder': 1}       # of N(0, I): below the codes
NAMES = {'rec_loss': 'reconstruction error', 'latent_loss': 'latent loss (KL divergence)',
         'loss': 'loss'}


def frames_of(epochs, most=FRAMES):
    """Choose up to `most` of the epochs, dense at the start, with the first and the last."""
    wanted = np.linspace(0, 1, most) ** 2 * (len(epochs) - 1)
    return [epochs[i] for i in (range(len(epochs)) if len(epochs) <= most else
                                np.unique(np.rint(wanted).astype(int)))]


def panels_of(noted, most=PANELS):
    """Choose up to `most` epochs: the first, the last, the end of the plateau, and some between."""
    epochs = [*noted]
    chosen = {epochs[0], epochs[-1]}
    kls = [evidence.kl_to_prior(*(arrays[name].astype(float) for name in ('mu', 'ln_var'))).sum(
        axis=1).mean() if 'ln_var' in arrays else np.inf for arrays in noted.values()]
    flat = next((i for i, kl in enumerate(kls[1:], 1) if kl >= losses.COLLAPSED), len(epochs))
    chosen |= {*epochs[max(1, flat - 1):flat + 1]}  # the last of the plateau, the first after it
    while len(chosen) < min(most, len(epochs)):     # the farthest from all others, by ratio
        chosen.add(max(epochs, key=lambda epoch: min(
            abs(np.log((1 + epoch) / (1 + other))) for other in chosen)))
    return sorted(chosen)


class Story:
    """What all epochs of a run share: the plane of their codes, its limits, labels, the losses."""

    def __init__(self, digits, run):
        noted = record.read(os.path.dirname(run['path']) or '.', run['epochs_done'])
        self.noted = {epoch: arrays for epoch, arrays in noted.items()
                      if is_whole(arrays, digits, run['dim_z'])}
        if len(self.noted) < 2 or run['dim_z'] < 2:
            raise pictures.FigureError('needs z = 2 or more, and two epochs in the folder record/, '
                                       'which train_vae.py writes beside its snapshots')
        last = [*self.noted.values()][-1]
        project, self.names = plots.plane(last['mu'])
        self.points = {epoch: project(arrays['mu']) for epoch, arrays in self.noted.items()}
        self.limit = max(3.3, *(1.03 * float(np.quantile(np.abs(points).max(axis=1), 0.998))
                                for points in self.points.values()))
        self.labels = digits.test_labels[last['places']]
        self.x = digits.test[[*mnist.first_of_each(digits).values()]]
        # up to two losses of the test digits by name: epochs and values
        self.losses, epochs = {}, losses.column(run['log'], 'epoch')
        for name in NAMES:
            values = losses.column(run['log'], losses.TEST + name)
            is_known = np.isfinite(values) & np.isfinite(epochs)
            if is_known.any() and len(self.losses) < 2:
                self.losses[name] = epochs[is_known], values[is_known]

    def digits_of(self, epoch):
        """Return two arrays of pixels: test digits above their reconstructions, and samples."""
        x, half = pictures.as_pictures(self.x), -(-len(self.x) // 2)
        y, samples = (pictures.as_pictures(self.noted[epoch][name] / 255)
                      for name in ('reconstruction', 'samples'))
        rows = [pictures.joined(of, half, 2, (2, 2))
                for of in (x[:half], y[:half], x[half:], y[half:])]
        return np.concatenate(rows), pictures.joined(samples[:20], 10, 1, (2, 2))


def is_whole(arrays, digits, dims):
    """Tell whether an epoch's arrays are all there, and of these digits and of z (dims,)."""
    n, pixels = len(arrays.get('places', ())), digits.test.shape[1]
    shapes = {'places': (n,), 'mu': (n, dims), 'samples': (record.SAMPLES, pixels),
              'reconstruction': (len(np.unique(digits.test_labels)), pixels)}
    return n > 0 and all(name in arrays and arrays[name].shape == shape
                         for name, shape in shapes.items()) and (
        np.isin(arrays['places'], np.arange(len(digits.test))).all()
        and np.isfinite(arrays['mu']).all())


def animation(model, digits, path, run):
    """The training, epoch by epoch."""
    story = Story(digits, run)
    epochs = frames_of([*story.noted])
    figure, left = pictures.figure_of(WIDTH, HEIGHT), 450

    def place(left, bottom, width, height, **options):
        return figure.add_axes((left / WIDTH, bottom / HEIGHT, width / WIDTH, height / HEIGHT),
                               **options)

    heading = figure.text(0.5, 1 - 22 / HEIGHT, '', size=14, weight='bold', ha='center')
    axes = place(52, 220, 370, 370, aspect='equal')
    plots.put_codes(axes, story.points[epochs[0]], story.labels, story.limit, 18, **CIRCLES)
    axes.set(xlabel=story.names[0].split(' of ')[0], ylabel=story.names[1].split(' of ')[0])
    dots, = axes.collections
    for canvas, top, text in zip(story.digits_of(epochs[0]), (64, 330), (
            'test digits, and below each its reconstruction', 'decoded from z ~ N(0, I)'),
            strict=True):
        figure.text(left / WIDTH, 1 - (top - 5) / HEIGHT, text, size=9)
        pictures.put_pixels(figure, canvas, left, HEIGHT - top - len(canvas))
    plots.put_legend(figure, story.labels, loc='center left', ncols=5, columnspacing=1,
                     alignment='left', bbox_to_anchor=((left - 12) / WIDTH, 1 - 420 / HEIGHT))
    marks, n = [], len(story.losses)
    width = (WIDTH - 60 - 60 * n) / max(1, n)
    for i, (name, (at, values)) in enumerate(story.losses.items()):
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

    def frame(epoch):
        heading.set_text(f'epoch {epoch}')
        dots.set_offsets(story.points[epoch])
        for image, canvas in zip(figure.images, story.digits_of(epoch), strict=True):
            image.set_data(pictures.as_gray(canvas))
        for values, dot, line in marks:
            dot.set_data(*([epoch], [values[epoch]]) if epoch in values else ([], []))
            line.set(xdata=[epoch] * 2, visible=epoch in values)
        return figure

    pictures.save_gif(map(frame, epochs), path, range(len(epochs)),
                      [to_rgb(color) for color in plots.CLASS_COLORS], milliseconds=200,
                      still=[*figure.legends, *figure.texts[1:]])


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
                               xticks=(), yticks=(), title=f'epoch {epoch}', aspect='equal')
        axes.spines[:].set_visible(True)
        plots.put_codes(axes, story.points[epoch], story.labels, story.limit, 5, **CIRCLES)
        noted = story.noted[epoch]
        for name, text in (('reconstruction', 'reconstructions'), ('samples', 'z ~ N(0, I)')):
            top -= (side if name == 'reconstruction' else large) + 22
            rows = pictures.joined(pictures.as_pictures(noted[name][:10] / 255), 5, 1, (2, 2))
            pictures.put_pixels(figure, rows, x, top - len(rows))
            if i == 0:
                figure.text((x - 4) / width, (top - large / 2) / height, text, size=8, ha='right',
                            va='center', rotation=90)
    plots.put_legend(figure, story.labels, loc='upper right', bbox_to_anchor=(1, 1 - 10 / height))
    drawing.save(figure, path)


def for_page(digits, run):
    """Pack the record for epochs.js: a dict for JSON, and bytes; `(None, b'')` if there is none.

    The bytes are of each epoch the points (n, 2) as int16 and digits as uint8, then the inputs.
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
    by_epoch = {name: dict(zip(*of, strict=True)) for name, of in story.losses.items()}
    terms = [[by_epoch.get(name, {}).get(epoch) for name in ('rec_loss', 'latent_loss')]
             for epoch in epochs]
    return {'at': epochs, 'n': len(story.labels), 'limit': story.limit, 'columns': columns,
            'digits': len(shown), 'labels': story.labels.tolist(),
            'terms': [None if None in each else each for each in terms]}, b''.join(content)
