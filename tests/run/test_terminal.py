"""terminal.py: the table and the progress line on terminals of any width, and lost streams."""

import io
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
from types import SimpleNamespace

from support.run import snapshot, stopping, terminal  # lets chainer import

from chainer.training import extensions, triggers
from conftest import SMALL
import pytest
from runs import needs_posix

import train_vae

COMMAND = [sys.executable, train_vae.__file__]
LONG = [*SMALL, '-e', '30', '--snapshot-every', '30']
ROW = {'epoch': 1, 'elapsed_time': 1.5, **{
    f'{of}main/{name}': 1234.5678 for of in ('', 'validation/')
    for name in ('loss', 'rec_loss', 'latent_loss')}}


class Screen(io.StringIO):
    def isatty(self):
        return True


def newest(out):
    return os.path.basename(snapshot.newest(str(out)))


def trainer_with(*those):
    return SimpleNamespace(_extensions={
        i: SimpleNamespace(extension=extension) for i, extension in enumerate(those)})


def numbered(n):
    return [ROW | {'epoch': epoch} for epoch in range(1, n + 1)]


@pytest.fixture
def printed(monkeypatch):
    """Return a function of rows of a log that returns the lines of its table."""
    def print_rows(rows, width=80, lines=24, earlier=0, stream=Screen):
        """Print rows on a terminal of this size; so many of the first are of an earlier run."""
        monkeypatch.setattr(sys, 'stdout', stream())
        monkeypatch.setattr(shutil, 'get_terminal_size', lambda: (width, lines))
        report, log = terminal.PrintReport(), extensions.LogReport()
        log._log = rows[:earlier]
        trainer = trainer_with(log)
        report.initialize(trainer)
        for row in [None, *rows[earlier:]]:         # the first iteration may log nothing
            log._log += [row] * (row is not None)
            report(trainer)
        return sys.stdout.getvalue().splitlines()
    return print_rows


@pytest.mark.parametrize('width', [78, 77, 32])
def test_the_table_fits_the_terminal(printed, width):
    lines = printed(numbered(1), width)
    assert max(map(len, lines)) <= width
    headings, row = lines[1].split(), lines[2].split()
    assert len(headings) == len(row) == (8 if width >= 78 else 4)
    assert (headings[0], headings[-1], row[0], row[-1]) == ('epoch', 'seconds', '1', '1.5')
    assert row[1:-1] == ['1234.568'] * (len(row) - 2)


def test_headings_come_again_with_every_screenful(printed):
    lines = printed(numbered(20), lines=10)
    at = [i for i, line in enumerate(lines) if line.startswith('epoch')]
    assert at == [1, 10, 19]                # within 9 lines, above the progress
    assert len(lines) == 20 + 2 * 3
    assert len(printed(numbered(50), lines=10, stream=io.StringIO)) == 50 + 2


@pytest.mark.parametrize(('earlier', 'first'), [(2, 1), (9, 7)])
def test_a_resumed_run_shows_three_rows_of_before(printed, earlier, first):
    lines = printed(numbered(earlier + 2), earlier=earlier)
    assert [int(line.split()[0]) for line in lines[2:]] == list(range(first, earlier + 3))


