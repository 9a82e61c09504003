"""Model, loss and optimizer as net.py and train_vae.py make them: in words, and where they changed.

A snapshot holds weights and settings, not code. So that the edit that a run was trained with is not
forgotten, it notes the model's activation, digests of its methods, and the optimizer.
"""

import ast
import functools
import hashlib
import inspect
import itertools
import re
import sys
import types

from support.base import command  # lets chainer import
from support.run import original, snapshot

import numpy as np

import net

LOSSES = {original.VAE: 'negative ELBO', original.Autoencoder: 'squared error'}
OUTSIDE = 'code outside the methods'
DOCUMENTED = ast.FunctionDef, ast.ClassDef, ast.Module
# layers of a digit's way, of the VAE and of the autoencoder
PATHS = (('le1', 'le2', 'le3_mu', 'ld1', 'ld2', 'ld3'), ('le1', 'le2', 'le3', 'ld1', 'ld2', 'ld3'))


def activation_of(model, default):
    """Return the name of a model's activation, that in net.py if it has one there.

    Args:
        model (Chain): The model.
        default (str): Its name where the model has no `act_func`.
    """
    act_func = getattr(model, 'act_func', None)
    if act_func is None:
        return default
    names = [name for name, function in net.ACTIVATIONS.items() if function is act_func]
    return names[0] if names else getattr(act_func, '__name__', 'unnamed')


def digest(tree):
    """Return 12 hexadecimal digits that stand for a piece of code, without its docstrings."""
    def plain(node):
        if isinstance(node, list):
            return [plain(item) for item in node]
        if not isinstance(node, ast.AST):
            return repr(node)
        if isinstance(node, DOCUMENTED) and ast.get_docstring(node) is not None:
            del node.body[0]
        # empty fields are left out, as newer Pythons have more of them
        return [type(node).__name__, *((name, plain(value)) for name, value in
                                       ast.iter_fields(node) if value not in (None, []))]

    return hashlib.sha256(repr(plain(tree)).encode()).hexdigest()[:12]


@functools.lru_cache(maxsize=1)
def written(made):
    """Return what net.py's file says, read at most once for each import of it.

    Args:
        made (type): `net.VAE`, which is another after a reload.

    Returns:
        tuple: Digests of the methods by name, as `VAE.encode`, and of the code around them; the
        code objects of the methods, as this text gives them. Both empty where it cannot be read.
    """
    try:
        text = inspect.getsource(net)
        tree, whole = ast.parse(text), compile(text, 'net.py', 'exec')
    except (OSError, SyntaxError):
        return {}, {}
    digests, codes = {}, {}
    for node in tree.body:
        if isinstance(node, ast.ClassDef):
            methods = [item for item in node.body if isinstance(item, ast.FunctionDef)]
            digests |= {f'{node.name}.{method.name}': digest(method) for method in methods}
            node.body = [item for item in node.body if item not in methods]
    for outer in whole.co_consts:
        for code in getattr(outer, 'co_consts', ()):
            codes |= {code.co_qualname: code} if isinstance(code, types.CodeType) else {}
    return digests | {OUTSIDE: digest(tree)}, codes


written(net.VAE)                # now, as long as the file says what was imported


def notes_of_net():
    """Return what a run notes of the net.py that runs: what tells an edit of a method from another.

    Returns:
        dict: As the first of `written`, whose digests all versions of Python share. A method that
        the file has otherwise by now gets a digest of its code; then what is no method is left out.
        Empty where there is no file.
    """
    digests, codes = written(net.VAE)
    if not digests:
        return {}
    running = {f'{made.__name__}.{name}': getattr(method, '__func__', method)
               for made in vars(net).values()
               if isinstance(made, type) and made.__module__ == net.__name__
               for name, method in vars(made).items()}
    running = {name: original.essence(function.__code__) for name, function in running.items()
               if isinstance(function, types.FunctionType)}
    is_written = {name: name in codes and original.essence(codes[name]) == does
                  for name, does in running.items()}
    found = {name: hashlib.sha256(repr(does).encode()).hexdigest()[:12]
             for name, does in running.items() if not is_written[name]}
    return {name: digest for name, digest in (digests | found).items()
            if not found or name in running}


def closure_of(function):
    """Return what a function has from the one that made it, by name."""
    return {name: cell.cell_contents for name, cell in zip(
        function.__code__.co_freevars, function.__closure__ or (), strict=True)}


def given_to_loss(function, model):
    """Return the arguments by name, where a function is what `model.get_loss_func` returns.

    Returns:
        dict: `self`, and `C` and `k` as far as the function uses them. Empty where it is another,
        which may keep count of its calls, say.
    """
    code = getattr(function, '__code__', None)
    maker = getattr(getattr(model, 'get_loss_func', None), '__code__', None)
    if code is None or maker is None or code not in maker.co_consts:
        return {}
    given = closure_of(function)
    is_same = function.__globals__ is model.get_loss_func.__func__.__globals__
    return given if given.get('self') is model and is_same else {}


def describe_loss(function, model):
    """Return in words which loss of a model a function is: `negative ELBO, beta = 4, k = 2`."""
    words = [words for made, words in LOSSES.items()
             if original.is_same(model.get_loss_func, made.get_loss_func)]
    if not words:
        return 'of an edited get_loss_func'
    given = given_to_loss(function, model)
    if not given:
        return 'of an edited train_vae.py'
    C, k = (given.get(name, 1) for name in 'Ck')
    weight = f'{C:g}' if isinstance(C, (int, float)) else 'what train_vae.py says'
    return words[0] + f', beta = {weight}' * (weight != '1') + f', k = {k}' * (k != 1)


