"""Model, loss and optimizer of a run in words, and where its net.py, by digests, is not today's."""

import ast
import functools
import hashlib
import inspect
import itertools
import numbers
import sys

from support.run import original, snapshot  # lets chainer import

import numpy as np

import net

ELBO, SQUARED_ERROR = 'negative ELBO', 'squared error'
LOSSES = {original.VAE: ELBO, original.Autoencoder: SQUARED_ERROR}
OUTSIDE = 'code outside the classes'
# layers of a digit's way, of the VAE and of the autoencoder
PATHS = (('le1', 'le2', 'le3_mu', 'ld1', 'ld2', 'ld3'), ('le1', 'le2', 'le3', 'ld1', 'ld2', 'ld3'))


def activation_of(model, default):
    """Return the name of a model's `act_func`, as net.py has it; the default where it has none."""
    act_func = getattr(model, 'act_func', None)
    if act_func is None:
        return default
    return next((name for name, function in net.ACTIVATIONS.items() if function is act_func),
                getattr(act_func, '__name__', 'unnamed'))


def digest(tree):
    """Return 12 hexadecimal digits that stand for a piece of code, without its docstrings."""
    def plain(node):
        if isinstance(node, list):
            return [plain(item) for item in node]
        if not isinstance(node, ast.AST):
            return repr(node)
        if isinstance(node, (ast.FunctionDef, ast.ClassDef, ast.Module)) and (
                ast.get_docstring(node) is not None):
            del node.body[0]
        # empty fields are left out, as newer Pythons have more of them, and digests must not differ
        return [type(node).__name__, *((name, plain(value)) for name, value in
                                       ast.iter_fields(node) if value not in (None, []))]

    return hashlib.sha256(repr(plain(tree)).encode()).hexdigest()[:12]


@functools.lru_cache(maxsize=1)
def digests_of_net(made):
    """Do what `notes_of_net` does, once for each import of net.py, which makes its class `made`."""
    try:
        tree = ast.parse(inspect.getsource(net))
    except (OSError, SyntaxError):
        return {}
    classes, digests = [node for node in tree.body if isinstance(node, ast.ClassDef)], {}
    tree.body = [node for node in tree.body if node not in classes]
    for node in classes:
        methods = [item for item in node.body if isinstance(item, ast.FunctionDef)]
        digests |= {f'{node.name}.{method.name}': digest(method) for method in methods}
        node.body = [item for item in node.body if item not in methods]
        digests[node.name] = digest(node)
    return digests | {OUTSIDE: digest(tree)}


def notes_of_net():
    """Return digests of net.py's code by name: of methods, of the rest of classes, `OUTSIDE`."""
    return dict(digests_of_net(net.VAE))


notes_of_net()                  # now, as long as the file says what was imported


def closure_of(function):
    """Return what a function has from the one that made it, by name."""
    return {name: cell.cell_contents for name, cell in zip(
        function.__code__.co_freevars, function.__closure__ or (), strict=True)}


def given_to_loss(function, model):
    """Return `self`, and `C` and `k` if used, of a function that `model.get_loss_func` returned.

    Of any other function, which may keep count of its calls, say, the dict is empty.
    """
    code = getattr(function, '__code__', None)
    maker = getattr(getattr(model, 'get_loss_func', None), '__code__', None)
    if code is None or maker is None or code not in maker.co_consts:
        return {}
    given = closure_of(function)
    is_same = function.__globals__ is model.get_loss_func.__func__.__globals__
    return given if given.get('self') is model and is_same else {}


def describe_loss(function, model):
    """Return which loss of a model a function is, in words, and its C if that is a number."""
    words = [words for made, words in LOSSES.items()
             if original.is_same(model.get_loss_func, made.get_loss_func)]
    given = given_to_loss(function, model)
    if not words or not given:
        return 'of an edited ' + ('train_vae.py' if words else 'get_loss_func'), None
    C, k = (given.get(name, 1) for name in 'Ck')
    is_number = isinstance(C, numbers.Real)
    weight = f'{C:g}' if is_number else 'what train_vae.py says'
    return (words[0] + f', beta = {weight}' * (weight != '1') + f', k = {k}' * (k != 1),
            float(C) if is_number and words[0] == ELBO else None)


def shapes_of(model):
    """Return the shapes of the weights that a digit goes through, (out, in); None of others."""
    shapes = [getattr(getattr(getattr(model, name, None), 'W', None), 'shape', None)
              for name in PATHS[not hasattr(model, 'le3_mu')]]
    return shapes if all(shape and len(shape) == 2 for shape in shapes) else None


def sizes_of(model):
    """Return a model's own dim_h and dim_z as a dict; of other layers, an empty one."""
    shapes = shapes_of(model)
    return {'dim_h': shapes[0][0], 'dim_z': shapes[2][0]} if shapes else {}


def describe_layers(model):
    """Return the sizes of layers, as 784-500-500-20-500-500-784, or the number of weights."""
    shapes, links = shapes_of(model), {name.split('/')[1] for name, _ in model.namedparams()}
    if (not shapes or links - {'le3_ln_var'} not in map(set, PATHS)
            or any(before[0] != after[1] for before, after in itertools.pairwise(shapes))):
        return f'{sum(param.size for param in model.params()):,} weights'
    return '-'.join(str(size) for size in [*(shape[1] for shape in shapes), shapes[-1][0]])


def describe_optimizer(optimizer):
    """Return in words which optimizer this is, as `Adam(alpha=0.01) with WeightDecay`."""
    optimizer = getattr(optimizer, 'actual_optimizer', optimizer)       # in ChainerMN's
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


def check_activation(had, model, path, mend='use it with the net.py that trained it'):
    """Raise a SnapshotError if a run, by its settings, had another activation than a model."""
    now = activation_of(model, had.activation)
    if now != had.activation:
        lacks = '' if had.activation in net.ACTIVATIONS else ', whose ACTIVATIONS lack it'
        raise snapshot.SnapshotError(f'{path} was trained with the activation {had.activation}, '
                                     f'and this net.py has {now}{lacks}; {mend}')


def warn_of_edits(had, path):
    """Say on stderr which code of a run's model is another in today's net.py."""
    noted, now = had.methods, notes_of_net()
    own = 'Autoencoder' if had.autoencoder else 'VAE', OUTSIDE
    edited = [name for name in sorted(noted.keys() & now.keys())
              if noted[name] != now[name] and name.split('.')[0] in own]
    if edited:
        print(f'warning: {path} was trained by a net.py that differs in {", ".join(edited)}; with '
              'this one its results may be others', file=sys.stderr)


def joined(noted):
    """Return the digests that a resumed run notes: those of the earlier net.py and of this one."""
    return noted | {name: ', '.join(sorted({*str(noted.get(name, text)).split(', '), text}))
                    for name, text in notes_of_net().items()}


def load_weights(path, model):
    """Start `model` from a snapshot, or from an npz of a model alone.

    Raises:
        snapshot.SnapshotError: If it cannot be read, or holds another model.
    """
    arrays = snapshot.read(path)
    snapshot.load_model(arrays, model, path, 'give --dim-z and --dim-h as that model was trained, '
                                             'or use the net.py that trained it')
    if snapshot.SETTINGS_KEY in arrays:
        had = snapshot.read_settings(arrays, path)
        mend = f'give --activation {had.activation}, or ' * (had.activation in net.ACTIVATIONS)
        check_activation(had, model, path, mend + 'use the net.py that trained it')
        warn_of_edits(had, path)
