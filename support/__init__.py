"""What the article does not talk about. To import any of it lets Chainer import, too."""

import importlib
import importlib.util

from support.base import startup

with startup.explained():
    from support import compat  # noqa: F401


def __getattr__(name):
    """Return a module by its name alone, as notebooks from before the rooms have it."""
    for room in ('base', 'data', 'run', 'fast', 'figures'):
        path = f'support.{room}.{name}'
        if importlib.util.find_spec(path):
            return importlib.import_module(path)
    raise AttributeError(f'support has no {name}')
