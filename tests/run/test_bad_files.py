"""Damaged and forged files: none runs code, hangs or takes memory; each is refused in one line.

Or, where the damage does not matter, the result is that of the good file. Hypothesis makes
most of the damage; `-m hypothesis` runs what it does.
"""

import contextlib
import functools
import gzip
import io
import json
import os
import pickle
import signal
import struct
import tempfile
import tracemalloc
from types import SimpleNamespace
import zipfile

from support.data import mnist  # lets chainer import
from support.run import snapshot

from conftest import SMALL, idx, make_digits
from hypothesis import given
from hypothesis import strategies as st
import numpy as np
import pytest
from runs import last, state_of
from samples import Marker, npy, zipped

import train_vae
import visualize

pytestmark = pytest.mark.skipif(os.name != 'posix', reason='needs SIGALRM')
MEMORY = 8 * 2**20      # bytes that a bad file may take to be read, of 0.4 MB; a run takes more


@st.composite
def damaged(draw, good):
    """Make a file of bytes that somebody or something has been at."""
    content = bytearray(good)
    for _ in range(draw(st.integers(1, 3))):
        # early and late places are as likely as all between
        end = len(content)
        at = draw(st.integers(0, end) | st.integers(0, min(end, 300))
                  | st.integers(max(0, end - 300), end))
        damage = draw(st.sampled_from(['truncate', 'flip', 'flip', 'flip', 'replace']))
        if damage == 'truncate':
            del content[at:]
        elif damage == 'flip' and at < end:
            content[at] ^= 1 << draw(st.integers(0, 7))
        elif damage == 'replace':
            content[at:at + draw(st.integers(0, 1000))] = draw(st.binary(max_size=40))
    return bytes(content)


DTYPES = ['f8', 'f2', '>f4', 'i4', '>i8', 'u1', 'c8', 'U5', 'S3', '?', 'M8[s]', 'O']
SHAPES = {
    'rank 0': lambda array: array.reshape(-1)[:1].reshape(()),
    'rank 1': np.ravel,
    'transposed': lambda array: array.T if array.shape != array.T.shape else array,
    'twice': lambda array: np.stack([array, array]),
    'empty': lambda array: array.reshape(-1)[:0],
}


ODD = st.recursive(
    st.none() | st.booleans() | st.floats() | st.text(max_size=5)
    | st.sampled_from([-1, 0, 1, 2, 3, 2**31, 2**63, 10**30, 'mnist', 'digits', '\x1b[2J', '/']),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=3), inner,
                                                                max_size=2), max_leaves=3)


def npz(arrays):
    """Return arrays as the content of an npz, object arrays pickled."""
    file = io.BytesIO()
    np.savez(file, **arrays)
    return file.getvalue()


class Ways:
    """The commands that read a snapshot, and what they make of the good one, and of its arrays."""

    def __init__(self, finished):
        self.run = finished
        with open(last(finished), 'rb') as file:
            self.good = file.read()
        self.arrays = snapshot.read(last(finished))

    @functools.cache                        # noqa: B019  (there is one for all tests)
    def of_good(self, way):
        """Return the result of the good one."""
        status, _, err, result = self.use(way, self.good)
        assert (status, err) == (0, '')
        return result

    def use(self, way, content):
        """Use a snapshot of this content; return status, stdout, stderr and the result."""
        with tempfile.TemporaryDirectory() as folder:
            path, out = os.path.join(folder, 'file'), os.path.join(folder, 'out')
            with open(path, 'wb') as file:
                file.write(content)
            data = json.loads((self.run / 'args.json').read_text())['data_dir']
            flags = {'resume': ['--resume', path, '-e', '3'],
                     'initmodel': ['-m', path, '--data-dir', data, *SMALL, '-e', '1'],
                     'visualize': ['reconstruction', '-s', path]}[way]
            command = visualize if way == 'visualize' else train_vae
            status, text, err = quietly(command, *flags, '-o', out)
            result = None
            if status == 0 and way == 'visualize':
                with open(os.path.join(out, 'reconstruction.png'), 'rb') as file:
                    result = file.read()
            elif status == 0 and ' already; ' not in text:
                result = state_of(snapshot.newest(out))
                result.pop(snapshot.SETTINGS_KEY)
            return status, text, err, result

    def check(self, way, content, fine=None):
        """Assert that a snapshot is refused, or gives the good result or a `fine` status."""
        good = self.of_good(way)            # which imports all
        with tracing() as memory:
            status, _, err, result = self.use(way, content)
        assert memory.peak < 4 * MEMORY
        if status:
            check_line(err)
        if fine:
            assert status == 2 or fine(status)
        elif status != 2:
            assert status == 0
            assert result == good


