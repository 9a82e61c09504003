"""A run has its folder for itself, and knows its snapshots by their names."""

import contextlib
import errno
import os
from types import SimpleNamespace

from support.base import files  # lets chainer import
from support.run import run_folder

from conftest import SMALL
import pytest
from runs import check_refused

import net


def test_snapshots_are_known_by_the_names_that_scripts_give_them(tmp_path):
    tmp_path = tmp_path / 'a[1]*'           # which is no pattern
    tmp_path.mkdir()
    names = {'snapshot_epoch_2': ('snapshot_epoch_', 2), 'snapshot_iter_6': ('snapshot_iter_', 6),
             'snapshot_epoch-12': ('snapshot_epoch-', 12), 'snapshot_7.npz': ('snapshot_.npz', 7),
             'snapshot_iteration_30': ('snapshot_iteration_', 30)}
    for name, series in names.items():
        (tmp_path / name).touch()
        assert run_folder.series_of(str(tmp_path / name)) == series
        assert run_folder.folder_of(str(tmp_path / name)) == str(tmp_path)
    for name in ('snapshot_best_3', 'snapshot_iter_3.h5', 'snapshot_', 'snapshots_3', 'log_3',
                 'snapshot_epoch_1.bak', 'my_snapshot_epoch_2', '.snapshot_epoch_3.part'):
        (tmp_path / name).touch()
        assert run_folder.series_of(name) == ('', -1)
    assert {os.path.basename(path) for path in run_folder.find_snapshots(str(tmp_path))} == {*names}
    assert run_folder.folder_of('snapshot_interrupted') == '.'
    assert run_folder.folder_of('a/mlp_20.model') is run_folder.folder_of(None) is None


def test_a_claimed_folder_is_swept_and_free_again_after(small_run):
    debris = ['.snapshot_epoch_3.77.part', '.snapshot_interrupted.7.part', '.log.123.part',
              '.loss.png.1.part', '.args.json.1.part', '.cg.dot.1.part']
    others = ['.map.png.77.part', '.snapshot_epoch_3.part', 'snapshot_epoch_3.77.part', '.part']
    for name in debris + others:
        (small_run / name).touch()
    before = {path.name for path in small_run.iterdir()}
    for _ in range(2):
        with run_folder.claim(str(small_run), resumed=str(small_run / 'snapshot_epoch_2')):
            assert {path.name for path in small_run.iterdir()} == before - set(debris)
    for _ in range(2):
        with pytest.raises(RuntimeError), run_folder.claim(str(small_run), overwrite=True):
            raise RuntimeError


def test_a_claimed_folder_that_stays_empty_goes_again_if_it_was_new(tmp_path):
    (tmp_path / 'old').mkdir()
    for name in ('new', 'old', 'used'):
        with run_folder.claim(str(tmp_path / name)):
            if name == 'used':
                (tmp_path / name / 'log').touch()
    assert sorted(path.name for path in tmp_path.iterdir()) == ['old', 'used']


def test_a_folder_that_cannot_be_locked(tmp_path):
    (tmp_path / '.lock').mkdir()
    with pytest.raises(files.FileError, match=r'cannot lock .*name another folder'), \
            run_folder.claim(str(tmp_path)):
        pass


def test_room_is_the_bytes_of_what_is_yet_to_be_written(tmp_path, monkeypatch):
    """Two snapshots, of 300 bytes each, are there; --overwrite takes them away."""
    for name in ('snapshot_epoch_1', 'snapshot_interrupted', 'snapshot_epoch_3.bak'):
        (tmp_path / name).write_bytes(bytes(300))
    for keep, overwrite, epochs, needed in [
            (5, False, 5, 3000), (5, False, 10, 4000), (1, False, 9, 1000), (5, False, 0, 1000),
            (5, True, 20, 6000 - 600)]:
        args = SimpleNamespace(out=str(tmp_path), keep=keep, overwrite=overwrite, snapshot_every=2)
        for free, fits in ((needed, True), (needed - 1, False)):
            monkeypatch.setattr(run_folder.shutil, 'disk_usage', lambda out, free=free:
                                SimpleNamespace(free=free))
            with contextlib.nullcontext() if fits else pytest.raises(
                    files.FileError, match=r'0\.0 MB free, and \d new .* take 0\.0 MB; make'):
                run_folder.check_room(args, 1000, epochs)


def test_a_second_run_is_refused_while_the_first_lives(cli, data_dir, tmp_path, monkeypatch):
    flags, second = ['--data-dir', data_dir, *SMALL, '-o', tmp_path / 'run'], []
    monkeypatch.setattr(net, 'draw_graph', lambda *args: second.append(cli(*flags)) or '')
    assert cli(*flags)[0] == 0
    check_refused(*second, 'in use by another run')


def test_a_run_that_sees_no_room_does_not_start(cli, data_dir, tmp_path, monkeypatch):
    free = SimpleNamespace(free=10**5)                  # a snapshot has 0.3 MB
    monkeypatch.setattr(run_folder.shutil, 'disk_usage', lambda out: free)
    check_refused(cli('--data-dir', data_dir, *SMALL, '-o', tmp_path / 'run', '--keep', '1'),
                  '0.1 MB free, and 2 new snapshots take 0.')
    free.free = 10**6
    assert cli('--data-dir', data_dir, *SMALL, '-o', tmp_path / 'run')[0] == 0


@pytest.mark.parametrize('error', [OSError(errno.ENOLCK, 'no locks'), NotImplementedError('no')])
def test_one_without_locks_is_warned_of(tmp_path, monkeypatch, capsys, error):
    def fail(lock):
        raise error

    monkeypatch.setattr(run_folder.filelock.FileLock, 'acquire', fail)
    with run_folder.claim(str(tmp_path / 'run')):
        assert 'without locks; start no second run there' in capsys.readouterr().err
