"""The files of TensorBoard's Embedding Projector: codes of digits, and facts about each.

Its PCA draws three axes, and nothing if codes have fewer dimensions. Its t-SNE and UMAP look for
neighbours by the dot product, as if all vectors had unit length (tensorflow/tensorboard, issue
6271). So there are two tensors. Shapes in the comments: N digits, Z latent dimensions.
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
    """Return the loss of each digit (N, D): -L(x, z) with one draw of z, or the squared error.

    Returns:
        ndarray: (N,) float32, the same each time. If net.py's loss is edited, it is called digit by
        digit, which takes longer.
    """
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
    return found if same else np.array([by_net_py(digit[None]) for digit in x], np.float32)


def padded(mu):
    """Return codes (N, Z) with columns of zeros, so that there are three at least."""
    return np.pad(mu, [(0, 0), (0, max(3 - mu.shape[1], 0))])


def on_sphere(mu):
    """Return vectors of unit length, (N, max(Z + 1, 3)), that are neighbours if codes (N, Z) are.

    Codes that are only scaled would coincide if they have one direction: with z = 1, all would be
    one of two points. So each first gets one more coordinate, the same for all.
    """
    lifted = padded(np.pad(mu, [(0, 0), (0, 1)], constant_values=RADIUS))
    return lifted / np.linalg.norm(lifted, axis=1, keepdims=True)


def table(rows):
    """Return the text of a file of tab-separated values."""
    return ''.join('\t'.join(map(str, row)) + '\n' for row in rows)


def sprite_of(x):
    """Return one image of all digits, (N, D) in [0, 1], in a square."""
    side = int(np.ceil(np.sqrt(len(x))))
    tiles = np.zeros((side * side, mnist.SIDE, mnist.SIDE))
    tiles[:len(x)] = pictures.as_pictures(x)
    return Image.fromarray(np.round(pictures.joined(tiles, side) * 255).astype(np.uint8))


def save(path, mu, x, metadata):
    """Write codes for the projector, with the picture of each.

    Args:
        path (str): The folder, which is TensorBoard's --logdir.
        mu (ndarray): The codes, (N, Z).
        x (ndarray): Their digits, (N, D) in [0, 1].
        metadata (dict): Facts about each code, (N,), by the name of the column.

    Returns:
        list of str: The files.
    """
    files.make_folder(path)
    with files.replacing(os.path.join(path, 'sprite.png')) as file:
        sprite_of(x).save(file, 'PNG')
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
