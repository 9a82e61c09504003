"""Every source of digits, whole and damaged; the downloader against a real HTTP server."""

import gzip
import hashlib
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
import io
import os
import sys
import threading
import time

from support.data import mnist  # lets chainer import

import chainer
from conftest import idx, make_digits, write_files
import numpy as np
import pytest
from samples import Marker, check_tiny, fill_cache
from scipy import ndimage
from sklearn.datasets import load_digits


def test_bundled_digits_have_mnists_format(monkeypatch):
    for part in ('read_cache', 'download'):
        monkeypatch.setattr(mnist, part, None)          # both are left alone
    digits = mnist.get_digits('digits')
    assert (digits.dataset, digits.data_dir) == ('digits', None)
    assert digits.train.shape == (1500, 784)
    assert digits.test.shape == (297, 784)
    pixels = np.concatenate([digits.train, digits.test])
    assert pixels.dtype == np.float32
    assert (pixels.min(), pixels.max()) == (0, 1)
    np.testing.assert_allclose(pixels, np.round(pixels * 255) / 255, atol=1e-7)
    original = load_digits()
    assert np.concatenate([digits.train_labels, digits.test_labels]).tolist() \
        == original.target.tolist()
    smooth = ndimage.zoom(original.images / 16, (1, 2.5, 2.5), order=3, grid_mode=True,
                          mode='nearest').clip(0, 1)            # by another filter
    smooth = np.pad(smooth, ((0, 0), (4, 4), (4, 4)))
    assert abs(pixels.reshape(-1, 28, 28) - smooth).mean() < 0.02


