"""The reparameterization trick of section 3 in pictures: z = mu + eps * sigma, eps ~ N(0, I).

As the noise enters from the side, z is a differentiable function of mu and sigma, and the encoder
learns from the reconstruction error (Kingma & Welling, section 2.4). In net.py the trick is
`F.gaussian`. The article has the graph; the animation goes beyond it.
"""

from support.base import drawing
from support.data import mnist
from support.figures import evidence, pictures, plots

import matplotlib
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import FancyArrowPatch, FancyBboxPatch
import numpy as np

BLUE, _, RED, *_ = matplotlib.color_sequences['petroff10']
RINGS = '#bbbbbb'
NOISE = '#ffe3bf'       # the colour of boxes that are random
DRAWS = 16              # frames of the animation


def animation(model, digits, path):
    """One digit, and z = µ + ε·σ drawn again and again (3)."""
    places = mnist.first_of_each(digits)
    x = digits.test[list(places.values())]
    evidence.check_noise(model, x)
    mu, ln_var = evidence.infer(model, x)
    i = ln_var.sum(axis=1).argmax()                             # the widest q(z|x)
    mu, sigma = mu[i], np.exp(ln_var[i] / 2)
    eps = np.random.RandomState(0).standard_normal((DRAWS, len(mu)))
    z = mu + eps * sigma                                        # (DRAWS, Z)
    decoded = pictures.decode(model, z)
    used = np.sort(np.argsort(-evidence.kl_to_prior(mu, ln_var[i]))[:2])
    numbers = 'µ = ({:.2f}, {:.2f}), σ = ({:.3f}, {:.3f})'.format(*mu[used], *sigma[used])
    heading = f'a {list(places)[i]}, {numbers}'
    if len(mu) > 2:
        heading += f'; its two most used of {len(mu)} dimensions'

    figure = Figure(figsize=(8.4, 3.52), dpi=drawing.DPI)
    head = figure.text(0.5, 0.94, '', ha='center', size=10)
    figure.legend(loc='lower left', bbox_to_anchor=(0.04, 0), ncols=3, handles=[
        Line2D([], [], linestyle='', marker='o', color=RED, markersize=9, label='this draw'),
        Line2D([], [], linestyle='', marker='o', color=BLUE, markersize=4, label='earlier draws'),
        Line2D([], [], color=RINGS, label='rings: 1, 2 and 3 standard deviations')])

    def plane(left, title, letter, center, scale):
        """Draw the axes of a panel; return the points of earlier draws, and that of this one."""
        axes = figure.add_axes((left, 0.2, 0.255, 0.608), title=title)
        plots.put_ellipses(axes, center[used], scale[used], RINGS)
        # both axes have one scale: so one sees how sigma forms the noise
        names, reach = [f'${letter}_{{{j + 1}}}$' for j in used], 3.4 * scale[used].max()
        axes.set(xlabel=names[0], ylabel=names[1], **{
            f'{name}lim': (center[j] - reach, center[j] + reach)
            for name, j in zip('xy', used, strict=True)})
        axes.locator_params(nbins=4)
        return (*axes.plot([], 'o', color=BLUE, markersize=4),
                *axes.plot([], 'o', color=RED, markersize=9))

    noise = plane(0.06, 'the noise: ε ~ N(0, I)', r'\varepsilon', np.zeros(len(mu)),
                  np.ones(len(mu)))
    draws = plane(0.43, 'z = µ + ε·σ, so z ~ q(z|x)', 'z', mu, sigma)
    for bottom, picture, title in ((0.49, pictures.as_pictures(x[i])[0], 'x'),
                                   (0.05, decoded[0], 'decoded from z')):
        axes = figure.add_axes((0.79, bottom, 0.144, 0.3456), title=title)
        face = axes.imshow(picture, cmap='gray', vmin=0, vmax=1)
        axes.axis('off')

    def frame(t):
        head.set_text(f'{heading}; draw {t + 1} of {DRAWS}')
        for (earlier, now), points in ((noise, eps), (draws, z)):
            earlier.set_data(*points[:t, used].T)
            now.set_data(*points[t:t + 1, used].T)
        face.set_data(decoded[t])
        return figure

    pictures.save_gif(map(frame, range(DRAWS)), path, range(DRAWS), [BLUE, RED],
                      milliseconds=500)


def graph(model, digits, path):
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
        draw_trick(axes, trick)
    figure.text(0.5, 0.03, 'black: the values, forward', ha='right', size=10)
    figure.text(0.5, 0.03, '    blue: the gradient, backward', color=BLUE, size=10)
    drawing.save(figure, path)


def draw_trick(axes, trick):
    """Draw the way from x to the reconstruction error, and that of the gradient back."""
    def box(x, y, text, half=0.42, color='white', rounding=0.4):
        axes.add_patch(FancyBboxPatch(
            (x - half, y - 0.42), 2 * half, 0.84, f'round,pad=0,rounding_size={rounding}',
            facecolor=color, edgecolor='black', linewidth=1.2))
        axes.text(x, y, text, ha='center', va='center', size=10)

    def arrow(start, end, color='black'):
        axes.add_patch(FancyArrowPatch(start, end, arrowstyle='-|>', mutation_scale=12, shrinkA=1,
                                       shrinkB=1, color=color, linewidth=1.5))

    def way(start, end, back):
        """Draw an arrow and, if there is a gradient back, its arrow beside it."""
        start, end = np.array(start), np.array(end)
        aside = (end - start)[::-1] * (1, -1) / np.hypot(*(end - start)) * 0.11
        arrow(start - aside, end - aside)
        if back:
            arrow(end + aside, start + aside, BLUE)

    box(0.7, 0, 'x', color='#dddddd')
    box(2.7, 0, 'encoder', 0.8, rounding=0.1)
    box(4.8, 0.8, 'µ')
    box(4.8, -0.8, 'σ')
    way((1.12, 0), (1.9, 0), False)
    way((3.5, 0.2), (4.38, 0.7), trick)
    way((3.5, -0.2), (4.38, -0.7), trick)
    if trick:
        box(6.7, -0.8, '×')
        box(8.1, 0, '+')
        box(6.7, -2.2, 'ε ~ N(0, I)', 0.9, NOISE)
        arrow((6.7, -1.78), (6.7, -1.22))
        way((5.22, 0.75), (7.68, 0.15), True)
        way((5.22, -0.8), (6.28, -0.8), True)
        way((7.1, -0.6), (7.72, -0.25), True)
        way((8.52, 0), (9.18, 0), True)
    else:
        box(7.1, 0, 'draw z ~ N(µ, σ²)', 1.35, NOISE, rounding=0.1)
        way((5.2, 0.65), (5.75, 0.3), False)
        way((5.2, -0.65), (5.75, -0.3), False)
        way((8.45, 0), (9.18, 0), True)
        axes.text(8.45, -0.75, 'no way back through a draw', color=BLUE, ha='right')
    box(9.6, 0, 'z')
    box(11.5, 0, 'decoder', 0.8, rounding=0.1)
    box(14.4, 0, 'reconstruction error', 1.5, rounding=0.1)
    way((10.02, 0), (10.7, 0), True)
    way((12.3, 0), (12.9, 0), True)
