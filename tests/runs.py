"""What tests do with runs: look into their snapshots, compare them, stop them, see them refused."""

import contextlib
import json
import os
import signal
import time

from support.run import run_folder, snapshot, stopping  # lets chainer import

import numpy as np
import pytest

STOPPING = 'stopping after this iteration; once more quits at once\n'
needs_posix = pytest.mark.skipif(os.name != 'posix', reason='needs POSIX signals')


def last(out):
    return str(out / 'snapshot_epoch_2')


def epoch_of(path):
    return run_folder.series_of(str(path))[1]


def rewrite(path, target, **changes):
    """Copy an npz with some arrays replaced (or, if None, left out)."""
    arrays = {**snapshot.read(path), **changes}
    with open(target, 'wb') as file:
        np.savez(file, **{key: array for key, array in arrays.items() if array is not None})
    return str(target)


def with_settings(path, target, **changes):
    """Copy a snapshot with some settings replaced (or, if None, left out)."""
    found = json.loads(str(snapshot.read(path)[snapshot.SETTINGS_KEY])) | changes
    text = json.dumps({key: value for key, value in found.items() if value is not None})
    return rewrite(path, target, **{snapshot.SETTINGS_KEY: np.array(text)})


def state_of(path):
    """Return every array of a snapshot as bytes, with its dtype and shape, but no elapsed time."""
    arrays = snapshot.read(str(path))
    del arrays['_snapshot_elapsed_time']
    rows = json.loads(str(arrays.pop(snapshot.LOG_KEY)))
    for row in rows:
        row.pop('elapsed_time', None)
    return {'log': rows} | {key: (array.dtype.str, array.shape, array.tobytes())
                            for key, array in arrays.items()}


def log_of(out):
    """Return the rows of a run's log, without the elapsed time."""
    return [{key: value for key, value in row.items() if key != 'elapsed_time'}
            for row in json.loads((out / 'log').read_text())]


def check_same(out, undisturbed):
    """Assert that a run ended as another did: the same files, and the same in them."""
    names = {path.name for path in undisturbed.iterdir()}
    assert {path.name for path in out.iterdir()} == names
    assert log_of(out) == log_of(undisturbed)
    for name in ('loss.png', 'args.json'):
        assert (out / name).read_bytes() == (undisturbed / name).read_bytes()
    name = os.path.basename(snapshot.newest(str(undisturbed)))
    assert state_of(out / name) == state_of(undisturbed / name)


def check_refused(result, *parts, prog='train_vae.py'):
    """Assert that a command ended with one line of error that has these parts."""
    status, _, err = result
    assert status == 2
    assert err.count('\n') == 1, err
    assert err.startswith(f'{prog}: error: ')
    for part in parts:
        assert part in err


@contextlib.contextmanager
def stopping_at(iteration):
    """Let a run in this process meet a SIGTERM in its iteration of this number."""
    def call(self, trainer):
        if trainer.updater.iteration == iteration and self.signum is None:
            os.kill(os.getpid(), signal.SIGTERM)
        return plain(self, trainer)

    with pytest.MonkeyPatch.context() as patch:
        plain = stopping.UntilStopped.__call__
        patch.setattr(stopping.UntilStopped, '__call__', call)
        yield


def wait_for(path, process):
    deadline = time.monotonic() + 60
    while not path.exists():
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.005)
