"""Diagrams: autoencoder (1-1), VAE (1-2, 3), graphical model and reparameterization trick (3).

They show no run. A unit of their axes is a hundred pixels, but in reparameterization.png.
"""

import functools

from support.base import drawing
from support.data import mnist
from support.figures import pictures

from matplotlib.figure import Figure
from matplotlib.patches import Circle, FancyArrowPatch, FancyBboxPatch, Polygon
import numpy as np
from scipy.sparse.linalg import eigsh

BLUE = drawing.PALETTE[0]
ENCODER, DECODER, KNOWN, NOISE = '#cfe5f7', '#f3c9c2', '#dddddd', '#ffe3bf'
DASHED = {'color': BLUE, 'linestyle': (0, (4, 2.5))}
LARGE, SMALL = 20, 17   # points: a diagram 1,000 pixels wide is read at 500, and on a phone
CODE = 20               # principal components that stand for the z of a digit


def canvas(height):
    """Return empty axes, 10 units wide, that fill a figure."""
    figure = Figure(figsize=(10, height), dpi=drawing.DPI)
    axes = figure.add_axes((0, 0, 1, 1), xlim=(0, 10), ylim=(0, height))
    axes.axis('off')
    return axes


def put_text(axes, x, y, text, size=LARGE, linespacing=1.35, **look):
    """Write centered text."""
    axes.text(x, y, text, ha='center', va='center', size=size, linespacing=linespacing, **look)


def put_circle(axes, x, y, text, color='white', radius=0.42):
    """Draw a variable."""
    axes.add_patch(Circle((x, y), radius, facecolor=color, edgecolor='black', linewidth=1.8))
    put_text(axes, x, y, text)


def put_box(axes, x, y, text, half, color='white', rounding=0.12, height=0.6, line=1.8, **look):
    """Draw a box, 2 * half wide, with text in it."""
    axes.add_patch(FancyBboxPatch(
        (x - half, y - height / 2), 2 * half, height, f'round,pad=0,rounding_size={rounding}',
        facecolor=color, edgecolor='black', linewidth=line))
    put_text(axes, x, y, text, **look)


def put_network(axes, x, y, text, color, narrows):
    """Draw an encoder, which narrows to the right, or a decoder."""
    left, right = (1.05, 0.6) if narrows else (0.6, 1.05)
    axes.add_patch(Polygon(
        [(x - 0.85, y - left), (x + 0.85, y - right), (x + 0.85, y + right), (x - 0.85, y + left)],
        facecolor=color, edgecolor='black', linewidth=1.8, joinstyle='round'))
    put_text(axes, x, y, text, SMALL)


@functools.cache
def digit_and_look():
    """Return a bundled digit and what its principal components keep, (2, 28, 28)."""
    digits = mnist.get_digits('digits')
    mean = digits.train.mean(axis=0)
    components = eigsh(np.cov(digits.train, rowvar=False), CODE, v0=mean)[1]    # (784, 20)
    x = digits.test[mnist.first_of_each(digits)[3]]
    look = np.clip(mean + (x - mean) @ components @ components.T, 0, 1)
    return pictures.as_pictures(np.stack([x, look]))


def put_digits(axes, y, *places):
    """Put the digit at one place, and its look at the other."""
    for at, picture in zip(places, digit_and_look(), strict=True):
        axes.imshow(picture, cmap='gray', vmin=0, vmax=1, aspect='auto',
                    extent=(at - 0.62, at + 0.62, y - 0.62, y + 0.62))


def put_arrow(axes, start, end, color='black', bend=0, scale=24, shrink=2, width=2.2,
              linestyle='-'):
    """Draw an arrow."""
    axes.add_patch(FancyArrowPatch(
        start, end, arrowstyle='-|>', mutation_scale=scale, shrinkA=shrink, shrinkB=shrink,
        linewidth=width, color=color, linestyle=linestyle, connectionstyle=f'arc3,rad={bend}'))


def autoencoder(model, digits, path):
    """The autoencoder as a diagram (1-1)."""
    axes, y = canvas(3), 1.55
    put_digits(axes, y, 0.85, 9.15)
    put_network(axes, 3.05, y, 'Encoder', ENCODER, narrows=True)
    put_circle(axes, 5, y, '$z$')
    put_network(axes, 6.95, y, 'Decoder', DECODER, narrows=False)
    for start, end in ((1.5, 2.2), (3.9, 4.57), (5.43, 6.1), (7.8, 8.5)):
        put_arrow(axes, (start, y), (end, y))
    for x, name in ((0.85, '$x$'), (9.15, r'$\hat{x}$')):
        put_text(axes, x, 2.52, name)
        put_text(axes, x, 0.6, '784 pixels', SMALL)
    put_text(axes, 5, 0.6, f'the code:\n{CODE} numbers', SMALL)
    drawing.save(axes.figure, path)


