"""The house as a whole: who imports whom, how long the files are, snapshots of earlier code."""

import ast
import json
import os
import shutil
import subprocess
import sys

from support import mnist, snapshot

from conftest import ROOT
import numpy as np
import pytest

import net

OLD = os.path.join(os.path.dirname(__file__), 'data', 'snapshot_of_november_2026')
SCRIPTS = {'train_vae.py': 200, 'net.py': 210, 'xavier.py': 50, 'visualize.py': 550}
SUPPORT = sorted(name for name in os.listdir(os.path.join(ROOT, 'support'))
                 if name.endswith('.py'))


def imports(path):
    """Return what a file of the house imports of it, lazily or not: as net or support.files."""
    with open(os.path.join(ROOT, path)) as file:
        tree = ast.parse(file.read())
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module == 'support':
            found |= {f'support.{alias.name}' for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            found.add(node.module)
    ours = {name.removesuffix('.py') for name in SCRIPTS}
    return {name for name in found if name in ours or name.startswith('support.')}


def test_nothing_in_support_imports_a_script_but_net():
    scripts = {name.removesuffix('.py') for name in SCRIPTS} - {'net'}
    assert {name: imports(f'support/{name}') & scripts for name in SUPPORT} == {
        name: set() for name in SUPPORT}
    assert imports('net.py') == {'support.compat', 'xavier'}
    assert imports('xavier.py') == {'support.compat'}


def test_imports_go_in_no_circle():
    left = {f'support.{name.removesuffix(".py")}': imports(f'support/{name}') for name in SUPPORT}
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


def test_an_old_snapshot_gives_its_outputs():
    arrays = snapshot.read(OLD)
    settings = snapshot.read_settings(arrays, OLD)
    assert (settings['dim_z'], settings['dim_h'], settings['trained_by']) == (2, 4, 'fast')
    model = net.VAE(784, 2, 4, net.ACTIVATIONS[settings['activation']])
    snapshot.load_model(arrays, model, OLD)
    digits = mnist.get_digits('digits')
    assert model.encode(digits.test[:1])[0].array == pytest.approx(
        np.array([[-1.1250123, 0.73488086]]), rel=1e-5)
    np.random.seed(1)
    assert float(model.get_loss_func()(digits.test[:100]).array) == pytest.approx(
        517.21484375, rel=1e-6)


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
