"""Chainer under compat.py: it imports, it is quiet, and nothing else of NumPy changes."""

import contextlib
import os
import subprocess
import sys
import threading
from types import SimpleNamespace

from support import compat
from support.base import devices
from support.run import observe

import chainer
import chainer.functions as F
import chainer.links as L
from conftest import ROOT
import joblib
import numpy as np
import pytest
import threadpoolctl


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


def test_import_needs_neither_pkg_resources_nor_distutils():
    python('import sys\n'
           'for name in ("pkg_resources", "distutils", "numpy.distutils"):\n'
           '    sys.modules[name] = None\n'
           'from support import compat; import chainer')


def test_nothing_that_numpy_has_is_changed():
    out, _ = python('import warnings; warnings.simplefilter("ignore")\n'
                    'import numpy as np\n'
                    'before = dict(vars(np))\n'
                    'had = hasattr(np, "sctypes")\n'
                    'from support import compat\n'
                    'changed = [k for k in before if vars(np).get(k) is not before[k]]\n'
                    'added = set(vars(np)) - set(before)\n'
                    'print(changed, "sctypes" in added, had)')
    changed, added, had = out.rsplit(maxsplit=2)
    assert changed == '[]'
    assert added != had


def test_warning_filters_are_the_users():
    out, _ = python('import warnings\nbefore = warnings.filters[:]\nimport numpy\n'
                    'mid = warnings.filters[:]\nfrom support import compat\n'
                    'print(warnings.filters[:] == mid)')
    assert out == 'True\n'


@pytest.mark.parametrize('dtype', [np.float16, np.float32, np.float64])
def test_what_chainer_asks_of_sctypes_works(dtype):
    x = chainer.Variable(np.arange(6, dtype=dtype))
    y = F.as_strided(x, (2, 3), (1, 1))             # overlapping windows 0 1 2 and 1 2 3
    assert y.array.tolist() == [[0, 1, 2], [1, 2, 3]]
    y.grad = np.ones((2, 3), dtype)
    y.backward()
    assert x.grad.tolist() == [1, 2, 2, 1, 0, 0]


def test_the_cpu_is_chainers_numpy_device():
    assert devices.get_device(-1).xp is np


@pytest.mark.parametrize(('may_use', 'taken', 'left'), [(1, 2, 1), (64, 1, 1), (64, 2, 2)])
def test_blas_takes_no_more_threads_than_it_may_use_or_did(monkeypatch, may_use, taken, left):
    monkeypatch.setattr(joblib, 'cpu_count', lambda: may_use)   # what a container's quota leaves
    blas = threadpoolctl.ThreadpoolController().select(user_api='blas')
    with blas.limit(limits=taken):
        devices.get_device(-1)
        assert {library['num_threads'] for library in blas.info()} == {left}


class FakeRuntime:
    """Stands in for cupy.cuda.runtime on a machine with CuPy and so many GPUs."""

    class CUDARuntimeError(Exception):
        pass

    def __init__(self, count):
        self.count = count

    def getDeviceCount(self):
        if not self.count:
            raise self.CUDARuntimeError('no driver')
        return self.count


@pytest.mark.parametrize('count, gpu, message', [
    (0, 0, r'CuPy finds no GPU \(no driver\); .*pip install "cupy-cuda13x'),
    (1, 1, 'the last GPU here has the number 0'), (2, 7, 'the last GPU here has the number 1')])
def test_a_gpu_that_is_not_there(monkeypatch, count, gpu, message):
    cupy = SimpleNamespace(cuda=SimpleNamespace(runtime=FakeRuntime(count)))
    monkeypatch.setattr(compat.cuda, 'available', True)
    monkeypatch.setattr(compat.cuda, 'cupy', cupy)
    with pytest.raises(devices.DeviceError, match=f'--gpu {gpu}: {message}') as error:
        devices.get_device(gpu)
    assert '\n' not in str(error.value)


@pytest.mark.parametrize('cause', [
    "No module named 'cupy'",
    '\n====\nFailed to import CuPy.\nOriginal error:\n  ImportError: libcuda.so.1\n====\n'])
def test_a_gpu_without_cupy(monkeypatch, cause):
    monkeypatch.setattr(compat.cuda, 'available', False)
    monkeypatch.setattr(compat.cuda, '_resolution_error', ImportError(cause), raising=False)
    with pytest.raises(devices.DeviceError) as error:
        devices.get_device(0)
    needed = cause.strip('\n= ').splitlines()[-1].strip()
    assert str(error.value).startswith(f'--gpu 0 needs CuPy ({needed}): pip install "cupy-cuda13x')
    assert '\n' not in str(error.value)


@pytest.mark.parametrize('script', compat.COMMANDS)
def test_a_missing_package_is_one_line_that_names_the_environment(script):
    run = subprocess.run([sys.executable, '-S', '-E', script], capture_output=True, text=True,
                         check=False, cwd=ROOT)             # without site-packages
    assert (run.returncode, run.stdout) == (2, '')
    assert run.stderr == (
        f"{script}: error: No module named 'numpy'; activate the virtual environment "
        '(. .venv/bin/activate), which the first command of README.md makes\n')


@pytest.mark.parametrize(('source', 'cause'), [
    ('try:\n    import no_such\nexcept ImportError as error:\n'
     '    raise ImportError("\\n\\nREAD THIS!\\n") from error', "No module named 'no_such'"),
    ('raise ImportError', 'ImportError')])
def test_a_damaged_package_is_one_line(tmp_path, source, cause):
    (tmp_path / 'numpy.py').write_text(source)
    run = subprocess.run([sys.executable, 'train_vae.py'], capture_output=True, text=True,
                         check=False, cwd=ROOT, env={**os.environ, 'PYTHONPATH': str(tmp_path)})
    assert (run.returncode, run.stdout) == (2, '')
    assert run.stderr == (f'train_vae.py: error: {cause}; install it anew, by the first command of '
                          'README.md\n')


