"""explorer.html: a run's own encoder and decoder in one HTML file, for a browser without a network.

The folder page/ has the page's parts, which are joined here; its net.js computes what net.py does.
The weights go along as float16, of which the browser needs no more: their bytes, first all low ones
and then all high ones, are deflated, and written in base64. Shapes in the comments: N digits, D =
784 pixels, H hidden units, Z latent dimensions.
"""

import ast
import base64
import hashlib
import inspect
import json
import os
import re
import textwrap
import zlib

from support.base import files
from support.figures import evidence, pictures, plots, training
from support.run import losses, original

from chainer.backends import cuda
import chainer.functions as F
import chainer.links as L
from matplotlib.colors import to_hex
import numpy as np

import net

LINKS = 'le1', 'le2', 'le3_mu', 'le3_ln_var', 'ld1', 'ld2', 'ld3'      # whose weights it has
MOST = 2000             # test digits that the page has
PAGE = os.path.join(os.path.dirname(__file__), 'page')
SCRIPTS = tuple(f'{name}.js' for name in (
    'net', 'plane', 'pad', 'digit', 'sheet', 'graph', 'run', 'epochs', 'explorer'))
ACTIVATIONS = {F.softplus: 'softplus', F.tanh: 'tanh', F.relu: 'relu'}      # that net.js has


def save(model, digits, path, run):
    """A page to play with the latent space in a browser (sections 1-2, 2 and 3).

    Args:
        model (VAE): The model.
        digits (mnist.Digits): The digits of the run.
        path (str): The file.
        run (dict): Settings of the run, as from `sources.read_run`.

    Raises:
        pictures.FigureError: If net.py computes what the page does not.
    """
    why = unlike_page(model)
    if why:
        raise pictures.FigureError(f'the page computes what net.py did when both were written, but '
                                   f'{why}; the other figures show what it does now')
    places = pictures.spaced_places(len(digits.test), MOST)
    x, labels = digits.test[places], digits.test_labels[places]
    codes = pictures.encode(model, x)                                       # (N, Z)
    with np.errstate(all='ignore'):
        kl = evidence.kl_to_prior(*evidence.infer(model, digits.test)).mean(axis=0)
    if not (np.isfinite(kl).all() and np.isfinite(codes).all()):
        raise pictures.FigureError('the model encodes these digits as numbers that are not finite; '
                                   'train it on digits like them')
    arrays = {f'{link}/{param}': cuda.to_cpu(getattr(getattr(model, link), param).array)
              for link in LINKS for param in ('W', 'b')} | {'codes': codes}
    packed, listed = as_halves(arrays)
    classes = np.unique(labels)
    about = {
        'name': os.path.basename(os.path.dirname(os.path.abspath(path))),
        'activation': ACTIVATIONS[model.act_func], 'arrays': listed,
        'labels': labels.tolist(), 'classes': classes.tolist(),
        'colors': [to_hex(color) for color in plots.CLASS_COLORS],
        'components': components(codes), 'kl': kl.tolist(), 'kl_digits': len(digits.test),
        'beta': run['beta'], 'settings': in_words(run),
        'log': curves(run['log'], run.get('kl_weight', run['beta'])), 'source': source()}
    about['record'], record = training.for_page(digits, run)
    with files.replacing(path) as file:
        file.write(page(about, packed, record,
                        np.round(x * 255).astype(np.uint8).tobytes()).encode())


# What the page can show -------------------------------------------------------------------------


def unlike_page(model):
    """Say in what a model differs from the one that net.js computes; '' where it does not."""
    edited = original.edited(model)
    if edited:
        return f'{edited[0]} is edited'
    for name in LINKS:
        link = getattr(model, name, None)
        if type(link) is not L.Linear or link.b is None:
            return f'{name} is no plain Linear'
    if model.act_func not in ACTIVATIONS:
        return f'its activation is {getattr(model.act_func, "__name__", "another")}'
    return ''


def components(codes):
    """Return the two principal components of codes (N, Z), (2, Z); None where Z is at most 2."""
    return None if codes.shape[1] < 3 else plots.principal(codes)[0].tolist()


