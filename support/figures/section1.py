"""Section 1 in one picture: a plain autoencoder, whose codes have no structure, beside the VAE.

The article describes an autoencoder in section 1-1. To see one beside the VAE goes beyond it.
"""

from support.base import drawing  # lets chainer import
from support.figures import pictures, plots

import numpy as np

MOST = 5000             # test digits in a scatter plot
SIDE = 20               # digits in a row of a map,
WIDTH = SIDE * 28       # and pixels of it and of all panels
NEAR = 3.3              # the least limit of axes: the circles of N(0, I) fit in
GAP, LEFT, TOP = 36, 60, 56         # pixels between panels, and before the first


def autoencoder(model, digits, path, beside):
    """A plain autoencoder beside the VAE (1-1, 1-2).

    Args:
        model (VAE): Of two latent dimensions.
        digits (mnist.Digits): On which both were trained.
        path (str): The file.
        beside (Autoencoder): Of two latent dimensions, too.
    """
    x, labels = pictures.spaced(digits, MOST)
    noise = np.random.RandomState(0).standard_normal((100, 2))
    grid = np.linspace(-2, 2, SIDE)
    z = np.stack(np.meshgrid(grid, grid[::-1]), axis=2).reshape(-1, 2)
    codes = [pictures.encode(each, x) for each in (beside, model)]              # (N, 2) each
    # both have one scale; it leaves out the farthest hundredth of the autoencoder's codes
    far, most = np.abs(codes[0]).max(axis=1), np.abs(codes[1]).max()
    limit = 1.03 * max(NEAR, np.quantile(far, 0.99), most)
    width, height = LEFT + 2 * WIDTH + 2 * GAP, TOP + 3 * (WIDTH + TOP)
    figure = pictures.figure_of(width, height)

    def panel(row, column, title, **options):
        left, bottom = LEFT + column * (WIDTH + GAP), height - (row + 1) * (WIDTH + TOP)
        return left, bottom, figure.add_axes(
            (left / width, bottom / height, WIDTH / width, WIDTH / height), zorder=1,
            title=title, **options)

    for column, (each, mu, title) in enumerate(zip(
            (beside, model), codes, ('plain autoencoder (1-1)', 'VAE (1-2)'), strict=True)):
        outside = np.mean(np.abs(mu).max(axis=1) > limit)
        far = f', {outside:.1%} outside' if outside else ''
        *_, axes = panel(0, column, f'{title}: codes of {len(mu)} test digits{far}')
        put_codes(axes, mu, labels, limit)
        near = max(NEAR, 1.03 * np.abs(mu).max())
        if near < limit / 4:            # too small to be seen: once more, larger
            axes = axes.inset_axes((0.57, 0.5, 0.43, 0.43), zorder=6,
                                   title=f'the same, {0.43 * limit / near:.0f} times larger')
            put_codes(axes, mu, labels, near)
        for row, what, at, side in ((1, 'z_1 and z_2 between -2 and 2', z, SIDE),
                                    (2, 'z ~ N(0, I)', noise, 10)):
            left, bottom, _ = panel(row, column, f'digits decoded from {what}', frame_on=False,
                                    xticks=(), yticks=())
            picture = pictures.joined(pictures.decode(each, at), side)
            zoom = WIDTH // len(picture)
            pictures.put_pixels(figure, np.kron(picture, np.ones((zoom, zoom))), left, bottom)
    drawing.save(figure, path)


def put_codes(axes, mu, labels, limit):
    """Draw codes (N, 2) and the circles of N(0, I), 1 to 3 sigma, on axes that end at limit."""
    plots.scatter_points(axes, mu, labels, legend=False)
    plots.put_ellipses(axes, (0, 0), (1, 1), '#666666', linestyle='--', zorder=3)
    if np.abs(mu).max() > limit / 4:
        plots.put_numerals(axes, mu, labels, limit / 10)
    axes.set(xlim=(-limit, limit), ylim=(-limit, limit))
