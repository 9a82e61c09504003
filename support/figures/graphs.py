"""The computational graph as a picture that is easier to read than what Chainer writes.

In here a graph is `labels`, a dict from each node's number to its label, and `edges`, a set of
pairs of numbers. `net.draw_graph` gives it in Graphviz's DOT, as in cg.dot.
"""

import functools
import hashlib
import re
import subprocess

from support.base import files
from support.figures import pictures

NOTHING = ('_ * 1.0', '_ + 0', '_ / 1.0', '_ - 0')     # functions that change nothing
NOISE = 'ε ~ N(0, I)'      # what `Gaussian` draws itself; Chainer's graph lacks it
PNG = b'\x89PNG'           # the first bytes of such a file
FRAMES = {'encoder': ('le', 'enc'), 'decoder': ('ld', 'dec')}   # how names of their layers begin
HEAD = """\
digraph {
  graph [rankdir=TB, nodesep=0.1, ranksep=0.2, fontname="DejaVu Sans", fontsize=13, dpi=96]
  node [fontname="DejaVu Sans", fontsize=10, style=filled, color="#666666", height=0.3, width=0.5,
        margin="0.05,0.03"]
  edge [arrowsize=0.6, color="#444444"]
"""


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
    """Return labels and edges without functions that change nothing, and without their inputs."""
    for function in sorted(functions):
        before = neighbours(edges, {function}, forward=False)
        after = neighbours(edges, {function}, forward=True)
        if labels[function] not in NOTHING or len(before) != 1 or len(after) != 1:
            continue
        (old,), (new,) = before, after
        if ': ' in labels[old]:                     # it has a name: remove the other one
            old, new = new, old
        if ': ' in labels[old]:
            continue
        edges = {tuple(new if node == old else node for node in edge) for edge in edges
                 if function not in edge}
        del labels[function], labels[old]
    return labels, edges


def ordered(labels, edges):
    """Return the nodes, inputs before what they go into, in an order that no number decides."""
    before = {node: neighbours(edges, {node}, forward=False) for node in labels}
    after = {node: neighbours(edges, {node}, forward=True) for node in labels}
    order = {}                          # a dict, as it keeps its order

    def key_by(near):
        @functools.cache
        def key(node):
            text = '|'.join([labels[node], *sorted(map(key, near[node]))])
            return hashlib.md5(text.encode(), usedforsecurity=False).hexdigest()
        return key

    def visit(node):                    # nodes that are alike are followed one by one
        for each in sorted(before[node] - order.keys(), key=rank):
            visit(each)
        order[node] = True

    inputs, outputs = key_by(before), key_by(after)
    rank = functools.cache(lambda node: (inputs(node), outputs(node)))
    for node in sorted(labels, key=rank):
        if not after[node]:
            visit(node)
    return sorted(order, key=lambda node: len(reached(edges, {node}, False)))


def name_means(labels, edges, functions):
    """Return labels in which factors say that they make means, over digits and draws of z."""
    batch = re.search(r'\bx: \((\d+)', ' '.join(labels.values()))
    named = dict(labels)
    for node in functions & labels.keys():
        after = neighbours(edges, neighbours(edges, {node}, True), True)
        factor = re.fullmatch(r'_ \* ([\d.e-]+)', labels[node])
        if batch and factor and float(factor[1]) and not any(
                labels[other].startswith('_ * ') for other in after):      # this one is C
            draws, rest = divmod(round(1 / float(factor[1])), int(batch[1]))
            if draws and not rest:
                named[node] += rf'\nmean over {batch[1]} digits' + (
                    f' and {draws} draws of z' if draws > 1 else '')
    return named


def readable(dot, model):
    """Return the DOT that Graphviz draws, the same whatever order and numbers Chainer gives."""
    functions = set(re.findall(r'(\d+) \[[^]]*shape="(?:record|box)"', dot))
    names = {str(id(param.node)): name.lstrip('/') for name, param in model.namedparams()}
    labels, edges = without_nothing(dict(re.findall(r'(\d+) \[label="(.*?)"', dot)),
                                    set(re.findall(r'(\d+) -> (\d+)', dot)), functions)
    for node, name in names.items():
        if node in labels:
            labels[node] = f'{name}: {labels[node].partition(": ")[2]}'
    labels = name_means(labels, edges, functions)
    draws = {node for node in functions & labels.keys() if labels[node] == 'Gaussian'}
    labels |= {f'noise {node}': NOISE for node in draws}
    edges |= {(f'noise {node}', node) for node in draws}

    order = ordered(labels, edges)
    number = {node: f'n{i}' for i, node in enumerate(order)}
    lines = []
    for node in order:
        color = ('#3f90da' if node in functions else '#e3effa' if node in names else
                 '#ffe3bf' if labels[node] == NOISE else '#eeeeee')
        shape = ('box, fontcolor=white' if node in functions else
                 'box, style="filled,rounded"' if node in names else 'octagon')
        label = re.sub(r',? ?float(16|32|64)$', '', labels[node]).removesuffix(':')
        label = label.replace(': ', r'\n') or 'scalar'          # all have the same type
        lines.append(f'  {number[node]} [label="{label}", shape={shape}, fillcolor="{color}"]')
    lines += sorted(f'  {number[a]} -> {number[b]}' for a, b in edges)
    for title, prefixes in FRAMES.items():
        params = {node for node in labels if names.get(node, '').startswith(prefixes)}
        layers = neighbours(edges, params, forward=True)
        inside = (params | neighbours(edges, layers, forward=True)
                  | reached(edges, params, True) & reached(edges, layers, False))
        inside = ' '.join(sorted(number[node] for node in inside))
        lines.append(f'  subgraph cluster_{prefixes[0]} {{ label="{title}"; labeljust=l; '
                     f'color="#3f90da"; penwidth=1.5; style=rounded; {inside} }}')
    return HEAD + '\n'.join(lines) + '\n}\n'


def save(dot, model, path):
    """Write the graph of a model's loss as PNG. FigureError if Graphviz fails."""
    try:
        picture = subprocess.run(['dot', '-Tpng'], input=readable(dot, model).encode(),
                                 capture_output=True, check=True).stdout
        cause = ''
    except (OSError, subprocess.CalledProcessError) as error:
        picture, cause = b'', str(error)
        if isinstance(error, subprocess.CalledProcessError):
            cause = error.stderr.decode(errors='replace')
    if not picture.startswith(PNG):
        raise pictures.FigureError(
            'needs Graphviz: apt install graphviz, brew install graphviz, or '
            f'https://graphviz.org/download (here: {" ".join(cause.split())[:200]})')
    with files.replacing(path) as file:
        file.write(picture)
