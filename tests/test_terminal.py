"""terminal.py: the table and the progress line on terminals of any width, and lost streams."""

import errno
import io
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
from types import SimpleNamespace

from support import snapshot, terminal

from conftest import SMALL
import pytest
from test_resume import check_same

import train_vae

needs_posix = pytest.mark.skipif(os.name != 'posix', reason='needs POSIX')
COMMAND = [sys.executable, train_vae.__file__]
ROW = {'epoch': 1, 'elapsed_time': 1.5, **{
    f'{of}main/{name}': 1234.5678 for of in ('', 'validation/')
    for name in ('loss', 'rec_loss', 'latent_loss')}}


class Screen(io.StringIO):
    """What a terminal shows."""

    def isatty(self):
        """Tell that it is one."""
        return True


def newest(out):
    """Return the name of the newest snapshot in a folder."""
    return os.path.basename(snapshot.newest(str(out)))


# The table and the progress line ----------------------------------------------------------------


def printed(monkeypatch, rows, stream, size=(80, 24), earlier=0):
    """Return the lines that the table has of a log, whose first rows are of an earlier run."""
    monkeypatch.setattr(sys, 'stdout', stream)
    monkeypatch.setattr(shutil, 'get_terminal_size', lambda: size)
    log = [ROW | {'epoch': epoch} for epoch in range(1, earlier + 1)]
    trainer = SimpleNamespace(get_extension=lambda name: SimpleNamespace(log=log))
    report = terminal.PrintReport()
    for epoch in range(earlier + 1, rows + 1):
        log.append(ROW | {'epoch': epoch})
        report(trainer)
    return stream.getvalue().splitlines()


@pytest.mark.parametrize('width', [79, 78, 77, 40, 32])
def test_the_table_fits_the_terminal(monkeypatch, width):
    lines = printed(monkeypatch, 1, Screen(), (width, 24))
    assert max(map(len, lines)) <= width
    headings, row = lines[1].split(), lines[2].split()
    assert len(headings) == len(row) == (8 if width >= 78 else 4)
    assert (headings[0], headings[-1], row[0], row[-1]) == ('epoch', 'seconds', '1', '1.5')
    assert row[1:-1] == ['1234.568'] * (len(row) - 2)


def test_what_the_log_lacks_stays_blank(monkeypatch):
    monkeypatch.delitem(ROW, 'validation/main/rec_loss')        # by an edit of score_func, say
    headings, row = printed(monkeypatch, 1, Screen())[1:]
    assert len(headings.split()) - len(row.split()) == 1
    assert len(headings) == len(row)


def test_large_losses_stay_apart(monkeypatch):
    monkeypatch.setitem(ROW, 'main/loss', -12345.678)
    monkeypatch.setitem(ROW, 'main/rec_loss', 2.2607313e7)
    monkeypatch.setitem(ROW, 'main/latent_loss', 123456.789)
    row = printed(monkeypatch, 1, Screen())[2].split()
    assert [float(field) for field in row[1:4]] == [-1.2e4, 2.3e7, 123456.789]
    assert len(row) == 8


def test_headings_come_again_with_every_screenful(monkeypatch):
    lines = printed(monkeypatch, 20, Screen(), (80, 10))
    at = [i for i, line in enumerate(lines) if line.startswith('epoch')]
    assert at == [1, 10, 19]                # within 9 lines, above the progress
    assert len(lines) == 20 + 2 * 3
    assert sum(line.startswith('epoch') for line in
               printed(monkeypatch, 50, io.StringIO(), (80, 10))) == 1


@pytest.mark.parametrize(('earlier', 'first'), [(0, 1), (2, 1), (3, 1), (9, 7)])
def test_a_resumed_run_shows_three_rows_of_before(monkeypatch, earlier, first):
    lines = printed(monkeypatch, earlier + 2, io.StringIO(), earlier=earlier)
    assert [int(line.split()[0]) for line in lines[2:]] == list(range(first, earlier + 3))


def on_a_terminal(*argv, size=(80, 24)):
    """Run train_vae.py on a pseudo-terminal of so many columns and rows; return what it showed."""
    fcntl, pty, struct, termios = map(pytest.importorskip, ('fcntl', 'pty', 'struct', 'termios'))
    try:
        leader, follower = pty.openpty()
    except OSError as error:
        pytest.skip(f'needs a pseudo-terminal ({error})')
    fcntl.ioctl(follower, termios.TIOCSWINSZ, struct.pack('4H', size[1], size[0], 0, 0))
    process = subprocess.Popen([*COMMAND, *map(str, argv)], stdout=follower, stderr=follower,
                               env={name: value for name, value in os.environ.items()
                                    if name not in ('COLUMNS', 'LINES')})
    os.close(follower)
    screen = b''
    while True:
        try:
            chunk = os.read(leader, 4096)
        except OSError:
            break
        screen += chunk
    os.close(leader)
    assert process.wait() == 0
    return screen.decode()


