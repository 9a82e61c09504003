"""How everything is drawn: by matplotlib, in one style, to PNGs that are whole or not there."""

import os
import sys

from support.base import files

try:
    import matplotlib
except ValueError:      # MPLBACKEND, as a notebook's `!python` has it, names what is not installed
    os.environ.pop('MPLBACKEND', None)
    for name in [name for name in sys.modules if name.startswith('matplotlib.')]:
        del sys.modules[name]           # half imported
    import matplotlib

import matplotlib.style

DPI = 100               # pixels per inch
PALETTE = matplotlib.color_sequences['petroff10']   # safe for the colour-blind, arXiv:2107.02270
STYLE = {'font.size': 9, 'axes.titlesize': 10, 'axes.spines.top': False,
         'axes.spines.right': False, 'legend.frameon': False, 'savefig.dpi': DPI,
         'figure.constrained_layout.w_pad': 0.1, 'figure.constrained_layout.h_pad': 0.1}


def style():
    """Return the context in which all figures are drawn; the user's own style does not count."""
    return matplotlib.style.context(['default', STYLE])


def save(figure, path):
    """Write a figure as PNG, whole or not at all."""
    with files.replacing(path) as file:
        figure.savefig(file, format='png', dpi=DPI)
