"""What a file is, by its first bytes, where it is not what was asked for; and what helps then."""

import collections
import re

HEAD = 512                  # bytes that tell; a tar archive says what it is at its 257th
OURS = 'use a snapshot of train_vae.py, or a net.VAE saved by chainer.serializers.save_npz'
# a name for people, and what helps, whatever was meant, with no '; ' in it
Kind = collections.namedtuple('Kind', 'name mend', defaults=[''])
EMPTY = Kind('empty', 'fetch it again')
GZIP = Kind('a gzip archive', 'unpack it by gunzip')
IDX = Kind('an IDX file of digits or labels')
NPZ = Kind('an npz of arrays')
KINDS = {                   # by the first bytes; of those that fit, the first one counts
    rb'\Z': EMPTY,
    rb'version https://git-lfs': Kind(
        'a pointer of Git LFS, and not the file itself', 'fetch that by: git lfs pull'),
    rb'(\xef\xbb\xbf)?\s*<[!?A-Za-z]': Kind(
        'a web page (HTML or XML)', 'download the file itself, by the link to its raw version'),
    rb'\x89HDF\r\n\x1a\n': Kind('an HDF5 file'),
    rb'\x80[\x02-\x05]|PK\x03\x04.{26}[^/]{1,200}/data\.pkl': Kind(
        'a pickle, as PyTorch writes them, which could run code'),
    rb'PK\x03\x04.{26}[ -~]{1,300}\.npy': NPZ,
    rb'PK(\x03\x04|\x05\x06)': Kind('a zip archive', 'unpack it by unzip'),
    rb'.{257}ustar': Kind('a tar archive', 'unpack it by tar -xf'),
    rb'\x1f\x8b': GZIP,
    rb'\0\0[\x08\x09\x0b-\x0e][\x01-\x04]': IDX,
}


def read_head(path):
    """Return the first `HEAD` bytes of a file, which must be no pipe."""
    with open(path, 'rb') as file:
        return file.read(HEAD)


def kind_of(head):
    """Return the Kind of a file, by its first bytes; None where they tell nothing."""
    fits = (kind for pattern, kind in KINDS.items() if re.match(pattern, head, re.DOTALL))
    return next(fits, None)
