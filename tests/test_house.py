"""The house as a whole: who imports whom, how long the files are, snapshots of earlier code."""

import ast
import json
import os
import shutil
import subprocess
import sys

from conftest import ROOT
import pytest

OLD = os.path.join(os.path.dirname(__file__), 'data', 'snapshot_of_november_2026')
SCRIPTS = {'train_vae.py': 200, 'net.py': 230, 'xavier.py': 50, 'visualize.py': 550}
BELOW = {               # a room: whom else it may import
    'base': {'compat'}, 'data': {'compat', 'base'}, 'run': {'compat', 'base', 'data', 'net'},
    'fast': {'compat', 'base', 'data', 'run', 'net'},
    'figures': {'compat', 'base', 'data', 'run', 'net'}}
FILES = {               # of support/, by how it is imported
    f'support.{room}.{name.removesuffix(".py")}': os.path.join('support', room, name)
    for room in BELOW for name in sorted(os.listdir(os.path.join(ROOT, 'support', room)))
    if name.endswith('.py') and name != '__init__.py'}


def imports(path):
    """Return what a file imports of the house, lazily or not: as net or support.base.files."""
    with open(os.path.join(ROOT, path)) as file:
        tree = ast.parse(file.read())
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            is_room = node.module.startswith('support') and node.module.count('.') < 2
            found |= {f'{node.module}.{alias.name}' for alias in node.names} if is_room else {
                node.module}
    ours = {name.removesuffix('.py') for name in SCRIPTS}
    return {name for name in found if name in ours or name.startswith('support.')}


def test_there_are_six_rooms():
    held = {name for name in os.listdir(os.path.join(ROOT, 'support')) if name[0] not in '._'}
    assert held == {*BELOW, 'compat.py', 'README.md', 'running.md'}


@pytest.mark.parametrize('name', FILES)
def test_a_room_imports_what_is_below_it(name):
    room = name.split('.')[1]
    rooms = {other.removeprefix('support.').split('.')[0] for other in imports(FILES[name])}
    assert rooms <= BELOW[room] | {room}


def test_the_article_imports_little():
    assert imports('net.py') == {'support.compat', 'xavier'}
    assert imports('xavier.py') == {'support.compat'}


def test_a_module_is_found_without_its_room_too():
    code = 'from support import mnist, snapshot; import support; support.no_such_module'
    ran = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True, check=False,
                         cwd=ROOT)
    assert ran.stderr.endswith('AttributeError: support has no no_such_module\n')


def test_imports_go_in_no_circle():
    left = {name: imports(path) for name, path in FILES.items()}
    left |= {name.removesuffix('.py'): imports(name) for name in SCRIPTS}
    while left:
        leaves = {name for name, needs in left.items() if not needs & left.keys()}
        assert leaves, f'a circle among {sorted(left)}'
        left = {name: needs for name, needs in left.items() if name not in leaves}


@pytest.mark.parametrize(('name', 'most'), SCRIPTS.items())
def test_no_script_is_long(name, most):
    with open(os.path.join(ROOT, name)) as file:
        assert len(file.readlines()) <= most


CHANGES = """\
import os, signal, sys, warnings
import matplotlib, numpy

def state():
    return [{name: str(value) for name, value in each.items()} for each in (
        {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)},
        dict(enumerate(warnings.filters)), os.environ, matplotlib.rcParams)]

before = state()
import net, train_vae, visualize
print([sorted(name for name in was.keys() | now.keys() if was.get(name) != now.get(name))
       for was, now in zip(before, state())])
"""


def test_an_import_changes_nothing_for_a_notebook():
    # signal handlers, warnings, environment and matplotlib
    env = {name: value for name, value in os.environ.items()
           if not name.startswith(('OMP_', 'KMP_', 'CHAINER_'))}
    ran = subprocess.run([sys.executable, '-c', CHANGES], capture_output=True, text=True,
                         check=False, cwd=ROOT, env={**env, 'MPLBACKEND': 'svg'})
    assert ran.stderr == ''
    signals, filters, variables, settings = json.loads(ran.stdout.replace("'", '"'))
    assert (signals, filters, settings) == ([], [], [])
    assert set(variables) <= {'CHAINER_CUDNN', 'KMP_DUPLICATE_LIB_OK'}      # threadpoolctl's own


# A snapshot that the code wrote before it moved into this house: z = 2, 4 hidden units --------


def test_an_old_snapshot_resumes_and_draws_as_before(cli, draw, tmp_path):
    (tmp_path / 'run').mkdir()
    shutil.copy(OLD, tmp_path / 'run' / 'snapshot_epoch_2')
    status, out, err = cli('--resume', '-e', '4', '-o', tmp_path / 'run')
    assert status == 0
    assert err == '' or 'was trained by the fast updater' in err        # where Numba is missing
    *_, third, fourth = json.loads((tmp_path / 'run' / 'log').read_text())
    for row, losses in ((third, (510.7073974609375, 502.5920715332031)),
                        (fourth, (496.24066162109375, 487.4753112792969))):
        assert (row['main/loss'], row['validation/main/loss']) == pytest.approx(losses, rel=1e-4)
    status, out, err = draw('reconstruction', 'map', '-o', tmp_path / 'run')
    assert (status, err) == (0, '')
    assert out.split() == [str(tmp_path / 'run' / name) for name in ('reconstruction.png',
                                                                     'map.png')]
