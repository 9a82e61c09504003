"""Folders of IDX files as they come: read where what is meant is clear, else told what helps."""

import gzip
import io
import os
import shlex
import struct
import subprocess
import sys
import tarfile

from support.data import mnist  # lets chainer import

from conftest import idx, make_digits
import numpy as np
import pytest
from test_mnist import check_tiny, npy, zipped

PICTURES, LABELS = make_digits(60, 0)


def read(folder):
    """Read a folder of digits."""
    return mnist.get_digits(data_dir=str(folder))


def refusal(folder):
    """Return the line by which a folder of digits is refused."""
    with pytest.raises(mnist.DatasetError) as error:
        read(folder)
    assert str(error.value).isprintable()
    return str(error.value)


def rename(folder, name):
    """Give each file in a folder another name, or path: `name` of its old one and its content."""
    for path in list(folder.iterdir()):
        content = path.read_bytes()
        path.unlink()
        new = folder / name(path.name.removesuffix('.gz'))
        new.parent.mkdir(parents=True, exist_ok=True)
        new.write_bytes(content)


# What is read -------------------------------------------------------------------------------


@pytest.mark.parametrize('packed', [True, False])
@pytest.mark.parametrize('name', [
    '{}', '{}.gz', '{dotted}', '{dotted}.gz', 'MNIST/raw/{}', 'mnist/{}.gz', '{}/{}', '{}/{dotted}',
    'a [b]/{}'])
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
    for path in list(data_dir.iterdir()):
        (data_dir / path.stem).write_bytes(gzip.decompress(path.read_bytes()))
        path.write_bytes(b'never read')
        (data_dir / path.stem.replace('-idx', '.idx')).write_bytes(b'nor this')
    check_tiny(read(data_dir))


def test_a_folder_goes_before_those_below_it(data_dir, idx_files):
    (data_dir / 'MNIST').mkdir()
    for name in idx_files:
        (data_dir / 'MNIST' / name).write_bytes(b'never read')
    check_tiny(read(data_dir))


def test_of_several_datasets_one_has_to_be_named(data_dir, idx_files):
    rename(data_dir, lambda name: f'MNIST/raw/{name}')
    (data_dir / 'FashionMNIST' / 'raw').mkdir(parents=True)
    for name in idx_files:
        (data_dir / 'FashionMNIST' / 'raw' / name).write_bytes(b'not looked at')
    line = refusal(data_dir)
    for folder in ('MNIST', 'FashionMNIST'):
        assert str(data_dir / folder / 'raw') in line.partition('--data-dir: ')[2].split(', ')
    check_tiny(read(data_dir / 'MNIST'))


# What is renamed ----------------------------------------------------------------------------


def paste(line):
    """Run the command that a line ends with, as a user pastes it into a shell."""
    path = os.pathsep.join([os.path.dirname(sys.executable), os.environ['PATH']])
    subprocess.run(line.split(' by: ')[1], shell=True, check=True, env=os.environ | {'PATH': path})


@pytest.mark.parametrize('name', [
    'emnist-letters-{}', 'qmnist-{}', 'gzip/emnist-digits-{}', '{}.txt', "Bob's {} (1)",
    'my_{}.gz'])
def test_other_names(data_dir, name):
    def other(old):
        return name.format(old.replace('t10k', 'test'))

    rename(data_dir, other)
    line = refusal(data_dir)
    for old in ('train-images-idx3-ubyte', 't10k-labels-idx1-ubyte'):
        path = data_dir / other(old)
        new = path.parent / (old + '.gz' * path.name.endswith('.gz'))
        assert shlex.join(['mv', str(path), str(new)]) in line
    paste(line)
    check_tiny(read(data_dir))


def test_one_file_of_another_name(data_dir):
    (data_dir / 't10k-images-idx3-ubyte.gz').rename(data_dir / 't10k-images.gz')
    line = refusal(data_dir)
    assert line.endswith(f' by: mv {data_dir / "t10k-images.gz"} '
                         f'{data_dir / "t10k-images-idx3-ubyte.gz"}')