def curves(log, C):
    """Return [epoch, training loss, test loss] of each row of a log that has them.

    As the test loss is, the training loss is made the negative ELBO, whatever C weighed in it.
    Where C is None, as `losses.kl_weight` has it, there are no two curves of one quantity.
    """
    found = losses.curves(log, C)
    rows = np.stack([losses.column(log, 'epoch'), found['main/loss'],
                     found['validation/main/loss']], axis=1)                # (rows, 3)
    return [] if C is None else rows[np.isfinite(rows).all(axis=1)].tolist()


def in_words(run):
    """Return the settings of a run as the page lists them: pairs of a name and a value.

    A page is passed on, so that of files it has the names alone, without their folders.
    """
    name = {'mnist': 'MNIST', 'digits': 'the digits of scikit-learn'}[run['dataset']]
    folder = run['data_dir'] and os.path.basename(os.path.abspath(run['data_dir']))
    known = {
        'digits': f'the digits in the folder {folder}' if folder else name,
        'latent dimensions': run['dim_z'], 'hidden units': run['dim_h'],
        'activation': run['activation'], 'pixels rounded': 'to 0 or 1' if run['binary'] else None,
        'minibatch': run['batch_size'], 'weight of the KL, beta': f'{run["beta"]:g}',
        'samples of z, k': run['k'],
        'seed': run.get('seed'), 'snapshot': os.path.basename(run['path'])}
    return [[name, str(value)] for name, value in known.items() if value is not None]


def source():
    """Return, for each variable that net.py names, the lines of net.py that compute it.

    Those are the lines after the name before it, down to the one that gives the name.

    Returns:
        dict: By name of the variable: the method, the number of its first line, and the text.
    """
    found = {}
    for method in (net.VAE.encode, net.VAE.decode, net.VAE.get_loss_func):
        lines, first = inspect.getsourcelines(method)
        body = ast.parse(textwrap.dedent(''.join(lines))).body[0].body
        start = body[0].end_lineno                              # after the docstring
        for end, line in enumerate(lines, 1):
            name = re.search(r"\.name = '(.+?)'", line)
            if name:
                start += max((i for i, line in enumerate(lines[start:end])
                              if line.lstrip().startswith('def ')), default=0)
                text = textwrap.dedent(''.join(lines[start:end])).strip('\n')
                text = re.sub(r'(\S) +#', r'\1  #', text)        # comments nearer, for a phone
                found[name[1]] = {
                    'method': method.__qualname__, 'line': first + start, 'text': text}
                start = end
    return found


# The file ---------------------------------------------------------------------------------------


def as_halves(arrays):
    """Pack arrays as float16, each divided by its largest number, so that none overflows.

    Returns:
        tuple: bytes, first the low one of each number and then the high one of each, in the order
        of the arrays; a list that tells name, shape and scale of each.
    """
    scales = {name: float(np.abs(array).max()) or 1.0 for name, array in arrays.items()}
    halves = np.concatenate([(array / scales[name]).astype('<f2').ravel()
                             for name, array in arrays.items()])
    listed = [{'name': name, 'shape': array.shape, 'scale': scales[name]}
              for name, array in arrays.items()]
    return halves.view(np.uint8).reshape(-1, 2).T.tobytes(), listed


def page(about, weights, record, pixels):
    """Return explorer.html, of a dict for its JSON and three strings of bytes.

    Only the one script and the one style that are in it may run, and nothing may be fetched: a
    Content-Security-Policy of their hashes says so. JSON has no <, so that no text ends its
    element.
    """
    style, *scripts = map(part, ('page.css', *SCRIPTS))
    script = '\n'.join(scripts)
    parts = {
        'policy': f"default-src 'none'; img-src data:; script-src {digest(script)}; "
                  f'style-src {digest(style)}',
        'files': ', '.join(SCRIPTS), 'style': style, 'script': script,
        'run': json.dumps(about, allow_nan=False).replace('<', '\\u003c'),
        'weights': deflated(weights), 'record': deflated(record), 'pixels': deflated(pixels)}
    return re.sub(r'\{\{(\w+)\}\}', lambda name: parts[name[1]], part('page.html'))


def part(name):
    """Return the text of a file in page/."""
    with open(os.path.join(PAGE, name), encoding='utf-8') as file:
        return file.read()


def digest(text):
    """Return what a Content-Security-Policy calls a script or style by."""
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


def deflated(content):
    """Return bytes, deflated, in base64."""
    return base64.b64encode(zlib.compress(content, 9)).decode()