@needs_posix
def test_one_progress_line_that_fits_and_is_cleared(data_dir, tmp_path):
    screen = on_a_terminal('--data-dir', data_dir, '-o', tmp_path / 'run', *SMALL, '-e', '30',
                           '--snapshot-every', '30', size=(40, 24))
    lines = re.split(r'[\r\n]+', screen.partition('elapsed')[2])
    progress = [line for line in lines if re.match(r'epoch \d', line)]
    assert re.match(r'epoch \d+/30, \d+ %, +[\d.]+it/s, ', progress[-1])
    assert max(map(len, progress)) <= 40
    assert [int(line.split()[0]) for line in lines if re.match(r' +\d', line)] == list(
        range(1, 31))
    assert re.search(r'\r +\r *finished at epoch 30', screen)


# Streams that are lost --------------------------------------------------------------------------


class Leaking(io.StringIO):
    """A stream that fails once so many lines are written, and ever after."""

    def __init__(self, lines, error):
        super().__init__()
        self.lines, self.error = lines, error

    def write(self, text):
        """Write, or fail."""
        if self.getvalue().count('\n') >= self.lines:
            raise OSError(self.error, os.strerror(self.error))
        return super().write(text)


@needs_posix
@pytest.mark.parametrize('lines', [10, pytest.param(11, marks=pytest.mark.slow)])
def test_a_closed_pipe_ends_a_run_as_a_signal_does(cli, data_dir, tmp_path, monkeypatch, lines,
                                                   pictures):
    start = ['--data-dir', data_dir, *SMALL, '--snapshot-every', '9']
    assert cli(*start, '-o', tmp_path / 'whole', '-e', '4')[0] == 0
    with monkeypatch.context() as patch:
        patch.setattr(sys, 'stdout', Leaking(lines, errno.EPIPE))
        assert train_vae.cli(list(map(str, [*start, '-o', tmp_path / 'run', '-e', '4']))) == 141
    assert newest(tmp_path / 'run') == 'snapshot_interrupted'
    assert cli('--resume', '-o', tmp_path / 'run')[0] == 0
    check_same(tmp_path / 'run', tmp_path / 'whole')


@needs_posix
@pytest.mark.parametrize('error', [errno.ENOSPC, errno.EIO])
@pytest.mark.parametrize('also_stderr', [False, True])
def test_a_lost_stdout_is_told_once_and_the_run_goes_on(cli, data_dir, tmp_path, monkeypatch,
                                                        capsys, error, also_stderr):
    with monkeypatch.context() as patch:
        patch.setattr(sys, 'stdout', Leaking(10, error))
        if also_stderr:
            patch.setattr(sys, 'stderr', Leaking(0, error))
        assert train_vae.cli(['--data-dir', str(data_dir), '-o', str(tmp_path / 'run'), *SMALL,
                              '-e', '4']) == 0
    assert capsys.readouterr().err == ('' if also_stderr else (
        f'warning: stdout is lost ({os.strerror(error)}); training goes on\n'))
    assert newest(tmp_path / 'run') == 'snapshot_epoch_4'


@needs_posix
@pytest.mark.parametrize(('redirection', 'status', 'said'), [
    ('2>&1 | head -n 12', 141, ''),
    pytest.param('> /dev/full', 0, 'warning: stdout is lost (', marks=pytest.mark.slow),
    pytest.param('| head -n 12', 141, '', marks=pytest.mark.slow),
    pytest.param('>&- 2>&-', 0, '', marks=pytest.mark.slow)])
def test_streams_of_a_shell(data_dir, tmp_path, redirection, status, said):
    if redirection == '> /dev/full' and not os.path.exists('/dev/full'):
        pytest.skip('needs /dev/full')
    out = tmp_path / 'run'
    command = ' '.join([*COMMAND, '--data-dir', str(data_dir), '-o', str(out), *SMALL, '-e', '30',
                        '--snapshot-every', '30', redirection])
    done = subprocess.run(['bash', '-c', f'{command}; exit ${{PIPESTATUS[0]}}'],
                          capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr[:len(said) or None]) == (status, said)
    assert newest(out) == ('snapshot_interrupted' if status else 'snapshot_epoch_30')


@needs_posix
@pytest.mark.parametrize('ignored', [False, pytest.param(True, marks=pytest.mark.slow)])
def test_a_terminal_that_closes_ends_a_run_but_under_nohup(data_dir, tmp_path, ignored):
    """Its leader goes, of which the kernel tells by SIGHUP; what is printed then is lost."""
    pty = pytest.importorskip('pty')
    out = tmp_path / 'run'
    argv = [*COMMAND, '--data-dir', str(data_dir), '-o', str(out), *SMALL, '-e', '30',
            '--snapshot-every', '30']
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
