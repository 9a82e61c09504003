"""The computational graph as a picture, made more legible than as Chainer writes it.

`net.draw_graph` gives a graph in Graphviz's DOT language, which cg.dot keeps. For graph.png its
parameters get their names, functions that change nothing go, encoder and decoder get a frame, and
all labels the font of the other figures; Graphviz does the rest. A graph is `labels`, a dict from
each node's number to its label, and `edges`, a set of pairs of numbers.
"""

import collections
import hashlib
import re
import shutil
import subprocess

from support.base import files
from support.figures import pictures

NOTHING = ('_ * 1.0', '_ + 0', '_ / 1.0', '_ - 0')     # functions that change nothing
PNG = b'\x89PNG'           # how such a file begins
FRAMES = {'encoder': ('le', 'enc'), 'decoder': ('ld', 'dec')}   # how their layers' names begin
HEAD = """\
digraph {
  graph [rankdir=TB, nodesep=0.1, ranksep=0.2, fontname="DejaVu Sans", fontsize=13, dpi=96]
  node [fontname="DejaVu Sans", fontsize=10, style=filled, color="#666666", height=0.3, width=0.5,
        margin="0.05,0.03"]
  edge [arrowsize=0.6, color="#444444"]
"""


def parse(dot):
    """Return the labels and edges of a graph in Chainer's DOT, and which nodes are functions."""
    labels = dict(re.findall(r'(\d+) \[label="(.*?)"', dot))
    edges = set(re.findall(r'(\d+) -> (\d+)', dot))
    functions = set(re.findall(r'(\d+) \[[^]]*shape="(?:record|box)"', dot))
    return labels, edges, functions


def neighbours(edges, nodes, forward):
    """Return the nodes next to some, along the edges or against them."""
    return ({b for a, b in edges if a in nodes} if forward
            else {a for a, b in edges if b in nodes})


def reached(edges, nodes, forward):
    """Return these nodes and all that can be reached from them."""
    nodes = set(nodes)
    while more := neighbours(edges, nodes, forward) - nodes:
        nodes |= more
    return nodes


def without_nothing(labels, edges, functions):
    """Return labels and edges without functions that change nothing, and what goes into those."""
    labels, edges = dict(labels), set(edges)
    for function in sorted(functions):
        before = neighbours(edges, {function}, forward=False)
        after = neighbours(edges, {function}, forward=True)
        if labels[function] not in NOTHING or len(before) != 1 or len(after) != 1:
            continue
        (old,), (new,) = before, after
        if ': ' in labels[old]:                     # it has a name: then the other one goes
            old, new = new, old
        if ': ' in labels[old]:
            continue
        edges = {tuple(new if node == old else node for node in edge) for edge in edges
                 if function not in edge}
        del labels[function], labels[old]
    return labels, edges


def framed(edges, params):
    """Return the nodes of a part of the model: between its parameters, and what those make."""
    layers = neighbours(edges, params, forward=True)
    within = reached(edges, params, True) & reached(edges, layers, False)
    return params | within | neighbours(edges, layers, forward=True)


def ordered(labels, edges):
    """Return the nodes in an order that is the same each time, whatever their numbers."""
    before, after = ({node: sorted(neighbours(edges, {node}, forward)) for node in labels}
                     for forward in (False, True))
    keys = {}                                       # of each node, by all that goes into it

    def key(node):
        if node not in keys:
            keys[node] = digest(labels[node], *sorted(map(key, before[node])))
        return keys[node]

    marks = {node: key(node) for node in labels}    # and by all around it, for those alike
    kinds = collections.Counter(marks.values())
    while len(kinds) < len(labels):
        marks = {node: digest(marks[node], *(' '.join(sorted(map(marks.get, near)))
                                             for near in (before[node], after[node])))
                 for node in labels}
        known, kinds = len(kinds), collections.Counter(marks.values())
        if known == len(kinds) < len(labels):       # as of two samples of z: one is made the first
            alike = (node for node in labels if kinds[marks[node]] > 1)
            marks[min(alike, key=marks.get)] += ' first'
            kinds = collections.Counter(marks.values())
    depths = {node: len(reached(edges, {node}, False)) for node in labels}
    return sorted(labels, key=lambda node: (depths[node], keys[node], marks[node]))


def digest(*texts):
    """Return a short text that stands for some."""
    return hashlib.md5('|'.join(texts).encode()).hexdigest()


def tidy(label):
    """Return a label in two lines, without the type that all have: le1/W, (500, 784)."""
    label = re.sub(r',? ?float(16|32|64)$', '', label).removesuffix(':')
    return label.replace(': ', r'\n') or 'scalar'


def draw(dot, names):
    """Return a graph in DOT, to be drawn.

    Args:
        dot (str): The graph in Chainer's DOT.
        names (dict): Of parameters, as le1/W, by the number of their node, a str.

    Returns:
        str: The same for the same graph, although Chainer's order and numbers change.
    """
    labels, edges, functions = parse(dot)
    labels, edges = without_nothing(labels, edges, functions)
    for node, name in names.items():
        if node in labels:
            labels[node] = f'{name}: {labels[node].partition(": ")[2]}'

    order = ordered(labels, edges)
    number = {node: f'n{i}' for i, node in enumerate(order)}
    lines = []
    for node in order:
        color = '#3f90da' if node in functions else '#e3effa' if node in names else '#eeeeee'
        shape = ('box, fontcolor=white' if node in functions else
                 'box, style="filled,rounded"' if node in names else 'octagon')
        lines.append(f'  {number[node]} [label="{tidy(labels[node])}", shape={shape}, '
                     f'fillcolor="{color}"]')
    lines += sorted(f'  {number[a]} -> {number[b]}' for a, b in edges)
    for title, prefixes in FRAMES.items():
        params = {node for node in labels if names.get(node, '').startswith(prefixes)}
        inside = ' '.join(sorted(number[node] for node in framed(edges, params)))
        lines.append(f'  subgraph cluster_{prefixes[0]} {{ label="{title}"; labeljust=l; '
                     f'color="#3f90da"; penwidth=1.5; style=rounded; {inside} }}')
    return HEAD + '\n'.join(lines) + '\n}\n'


def names_of(model):
    """Return the names of a model's parameters by the numbers that Chainer's DOT gives them."""
    return {str(id(param.node)): name.lstrip('/') for name, param in model.namedparams()}


def save(dot, names, path):
    """Write a graph as PNG; `dot` and `names` as for `draw`.

    Raises:
        FigureError: If Graphviz is not there, or does not run.
    """
    if not shutil.which('dot'):
        raise pictures.FigureError('needs Graphviz: apt install graphviz, brew install graphviz, '
                                   'or https://graphviz.org/download')
    try:
        done = subprocess.run(['dot', '-Tpng'], input=draw(dot, names).encode(),
                              capture_output=True, check=False)
        picture, cause = done.stdout, done.stderr.decode(errors='replace')
        is_drawn = done.returncode == 0 and picture.startswith(PNG)
    except OSError as error:
        is_drawn, cause = False, str(error)
    if not is_drawn:
        raise pictures.FigureError('needs Graphviz, which does not run here '
                                   f'({" ".join(cause.split())[:200]}); install it anew')
    with files.replacing(path) as file:
        file.write(picture)