def path_of(model):
    """Return the names of the layers that a digit goes through."""
    return PATHS[not hasattr(model, 'le3_mu')]


def sizes_of(model):
    """Return the sizes of a model as settings, dim_h and dim_z; of other layers, nothing.

    They are its own, whatever the flags say.
    """
    shapes = [getattr(getattr(getattr(model, name, None), 'W', None), 'shape', None)
              for name in path_of(model)[:3:2]]
    if not all(shape and len(shape) == 2 for shape in shapes):
        return {}
    return {'dim_h': shapes[0][0], 'dim_z': shapes[1][0]}


def describe_layers(model):
    """Return the sizes of a model's layers in words, as 784-500-500-20-500-500-784.

    Where it has others than a VAE and an autoencoder have, only the number of its weights.
    """
    path = path_of(model)
    shapes = [getattr(getattr(getattr(model, name, None), 'W', None), 'shape', None)
              for name in path]
    links = {name.split('/')[1] for name, _ in model.namedparams()}
    if (links - {'le3_ln_var'} != {*path} or not all(shape and len(shape) == 2 for shape in shapes)
            or any(before[0] != after[1] for before, after in itertools.pairwise(shapes))):
        return f'{sum(param.size for param in model.params()):,} weights'
    return '-'.join(str(size) for size in [*(shape[1] for shape in shapes), shapes[-1][0]])


def describe_optimizer(optimizer):
    """Return in words which optimizer this is: `Adam`, `Adam(alpha=0.01)`, `Adam with WeightDecay`.

    Args:
        optimizer (chainer.Optimizer): Before its first step; or the multi-node one around it.
    """
    optimizer = getattr(optimizer, 'actual_optimizer', optimizer)
    own = getattr(optimizer, 'hyperparam', None)
    try:
        usual = type(optimizer)().hyperparam.get_dict()
    except (TypeError, AttributeError):     # which cannot be made without arguments, or has none
        usual = {}
    given = ', '.join(f'{name}={value}' for name, value in (own.get_dict() if own else {}).items()
                      if np.isscalar(value) and value != usual.get(name))
    hookable = optimizer._hookable
    hooks = ', '.join([*hookable._pre_update_hooks, *hookable._post_update_hooks])
    return (type(optimizer).__name__ + f'({given})' * bool(given)
            + f' with {hooks}' * bool(hooks))


def check_activation(settings, model, path, mend='use it with the net.py that trained it'):
    """Make sure that a model is of the activation that a run had.

    Args:
        settings (dict): Of the run, as from `snapshot.read_settings`.
        model (VAE): As today's net.py makes it by them.
        path (str): The snapshot that the settings come from, for the message.
        mend (str): What helps where it is not, for the message.

    Raises:
        snapshot.SnapshotError: If it is of another.
    """
    had = settings['activation']
    now = activation_of(model, had)
    if now != had:
        lacks = '' if had in net.ACTIVATIONS else ', whose ACTIVATIONS lack it'
        raise snapshot.SnapshotError(f'{path} was trained with the activation {had}, and this '
                                     f'net.py has {now}{lacks}; {mend}')


def warn_of_edits(settings, path):
    """Say on stderr what of net.py is not as it was when a run was trained.

    Args:
        settings, path: As for `check_activation`.
    """
    noted, now = settings['methods'], notes_of_net()
    edited = [name for name in sorted({*noted, *now}) if noted.get(name) != now.get(name)
              and (name != OUTSIDE or {name} <= noted.keys() & now.keys())]
    if noted and now and edited:
        print(command.printable(
            f'warning: {path} was trained by a net.py that differs in {", ".join(edited)}; this '
            'one may make something else of it'), file=sys.stderr)


def check_optimizer(had, now, path):
    """Make sure that a run goes on by an optimizer of the same kind, whose state a snapshot has.

    Args:
        had, now (dict): Settings, of the snapshot and of this run.
        path (str): The snapshot, for the message.

    Raises:
        SnapshotError: If it does not.
    """
    kinds = [re.findall(r'^\w+|\w+=True', of['optimizer']) for of in (had, now)]
    if kinds[0] and kinds[0] != kinds[1]:
        raise snapshot.SnapshotError(
            f'{path} was trained by {had["optimizer"]}, and train_vae.py has {now["optimizer"]}; '
            'use it with the train_vae.py that trained it, or start a run from its weights, with '
            '-m')


def both(noted):
    """Return what a run notes that goes on by another net.py: all texts that each method had."""
    now = notes_of_net()
    return noted | {name: ', '.join(sorted({*str(noted.get(name, text)).split(', '), text}))
                    for name, text in now.items()}


def load_weights(path, model, activation):
    """Start `model` from the weights in a snapshot, or in an npz of a model alone.

    Args:
        path (str): The file.
        model (VAE): The model to fill.
        activation (str): Name of its activation, where the model does not tell.

    Raises:
        snapshot.SnapshotError: If it cannot be read, or has those of another model.
    """
    arrays = snapshot.read(path)
    snapshot.load_model(arrays, model, path, 'give --dim-z and --dim-h as that model was trained, '
                                             'or use the net.py that trained it')
    if snapshot.SETTINGS_KEY in arrays:
        settings = snapshot.read_settings(arrays, path)
        had = settings['activation']
        mend = f'give --activation {had}, or ' if had in net.ACTIVATIONS else ''
        check_activation(settings, model, path, mend + 'use the net.py that trained it')
        warn_of_edits(settings, path)