@pytest.mark.skipif(not os.path.exists('/dev/full'), reason='needs /dev/full')
@pytest.mark.parametrize(('script', 'redirection', 'status', 'said'), [
    ('train_vae.py', '> /dev/full', 2, '{}: error: [Errno 28] No space left on device\n'),
    ('visualize.py', '| true', 141, '')])
def test_help_that_nobody_can_read(script, redirection, status, said):
    wait = 'sleep 0.5; ' if '|' in redirection else ''
    run = subprocess.run(
        ['bash', '-c', f'({wait}exec "$0" {script} --help) {redirection}; exit ${{PIPESTATUS[0]}}',
         sys.executable], capture_output=True, text=True, check=False, cwd=ROOT,
        env={name: text for name, text in os.environ.items() if name != 'PYTHONUNBUFFERED'})
    assert (run.returncode, run.stdout, run.stderr) == (status, '', said.format(script))


@pytest.mark.parametrize('script', compat.COMMANDS)
def test_too_little_address_space_is_one_line(script):
    resource = pytest.importorskip('resource', reason='needs POSIX')
    run = subprocess.run(
        [sys.executable, script], capture_output=True, text=True, check=False, cwd=ROOT, timeout=60,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_AS, (700 << 20, 700 << 20)))
    assert (run.returncode, run.stdout) == (2, '')
    assert run.stderr == (f'{script}: error: ulimit -v leaves 700 MB of address space; let it have '
                          '1024 MB or more\n')


@pytest.mark.parametrize(('name', 'text', 'message'), [
    ('CHAINER_DTYPE', 'float', 'incorrect dtype name in CHAINER_DTYPE: "float".'),
    ('CHAINER_DEBUG', 'x', 'invalid literal')])
def test_what_chainer_cannot_read_is_one_line(name, text, message):
    run = subprocess.run([sys.executable, 'train_vae.py'], capture_output=True, text=True,
                         check=False, cwd=ROOT, env={
                             key: value for key, value in os.environ.items()
                             if not key.startswith('CHAINER_')} | {name: text})
    assert (run.returncode, run.stdout) == (2, '')
    assert run.stderr.startswith(f'train_vae.py: error: {message}')
    assert run.stderr.endswith(f"; mend Chainer's environment variables: {name}\n")
    assert run.stderr.count('\n') == 1


@pytest.mark.parametrize('dtype', [np.float16, np.float64, chainer.mixed16])
def test_another_dtype_than_float32_is_refused(cli, draw, tmp_path, dtype):
    with chainer.using_config('dtype', dtype):
        for command in (cli, draw):
            status, out, err = command('-o', tmp_path / 'run')
            assert (status, out, err.count('\n')) == (2, '', 1)
            assert 'error: CHAINER_DTYPE asks for other numbers than float32' in err
    assert not (tmp_path / 'run').exists()


@pytest.mark.slow
def test_python_without_docstrings_is_refused():
    script = 'visualize.py'
    run = subprocess.run([sys.executable, '-OO', script, '--help'], capture_output=True, text=True,
                         check=False, cwd=ROOT)
    assert (run.returncode, run.stdout) == (2, '')
    assert run.stderr == (f'{script}: error: python -OO drops the docstrings that --help shows; '
                          'take -O, or neither\n')


def test_a_missing_package_is_an_error_to_those_who_import():
    run = subprocess.run([sys.executable, '-S', '-E', '-c', 'from support import compat'],
                         capture_output=True, text=True, check=False, cwd=ROOT)
    assert run.returncode == 1
    assert run.stderr.splitlines()[-1] == "ModuleNotFoundError: No module named 'numpy'"


# A model that is only looked at -------------------------------------------------------------------


class Busy(chainer.Chain):
    """A model whose call changes what it holds, in each way that there is."""

    def __init__(self):
        super().__init__()
        with self.init_scope():
            self.bn = L.BatchNormalization(3)
            self.layers = chainer.Sequential(L.BatchNormalization(3), F.relu)
        self.add_persistent('steps', 0)
        self.history, self.rng, self.lock = [], np.random.RandomState(0), threading.Lock()

    def __call__(self, x):
        self.steps += 1
        self.history.append(self.rng.normal() + np.random.normal())
        with self.lock:                                 # which cannot be copied
            self.loss = F.sum(self.layers(self.bn(x))) + self.history[-1]
        return self.loss


def held(model):
    """Return what a model holds, to be compared: numbers and arrays as text."""
    serializer = chainer.serializers.DictionarySerializer()
    model.serialize(serializer)
    return repr([serializer.target, model.history, model.rng.get_state(), np.random.get_state()])


@pytest.mark.parametrize('fails', [False, True])
def test_a_model_that_is_looked_at_stays_as_it_was(fails):
    model, x = Busy(), np.random.RandomState(1).normal(size=(5, 3)).astype(np.float32)
    model(x)
    before, own = held(model), {name: dict(vars(link)) for name, link in model.namedlinks()}
    nodes, seen = [id(param.node) for param in model.params()], []
    for _ in range(2):
        with contextlib.suppress(KeyError), observe.unchanged(model):
            seen.append(float(model(x).array))
            model.other = 1
            assert (model.steps, len(model.history)) == (2, 2)
            assert [id(param.node) for param in model.params()] == nodes    # as graphs name them
            if fails:
                raise KeyError
    assert held(model) == before
    for name, link in model.namedlinks():
        assert vars(link).keys() == own[name].keys()
        assert all(vars(link)[key] is value for key, value in own[name].items())
    assert seen == [float(model(x).array)] * 2
    assert held(model) != before
