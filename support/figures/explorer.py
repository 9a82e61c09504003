"""explorer.html: encoder and decoder of a run in one HTML file, for a browser without a network.

The folder page/ has its parts; net.js computes what net.py does. Weights are stored as float16,
which is enough for a picture: first the low bytes of all, then the high bytes, deflated, in base64.
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

LINKS = 'le1', 'le2', 'le3_mu', 'le3_ln_var', 'ld1', 'ld2', 'ld3'      # whose weights it needs
POINTS = 2000           # test digits in the page
PAGE = os.path.join(os.path.dirname(__file__), 'page')
SCRIPTS = tuple(f'{name}.js' for name in (
    'net', 'plane', 'pad', 'digit', 'sheet', 'graph', 'run', 'epochs', 'explorer'))
ACTIVATIONS = {F.softplus: 'softplus', F.tanh: 'tanh', F.relu: 'relu'}      # that net.js has


def save(model, digits, path, run):
    """A page to play with in a browser (1-2, 2, 3)."""
    links = {name: getattr(model, name, None) for name in LINKS}
    odd = [f'{name} is edited' for name in original.edited(model)] + [
        f'{name} is no plain Linear layer' for name, link in links.items()
        if type(link) is not L.Linear or link.b is None]
    act_func = getattr(model, 'act_func', None)
    if act_func not in ACTIVATIONS:
        odd.append(f'its activation is {getattr(act_func, "__name__", "another")}')
    if odd:
        raise pictures.FigureError(f'the page shows net.py only as it came, and {odd[0]}; the '
                                   'other figures show the edited model')
    x, labels = pictures.spaced(digits, POINTS)
    codes = pictures.encode(model, x)                                       # (N, Z)
    kl = evidence.kl_to_prior(*evidence.infer(model, digits.test)).mean(axis=0)
    arrays = {f'{name}/{param}': cuda.to_cpu(getattr(link, param).array)
              for name, link in links.items() for param in ('W', 'b')} | {'codes': codes}
    packed, listed = as_halves(arrays)
    C = run.get('kl_weight', run['beta'])
    log = [] if C is None else run['log']       # which does not tell the negative ELBO then
    found = losses.curves(log, C)
    rows = np.stack([losses.column(log, 'epoch'), found['main/loss'],
                     found['validation/main/loss']], axis=1)                # (rows, 3)
    about = {
        'name': os.path.basename(os.path.dirname(os.path.abspath(path))),
        'activation': ACTIVATIONS[act_func], 'arrays': listed,
        'labels': labels.tolist(), 'classes': np.unique(labels).tolist(),
        'colors': [to_hex(color) for color in plots.CLASS_COLORS],
        'components': plots.principal(codes)[0].tolist() if codes.shape[1] > 2 else None,
        'kl': kl.tolist(), 'kl_digits': len(digits.test),
        'beta': run['beta'], 'settings': in_words(run),
        'log': rows[np.isfinite(rows).all(axis=1)].tolist(), 'source': source(),
        'collapse': losses.collapse(run['log'])}
    about['record'], record = training.for_page(digits, run)
    with files.replacing(path) as file:
        file.write(page(about, packed, record,
                        np.round(x * 255).astype(np.uint8).tobytes()).encode())


def in_words(run):
    """Return names and values of a run's settings. A page may be passed on: it names no folders."""
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
    """Return, by name of a variable, the lines of net.py that compute it: method, number, text.

    They begin after the lines of the variable before, and end where this one gets its name.
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


def as_halves(arrays):
    """Pack arrays as float16, each divided by its largest number; list names, shapes, scales."""
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
    def part(name):
        with open(os.path.join(PAGE, name), encoding='utf-8') as file:
            return file.read()

    def in_base64(content):
        return base64.b64encode(content).decode()

    def hash_of(text):
        return f"'sha256-{in_base64(hashlib.sha256(text.encode()).digest())}'"

    style, script = part('page.css'), '\n'.join(map(part, SCRIPTS))
    parts = {
        'policy': f"default-src 'none'; img-src data:; script-src {hash_of(script)}; "
                  f'style-src {hash_of(style)}',
        'files': ', '.join(SCRIPTS), 'style': style, 'script': script,
        'run': json.dumps(about, allow_nan=False).replace('<', '\\u003c')} | {
        name: in_base64(zlib.compress(content, 9)) for name, content in (
            ('weights', weights), ('record', record), ('pixels', pixels))}
    return re.sub(r'\{\{(\w+)\}\}', lambda name: parts[name[1]], part('page.html'))
