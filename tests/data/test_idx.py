"""Folders of IDX files as they come: read if what is meant is clear, or else refused in a line."""

import gzip
import struct

from support.data import mnist  # lets chainer import

from conftest import idx, make_digits
import numpy as np
import pytest
from samples import check_tiny, npy, zipped

PICTURES, LABELS = make_digits(60, 0)


def read(folder):
    return mnist.get_digits(data_dir=str(folder))


def check_refused(folder, message):
    with pytest.raises(mnist.DatasetError, match=message) as error:
        read(folder)
    assert str(error.value).isprintable()


def rename(folder, name):
    """Give each file in a folder another name, or path: `name` of its old one and its content."""
    for path in list(folder.iterdir()):
        content = path.read_bytes()
        path.unlink()
        new = folder / name(path.name.removesuffix('.gz'))
        new.parent.mkdir(parents=True, exist_ok=True)
        new.write_bytes(content)


@pytest.mark.parametrize('packed', [True, False])
@pytest.mark.parametrize('name', [
    '{}', '{dotted}.gz', 'MNIST/raw/{}', '{}/{dotted}', 'a [b]/{}', 'gzip/emnist-digits-{}.gz'])
def test_folder(data_dir, packed, name):
    if not packed:
        for path in data_dir.iterdir():
            path.write_bytes(gzip.decompress(path.read_bytes()))
    rename(data_dir, lambda old: name.format(old, old, dotted=old.replace('-idx', '.idx')))
    digits = read(data_dir)
    check_tiny(digits)
    found = name.rpartition('/')[0] if name[0] != '{' else ''
    assert (digits.dataset, digits.data_dir) == ('mnist', str(data_dir / found))
    assert digits.title == f'IDX files in {data_dir / found}'


def test_plain_files_come_before_packed_and_dashes_before_dots(data_dir):
    (data_dir / 'MNIST').mkdir()
    for path in list(data_dir.glob('*.gz')):
        (data_dir / path.stem).write_bytes(gzip.decompress(path.read_bytes()))
        path.write_bytes(b'never read')
        (data_dir / path.stem.replace('-idx', '.idx')).write_bytes(b'nor this')
        (data_dir / 'MNIST' / path.stem).write_bytes(b'nor what is below')
    check_tiny(read(data_dir))


def test_of_several_datasets_one_has_to_be_named(data_dir, idx_files):
    rename(data_dir, lambda name: f'MNIST/raw/{name}')
    (data_dir / 'FashionMNIST' / 'raw').mkdir(parents=True)
    for name in idx_files:
        (data_dir / 'FashionMNIST' / 'raw' / name).write_bytes(b'not looked at')
    check_refused(data_dir, f'--data-dir: {data_dir}/FashionMNIST/raw, {data_dir}/MNIST/raw')
    check_tiny(read(data_dir / 'MNIST'))


def test_of_several_datasets_in_a_folder_mnist_is_read(data_dir, idx_files):
    for name in idx_files:
        (data_dir / f'emnist-{name}').write_bytes(b'never read')
    check_tiny(read(data_dir))
    for path in data_dir.glob('t*'):
        path.rename(data_dir / f'qmnist-{path.name}')
    check_refused(data_dir, 'holds the files of emnist-, qmnist-; move those of one')


def rows_of(labels, columns):
    """Return labels as QMNIST has them: an IDX file of rows of big-endian integers."""
    rows = np.full((len(labels), columns), 70_000)
    rows[:, 0] = labels
    shape = [len(labels), columns] if columns > 1 else [len(labels)]
    head = struct.pack(f'>{1 + len(shape)}I', 0x0C00 + len(shape), *shape)
    return head + rows.astype('>i4').tobytes()


@pytest.mark.parametrize('columns', [8, 1])
@pytest.mark.parametrize('pack', [gzip.compress, bytes])
def test_labels_in_rows_of_integers(data_dir, columns, pack):
    rename(data_dir, lambda name: 'qmnist-' + name.replace('t10k', 'test'))
    for part, labels in (('train', LABELS), ('test', make_digits(30, 1)[1])):
        (data_dir / f'qmnist-{part}-labels-idx1-ubyte').unlink()
        (data_dir / f'qmnist-{part}-labels-idx2-int').write_bytes(pack(rows_of(labels, columns)))
    check_tiny(read(data_dir))


POINTER = b'version https://git-lfs.github.com/spec/v1\noid sha256:%064d\nsize 9912422\n' % 0
PAGE = b'\n<!DOCTYPE html>\n<html lang="en"><head><title>404</title></head></html>'
GOOD = gzip.compress(idx(PICTURES))
FLOATS = struct.pack('>4I', 0x0D03, 60, 28, 28) + (PICTURES / 255).astype('>f4').tobytes()
DAMAGES = {
    'Git LFS': (POINTER, 'a pointer of Git LFS, and not the file itself; .*git lfs pull'),
    'HTML, packed': (gzip.compress(PAGE), 'a web page .*; download the file itself'),
    'npy': (npy(PICTURES), 'no IDX file .it begins with 93 4e'),
    'empty': (b'', 'is empty; fetch it again'),
    'flipped bit': (GOOD[:200] + bytes([GOOD[200] ^ 4]) + GOOD[201:], 'cannot be read'),
    'truncated body': (gzip.compress(idx(PICTURES)[:-1]), 'cut short'),
    'longer body': (gzip.compress(idx(PICTURES) + b'0'), 'longer than its header'),
    'labels': (gzip.compress(idx(LABELS)), 'holds 60 unsigned bytes, and images are 28x28'),
    'float32': (FLOATS, 'holds 60x28x28 other numbers, and images are'),
    'a bomb': (gzip.compress(struct.pack('>4I', 2051, 900_000, 28, 28)), 'claims 705600000 bytes'),
    'fewer images': (gzip.compress(idx(PICTURES[:59])), '59 train images, but 60 labels'),
}


@pytest.mark.parametrize('damage', DAMAGES)
def test_what_is_no_file_of_digits(data_dir, damage):
    content, message = DAMAGES[damage]
    (data_dir / 'train-images-idx3-ubyte.gz').write_bytes(content)
    check_refused(data_dir, message)


@pytest.mark.parametrize('name, content, message', [
    ('archive.zip', zipped({'x': b''}), 'archive.zip is a zip archive; unpack it by unzip'),
    ('mnist.npz', zipped({'x_train.npy': npy(PICTURES)}), 'mnist.npz is an npz of arrays; '),
    ('mnist.pkl.gz', gzip.compress(b'\x80\x02}.'), 'mnist.pkl.gz is a pickle, .* could run'),
    ('train-images-idx3-ubyte.gz/part', b'x', 'has neither train-images-idx3-ubyte nor '),
    ('a.png', b'\x89PNG', 'has neither train-images-idx3-ubyte nor .*gz; put it there')],
    ids=lambda value: value if isinstance(value, str) else '')
def test_what_is_no_folder_of_digits(tmp_path, data_dir, name, content, message):
    path = tmp_path / 'other' / name
    path.parent.mkdir(parents=True)
    path.write_bytes(content)
    check_refused(tmp_path / 'other', message)
    for path in (tmp_path / 'nowhere', data_dir / 'train-images-idx3-ubyte.gz'):
        check_refused(path, 'is not a folder; --data-dir takes a folder of train-im')
    (data_dir / 't10k-labels-idx1-ubyte.gz').unlink()
    check_refused(data_dir, 'neither t10k-labels-idx1-ubyte nor ')
