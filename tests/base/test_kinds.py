"""What a file is, by its first bytes: of files that the programs make whose format it is."""

import bz2
import csv
import gzip
import io
import json
import lzma
import pickle
import tarfile
import zipfile
import zlib

from support.base import kinds

from conftest import idx
import numpy as np
from PIL import Image
import pytest
from test_mnist import Marker, npy, zipped

import net


def written(write):
    """Return what a function writes into a binary file."""
    file = io.BytesIO()
    write(file)
    return file.getvalue()


def tar(file):
    """Write a tar archive of a member."""
    with tarfile.open(fileobj=file, mode='w') as archive:
        archive.addfile(tarfile.TarInfo('x'))


def table(file):
    """Write a row of a digit as CSV."""
    text = io.TextIOWrapper(file)
    csv.writer(text).writerow(range(785))
    text.detach()


NPZ = written(lambda file: np.savez(file, **{'updater/model:main/le1/W': np.ones(3)}))
MADE = {
    'empty': [b''],
    'a pickle, which could run code': [
        pickle.dumps(value, protocol) for protocol in range(6)
        for value in ({'a': 1}, [1, 2], net.VAE(3, 2, 2), Marker('nowhere'))],
    'an npz of arrays': [NPZ, NPZ[:100], written(
        lambda file: np.savez_compressed(file, x=np.ones(3)))],
    'a single array (.npy)': [npy(np.ones(3)), npy(np.array([{}]))],
    # as torch.save lays them out, in a zip and before there was one
    'a file of PyTorch, whose pickle could run code': [
        zipped({'model/data.pkl': pickle.dumps({}, 2), 'model/data/0': bytes(12)}),
        pickle.dumps(0x1950a86a20f9469cfc6c, 2) + pickle.dumps(1001, 2)],
    'a safetensors file': [(90).to_bytes(8, 'little') + json.dumps({'le1.weight': {
        'dtype': 'F32', 'shape': [1], 'data_offsets': [0, 4]}}).encode().ljust(90) + bytes(4)],
    'an HDF5 file': [b'\x89HDF\r\n\x1a\n' + bytes(88)],
    'a Keras model': [zipped({'metadata.json': b'{}', 'model.weights.h5': b'\x89HDF'})],
    'a zip archive': [zipped({'a': b''}), written(lambda file: zipfile.ZipFile(file, 'w').close())],
    'a tar archive': [written(tar)],
    'a gzip archive': [gzip.compress(b'')],
    'a compressed archive': [
        bz2.compress(b'a'), lzma.compress(b''),
        *(zlib.compress(bytes(99), level) for level in (1, 6, 9))],
    'an IDX file of digits or labels': [idx(np.zeros((2, 28, 28))), idx(np.zeros(3))],
    'a picture': [written(lambda file, kind=kind: Image.new('L', (2, 2)).save(file, kind))
                  for kind in ('PNG', 'JPEG', 'GIF')],
    'a JSON file': [json.dumps(value, indent=indent).encode()
                    for value in ({'a': 1}, [{'epoch': 1}], {}) for indent in (None, 4)],
    'a table (CSV)': [written(table), b'label,' + b','.join(b'1x%d' % i for i in range(1, 29))],
    'a text file': [b'hello\n', b'# MNIST\r\n\r\nread me\r\n', b'(c) 2026'],
    'a web page (HTML or XML)': [
        b'<!DOCTYPE html>', b'\n\n<html lang="en">', b'\xef\xbb\xbf<HTML>',
        b'<?xml version="1.0"?>'],
    'a pointer of Git LFS, and not the file itself': [
        b'version https://git-lfs.github.com/spec/v1\noid sha256:%064d\nsize 1\n' % 0],
    'a pointer of git-annex, and not the file itself': [
        b'/annex/objects/SHA256E-s1--0\n', b'../.git/annex/objects/a/b/SHA256E-s1--0'],
}


@pytest.mark.parametrize('name', MADE)
def test_kinds(name):
    for content in MADE[name]:
        assert kinds.kind_of(content[:kinds.HEAD]).name == name, content[:40]


def test_what_is_unknown():
    for content in (b'\x7fELF\2\1\1', bytes(100), bytes(range(256)), b'\xff\xfe\xfd'):
        assert kinds.kind_of(content) is None


def test_a_mend_is_the_end_of_a_line():
    # what is before the last '; ' is repeated without it, where a snapshot is passed over
    for kind in kinds.KINDS.values():
        assert '; ' not in kind.name + kind.mend + kind.weights