def quietly(command, *argv):
    """Run one of the two commands in this process; return status, stdout and stderr."""
    with contextlib.redirect_stdout(io.StringIO()) as text, \
            contextlib.redirect_stderr(io.StringIO()) as err, running_on():
        try:
            status = command.cli([str(arg) for arg in argv])
        except SystemExit as end:
            status = end.code
    return status, text.getvalue(), err.getvalue()


def check_line(err):
    """Assert that this is one line for people, without a traceback or escape codes."""
    assert err.count('\n') == 1, err
    assert '.py: error: ' in err
    assert err[:-1].isprintable()
    assert 'pickle=True' not in err


@contextlib.contextmanager
def tracing():
    """Give something whose `peak` is afterwards the most memory that was in use, in bytes."""
    memory = SimpleNamespace()
    tracemalloc.start()
    try:
        yield memory
    finally:
        memory.peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()


@contextlib.contextmanager
def running_on():
    def stop(signum, frame):
        raise AssertionError('it hangs')

    earlier = signal.signal(signal.SIGALRM, stop)
    signal.alarm(60)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, earlier)


@pytest.fixture(scope='module')
def ways(finished):
    return Ways(finished)


WAYS = 'resume', 'initmodel', 'visualize'


@given(way=st.sampled_from(WAYS), data=st.data())
def test_damaged_snapshots(ways, way, data):
    ways.check(way, data.draw(damaged(ways.good)))


@given(way=st.sampled_from(WAYS), data=st.data())
def test_forged_snapshots(ways, way, data):
    key = data.draw(st.sampled_from(sorted(ways.arrays)))
    other, array = data.draw(st.sampled_from([*DTYPES, *SHAPES, None])), ways.arrays[key]
    with contextlib.suppress(ValueError, TypeError), np.errstate(all='ignore'):
        array = SHAPES[other](array) if other in SHAPES else array.astype(other)
    arrays = {name: ways.arrays[name] for name in ways.arrays if name != key}
    ways.check(way, npz(arrays if other is None else arrays | {key: array}))


@given(way=st.sampled_from(WAYS), data=st.data())
def test_forged_settings_and_logs(ways, pictures, way, data):
    """They are a stranger's word, too; some others than the good ones may do as well."""
    key = data.draw(st.sampled_from([snapshot.SETTINGS_KEY, snapshot.LOG_KEY]))
    found = json.loads(str(ways.arrays[key]))
    part = found if isinstance(found, dict) else data.draw(st.sampled_from(found))
    for name in data.draw(st.lists(st.sampled_from(sorted(part)), max_size=2)):
        part[name] = data.draw(ODD)
    text = json.dumps(data.draw(st.just(found) | ODD))
    ways.check(way, npz(ways.arrays | {key: np.array(text)}),
               fine=lambda status: status in (0, 1))                # 1: a huge --beta


def set_first(value):
    def change(array):
        changed = array.copy()
        changed.flat[0] = value
        return changed
    return change


REFUSED = {         # by key: what to make of the array
    'updater/iterator:main/epoch': [set_first(-1)],
    'updater/iterator:main/current_position': [set_first(-1), set_first(61)],
    'updater/iteration': [set_first(2**63 - 1), lambda iteration: 0.5, lambda iteration: [6, 7]],
    'updater/optimizer:main/le1/W/t': [set_first(-1), set_first(2**63 - 1)],
    'updater/optimizer:main/ld2/W/m': [np.float64, set_first(np.nan)],
    snapshot.LOG_KEY: [lambda log: '{}', lambda log: '[[]]', lambda log: '[' * 10**5],
    # past NumPy's 624 random words lies memory that is not its own; zeros never come to a number
    'extensions/run/random_position': [set_first(-1), set_first(625)],
    'extensions/run/random_keys': [np.zeros_like, np.float64],
    '_snapshot_elapsed_time': [set_first(np.inf)],
}


@pytest.mark.parametrize('key', REFUSED)
def test_what_cannot_be_is_refused(ways, pictures, key):
    for make in REFUSED[key]:
        status, _, err, _ = ways.use('resume', npz(
            ways.arrays | {key: np.asarray(make(ways.arrays[key]))}))
        assert status == 2
        check_line(err)