@pytest.mark.parametrize('damage', ['bytes', 'objects', 'float', 'one short'])
def test_damaged_cache_is_never_used(tmp_path, capsys, damage):
    fill_cache()
    path = mnist.cache_paths()[0]
    pixels = make_digits(60, 0)[0].reshape(60, 784)
    np.savez(path, **{
        'bytes': {'x': pixels, 'y': pixels[:, 0]},
        'objects': {'x': np.array([Marker(str(tmp_path / 'marker'))]), 'y': pixels[:, 0]},
        'float': {'x': pixels / 255, 'y': pixels[:, 0]},
        'one short': {'x': pixels, 'y': pixels[1:, 0]}}[damage])
    if damage == 'bytes':
        os.truncate(path, os.path.getsize(path) // 2)
    with pytest.raises(mnist.DatasetError, match='could not be downloaded'):
        mnist.get_digits('mnist')
    assert f'{path} cannot be read (' in capsys.readouterr().err
    assert not (tmp_path / 'marker').exists()


class Handler(BaseHTTPRequestHandler):
    """A mirror for each way to fail, as the first part of the path says."""

    def do_HEAD(self):
        if self.path.startswith('/silent/'):
            self.server.patience.wait(30)
        self.send_response(200)
        self.end_headers()

    def do_GET(self):
        _, way, name = self.path.split('/')
        self.server.asked.append(way)
        content = self.server.files[name]
        fails = name == list(mnist.SHA256)[-1]      # with three good files on the disk
        if fails and way == '404':
            return self.send_error(404)
        self.send_response(200)
        self.send_header('Content-Length', str(len(content)))
        self.end_headers()
        if fails and way != 'good':
            content = content[:-1] + b'?' * (way == 'wrong')
        self.wfile.write(content)
        return self.server.patience.wait(30) if fails and way == 'stall' else None

    def log_message(self, *args):
        pass


@pytest.fixture
def server(idx_files, monkeypatch):
    """Serve the tiny dataset on loopback, its checksums in place of MNIST's."""
    monkeypatch.setattr(mnist, 'SHA256', {
        name: hashlib.sha256(content).hexdigest() for name, content in idx_files.items()})
    monkeypatch.setattr(mnist, 'CONTACT_SECONDS', 0.5)
    monkeypatch.setattr(mnist, 'STALL_SECONDS', 0.5)
    server = ThreadingHTTPServer(('127.0.0.1', 0), Handler)
    server.handle_error = lambda *args: None        # about a client that gave up
    server.files, server.asked, server.patience = idx_files, [], threading.Event()
    threading.Thread(target=server.serve_forever, daemon=True).start()

    def use(*ways):
        base = f'http://127.0.0.1:{server.server_port}'
        monkeypatch.setattr(mnist, 'MIRRORS', tuple(f'{base}/{way}/' for way in ways))
        return server

    yield use
    server.patience.set()
    server.shutdown()
    server.server_close()


def cached():
    return sorted(name for _, _, names in os.walk(chainer.dataset.get_dataset_root())
                  for name in names)


def test_download_fills_chainers_cache(server, capsys):
    asked = server('good', '404').asked
    check_tiny(mnist.get_digits('mnist'))
    assert 'Downloading MNIST from http://127.0.0.1' in capsys.readouterr().err
    assert cached() == ['test.npz', 'train.npz']
    assert asked == ['good'] * 4
    digits = mnist.get_digits('auto')               # from the cache
    check_tiny(digits)
    assert (len(asked), digits.dataset, digits.data_dir) == (4, 'mnist', None)
    for ours, theirs in zip((digits.train, digits.test), chainer.datasets.get_mnist(), strict=True):
        assert ours.tobytes() == np.stack([pixel for pixel, _ in theirs]).tobytes()


FAILURES = {'404': 'answered 404', 'short': 'sent no whole t10k-labels',
            'wrong': 'sent no whole t10k-labels', 'stall': 'sent no whole t10k-labels',
            'silent': 'does not answer'}


@pytest.mark.parametrize('way', FAILURES)
def test_next_mirror_helps_or_each_cause_is_said(server, way, capsys):
    server(way, way)
    with pytest.raises(mnist.DatasetError, match='--data-dir') as error:
        mnist.get_digits('mnist')
    assert str(error.value).count(FAILURES[way]) == 2
    assert cached() == []
    server(way, 'good')
    check_tiny(mnist.get_digits('mnist'))
    assert cached() == ['test.npz', 'train.npz']


@pytest.mark.parametrize('proxy', ['', 'http://..bad..:99'])
def test_offline_auto_falls_back_in_seconds(monkeypatch, capsys, proxy):
    monkeypatch.setenv('http_proxy', proxy)
    start = time.monotonic()
    digits = mnist.get_digits('auto')
    assert time.monotonic() - start < 2 * mnist.CONTACT_SECONDS     # the limit that is promised
    assert digits.dataset == 'digits'
    err = capsys.readouterr().err
    assert err.startswith('warning: going on with the bundled digits instead of MNIST, as MNIST '
                          'could not be downloaded (127.0.0.1:9 does not answer')
    assert err.count('\n') == 1


@pytest.mark.parametrize('bars', [4, 0])
def test_progress_bar_on_a_terminal_only(server, monkeypatch, bars):
    server('good')
    screen = io.StringIO()
    screen.isatty = lambda: bars > 0
    monkeypatch.setattr(sys, 'stderr', screen)
    mnist.get_digits('mnist')
    assert screen.getvalue().count('100%|') == bars


def test_unwritable_cache_is_only_a_warning(server, tmp_path, capsys):
    server('good')
    (tmp_path / 'file').touch()
    chainer.dataset.set_dataset_root(str(tmp_path / 'file' / 'cache'))  # no folder can be there
    check_tiny(mnist.get_digits('mnist'))
    assert 'could not be kept in the cache' in capsys.readouterr().err


@pytest.mark.parametrize('binary', [False, True])
@pytest.mark.parametrize('tiny', [False, True])
def test_tiny_and_binary_digits_are_those_of_the_files(tmp_path, monkeypatch, tiny, binary):
    arrays = *make_digits(130, 0), *make_digits(110, 1)
    data = write_files(tmp_path / 'data', {
        name: gzip.compress(idx(array)) for name, array in zip(mnist.SHA256, arrays, strict=True)})
    monkeypatch.chdir(tmp_path)
    digits = mnist.get_digits('mnist', 'data', tiny, binary)
    assert digits.data_dir == str(data)
    sha256 = hashlib.sha256()               # of all digits, whatever a run sees of them
    for found, array in zip(digits[4:], arrays, strict=True):
        rows = array.reshape(len(array), 784) if array.ndim == 3 else array
        sha256.update(str(rows.shape).encode() + array.tobytes())
        seen = rows[:100 if tiny else None]
        expected = seen if array.ndim == 1 else seen > 127 if binary else seen / 255
        np.testing.assert_allclose(found, expected, rtol=1e-6)
        assert found.dtype == (np.int32 if array.ndim == 1 else np.float32)
    assert digits.checksum == sha256.hexdigest()
