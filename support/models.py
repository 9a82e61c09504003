"""What a snapshot notes of the model that net.py made, and whether today's net.py makes the same.

A snapshot holds weights and settings, not code. So that the edit of net.py that a run was trained
with is not forgotten, it notes which text the model's methods had.
"""

import ast
import hashlib
import inspect
import sys
import textwrap

from support import snapshot  # lets chainer import

import net

ORIGINAL = {            # of net.py's VAE as it came: `fingerprint` of its methods
    'encode': '78d8ea138402', 'decode': 'eff0a34d636d', 'get_loss_func': '402d31ebd3b8'}
PATH = ('le1', 'le2', 'le3_mu', 'ld1', 'ld2', 'ld3')            # of a digit through the layers


def activation_of(model, default):
    """Return the name of a model's activation, that in net.py if it has one there.

    Args:
        model (Chain): The model.
        default (str): Its name where the model has no `act_func`.
    """
    act_func = getattr(model, 'act_func', None) or net.ACTIVATIONS.get(default)
    names = {function: name for name, function in net.ACTIVATIONS.items()}
    return names.get(act_func) or getattr(act_func, '__name__', default)


def fingerprint(method):
    """Return 12 hexadecimal digits that stand for what a method says, without its comments.

    Returns:
        str: '' where its text cannot be read.
    """
    def plain(node):
        if isinstance(node, list):
            return [plain(item) for item in node]
        if not isinstance(node, ast.AST):
            return repr(node)
        # empty fields are left out, as newer Pythons have more of them
        return [type(node).__name__, *((name, plain(value)) for name, value in
                                       ast.iter_fields(node) if value not in (None, []))]

    try:
        text = inspect.getsource(getattr(method, '__func__', method).__code__)
        definition = ast.parse(textwrap.dedent(text)).body[0]
    except (AttributeError, OSError, SyntaxError, IndexError):
        return ''
    if ast.get_docstring(definition) is not None:
        del definition.body[0]
    return hashlib.sha256(repr(plain(definition)).encode()).hexdigest()[:12]


def texts_of(model):
    """Return the fingerprint of each method of a model that a snapshot notes, by name."""
    return {name: fingerprint(getattr(model, name, None)) for name in ('__init__', *ORIGINAL)}


def is_original(model, name):
    """Tell whether a method of a model has the text with which net.py's VAE came."""
    return fingerprint(getattr(model, name, None)) == ORIGINAL[name]


def layers_of(model):
    """Return the sizes of a model's layers in words, as 784-500-500-20-500-500-784.

    Where it has others than a VAE and an autoencoder have, only the number of its weights.
    """
    weights = [getattr(getattr(model, name, None), 'W', None) for name in PATH]
    shapes = [getattr(weight, 'shape', None) for weight in weights]
    heads = sum(name.startswith('/le3_') for name, _ in model.namedparams())
    if None in shapes or 2 * len(PATH) + heads - 2 != len(list(model.params())):
        return f'{sum(param.size for param in model.params()):,} weights'
    return '-'.join(str(size) for size in [*(shape[1] for shape in shapes), shapes[-1][0]])


def check_activation(settings, model, path):
    """Make sure that a model is of the activation that a run had.

    Args:
        settings (dict): Of the run, as from `snapshot.read_settings`.
        model (VAE): As today's net.py makes it by them.
        path (str): The snapshot that the settings come from, for the message.

    Raises:
        snapshot.SnapshotError: If it is of another.
    """
    had = settings['activation']
    now = activation_of(model, had)
    if now != had:
        raise snapshot.SnapshotError(
            f'{path} was trained with the activation {had}, and net.py has {now}; use it with the '
            'net.py that trained it, or name it in ACTIVATIONS there')


def warn_of_edits(settings, model, path):
    """Say on stderr where the text of a model is another than a run was trained with.

    Args:
        settings, model, path: As for `check_activation`.
    """
    texts = settings['methods']
    edited = [f'{type(model).__name__}.{name}' for name, text in texts_of(model).items()
              if texts.get(name, text) != text]
    if edited:
        print(f'warning: {path} was trained by a net.py with another text of {", ".join(edited)}; '
              'draw and resume it with that', file=sys.stderr)


def load_weights(path, model, activation):
    """Start `model` from the weights in a snapshot, or in an npz of a model alone.

    Args:
        path (str): The file.
        model (VAE): The model to fill.
        activation (str): Name of its activation.

    Raises:
        snapshot.SnapshotError: If they are those of another model.
    """
    arrays = snapshot.read(path)
    snapshot.load_model(arrays, model, path, 'give --dim-z and --dim-h as that model was trained')
    if snapshot.SETTINGS_KEY in arrays:
        had = snapshot.read_settings(arrays, path)['activation']
        now = activation_of(model, activation)
        if had != now:
            raise snapshot.SnapshotError(f'{path} is of another model, of {had} units rather than '
                                         f'{now}; give --activation {had}')
