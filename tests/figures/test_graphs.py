"""The graph of the loss as a picture: its names, what goes, its frames."""

import os
import re

from support.figures import graphs, pictures  # lets chainer import

import numpy as np
import pytest
from shown import InParts

import net


@pytest.fixture(scope='module')
def model():
    return net.VAE(784, 2, 5)


def drawn(model, C=1.0, k=1):
    """Return labels by number, edges, and the labels within each frame, of the drawn graph."""
    dot = net.draw_graph(model, np.zeros((10, 784), np.float32), C, k)
    text = graphs.readable(dot, model)
    labels = dict(re.findall(r'(n\d+) \[label="(.*?)"', text))
    edges = set(re.findall(r'(n\d+) -> (n\d+)', text))
    frames = {title: {labels[node] for node in re.findall(r'n\d+', inside)} for title, inside
              in re.findall('subgraph .*label="(.*?)".*?style=rounded; (.*?) }', text)}
    return labels, edges, frames


def test_every_parameter_has_its_name(model):
    labels, _, _ = drawn(model)
    wanted = {rf'{name.lstrip("/")}\n({", ".join(map(str, param.shape))})'
              for name, param in model.namedparams()}
    assert wanted < set(labels.values())
    for name in ('x', 'enc_h1', 'enc_h2', 'z_mu', 'z_ln_var', 'z', 'dec_h1', 'dec_h2', 'dec_h3',
                 'reconstruction error', 'latent loss', 'loss'):
        assert [label.split(r'\n')[0] for label in labels.values()].count(name) == 1
    assert not [label for label in labels.values() if 'float' in label or 'W:' in label]


@pytest.mark.parametrize('C, k, left', [(1, 1, []), (2, 1, ['_ * 2']), (1, 3, [])])
def test_what_changes_nothing_goes_and_the_graph_stays_whole(model, C, k, left):
    labels, edges, _ = drawn(model, C, k)
    for label in graphs.NOTHING:
        assert label not in labels.values()
    assert [label for label in labels.values() if label.startswith('_ * 2')] == left
    ends = [node for node in labels if node not in {a for a, _ in edges}]
    assert [labels[node] for node in ends] == ['loss']
    starts = {labels[node] for node in labels if node not in {b for _, b in edges}}
    assert starts == {label for label in labels.values() if '/' in label} | {
        r'x\n(10, 784)', graphs.NOISE}
    assert sum(label == graphs.NOISE for label in labels.values()) == k
    assert {labels[b] for a, b in edges if labels[a] == graphs.NOISE} == {'Gaussian'}
    assert {node for edge in edges for node in edge} == set(labels)


@pytest.mark.parametrize('C, k, means', [
    (0.1, 1, ['_ * 0.1', r'_ * 0.1\nmean over 10 digits', r'_ * 0.1\nmean over 10 digits']),
    (1, 2, 2 * [r'_ * 0.05\nmean over 10 digits and 2 draws of z'] + [
        r'_ * 0.1\nmean over 10 digits'])])
def test_means_are_named_and_a_weight_is_not(model, C, k, means):
    labels, _, _ = drawn(model, C, k)
    assert sorted(label for label in labels.values() if re.match(r'_ \* 0\.[01]', label)) == means


def test_encoder_and_decoder_are_framed(model):
    _, _, frames = drawn(model)
    params = {'encoder': 'le', 'decoder': 'ld'}
    assert frames.keys() == params.keys()
    for title, prefix in params.items():
        assert {label[:2] for label in frames[title] if '/' in label} == {prefix}
    names = {title: {label.split(r'\n')[0] for label in frame} for title, frame in frames.items()}
    assert {'enc_h1', 'enc_h2', 'z_mu', 'z_ln_var'} < names['encoder']
    assert {'dec_h1', 'dec_h2', 'dec_h3'} < names['decoder']
    assert not (names['encoder'] | names['decoder']) & {'x', 'z', 'loss', 'Gaussian'}


def test_chains_of_their_own_are_framed_as_in_training():
    model = InParts(784, 2, 5)
    labels, _, frames = drawn(model)
    assert {'Dropout', 'BatchNormalization'} <= set(labels.values())    # and not the fixed one
    for title in ('encoder', 'decoder'):
        names = {label.split(r'\n')[0] for label in frames[title] if '/' in label}
        assert names == {name[1:] for name, _ in model.namedparams() if name[1:].startswith(title)}
    assert 'z_mu' not in labels.values()


@pytest.mark.parametrize('k', [1, 3])
def test_the_same_graph_gives_the_same_picture_whatever_its_numbers_and_their_order(model, k):
    dot = net.draw_graph(model, np.zeros((10, 784), np.float32), 1.0, k)
    head, *lines = re.split(r'(?<=;)', dot.removesuffix('}'))
    params = {str(id(param.node)) for param in model.params()}
    nodes = [*{*re.findall(r'(\d+) \[label', dot)} - params]
    rng, texts = np.random.RandomState(0), set()
    for _ in range(5):
        text = head + ''.join(rng.permutation(lines)) + '}'
        for node, number in zip(nodes, rng.permutation(len(nodes)), strict=True):
            text = text.replace(node, f'9999{number}')
        texts.add(graphs.readable(text, model))
    assert len(texts) == 1


def test_a_named_variable_stays_where_what_follows_it_goes():
    labels, edges = graphs.without_nothing(
        {'1': 'a: float32', '2': '_ + 0', '3': 'float32', '4': 'exp', '5': 'b: float32'},
        {('1', '2'), ('2', '3'), ('3', '4'), ('4', '5')}, {'2', '4'})
    assert labels == {'1': 'a: float32', '4': 'exp', '5': 'b: float32'}
    assert edges == {('1', '4'), ('4', '5')}


@pytest.mark.skipif(os.name != 'posix', reason='needs a POSIX shell')
@pytest.mark.parametrize(('script', 'cause'), [
    ('/bin/sh\nexit 0', 'here: )'), ('/bin/sh\necho no fonts >&2; exit 1', 'no fonts'),
    ('/bin/sh\nprintf "%01000000d" 0 >&2; exit 1', '000)'), ('/no/such/shell', 'No such file')])
def test_a_graphviz_that_fails_is_told_in_one_short_line(tmp_path, monkeypatch, model, script,
                                                         cause):
    (tmp_path / 'dot').write_text(f'#!{script}\n')
    (tmp_path / 'dot').chmod(0o755)
    monkeypatch.setenv('PATH', str(tmp_path))
    with pytest.raises(pictures.FigureError, match='needs Graphviz: apt install') as caught:
        graphs.save('digraph {}', model, str(tmp_path / 'graph.png'))
    assert cause in str(caught.value)
    assert len(str(caught.value)) < 350
    assert not (tmp_path / 'graph.png').exists()
