"""What the article does not talk about. To import any of it lets Chainer import, too."""

from support.base import startup

with startup.explained():
    from support import compat  # noqa: F401
