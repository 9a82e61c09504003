"""The pages: what they link to, name and tell to run is there."""

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


def test_each_function_is_there():
    text = '\n\n'.join(re.sub(r'\]\([^)]*\)', ']', prose(page)) for page in PAGES)
    # "`a` and `b` in `c.py`", or "c.py, `a`, which does this, and `b`" to the end of the clause
    found = re.findall(r'((?:`[\w.]+`(?:, | and ))*`[\w.]+`)\s+in\s+`[\w/]+\.py`', text)
    found += re.findall(r'[\w/]+\.py[\]`]*, ((?:(?!\.py|\. |;|\||\n\n).)*)', text, re.S)
    names = re.findall(r'`([A-Za-z_][\w.]*)(?:\([^`]*\))?`', ' '.join(found))
    words = {*re.findall(r'\w+', ' '.join(map(read, CODE)))}
    lacking = [name for name in names if not re.search(r'\.(png|gif|html|md|py)$|_N$', name)
               and not words.issuperset(name.split('.'))]
    assert (len(names) > 50, lacking) == (True, [])


def test_each_edit_can_be_made():
    edits = re.findall(r'change\s+`([^`]+)`\s+into', read(COMPANION))
    assert len(edits) >= 3
    for old in edits:
        assert 1 in [read(path).count(old) for path in CODE if not path.startswith('tests')], old
