"""Chainer under compat.py: it imports, it is quiet, and nothing else of NumPy changes."""

import subprocess
import sys

from support import compat  # noqa: F401  (lets chainer import)

import chainer
import chainer.functions as F
from conftest import ROOT
import numpy as np
import pytest


def python(code, *flags):
    """Run code in a fresh interpreter in the project's folder; return its stdout, stderr."""
    run = subprocess.run([sys.executable, *flags, '-c', code], capture_output=True, text=True,
                         timeout=120, check=False, cwd=ROOT)
    assert run.returncode == 0, run.stderr
    return run.stdout, run.stderr


@pytest.mark.slow
def test_import_is_quiet_even_when_chainer_is_compiled_anew(tmp_path):
    # a cache of bytecode elsewhere makes Python compile Chainer, and find its invalid escapes
    out, err = python('from support import compat; import chainer; print(chainer.__version__)',
                      '-W', 'always', '-X', f'pycache_prefix={tmp_path}')
    assert (out, err) == ('7.8.1\n', '')


def test_import_needs_neither_pkg_resources_nor_distutils_and_changes_nothing_that_numpy_has():
    out, _ = python('import sys, warnings\n'
                    'for name in ("pkg_resources", "distutils", "numpy.distutils"):\n'
                    '    sys.modules[name] = None\n'
                    'import numpy as np\n'
                    'before, filters = dict(vars(np)), warnings.filters[:]\n'
                    'from support import compat; import chainer\n'
                    'print([key for key in before if vars(np).get(key) is not before[key]],'
                    '      warnings.filters == filters)')
    assert out == '[] True\n'


def test_what_chainer_asks_of_sctypes_works():
    x = chainer.Variable(np.arange(6, dtype=np.float32))
    y = F.as_strided(x, (2, 3), (1, 1))             # overlapping windows 0 1 2 and 1 2 3
    assert y.array.tolist() == [[0, 1, 2], [1, 2, 3]]
    y.grad = np.ones((2, 3), np.float32)
    y.backward()
    assert x.grad.tolist() == [1, 2, 2, 1, 0, 0]
