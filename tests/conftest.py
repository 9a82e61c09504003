"""What several test modules share: tiny digits, runs of them, and both command lines."""

import contextlib
import gzip
import io
import os
import shutil
import signal
import struct
import types

os.environ.pop('NUMBA_DISABLE_JIT', None)       # much of what is tested is what Numba compiles

from support.data import mnist  # lets chainer import
from support.run import extensions, models, original

import chainer
from chainer.backends import cuda
from hypothesis import HealthCheck, settings
import numpy as np
import pytest
import scipy.linalg  # noqa: F401  (whose BLAS has to be found below)
import threadpoolctl

import net
import train_vae
import visualize

settings.register_profile(
    'ours', max_examples=20, derandomize=True, database=None, deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow,
                           HealthCheck.large_base_example, HealthCheck.data_too_large])
settings.load_profile('ours')
for name in ('SIGHUP', 'SIGINT'):       # which nohup and a shell's & let everything below ignore
    if hasattr(signal, name):
        signal.signal(getattr(signal, name), signal.SIG_DFL if name == 'SIGHUP' else
                      signal.default_int_handler)
BLAS = threadpoolctl.ThreadpoolController().select(user_api='blas')
HAS_GPU = cuda.available and cuda.cupy.is_available()      # CuPy may be there without a GPU
ROOT = os.path.dirname(train_vae.__file__)
SMALL = ['--dim-h', '16', '-z', '2', '-b', '20', '-e', '2']


def needs_gpu(test):
    """Mark a test that needs CuPy and a GPU, or the one that an emulator stands in for."""
    skips = pytest.mark.skipif(not HAS_GPU, reason='needs CuPy and a GPU')
    return pytest.mark.gpu(skips(test))


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items):
    """Mark the tests that open a browser, which not every machine has."""
    for item in items:
        if {'chromium', 'browser'} & {*item.fixturenames}:
            item.add_marker('tools')


@pytest.fixture(autouse=True)
def no_world(tmp_path, monkeypatch):
    """Keep every test away from the user's dataset cache and from the network."""
    monkeypatch.setattr(mnist, 'MIRRORS', ('http://127.0.0.1:9/one/', 'http://127.0.0.1:9/two/'))
    root = chainer.dataset.get_dataset_root()
    chainer.dataset.set_dataset_root(str(tmp_path / 'cache'))
    yield
    chainer.dataset.set_dataset_root(root)


@pytest.fixture(autouse=True)
def all_threads():
    """Give BLAS the threads back that an updater keeps for itself, which a test left in mid-run."""
    with BLAS.limit(limits=None):
        yield


@pytest.fixture
def one_thread():
    """Leave BLAS one thread, as two workers draw at once: threads that wait take time, too."""
    with BLAS.limit(limits=1):
        yield


@pytest.fixture
def pictures():
    """Let a test have the picture of the losses."""


@pytest.fixture(autouse=True)
def no_picture(request, monkeypatch):
    """Leave that picture out elsewhere, as it takes more time than the run."""
    if 'pictures' not in request.fixturenames:
        monkeypatch.setattr(extensions, 'plot_losses', lambda trainer: None)


@pytest.fixture
def edit(monkeypatch):
    """Return a function that lets net.py run with another text, as if that had been imported."""
    def edit(old, new):
        other = types.ModuleType('net')
        exec(compile(edited(text, old, new), net.__file__, 'exec'), vars(other))
        for name in ('VAE', 'Autoencoder'):
            for key, value in vars(getattr(other, name)).items():
                had, is_method = vars(getattr(net, name)).get(key), isinstance(
                    value, types.FunctionType)
                # the others keep what `super()` goes by
                if not original.is_same(had, value) if is_method else not key.startswith('__'):
                    monkeypatch.setattr(getattr(net, name), key, value, raising=False)
        monkeypatch.setattr(models.inspect, 'getsource', lambda of: (
            edited(text, old, new) if of is net else source(of)))
        models.digests_of_net.cache_clear()

    source, text = models.inspect.getsource, models.inspect.getsource(net)
    yield edit
    monkeypatch.undo()
    models.digests_of_net.cache_clear()


