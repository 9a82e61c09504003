"""The pages: what they link to, name and tell to run is there."""

import ast
import contextlib
import glob
import os
import re
import shlex

from support.run import options  # noqa: F401  (lets chainer import)

from conftest import ROOT
import pytest

import train_vae
import visualize

PAGES = sorted(os.path.relpath(path, ROOT) for part in ('', 'results', 'support')
               for path in glob.glob(os.path.join(ROOT, part, '*.md')))
COMPANION = os.path.join('results', 'README.md')
CODE = sorted(os.path.relpath(path, ROOT) for part in ('*.py', 'support/**/*.py', 'tests/**/*.py')
              for path in glob.glob(os.path.join(ROOT, part), recursive=True))
RUN = {'loss.png'}          # what a run draws
ARTICLES = {                # figures by the article's names
    'scatter.png', 'network.png', 'download-2.png', 'vae_0to7_dim_2.gif', 'vae_all_9to9.gif',
    'swiss_roll.gif', '2D_swiss_roll.png'}
OTHERS = {'--no-build-isolation', '--logdir', '-hosts', '-f', '--map-by'}   # of pip, mpiexec, ...


def read(path):
    with open(os.path.join(ROOT, path), encoding='utf-8') as file:
        return file.read()


def prose(page):
    return re.sub(r'^```.*?^```$', '', read(page), flags=re.M | re.S)


def spans(page):
    return re.findall(r'`([^`\n]+)`', prose(page))


def anchors(page):
    """Return the anchors that GitHub gives to the headings of a page."""
    headings = re.findall(r'^#+ (.+)$', prose(page), re.M)
    return {re.sub(r'[^\w\- ]', '', heading.lower()).replace(' ', '-') for heading in headings}


@pytest.mark.parametrize('page', PAGES)
def test_each_link_leads_somewhere(page):
    links = re.findall(r'\]\(([^)]+)\)|(?:src|href)="([^"]+)"', prose(page))
    for link in map(''.join, links):
        if link.startswith('http'):
            continue
        path, _, anchor = link.partition('#')
        target = os.path.normpath(os.path.join(os.path.dirname(page), path)) if path else page
        assert os.path.exists(os.path.join(ROOT, target)), link
        assert not anchor or anchor in anchors(target), link


def commands(page):
    """Return the command lines of train_vae.py and visualize.py on a page."""
    blocks = re.findall(r'^```(?:sh|bash)\n(.*?)^```$', read(page), re.M | re.S)
    lines = [line for block in blocks for line in re.split(r'\n|&&', block)] + spans(page)
    words = [shlex.split(line, comments=True) for line in lines
             if re.search(r'python (train_vae|visualize)\.py', line)]
    return [each[each.index('python') + 1:] for each in words]


@pytest.mark.parametrize('page', PAGES)
def test_each_command_is_understood(page):
    for script, *flags in commands(page):
        with contextlib.suppress(SystemExit if '--help' in flags else ()):
            if script == 'train_vae.py':
                train_vae.build_parser().parse_args(flags)
            else:
                visualize.parse_arguments(flags)


