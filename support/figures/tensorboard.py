"""The files of TensorBoard's Embedding Projector: codes of digits, and facts about each.

Its PCA draws nothing of fewer than three dimensions. Its t-SNE and UMAP find neighbours by the dot
product, as if all vectors had unit length (tensorflow/tensorboard, issue 6271). So two tensors.
"""

import os

from support.base import files  # lets chainer import
from support.data import mnist
from support.figures import pictures
from support.run import observe

import chainer.functions as F
from chainer.utils import type_check
import numpy as np
from PIL import Image

import net

FOR_PCA, FOR_NEIGHBOURS = 'codes (for PCA)', 'on a sphere (t-SNE, UMAP)'   # the first is opened
RADIUS = 3              # at which the plane of the codes touches that sphere's rays, in sigma
TENSOR = """\
embeddings {{
  tensor_name: "{name}"
  tensor_shape: {shape[0]}
  tensor_shape: {shape[1]}
  tensor_path: "{path}"
  metadata_path: "metadata.tsv"
  sprite {{
    image_path: "sprite.png"
    single_image_dim: {side}
    single_image_dim: {side}
  }}
}}
"""


def losses(model, x):
    """Return the loss of each digit (N, D), (N,): -L(x, z) with one draw of z, or squared error."""
    def loss(x):
        if isinstance(model, net.Autoencoder):
            return F.sum((x - model(x)) ** 2, axis=1)
        mu, ln_var = model.encode(x)
        eps = np.random.RandomState(0).standard_normal(mu.shape).astype(np.float32)
        z = F.gaussian(mu, ln_var, eps=model.xp.asarray(eps))
        rec_loss = F.bernoulli_nll(x, model.decode(z, sigmoid=False), 'no')         # (N, D)
        latent_loss = F.gaussian_kl_divergence(mu, ln_var, 'no')                    # (N, Z)
        return F.sum(rec_loss, axis=1) + F.sum(latent_loss, axis=1)

    def by_net_py(x):
        with observe.as_tested(model):                 # for each call, as a loss may count calls
            lf = model.get_loss_func()
            return float(observe.reported(lf, model.xp.asarray(x), model)[0].array)

    try:
        found = pictures.in_batches(model, loss, x)
        same = np.isclose(by_net_py(x[:10]), found[:10].mean(), rtol=1e-3)
    except (TypeError, ValueError, AttributeError, type_check.InvalidType):
        same = False                                    # encode or decode takes something else
    # if net.py's loss is edited, it is called digit by digit, which takes longer
    return found if same else np.array([by_net_py(digit[None]) for digit in x], np.float32)


def padded(mu):
    """Return codes (N, Z) with columns of zeros, so that there are three at least."""
    return np.pad(mu, [(0, 0), (0, max(3 - mu.shape[1], 0))])


def on_sphere(mu):
    """Return unit vectors, (N, max(Z + 1, 3)), that are neighbours if the codes (N, Z) are."""
    # one more coordinate, the same for all, keeps codes of one direction apart
    lifted = padded(np.pad(mu, [(0, 0), (0, 1)], constant_values=RADIUS))
    return lifted / np.linalg.norm(lifted, axis=1, keepdims=True)


def save(path, mu, x, metadata):
    """Write codes (N, Z) of digits (N, D), and facts by column, into a folder; return the files."""
    def table(rows):
        return ''.join('\t'.join(map(str, row)) + '\n' for row in rows)

    files.make_folder(path)
    tiles = pictures.joined(pictures.as_pictures(x), int(np.ceil(np.sqrt(len(x)))))
    side = max(tiles.shape)                         # the projector wants a square
    sprite = np.pad(tiles, [(0, side - length) for length in tiles.shape])
    with files.replacing(os.path.join(path, 'sprite.png')) as file:
        Image.fromarray(np.round(sprite * 255).astype(np.uint8)).save(file, 'PNG')
    tensors = {'tensors.tsv': (FOR_PCA, padded(mu)),
               'tensors_on_sphere.tsv': (FOR_NEIGHBOURS, on_sphere(mu))}
    texts = {file: table([f'{value:.9g}' for value in row] for row in tensor)
             for file, (_, tensor) in tensors.items()}
    texts['metadata.tsv'] = table([metadata, *zip(*metadata.values(), strict=True)])
    texts['projector_config.pbtxt'] = ''.join(
        TENSOR.format(name=name, shape=tensor.shape, path=file, side=mnist.SIDE)
        for file, (name, tensor) in tensors.items())
    for file, text in texts.items():
        files.write_text(path, file, text)
    return [os.path.join(path, file) for file in ('sprite.png', *texts)]