def edited(text, old, new):
    """Return net.py's text with `new` for `old`: in class VAE and after it, if it is there."""
    start = max(0, text.find('class VAE('))
    start = start if old in text[start:] else 0
    assert old in text
    return text[:start] + text[start:].replace(old, new, 1)


def idx(array):
    head = struct.pack(f'>{1 + array.ndim}I', 0x0800 + array.ndim, *array.shape)
    return head + array.astype(np.uint8).tobytes()


def make_digits(n, seed):
    """Return n pictures (n, 28, 28) uint8, a bar of noise whose place its label tells."""
    rng = np.random.RandomState(seed)
    labels = np.arange(n) % 10
    pictures = np.zeros((n, 28, 28), np.uint8)
    for picture, label in zip(pictures, labels, strict=True):
        picture[4:24, 4 + 2 * label:6 + 2 * label] = rng.randint(1, 256, (20, 2))
    return pictures, labels.astype(np.uint8)


@contextlib.contextmanager
def open_chromium(*flags):
    """Open Chromium without a window, by Selenium, or skip the test where one is not there."""
    webdriver = pytest.importorskip('selenium.webdriver', reason='needs Selenium')
    browser = shutil.which('chromium') or shutil.which('google-chrome')
    driver = shutil.which('chromedriver')
    if not (browser and driver):
        pytest.skip('needs Chromium and its chromedriver')
    options = webdriver.ChromeOptions()
    options.binary_location = browser
    for flag in ('--headless=new', '--no-sandbox', '--disable-dev-shm-usage', *flags):
        options.add_argument(flag)
    options.set_capability('goog:loggingPrefs', {'browser': 'ALL', 'performance': 'ALL'})
    with webdriver.Chrome(options, webdriver.ChromeService(driver)) as chrome:
        yield chrome


@pytest.fixture(scope='session')
def idx_files():
    """Return the four IDX files of a tiny dataset: gzipped content by official name."""
    train, train_labels = make_digits(60, 0)
    test, test_labels = make_digits(30, 1)
    arrays = (train, train_labels, test, test_labels)
    return {name: gzip.compress(idx(array))
            for name, array in zip(mnist.SHA256, arrays, strict=True)}


@pytest.fixture
def data_dir(tmp_path, idx_files):
    return write_files(tmp_path / 'data', idx_files)


def write_files(folder, files):
    folder.mkdir()
    for name, content in files.items():
        (folder / name).write_bytes(content)
    return folder


@pytest.fixture
def cli(capsys):
    """Return a function that runs train_vae.py in this process: status, stdout, stderr."""
    return in_process(train_vae.cli, capsys)


@pytest.fixture
def draw(capsys):
    """Return a function that runs visualize.py in this process: status, stdout, stderr."""
    return in_process(visualize.cli, capsys)


def in_process(command, capsys):
    """Return a function of arguments that runs a command and tells status, stdout, stderr."""
    def run(*argv):
        capsys.readouterr()
        try:
            status = command([str(arg) for arg in argv])
        except SystemExit as end:
            status = end.code
        return status, *capsys.readouterr()
    return run


@pytest.fixture(scope='session')
def finished(tmp_path_factory, idx_files):
    """Return the folder of a finished run of two epochs, for all tests to share."""
    base = tmp_path_factory.mktemp('finished')
    data, out = write_files(base / 'data', idx_files), base / 'run'
    train(data, out, *SMALL)
    return out


def train(data, out, *flags):
    with contextlib.redirect_stdout(io.StringIO()):
        source = [] if data is None else ['--data-dir', str(data)]
        assert train_vae.cli([*source, '-o', str(out), *flags]) == 0


@pytest.fixture
def small_run(finished, tmp_path):
    """Return a copy of that folder, to be changed at will."""
    return shutil.copytree(finished, tmp_path / 'run')
