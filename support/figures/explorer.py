"""explorer.html: encoder and decoder of a run in one HTML file, for a browser without a network.

The parts of the page are in the folder page/; its net.js computes what net.py does. Weights are
stored as float16, which is enough for a picture: first the low bytes of all, then the high bytes,
deflated, in base64. Shapes in the comments: N digits, D = 784 pixels, Z latent dimensions.
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
from support.data import mnist
from support.figures import evidence, pictures, plots, training
from support.run import losses, original

from chainer.backends import cuda
import chainer.functions as F
import chainer.links as L
from matplotlib.colors import to_hex
import numpy as np

import net

LINKS = 'le1', 'le2', 'le3_mu', 'le3_ln_var', 'ld1', 'ld2', 'ld3'      # whose weights it needs
MOST = 2000             # test digits in the page
PAGE = os.path.join(os.path.dirname(__file__), 'page')
SCRIPTS = tuple(f'{name}.js' for name in (
    'net', 'plane', 'pad', 'digit', 'sheet', 'graph', 'run', 'epochs', 'explorer'))
ACTIVATIONS = {F.softplus: 'softplus', F.tanh: 'tanh', F.relu: 'relu'}      # that net.js has


def save(model, digits, path, run):
    """A page to play with in a browser (1-2, 2, 3).

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
        raise pictures.FigureError(f'the page shows net.py only as it came, and {why}; the other '
                                   'figures show the edited model')
    places = mnist.spaced_places(len(digits.test), MOST)
    x, labels = digits.test[places], digits.test_labels[places]
    codes = pictures.encode(model, x)                                       # (N, Z)
    kl = evidence.kl_to_prior(*evidence.infer(model, digits.test)).mean(axis=0)
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
    about['collapse'] = losses.collapse(run['log'])
    about['record'], record = training.for_page(digits, run)
    with files.replacing(path) as file:
        file.write(page(about, packed, record,
                        np.round(x * 255).astype(np.uint8).tobytes()).encode())


# What the page can show -------------------------------------------------------------------------


def unlike_page(model):
    """Say how a model differs from the one that net.js computes; '' if it does not."""
    edited = original.edited(model)
    if edited:
        return f'{edited[0]} is edited'
    for name in LINKS:
        link = getattr(model, name, None)
        if type(link) is not L.Linear or link.b is None:
            return f'{name} is no plain Linear layer'
    if model.act_func not in ACTIVATIONS:
        return f'its activation is {getattr(model.act_func, "__name__", "another")}'
    return ''


def components(codes):
    """Return the two principal components of codes (N, Z), (2, Z); None if Z is 2 or less."""
    return None if codes.shape[1] < 3 else plots.principal(codes)[0].tolist()


def curves(log, C):
    """Return [epoch, training loss, test loss] of each row of a log that has them.

    Both are the negative ELBO, whatever weight C the KL had in training. If C is None, see
    `models.describe_loss`, the training loss cannot be brought to that: no curves.
    """
    found = losses.curves(log, C)
    rows = np.stack([losses.column(log, 'epoch'), found['main/loss'],
                     found['validation/main/loss']], axis=1)                # (rows, 3)
    return [] if C is None else rows[np.isfinite(rows).all(axis=1)].tolist()


def in_words(run):
    """Return the settings of a run as the page lists them: pairs of a name and a value.

    People pass a page on: it has the names of files, and not their folders.
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
    """Return, by name of a variable, the lines of net.py that compute it.

    They begin after the lines of the variable before, and end where this one gets its name. Of each
    there are the method, the number of the first line, and the text.
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
        tuple: bytes, the low ones of all numbers and then the high ones; a list of name, shape and
        scale of each array.
    """
    scales = {name: float(np.abs(array).max()) or 1.0 for name, array in arrays.items()}
    halves = np.concatenate([(array / scales[name]).astype('<f2').ravel()
                             for name, array in arrays.items()])
    listed = [{'name': name, 'shape': array.shape, 'scale': scales[name]}
              for name, array in arrays.items()]
    return halves.view(np.uint8).reshape(-1, 2).T.tobytes(), listed


def page(about, weights, record, pixels):
    """Return explorer.html, from a dict for its JSON, and the bytes of the three parts.

    A Content-Security-Policy lets only its own script and style run, by their hashes, and nothing
    be fetched. The JSON has no <, so no text can end its element.
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
    """Return the hash by which a Content-Security-Policy knows a script or style."""
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


def deflated(content):
    """Return bytes, deflated, in base64."""
    return base64.b64encode(zlib.compress(content, 9)).decode()
