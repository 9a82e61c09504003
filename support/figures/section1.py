"""Section 1 in one picture: a plain autoencoder, whose codes have no structure, beside the VAE.

The article describes an autoencoder in section 1-1. It does not compare the two.
"""

from support.base import drawing  # lets chainer import
from support.figures import pictures, plots

from matplotlib.patches import ConnectionPatch
import numpy as np

POINTS = 5000           # test digits in a scatter plot
SIDE = 14               # digits in a row of a map,
WIDTH = SIDE * 28       # and pixels of it and of all panels
NEAR = 3.3              # the least limit of axes: the circles of N(0, I) fit in
SPAN = 2                # half a side of the square of z that map.png shows
GAP, LEFT, TOP = 64, 64, 92         # pixels between panels, and before the first,
HEAD = 48               # which stands below the heading
TEXT = 15               # points: README shows half of the pixels
HEADING = (
    'loss of the autoencoder: squared error; of the VAE: Bernoulli likelihood and KL divergence',
    'dashed: 1, 2 and 3 σ of N(0, I); red: the square that the next panel shows; '
    'dotted: that of the map')


def autoencoder(model, digits, path, beside):
    """A plain autoencoder beside the VAE (1-1, 1-2)."""
    x, labels = pictures.spaced(digits, POINTS)
    own, codes = (pictures.encode(each, x) for each in (beside, model))         # (N, 2) each
    near = 1.03 * max(NEAR, np.abs(codes).max())
    # all but the farthest hundredth of the autoencoder's codes
    wide = max(near, 1.03 * np.quantile(np.abs(own).max(axis=1), 0.99))
    noise = np.random.RandomState(0).standard_normal(((SIDE // 2) ** 2, 2))
    spread = own.mean(axis=0) + noise * own.std(axis=0)
    width, height = LEFT + 3 * (WIDTH + GAP), HEAD + 16 + 3 * (WIDTH + TOP)
    figure = pictures.figure_of(width, height)
    for text, y in zip(HEADING, (28, 56), strict=True):
        figure.text(0.5, 1 - y / height, text, ha='center', size=TEXT)

    def panel(row, column, title, **options):
        left, bottom = LEFT + column * (WIDTH + GAP), height - HEAD - (row + 1) * (WIDTH + TOP)
        axes = figure.add_axes(
            (left / width, bottom / height, WIDTH / width, WIDTH / height), zorder=1, **options)
        axes.set_title(title, size=TEXT)
        return left, bottom, axes

    # over the range of the autoencoder's codes, and then both over that of the VAE's
    for column, (each, name, mu, limit, span, z, from_what) in enumerate((
            (beside, 'autoencoder (1-1)', own, wide, wide, spread, 'z spread as its codes'),
            (beside, 'autoencoder', own, near, SPAN, noise, 'z ~ N(0, I)'),
            (model, 'VAE (1-2)', codes, near, SPAN, noise, 'z ~ N(0, I)'))):
        inside = np.abs(mu).max(axis=1) < limit
        *_, axes = panel(0, column, f'{name}: {inside.mean():.0%} of the codes')
        axes.set_xlabel('$z_1$', size=TEXT)
        axes.set_ylabel('$z_2$', size=TEXT)
        axes.yaxis.set_label_coords(-0.09, 0.5)     # beside the short tick label 0
        axes.tick_params(labelsize=TEXT - 2)
        axes.locator_params(nbins=5)
        plots.put_codes(axes, mu[inside], labels[inside], limit, zorder=3)
        if inside.any():
            plots.put_numerals(axes, mu[inside], labels[inside], limit / 7)
        if near < limit:
            plots.put_square(axes, near, zorder=8, edgecolor=plots.RED, linewidth=3)
        if span < limit:
            plots.put_square(axes, span, zorder=8, linestyle=':', linewidth=2)
        if column == 1:                 # enlarges the red square to the left
            for y in (-near, near) if near < wide else ():
                figure.add_artist(ConnectionPatch(
                    (near, y), (-near, y), 'data', axesA=figure.axes[0], axesB=axes,
                    color=plots.RED, linewidth=1.5, zorder=2))
        line = np.linspace(-span, span, SIDE)
        grid = np.stack(np.meshgrid(line, line[::-1]), axis=2).reshape(-1, 2)
        for row, shown, at, side in (
                (1, f'$z_1$ and $z_2$ from {-span:.0f} to {span:.0f}', grid, SIDE),
                (2, from_what, z, SIDE // 2)):
            left, bottom, _ = panel(row, column, f'decoded: {shown}', frame_on=False, xticks=(),
                                    yticks=())
            decoded = pictures.joined(pictures.decode(each, at), side, SIDE // side)
            pictures.put_pixels(figure, decoded, left, bottom)
    drawing.save(figure, path)
