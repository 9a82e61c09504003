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

from support.run import snapshot, terminal  # lets chainer import
from support.run.extensions import LogReport

from chainer.training import extensions, triggers
from conftest import SMALL
import pytest
from runs import check_same

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
    return print_rows([ROW | {'epoch': epoch} for epoch in range(1, rows + 1)], earlier)


def print_rows(rows, earlier=0):
    """Return the lines that the table has of a log that grows to these rows, from the earlier."""
    trainer, log = trainer_with(extensions.LogReport()), rows[:earlier]
    terminal.find(trainer, extensions.LogReport)._log = log
    report = terminal.PrintReport()
    report.initialize(trainer)
    for row in [None, *rows[earlier:]]:             # the first iteration may log nothing
        log += [row] * (row is not None)
        report(trainer)
    return sys.stdout.getvalue().splitlines()


def trainer_with(*those, **others):
    """Return what is looked at of a Trainer with these extensions."""
    return SimpleNamespace(**others, _extensions={
        i: SimpleNamespace(extension=extension) for i, extension in enumerate(those)})


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


def by_iteration(n, per_epoch=3):
    """Return n rows, one an iteration, of which those that end an epoch have test losses."""
    return [{key: value for key, value in ROW.items()
             if i % per_epoch == 0 or not key.startswith('validation')}
            | {'epoch': i // per_epoch, 'iteration': i} for i in range(1, n + 1)]


@pytest.mark.parametrize('width', [80, 79, 39])
def test_a_log_of_several_rows_an_epoch_shows_the_iteration_in_80_columns(monkeypatch, width):
    monkeypatch.setattr(sys, 'stdout', Screen())
    monkeypatch.setattr(shutil, 'get_terminal_size', lambda: (width, 24))
    lines = print_rows(by_iteration(4))
    assert max(map(len, lines)) <= width
    assert [line.split()[:2] for line in lines[1:]] == [
        ['epoch', 'iter'], ['0', '1'], ['0', '2'], ['1', '3'], ['1', '4']]
    assert [len(line.split()) for line in lines[1:]] == (
        [9, 6, 6, 9, 6] if width == 80 else [5, 4, 4, 5, 4])


@pytest.mark.parametrize('earlier', [0, 2])
def test_the_iteration_comes_in_once_rows_share_an_epoch(monkeypatch, earlier):
    monkeypatch.setattr(sys, 'stdout', io.StringIO())
    rows = [ROW | {'epoch': epoch, 'iteration': 10 * epoch} for epoch in (1, 2)]
    rows += [ROW | {'epoch': 2, 'iteration': 25}, ROW | {'epoch': 3, 'iteration': 30}]
    lines = [line.split()[:2] for line in print_rows(rows, earlier)]
    assert lines == [['training', 'test'], ['epoch', 'loss'], ['1', '1234.568'], ['2', '1234.568'],
                     ['training', 'test'], ['epoch', 'iter'], ['2', '25'], ['3', '30']]


@pytest.mark.parametrize(('change', 'shown'), [
    ({'epoch': None}, ['10', '1234.568']), ({'epoch': 'first'}, ['1', '10']),
    ({'epoch': 0.5, 'main/loss': None}, ['0.5', '1234.568']),
    ({'main/loss': [1]}, ['1', '1234.568'])])
def test_a_log_that_lacks_what_others_have_is_shown_as_far_as_it_goes(monkeypatch, change, shown):
    monkeypatch.setattr(sys, 'stdout', io.StringIO())
    row = ROW | {'iteration': 10} | change
    lines = print_rows([{key: value for key, value in row.items() if value is not None}])
    if change != {'epoch': 'first'}:
        assert lines[2].split()[:2] == shown
    assert len(lines) == 3


def test_the_log_is_found_by_what_it_is(monkeypatch):
    theirs, ours = extensions.LogReport(), LogReport()
    for others in ([theirs, ours], [ours, theirs]):
        assert terminal.log_of(trainer_with(terminal.PrintReport(), *others)) is ours.log
    assert terminal.log_of(trainer_with(theirs)) is theirs.log
    assert terminal.log_of(trainer_with()) is None
    assert terminal.find(trainer_with(theirs), terminal.PrintReport) is None
    monkeypatch.setattr(sys, 'stdout', io.StringIO())
    report = terminal.PrintReport()
    report.initialize(trainer_with())
    report(trainer_with())
    assert sys.stdout.getvalue() == ''


@pytest.mark.parametrize(('trigger', 'words', 'total', 'shown'), [
    (triggers.IntervalTrigger(4, 'epoch'), '4', 12, '2/4, 42 %'),
    (triggers.IntervalTrigger(2.5, 'epoch'), '2.5', 8, '2/2.5, 62 %'),
    (triggers.IntervalTrigger(10, 'iteration'), 'as many as 10 iterations take', 10, '2, 50 %'),
    (triggers.EarlyStoppingTrigger(max_trigger=(4, 'epoch')), 'at most 4', 12, '2/4, 42 %'),
    (triggers.TimeTrigger(9), 'until the stop trigger fires', None, '2'),
    (lambda trainer: False, 'until the stop trigger fires', None, '2')])
def test_a_run_is_as_long_as_its_stop_trigger_tells(monkeypatch, trigger, words, total, shown):
    monkeypatch.setattr(sys, 'stdout', Screen())
    bar = terminal.ProgressBar()
    for iteration in range(1, 6):                       # three an epoch
        bar(SimpleNamespace(stop_trigger=trigger, updater=SimpleNamespace(
            iteration=iteration, epoch=iteration // 3, epoch_detail=iteration / 3,
            previous_epoch_detail=(iteration - 1) / 3)))
    assert (terminal.length_in_words(trigger), bar.bar.total) == (words, total)
    assert str(bar.bar).startswith(f'epoch {shown}, ')
    bar.finalize()


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