def vae(model, digits, path):
    """The VAE as a diagram of two networks (1-2, 3)."""
    axes, y = canvas(4), 2.3
    put_digits(axes, y, 0.75, 9.27)
    put_network(axes, 2.75, y, 'Encoder\n' r'$q_\phi(z\,|\,x)$', ENCODER, narrows=True)
    put_circle(axes, 4.35, y + 0.62, r'$\mu$', radius=0.36)
    put_circle(axes, 4.35, y - 0.62, r'$\sigma$', radius=0.36)
    put_circle(axes, 5.65, y, '$z$')
    put_box(axes, 5.65, 0.72, r'noise  $\varepsilon \sim N(0, I)$', 1.45, NOISE)
    put_network(axes, 7.35, y, 'Decoder\n' r'$p_\theta(x\,|\,z)$', DECODER, narrows=False)
    for start, end in (((1.38, y), (1.9, y)), ((3.6, y + 0.25), (4.02, y + 0.5)),
                       ((3.6, y - 0.25), (4.02, y - 0.5)), ((4.7, y + 0.52), (5.28, y + 0.2)),
                       ((4.7, y - 0.52), (5.28, y - 0.2)), ((5.65, 1.03), (5.65, y - 0.42)),
                       ((6.08, y), (6.5, y)), ((8.2, y), (8.64, y))):
        put_arrow(axes, start, end)
    put_text(axes, 0.75, y + 0.92, '$x$')
    put_text(axes, 9.27, y + 0.92, '$y$')
    put_text(axes, 5.65, 3.65, r'$z = \mu + \varepsilon \cdot \sigma$')
    put_text(axes, 8.9, 0.72, 'probability that\na pixel is on', SMALL)
    drawing.save(axes.figure, path)


def graphical_model(model, digits, path):
    """The graphical model of z and x (3)."""
    axes = canvas(3.4)
    put_box(axes, 2.95, 1.7, '', 1.05, 'none', 0.15, height=3)
    put_text(axes, 3.72, 0.48, '$N$')
    put_circle(axes, 2.95, 2.55, '$z$')
    put_circle(axes, 2.95, 0.85, '$x$', KNOWN)
    put_text(axes, 0.5, 2.55, r'$\phi$', color=BLUE)
    put_text(axes, 4.95, 0.85, r'$\theta$')
    put_arrow(axes, (2.95, 2.13), (2.95, 1.27))
    put_arrow(axes, (4.75, 0.85), (3.37, 0.85))
    put_arrow(axes, (2.62, 1.12), (2.62, 2.28), bend=-0.45, **DASHED)
    put_arrow(axes, (0.75, 2.55), (2.53, 2.55), **DASHED)
    for y, text, color in ((2.7, r'dashed: encoder, of weights $\phi$', BLUE),
                           (2.15, r'solid: decoder, of weights $\theta$', 'black'),
                           (1.6, 'gray: what we see', 'black')):
        axes.text(4.45, y, text, va='center', size=SMALL, color=color)
    drawing.save(axes.figure, path)


def reparameterization(model, digits, path):
    """The trick as a graph: gradients pass by the noise (3)."""
    figure = Figure(figsize=(9.6, 5.4), dpi=drawing.DPI)
    for title, bottom, height, trick in (
            ('without the trick z is drawn from q(z|x), and there the gradient ends',
             0.64, 0.28, False),
            ('with it z = µ + ε·σ: noise comes from the side, and the gradient flows back past it',
             0.08, 0.42, True)):
        axes = figure.add_axes((0.01, bottom, 0.98, height), xlim=(0, 16),
                               ylim=(1.5 - 10 * height, 1.5))
        axes.axis('off')
        axes.set_title(title)
        put_trick(axes, trick)
    figure.text(0.5, 0.03, 'black: the values, forward', ha='right', size=10)
    figure.text(0.5, 0.03, '    blue: the gradient, backward', color=BLUE, size=10)
    drawing.save(figure, path)


def put_trick(axes, trick):
    """Draw the way from x to the reconstruction error, and that of the gradient back."""
    box = functools.partial(put_box, axes, rounding=0.1, height=0.84, line=1.2,
                            size=10, linespacing=None)
    ring = functools.partial(box, half=0.42, rounding=0.4)
    arrow = functools.partial(put_arrow, axes, scale=12, shrink=1, width=1.5)

    def way(start, end, back=True):
        """Draw an arrow and, if there is a gradient back, its arrow beside it."""
        start, end = np.array(start), np.array(end)
        aside = (end - start)[::-1] * (1, -1) / np.hypot(*(end - start)) * 0.11
        arrow(start - aside, end - aside)
        if back:
            arrow(end + aside, start + aside, BLUE)

    ring(0.7, 0, 'x', color=KNOWN)
    box(2.7, 0, 'encoder', 0.8)
    ring(4.8, 0.8, 'µ')
    ring(4.8, -0.8, 'σ')
    way((1.12, 0), (1.9, 0), back=False)
    way((3.5, 0.2), (4.38, 0.7), trick)
    way((3.5, -0.2), (4.38, -0.7), trick)
    if trick:
        ring(6.7, -0.8, '×')
        ring(8.1, 0, '+')
        box(6.7, -2.2, 'ε ~ N(0, I)', 0.9, NOISE, rounding=0.4)
        arrow((6.7, -1.78), (6.7, -1.22))
        for start, end in (((5.22, 0.75), (7.68, 0.15)), ((5.22, -0.8), (6.28, -0.8)),
                           ((7.1, -0.6), (7.72, -0.25)), ((8.52, 0), (9.18, 0))):
            way(start, end)
    else:
        box(7.1, 0, 'draw z ~ N(µ, σ²)', 1.35, NOISE)
        way((5.2, 0.65), (5.75, 0.3), back=False)
        way((5.2, -0.65), (5.75, -0.3), back=False)
        way((8.45, 0), (9.18, 0))
        axes.text(8.45, -0.75, 'no way back through a draw', color=BLUE, ha='right')
    ring(9.6, 0, 'z')
    box(11.5, 0, 'decoder', 0.8)
    box(14.4, 0, 'reconstruction error', 1.5)
    way((10.02, 0), (10.7, 0))
    way((12.3, 0), (12.9, 0))