@pytest.mark.parametrize('width', [80, 79])
def test_a_log_of_several_rows_an_epoch_shows_the_iteration_in_80_columns(printed, width):
    lines = printed([{key: value for key, value in ROW.items()
                      if i == 3 or not key.startswith('validation')}
                     | {'epoch': i // 3, 'iteration': i} for i in range(1, 5)], width)
    assert max(map(len, lines)) <= width
    assert [line.split()[:2] for line in lines[1:]] == [
        ['epoch', 'iter'], ['0', '1'], ['0', '2'], ['1', '3'], ['1', '4']]
    assert [len(line.split()) for line in lines[1:]] == (
        [9, 6, 6, 9, 6] if width == 80 else [5, 4, 4, 5, 4])


@pytest.mark.parametrize('earlier', [0, 2])
def test_the_iteration_comes_in_once_rows_share_an_epoch(printed, earlier):
    rows = [ROW | {'epoch': epoch, 'iteration': iteration}
            for epoch, iteration in ((1, 10), (2, 20), (2, 25), (3, 30))]
    assert [line.split()[:2] for line in printed(rows, earlier=earlier)] == [
        ['training', 'test'], ['epoch', 'loss'], ['1', '1234.568'], ['2', '1234.568'],
        ['training', 'test'], ['epoch', 'iter'], ['2', '25'], ['3', '30']]


@pytest.mark.parametrize(('change', 'shown'), [
    ({'epoch': None}, ['10', '1234.568']), ({'epoch': 0.5, 'main/loss': None}, ['0.5', '1234.568']),
    ({'main/loss': [1]}, ['1', '1234.568']), ({'main/loss': -12345.678}, ['1', '-1.2e+04'])])
def test_a_log_that_lacks_what_others_have_is_shown_as_far_as_it_goes(printed, change, shown):
    row = ROW | {'iteration': 10} | change
    _, headings, line = printed([{key: row[key] for key in row if row[key] is not None}])
    assert line.split()[:2] == shown
    assert len(line) == len(headings)


@pytest.mark.parametrize(('trigger', 'words', 'total', 'shown'), [
    (triggers.IntervalTrigger(2.5, 'epoch'), '2.5', 8, '2/2.5, 62 %'),
    (triggers.IntervalTrigger(10, 'iteration'), 'as many as 10 iterations take', 10, '2, 50 %'),
    (triggers.EarlyStoppingTrigger(max_trigger=(4, 'epoch')), 'at most 4', 12, '2/4, 42 %'),
    (lambda trainer: False, 'until the stop trigger fires', None, '2')])
def test_a_run_is_as_long_as_its_stop_trigger_tells(monkeypatch, trigger, words, total, shown):
    monkeypatch.setattr(sys, 'stdout', Screen())
    bar, stop = terminal.ProgressBar(), stopping.UntilStopped(trigger)
    for iteration in range(1, 6):                       # three an epoch
        bar(SimpleNamespace(stop_trigger=stop, updater=SimpleNamespace(
            iteration=iteration, epoch=iteration // 3, epoch_detail=iteration / 3,
            previous_epoch_detail=(iteration - 1) / 3)))
    assert (terminal.length_in_words(stop), bar.bar.total) == (words, total)
    assert str(bar.bar).startswith(f'epoch {shown}, ')
    bar.finalize()


@needs_posix
def test_one_progress_line_that_fits_and_is_cleared(data_dir, tmp_path):
    fcntl, pty, struct, termios = map(pytest.importorskip, ('fcntl', 'pty', 'struct', 'termios'))
    leader, follower = pty.openpty()
    fcntl.ioctl(follower, termios.TIOCSWINSZ, struct.pack('4H', 24, 40, 0, 0))
    process = subprocess.Popen(
        [*COMMAND, '--data-dir', data_dir, '-o', tmp_path / 'run', *LONG],
        stdout=follower, stderr=follower, env={
            name: value for name, value in os.environ.items() if name not in ('COLUMNS', 'LINES')})
    os.close(follower)
    screen = b''
    while True:
        try:
            screen += os.read(leader, 4096)
        except OSError:                                 # the other end is closed
            break
    os.close(leader)
    assert process.wait() == 0
    lines = re.split(r'[\r\n]+', screen.decode().partition('elapsed')[2])
    progress = [line for line in lines if re.match(r'epoch \d', line)]
    assert re.match(r'epoch \d+/30, \d+ %, +[\d.]+it/s, ', progress[-1])
    assert max(map(len, progress)) <= 40
    assert [int(line.split()[0]) for line in lines if re.match(r' +\d', line)] == list(
        range(1, 31))
    assert re.search(r'\r +\r *finished at epoch 30', screen.decode())


@needs_posix
@pytest.mark.parametrize(('redirection', 'status', 'said'), [
    ('2>&1 | head -n 12', 141, ''), pytest.param('>&- 2>&-', 0, '', marks=pytest.mark.slow),
    ('> /dev/full', 0,
     'warning: stdout is lost (No space left on device); training goes on\n'),
    ('> /dev/full 2>&1', 0, '')])
def test_streams_of_a_shell(cli, data_dir, tmp_path, redirection, status, said):
    """A closed pipe ends a run as a signal does; a stream that is lost is told of once."""
    out = tmp_path / 'run'
    command = ' '.join([*COMMAND, '--data-dir', str(data_dir), '-o', str(out), *LONG, redirection])
    done = subprocess.run(['bash', '-c', f'{command}; exit ${{PIPESTATUS[0]}}'],
                          capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (status, said)
    assert newest(out) == ('snapshot_interrupted' if status else 'snapshot_epoch_30')
    assert cli('--resume', '-o', out)[0] == 0


@needs_posix
@pytest.mark.parametrize('ignored', [False, pytest.param(True, marks=pytest.mark.slow)])
def test_a_terminal_that_closes_ends_a_run_but_under_nohup(data_dir, tmp_path, ignored):
    """Its leader goes, of which the kernel tells by SIGHUP; what is printed then is lost."""
    pty = pytest.importorskip('pty')
    out = tmp_path / 'run'
    argv = [*COMMAND, '--data-dir', str(data_dir), '-o', str(out), *LONG]
    child, leader = pty.fork()              # a session of its own
    if child == 0:
        signal.signal(signal.SIGHUP, signal.SIG_IGN if ignored else signal.SIG_DFL)
        os.execv(argv[0], argv)
    screen = b''
    while b'elapsed' not in screen:
        screen += os.read(leader, 4096)
    os.close(leader)
    _, status = os.waitpid(child, 0)
    assert os.waitstatus_to_exitcode(status) == (0 if ignored else 129)
    assert newest(out) == ('snapshot_epoch_30' if ignored else 'snapshot_interrupted')


def test_a_run_in_a_thread_of_its_own(data_dir, tmp_path):
    ended = []
    thread = threading.Thread(target=lambda: ended.append(train_vae.cli(
        ['--data-dir', str(data_dir), '-o', str(tmp_path / 'run'), *SMALL])))
    thread.start()
    thread.join()
    assert ended == [0]
    assert newest(tmp_path / 'run') == 'snapshot_epoch_2'
