"""What a file is, by its first bytes: files from the programs that make them."""

import gzip
import pickle
import tarfile

from support.base import kinds

from conftest import idx
import numpy as np
import pytest
from samples import Marker, npy, zipped

import net

NPZ = zipped({'updater/model:main/le1/W.npy': npy(np.ones(3))})
MADE = {
    'empty': [b''],
    'a pickle, as PyTorch writes them, which could run code': [
        *(pickle.dumps(value, protocol) for protocol in range(2, 6)
          for value in ({'a': 1}, [1, 2], net.VAE(3, 2, 2), Marker('nowhere'))),
        # as torch.save lays them out, in a zip and before there was one
        zipped({'model/data.pkl': pickle.dumps({}, 2), 'model/data/0': bytes(12)}),
        pickle.dumps(0x1950a86a20f9469cfc6c, 2) + pickle.dumps(1001, 2)],
    'an npz of arrays': [NPZ, NPZ[:100]],
    'an HDF5 file': [b'\x89HDF\r\n\x1a\n' + bytes(88)],
    'a zip archive': [zipped({'a': b''}), zipped({})],
    'a tar archive': [tarfile.TarInfo('x').tobuf()],
    'a gzip archive': [gzip.compress(b'')],
    'an IDX file of digits or labels': [idx(np.zeros((2, 28, 28))), idx(np.zeros(3))],
    'a web page (HTML or XML)': [
        b'<!DOCTYPE html>', b'\n\n<html lang="en">', b'\xef\xbb\xbf<HTML>',
        b'<?xml version="1.0"?>'],
    'a pointer of Git LFS, and not the file itself': [
        b'version https://git-lfs.github.com/spec/v1\noid sha256:%064d\nsize 1\n' % 0],
}


@pytest.mark.parametrize('name', MADE)
def test_kinds(name):
    for content in MADE[name]:
        assert kinds.kind_of(content[:kinds.HEAD]).name == name, content[:40]


def test_what_is_unknown():
    for content in (b'\x7fELF\2\1\1', bytes(100), b'{"epoch": 1}', b'hello\n', npy(np.ones(3))):
        assert kinds.kind_of(content) is None
