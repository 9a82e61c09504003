"""Files are whole or not there."""

import errno
import os
import time

from support.base import files  # lets chainer import

import pytest


def test_replacing_is_all_or_nothing(tmp_path):
    path = tmp_path / 'file'
    path.write_bytes(b'old')
    with pytest.raises(RuntimeError), files.replacing(str(path)) as file:
        file.write(b'half')
        raise RuntimeError
    with pytest.raises(files.FileError, match=r'cannot write .*No space left'), \
            files.replacing(str(path)) as file:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    assert [p.name for p in tmp_path.iterdir()] == ['file']
    assert path.read_bytes() == b'old'
    with files.replacing(str(path)) as file:
        file.write(b'new')
        assert path.read_bytes() == b'old'
    assert [p.name for p in tmp_path.iterdir()] == ['file']
    assert path.read_bytes() == b'new'


def test_a_file_system_without_fsync_is_written_to(tmp_path, monkeypatch):
    def fail(descriptor):
        raise OSError(errno.ENOTSUP, 'no fsync')

    monkeypatch.setattr(os, 'fsync', fail)
    files.write_text(str(tmp_path), 'log', 'new')
    assert (tmp_path / 'log').read_text() == 'new'


def test_what_a_killed_program_left_of_a_figure_goes(tmp_path):
    (tmp_path / 'projector').mkdir()
    old = '.other.png.7.part', 'map.png', '.map.png.7.part', 'projector/.tensors.tsv.7.part'
    new = '.map.png.8.part', 'projector/.tensors.tsv.8.part'
    for name in (*old, *new):
        (tmp_path / name).touch()
    for name in old:
        os.utime(tmp_path / name, (time.time() - 700,) * 2)
    files.sweep(str(tmp_path), ['map.png', 'scatter.png', 'projector'])
    assert {str(path.relative_to(tmp_path)) for path in tmp_path.rglob('*') if path.is_file()} == {
        *old[:2], *new}