def test_of_several_datasets_in_a_folder_the_first_is_renamed(data_dir, idx_files):
    rename(data_dir, lambda name: f'emnist-letters-{name}')
    for name in idx_files:
        (data_dir / f'emnist-mnist-{name}').write_bytes(
            idx(PICTURES[:1] if 'images' in name else LABELS[:1]))
    line = refusal(data_dir)
    assert 'the files of emnist-letters, emnist-mnist; take one' in line
    paste(line)
    check_tiny(read(data_dir))


def rows_of(labels, columns):
    """Return labels as QMNIST has them: an IDX file of rows of big-endian integers."""
    rows = np.full((len(labels), columns), 70_000)
    rows[:, 0] = labels
    shape = [len(labels), columns] if columns > 1 else [len(labels)]
    head = struct.pack(f'>{1 + len(shape)}I', 0x0C00 + len(shape), *shape)
    return head + rows.astype('>i4').tobytes()


@pytest.mark.parametrize('columns', [8, 1])
@pytest.mark.parametrize('names, lines', [
    (('train-labels-idx1-ubyte.gz', 't10k-labels-idx1-ubyte'), 2),
    (('qmnist-train-labels-idx2-int.gz', 'qmnist-test-labels-idx2-int'), 1)])
def test_labels_in_rows_of_integers(data_dir, columns, names, lines):
    for part in ('train', 't10k'):
        (data_dir / f'{part}-labels-idx1-ubyte.gz').unlink()
    (data_dir / names[0]).write_bytes(gzip.compress(rows_of(LABELS, columns)))
    (data_dir / names[1]).write_bytes(rows_of(make_digits(30, 1)[1], columns))
    for _ in range(lines):
        paste(refusal(data_dir))
    check_tiny(read(data_dir))


# What is named ------------------------------------------------------------------------------


def tar(members):
    """Return a tar archive of these members."""
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode='w') as archive:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return file.getvalue()