def bombs(marker):
    """Make snapshots that would run code or take memory: names and contents."""
    x = np.zeros(3, np.float32)
    key = 'updater/model:main/le1/W'

    def member(content, compression=zipfile.ZIP_DEFLATED):
        return zipped({key + '.npy': content}, compression)

    def header(shape, dtype='<f4'):
        text = repr({'descr': dtype, 'fortran_order': False, 'shape': shape}).encode() + b'\n'
        return b'\x93NUMPY\1\0' + struct.pack('<H', len(text)) + text

    zeros = header((2**24,)) + bytes(2**26)
    yield 'a pickle', npz({key: np.array([Marker(marker)])})
    yield 'a pickle for no value', member(header((), '|O') + pickle.dumps(Marker(marker), 0))
    yield 'a zip bomb', member(zeros)
    yield 'a zip bomb by LZMA', member(zeros, zipfile.ZIP_LZMA)
    yield 'many members of a zip bomb', zipped(
        {f'{i}.npy': npy(np.zeros(2**17)) for i in range(64)}, zipfile.ZIP_DEFLATED)
    yield 'nothing many times', member(header((10**8,), 'V0'))
    for shape in [(2**31, 2**31), (0, 10**30), (1,) * 99]:
        yield f'a claim of shape {shape}', member(header(shape) + x.tobytes())
    for dtype in ['V1000000000', 'evil']:
        yield f'a claim of dtype {dtype}', member(header((1,), dtype) + x.tobytes())
    yield 'a header of 4 GB', member(b'\x93NUMPY\2\0\xff\xff\xff\xff' + x.tobytes())
    yield 'a header that nests', member(header((3,)).replace(b'(3,)', b'(' * 900 + b')' * 900))
    yield 'escape codes', member(header((9,))).replace(key.encode(), b'\x1b[2J'.ljust(len(key)))


def test_bombs(tmp_path):
    path, marker = tmp_path / 'bomb', tmp_path / 'marker'
    for name, content in bombs(str(marker)):
        path.write_bytes(content)
        with tracing() as memory, pytest.raises(snapshot.SnapshotError) as error:
            snapshot.read(str(path))
        assert str(error.value).isprintable(), name
        assert memory.peak < MEMORY, name
    assert not marker.exists()


def test_a_pipe_is_not_waited_for(cli, draw, tmp_path, data_dir):
    os.mkfifo(tmp_path / 'snapshot_epoch_1')
    with running_on():
        for command, flags in ((cli, ['--resume']), (draw, ['-s']),
                               (cli, [*SMALL, '--data-dir', data_dir, '-m'])):
            status, _, err = command(*flags, tmp_path / 'snapshot_epoch_1', '-o', tmp_path / 'out')
            assert (status, 'it is no file' in err) == (2, True)
        assert cli('--resume', '-o', tmp_path)[0] == 2
        for path in data_dir.iterdir():
            path.unlink()
            os.mkfifo(path)
        status, _, err = cli('--data-dir', data_dir, '-o', tmp_path / 'out')
        assert (status, 'has neither' in err) == (2, True)


NAME = 'train-images-idx3-ubyte'
PICTURES = make_digits(60, 0)[0]


@contextlib.contextmanager
def folder_of(idx_files, content, packed):
    """Make a folder of digits, with this content in place of the training images."""
    with tempfile.TemporaryDirectory() as folder:
        for name, good in (idx_files | {NAME + '.gz' * packed: content}).items():
            if packed or name != NAME + '.gz':
                with open(os.path.join(folder, name), 'wb') as file:
                    file.write(good)
        yield folder


@given(data=st.data(), packed=st.booleans())
def test_damaged_idx_files(idx_files, data, packed):
    plain = idx(PICTURES)
    good = gzip.compress(plain) if packed else plain
    content = data.draw(damaged(good))
    with folder_of(idx_files, content, packed) as folder, tracing() as memory:
        try:
            digits = mnist.get_digits(data_dir=folder)
        except mnist.DatasetError as error:
            assert str(error).count('\n') == 0
        else:       # in a plain file other pixels are other digits, but no pixel is where none was
            pixels = plain[16:] if packed else content[16:]
            assert len(content) == len(good) or packed
            assert content[:16] == good[:16] or packed
            assert np.round(digits.train * 255).astype(np.uint8).tobytes() == pixels
    assert memory.peak < 2 * MEMORY
