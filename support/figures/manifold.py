"""The manifold hypothesis: the swiss roll and what it is unrolled to; t-SNE; how 3-D turns.

What scikit-learn makes of points. It is imported where it is used, since that takes long. Shapes in
the comments: N points, Z latent dimensions.
"""

import os

from support.figures import pictures

import matplotlib
import numpy as np

BANDS = [tuple(matplotlib.colormaps['viridis'](i / 5)[:3]) for i in range(6)]   # their colours


def calm_openmp():
    """Say to scikit-learn's threads, before it is imported, how many they are and how they wait.

    Left to itself, scikit-learn warns at length where it finds no physical cores, and its threads
    wait so actively that t-SNE is many times slower on a machine that does something else too.
    """
    import joblib  # which itself sets some for OpenMP

    os.environ.setdefault('OMP_NUM_THREADS', str(joblib.cpu_count()))
    os.environ.setdefault('OMP_WAIT_POLICY', 'PASSIVE')


def roll():
    """Make a swiss roll: points (N, 3), and for each the number of its band along it, (N,)."""
    from sklearn.cluster import AgglomerativeClustering
    from sklearn.datasets import make_swiss_roll
    from sklearn.neighbors import kneighbors_graph

    points, along = make_swiss_roll(1500, noise=0.05, random_state=0)
    points[:, 1] /= 2           # as in the article: of a narrow roll, ward's clusters are bands
    neighbours = kneighbors_graph(points, 10)
    clusters = AgglomerativeClustering(len(BANDS), connectivity=neighbours, linkage='ward')
    found = clusters.fit_predict(points)
    means = [along[found == cluster].mean() for cluster in range(len(BANDS))]
    return points, np.argsort(np.argsort(means))[found]


def unrolled(points):
    """Return points (N, 3) of the roll by locally linear embedding, (N, 2)."""
    from sklearn.manifold import LocallyLinearEmbedding

    embedding = LocallyLinearEmbedding(n_neighbors=12, method='modified', random_state=0)
    return embedding.fit_transform(points)


def draw_roll(axes, points, bands):
    """Draw points (N, 2 or 3), each in the colour of its band, (N,)."""
    solid = {'depthshade': False} if points.shape[1] == 3 else {}
    axes.scatter(*points.T, s=18, c=np.array(BANDS)[bands], edgecolors='#444444', linewidths=0.3,
                 **solid)


def tsne(mu, dims):
    """Return codes (N, Z) by t-SNE, (N, dims), of which the farthest coordinate is 1."""
    from sklearn.manifold import TSNE

    print(f't-SNE of {len(mu)} codes into {dims} dimensions ...', flush=True)
    points = TSNE(dims, perplexity=min(30, len(mu) / 4), random_state=0,
                  init='pca' if mu.shape[1] >= dims else 'random').fit_transform(mu)
    points -= points.mean(axis=0)
    return points / np.abs(points).max()


def turning(points, draw, width=400, height=400, zoom=1.05):
    """Yield figures in which points (N, 3), drawn by draw(axes), turn once around in 36 steps.

    They turn in a square at the left.
    """
    for angle in range(0, 360, 10):
        figure = pictures.figure_of(width, height)
        axes = figure.add_axes((0, 0, height / width, 1), projection='3d')
        draw(axes)
        axes.view_init(elev=12, azim=angle - 90)
        axes.set_box_aspect(np.ptp(points, axis=0), zoom=zoom)
        axes.tick_params(labelcolor='none')
        yield figure
