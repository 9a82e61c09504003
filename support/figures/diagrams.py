"""The article's diagrams: an autoencoder (section 1-1), the VAE (1-2, 3), its graphical model (3).

They show no run. A unit of their axes is a hundred pixels.
"""

from support.base import drawing
from support.data import mnist
from support.figures import pictures
from support.figures.reparameterization import BLUE, NOISE

from matplotlib.figure import Figure
from matplotlib.patches import Circle, FancyArrowPatch, FancyBboxPatch, Polygon
import numpy as np

ENCODER, DECODER, KNOWN = '#cfe5f7', '#f3c9c2', '#dddddd'
LARGE, SMALL = 20, 17   # points: a diagram 1,000 pixels wide is read at 500, and on a phone
CODE = 20               # principal components that stand for the z of a digit


def canvas(height):
    """Return empty axes, 10 units wide, that fill a figure."""
    figure = Figure(figsize=(10, height), dpi=drawing.DPI)
    axes = figure.add_axes((0, 0, 1, 1), xlim=(0, 10), ylim=(0, height))
    axes.axis('off')
    return axes


def put_text(axes, x, y, text, size=LARGE, color='black'):
    """Write centered text."""
    axes.text(x, y, text, ha='center', va='center', size=size, color=color, linespacing=1.35)


def put_circle(axes, x, y, text, color='white', radius=0.42):
    """Draw a variable."""
    axes.add_patch(Circle((x, y), radius, facecolor=color, edgecolor='black', linewidth=1.8))
    put_text(axes, x, y, text)


def put_box(axes, x, y, text, color, half):
    """Draw a box with text in it."""
    axes.add_patch(FancyBboxPatch(
        (x - half, y - 0.3), 2 * half, 0.6, 'round,pad=0,rounding_size=0.12', facecolor=color,
        edgecolor='black', linewidth=1.8))
    put_text(axes, x, y, text)


def put_network(axes, x, y, text, color, narrows, half=0.85):
    """Draw an encoder, which narrows to the right, or a decoder."""
    left, right = (1.05, 0.6) if narrows else (0.6, 1.05)
    axes.add_patch(Polygon(
        [(x - half, y - left), (x + half, y - right), (x + half, y + right), (x - half, y + left)],
        facecolor=color, edgecolor='black', linewidth=1.8, joinstyle='round'))
    put_text(axes, x, y, text, SMALL)


def put_digit(axes, x, y, picture, half=0.62):
    """Put a picture (28, 28) at a place."""
    axes.imshow(picture, cmap='gray', vmin=0, vmax=1, aspect='auto',
                extent=(x - half, x + half, y - half, y + half))


def put_arrow(axes, start, end, bend=0, dashed=False):
    """Draw an arrow; a dashed one is blue, too."""
    axes.add_patch(FancyArrowPatch(
        start, end, arrowstyle='-|>', mutation_scale=24, shrinkA=2, shrinkB=2, linewidth=2.2,
        color=BLUE if dashed else 'black', linestyle=(0, (4, 2.5)) if dashed else '-',
        connectionstyle=f'arc3,rad={bend}'))


def digit_and_look():
    """Return a bundled test digit and what a code of 20 numbers keeps of it, (28, 28) each.

    The code is that of principal components: the best autoencoder without hidden layers.
    """
    digits = mnist.get_digits('digits')
    mean = digits.train.mean(axis=0)
    axes = np.linalg.eigh(np.cov(digits.train, rowvar=False))[1][:, -CODE:]       # (784, 20)
    x = digits.test[mnist.first_of_each(digits)[3]]
    look = np.clip(mean + (x - mean) @ axes @ axes.T, 0, 1)
    return pictures.as_pictures(np.stack([x, look]))


def autoencoder(model, digits, path):
    """The autoencoder as a diagram (1-1)."""
    axes = canvas(3)
    x, look = digit_and_look()
    y = 1.55
    put_digit(axes, 0.85, y, x)
    put_network(axes, 3.05, y, 'Encoder', ENCODER, narrows=True)
    put_circle(axes, 5, y, '$z$')
    put_network(axes, 6.95, y, 'Decoder', DECODER, narrows=False)
    put_digit(axes, 9.15, y, look)
    for start, end in ((1.5, 2.2), (3.9, 4.57), (5.43, 6.1), (7.8, 8.5)):
        put_arrow(axes, (start, y), (end, y))
    put_text(axes, 0.85, 2.52, '$x$')
    put_text(axes, 9.15, 2.52, r'$\hat{x}$')
    for place, text in ((0.85, '784 pixels'), (5, f'the code:\n{CODE} numbers'),
                        (9.15, '784 pixels')):
        put_text(axes, place, 0.6, text, SMALL)
    drawing.save(axes.figure, path)


def vae(model, digits, path):
    """The VAE as a diagram of two networks (1-2, 3)."""
    axes = canvas(4)
    x, look = digit_and_look()
    y = 2.3
    put_digit(axes, 0.75, y, x)
    put_network(axes, 2.75, y, 'Encoder\n' r'$q_\phi(z\,|\,x)$', ENCODER, narrows=True)
    put_circle(axes, 4.35, y + 0.62, r'$\mu$', radius=0.36)
    put_circle(axes, 4.35, y - 0.62, r'$\sigma$', radius=0.36)
    put_circle(axes, 5.65, y, '$z$')
    put_box(axes, 5.65, 0.72, r'noise  $\varepsilon \sim N(0, I)$', NOISE, 1.45)
    put_network(axes, 7.35, y, 'Decoder\n' r'$p_\theta(x\,|\,z)$', DECODER, narrows=False)
    put_digit(axes, 9.27, y, look)
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
    axes.add_patch(FancyBboxPatch((1.9, 0.2), 2.1, 3, 'round,pad=0,rounding_size=0.15',
                                  facecolor='none', edgecolor='black', linewidth=1.8))
    put_text(axes, 3.72, 0.48, '$N$')
    put_circle(axes, 2.95, 2.55, '$z$')
    put_circle(axes, 2.95, 0.85, '$x$', KNOWN)
    put_text(axes, 0.5, 2.55, r'$\phi$', color=BLUE)
    put_text(axes, 4.95, 0.85, r'$\theta$')
    put_arrow(axes, (2.95, 2.13), (2.95, 1.27))
    put_arrow(axes, (4.75, 0.85), (3.37, 0.85))
    put_arrow(axes, (2.62, 1.12), (2.62, 2.28), bend=-0.45, dashed=True)
    put_arrow(axes, (0.75, 2.55), (2.53, 2.55), dashed=True)
    for y, text, color in ((2.7, r'dashed: encoder, of weights $\phi$', BLUE),
                           (2.15, r'solid: decoder, of weights $\theta$', 'black'),
                           (1.6, 'gray: what we see', 'black')):
        axes.text(4.45, y, text, va='center', size=SMALL, color=color)
    drawing.save(axes.figure, path)