def test_the_code_for_readers_of_a_snapshot_runs(cli, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert cli('--dataset', 'digits', '--test', '-z', '2', '--dim-h', '16', '-e', '1', '-o',
               'results/digits')[0] == 0
    code = re.findall(r'^```python\n(.*?)^```$', read('support/running.md'), re.M | re.S)[-1]
    exec(code, {})
    assert re.fullmatch(r'\[.+\] \d\n', capsys.readouterr().out)
    assert os.path.exists('mlp_2.model')


@pytest.mark.slow
@pytest.mark.parametrize('page', ['README.md', COMPANION])
def test_each_command_runs(cli, draw, tmp_path, monkeypatch, page):
    monkeypatch.chdir(tmp_path)
    done = []
    for script, *flags in commands(page):
        if '--help' in flags or (script, flags) in done:
            continue
        done.append((script, flags))
        short = ['--skip', 'tsne'] if flags[0] == '-o' else []
        if script == 'train_vae.py':
            short = ['-e', '2'] if '--resume' in flags else [
                '--dataset', 'digits', '--test', '-e', '1', '--dim-h', '16', '-b', '20']
        status, _, err = (cli if script == 'train_vae.py' else draw)(*flags, *short)
        assert (status, err) == (0, ''), (script, flags)


@pytest.mark.parametrize('page', PAGES)
def test_each_flag_is_there(page):
    source = '\n'.join(map(read, CODE))
    named = {flag for span in spans(page) if span.startswith('-')
             for flag in re.findall(r'(?<![^\s])--?[a-z][\w-]*', span)}
    for flag in named - OTHERS:
        assert re.search(rf"""['"]{flag}['"]""", source), flag


@pytest.mark.parametrize('page', PAGES)
def test_each_figure_is_there(page):
    gallery = set(os.listdir(os.path.join(ROOT, 'results', 'gallery')))
    known = {re.sub(r'\dto\d', '0to7', name) for name in
             {*visualize.FIGURES} | gallery | RUN | ARTICLES}
    for name in spans(page):
        if re.fullmatch(r'[\w-]+\.(png|gif|html)', name):
            assert re.sub(r'\dto\d', '0to7', name) in known, name


def test_the_companion_shows_every_figure():
    shown = re.sub(r'_z20|_9to9', '', read(COMPANION))
    for name in visualize.FIGURES:
        assert re.search(rf'\b{re.escape(os.path.splitext(name)[0])}\b', shown), name


def test_the_map_names_every_file():
    drawn = read(os.path.join('support', 'README.md'))
    for path in CODE:
        if path.startswith('support') and not path.endswith('__init__.py'):
            assert f'`{os.path.basename(path)}`' in drawn, path


def names_in(tree):
    """Return the names in code: `name`, `object.name`, and of classes also `Class.name`."""
    names = set()
    for node in ast.walk(tree):
        names |= {getattr(node, kind) for kind in ('name', 'arg', 'id', 'attr')
                  if isinstance(getattr(node, kind, None), str)}
        if isinstance(node, ast.Attribute):
            names.add(ast.unparse(node))
        if isinstance(node, ast.ClassDef):
            names |= {f'{node.name}.{name}' for part in node.body for name in names_in(part)}
    return names


def named(page):
    """Return the functions that a page names, each with its file: pairs of clause and file."""
    text = re.sub(r'\]\([^)]*\)', ']', prose(page))
    # "`a` and `b` in `c.py`"
    before = r'((?:`[\w.]+`(?:, | and ))*`[\w.]+`)\s+in\s+`([\w/]+\.py)`'
    found = re.findall(before, text)
    text = re.sub(before, '', text)
    # "c.py, `a`, which does this, and `b`", up to the end of the clause
    after = r'([\w/]+\.py)[\]`]*, ((?:(?!\.py|\. |;|\||\n\n).)*)'
    return found + [(clause, file) for file, clause in re.findall(after, text, re.S)]


def test_each_function_is_there():
    count = 0
    for page in PAGES:
        for clause, file in named(page):
            paths = [path for path in CODE if ('/' + path).endswith('/' + file)]
            assert paths, f'{page} names {file}'
            known = set().union(*(names_in(ast.parse(read(path))) for path in paths))
            for name in re.findall(r'`([A-Za-z_][\w.]*)(?:\([^`]*\))?`', clause):
                if not re.search(r'^self\.|\.(png|gif|html|md)$|_N$', name):
                    assert name in known, f'{page}: {file}, {name}'
                    count += 1
    assert count > 50


def test_each_edit_can_be_made():
    edits = re.findall(r'change\s+`([^`]+)`\s+into', read(COMPANION))
    assert len(edits) >= 3
    for old in edits:
        assert 1 in [read(path).count(old) for path in CODE if not path.startswith('tests')], old
