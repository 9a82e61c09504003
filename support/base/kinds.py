"""What a file is, by its first bytes, where it is not what was asked for; and what helps then.

Nothing is unpickled or believed for that: 512 bytes are compared with a table.
"""

import re
from typing import NamedTuple

HEAD = 512                  # bytes that tell; a tar archive says what it is at its 257th
SAVE = 'chainer.serializers.save_npz'
OURS = f'use a snapshot of train_vae.py, or a net.VAE saved by {SAVE}'
COPY = f'copy its weights into a net.VAE, and save that by {SAVE}'


class Kind(NamedTuple):
    """A kind of files."""

    name: str               # for people
    mend: str = ''          # what helps, whatever was meant
    weights: str = ''       # what helps where a snapshot or the weights of a model were meant


EMPTY = Kind('empty', 'fetch it again')
GZIP = Kind('a gzip archive', 'unpack it by gunzip')
IDX = Kind('an IDX file of digits or labels')
NPZ = Kind('an npz of arrays')
TEXT = Kind('a text file')
KINDS = {                   # by the first bytes; of those that fit, the first one counts
    rb'\Z': EMPTY,
    rb'version https://git-lfs': Kind(
        'a pointer of Git LFS, and not the file itself', 'fetch that by: git lfs pull'),
    rb'(../)*\.git/annex/|/annex/objects/': Kind(
        'a pointer of git-annex, and not the file itself', 'fetch that by: git annex get'),
    rb'(\xef\xbb\xbf)?\s*<[!?A-Za-z]': Kind(
        'a web page (HTML or XML)', 'download the file itself, by the link to its raw version'),
    rb'\x89HDF\r\n\x1a\n': Kind('an HDF5 file', weights=(
        'load it by chainer.serializers.load_hdf5, if save_hdf5 made it, and save the model by '
        + SAVE)),
    rb'\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19|PK\x03\x04.{26}[^/]{1,200}/data\.pkl': Kind(
        'a file of PyTorch, whose pickle could run code', weights=COPY),
    rb'.{4}\0{4}\{"': Kind('a safetensors file', weights=COPY),
    rb'PK\x03\x04.{26}(metadata|config)\.json': Kind('a Keras model', weights=COPY),
    rb'\x80[\x02-\x05]|c[\w.]+\n\w+\n|\([dl]p\d|[\]}]q\0': Kind(
        'a pickle, which could run code', weights=(
            f'load it where you trust it, and save the model by {SAVE}')),
    rb'PK\x03\x04.{26}[ -~]{1,300}\.npy': NPZ,
    rb'\x93NUMPY': Kind('a single array (.npy)', weights=f'save the whole model by {SAVE}'),
    rb'PK(\x03\x04|\x05\x06)': Kind('a zip archive', 'unpack it by unzip'),
    rb'.{257}ustar': Kind('a tar archive', 'unpack it by tar -xf'),
    rb'\x1f\x8b': GZIP,
    rb'\x1f\x9d|x[\x01\x9c\xda]|BZh\d1AY|\xfd7zXZ\0|\x28\xb5\x2f\xfd|7z\xbc\xaf|Rar!': Kind(
        'a compressed archive', 'unpack it'),
    rb'\0\0[\x08\x09\x0b-\x0e][\x01-\x04]': IDX,
    rb'MATLAB ': Kind('a MATLAB file'),
    rb'PAR1': Kind('a table (Parquet)'),
    rb'\x89PNG|\xff\xd8\xff|GIF8': Kind('a picture'),
    rb'\s*[\[{]\s*["[{\]}]': Kind('a JSON file'),
    rb'("?[\w.-]{1,20}"?[,;\t]){9}': Kind('a table (CSV)'),
    rb'[\t\r\n -~]+\Z': TEXT,
}


def read_head(path):
    """Return the first `HEAD` bytes of a file, which must be no pipe."""
    with open(path, 'rb') as file:
        return file.read(HEAD)


def kind_of(head):
    """Return the kind of a file, by its first bytes; None where they tell nothing."""
    return next((kind for pattern, kind in KINDS.items() if re.match(pattern, head, re.DOTALL)),
                None)