POINTER = b'version https://git-lfs.github.com/spec/v1\noid sha256:%064d\nsize 9912422\n' % 0
PAGE = b'\n<!DOCTYPE html>\n<html lang="en"><head><title>404</title></head></html>'
GOOD = gzip.compress(idx(PICTURES))
FLOATS = struct.pack('>4I', 0x0D03, 60, 28, 28) + (PICTURES / 255).astype('>f4').tobytes()
DAMAGES = {
    'Git LFS': (POINTER, 'a pointer of Git LFS, and not the file itself; .*git lfs pull'),
    'HTML': (PAGE, 'a web page .*; download the file itself'),
    'HTML, packed': (gzip.compress(PAGE), 'a web page .*; download the file itself'),
    'an error of S3': (b'<?xml version="1.0"?>\n<Error/>', r'a web page \(HTML or XML\)'),
    'zip': (zipped({'train-images-idx3-ubyte': idx(PICTURES)}), 'a zip archive; .* unzip'),
    'tar.gz': (gzip.compress(tar({'x': idx(PICTURES)})), 'a tar archive; .* tar -xf'),
    'gzip, twice': (gzip.compress(GOOD), 'a gzip archive; .*gunzip'),
    'npy': (npy(PICTURES), 'a single array'),
    'empty': (b'', 'is empty; fetch it again'),
    'empty inside': (gzip.compress(b''), 'is empty; fetch it again'),
    'header alone': (idx(PICTURES)[:9], 'cut short'),
    'truncated gzip': (GOOD[:len(GOOD) // 2], 'cannot be read'),
    'flipped bit': (GOOD[:200] + bytes([GOOD[200] ^ 4]) + GOOD[201:], 'cannot be read'),
    'truncated body': (gzip.compress(idx(PICTURES)[:-1]), 'cut short'),
    'longer body': (gzip.compress(idx(PICTURES) + b'0'), 'longer than its header'),
    'labels': (gzip.compress(idx(LABELS)), 'has labels, and not images; put train-images'),
    'rows': (gzip.compress(idx(PICTURES.reshape(60, -1))), 'has arrays of 2 dimensions, and not'),
    'int32': (gzip.compress(b'\0\0\x0c\3' + idx(PICTURES)[4:]), 'has 32-bit integers, and not'),
    'float32': (FLOATS, 'has 32-bit floats, and not unsigned bytes; scale them to 0 ... 255'),
    'little endian': (gzip.compress(struct.pack('<4I', 2051, 60, 28, 28)),
                      'no IDX file .it begins with 03 08 00 00'),
    '27x28': (gzip.compress(idx(PICTURES[:, 1:])), 'images of 27x28 pixels, and digits are 28x28'),
    'no digits': (gzip.compress(idx(PICTURES[:0])), 'claims to hold 0, '),
    'huge': (gzip.compress(struct.pack('>4I', 2051, 2**32 - 1, 28, 28)), 'claims to hold 42949672'),
    'fewer images': (gzip.compress(idx(PICTURES[:59])), '59 train images, but 60 labels'),
}


@pytest.mark.parametrize('damage', DAMAGES)
def test_what_is_no_file_of_digits(data_dir, damage):
    content, message = DAMAGES[damage]
    (data_dir / 'train-images-idx3-ubyte.gz').write_bytes(content)
    with pytest.raises(mnist.DatasetError, match=message) as error:
        read(data_dir)
    assert '\n' not in str(error.value)


@pytest.mark.parametrize('files, message', [
    ({'archive.zip': zipped({'x': b''})}, 'but archive.zip, a zip archive; unpack it by unzip'),
    ({'mnist.npz': zipped({'x_train.npy': npy(PICTURES)})}, 'but mnist.npz, an npz of arrays; '),
    ({'mnist.pkl.gz': gzip.compress(b'\x80\x02}.')}, 'but mnist.pkl.gz, a pickle, which could'),
    ({'training.pt': zipped({'training/data.pkl': b'\x80\x02}.'})}, 'but training.pt, a file of '),
    ({'mnist_test.csv': b'7' + b',0' * 784, 'LICENSE': b'MIT'}, r'but mnist_test.csv, a table \('),
    ({'training/0/1.png': b'\x89PNG\r\n\x1a\n'}, 'but training/0/1.png, a picture; --data-dir '),
    ({'my-train.gz': POINTER, 'a.png': b'\x89PNG'}, 'but my-train.gz, a pointer of Git .*lfs pull'),
    ({'train-images-idx3-ubyte.gz/part': b'x'}, 'but a folder of that name; put the file in '),
    ({'notes.txt': b'none'}, 'has neither train-images-idx3-ubyte nor .*gz; put it there'),
])
def test_what_is_no_folder_of_digits(tmp_path, files, message):
    for name, content in files.items():
        (tmp_path / 'other' / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / 'other' / name).write_bytes(content)
    with pytest.raises(mnist.DatasetError, match=message):
        read(tmp_path / 'other')


def test_missing_folder_and_files(tmp_path, data_dir):
    assert 'is not a folder; --data-dir takes a folder of train-im' in refusal(tmp_path / 'nowhere')
    path = data_dir / 'train-images-idx3-ubyte.gz'
    assert refusal(path).endswith(f'name the folder that holds it: --data-dir {data_dir}')
    (tmp_path / 'mnist.zip').write_bytes(zipped({'x': b''}))
    assert 'is not a folder, but a zip archive; unpack it' in refusal(tmp_path / 'mnist.zip')
    (data_dir / 't10k-labels-idx1-ubyte.gz').unlink()
    assert 'neither t10k-labels-idx1-ubyte nor ' in refusal(data_dir)


def test_it_says_so_in_one_line(cli, data_dir, tmp_path):
    rename(data_dir, lambda name: f'qmnist-{name}')
    status, out, err = cli('--data-dir', data_dir, '-o', tmp_path / 'run')
    assert (status, out, err.count('\n')) == (2, '', 1)
    paste(err)
    check_tiny(read(data_dir))
