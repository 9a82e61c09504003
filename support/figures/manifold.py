"""What scikit-learn computes: the swiss roll, t-SNE; and how points turn in 3-D.

scikit-learn is imported where it is used, as that takes long.
"""

import os

from support.figures import pictures

import matplotlib
import numpy as np

BANDS = [tuple(matplotlib.colormaps['viridis'](i / 5)[:3]) for i in range(6)]   # their colours
DEGREES = np.arange(0, 360, 10)
# views, as elevation and azimuth: once around, and to both sides of the spiral
AROUND = [(12, angle - 90) for angle in DEGREES]
SWING = [(20 + 10 * np.cos(angle), -80 + 40 * np.sin(angle)) for angle in np.radians(DEGREES)]


def calm_openmp():
    """Set how many threads scikit-learn uses and how they wait, before it is imported.

    Else it warns where it finds no physical cores, and t-SNE is slow where others compute, too.
    """
    import joblib  # it also sets some variables for OpenMP

    os.environ.setdefault('OMP_NUM_THREADS', str(joblib.cpu_count()))
    os.environ.setdefault('OMP_WAIT_POLICY', 'PASSIVE')


def roll():
    """Return points of a swiss roll, (N, 3), and the number of the band of each, (N,)."""
    from sklearn.cluster import AgglomerativeClustering
    from sklearn.datasets import make_swiss_roll
    from sklearn.neighbors import kneighbors_graph

    points, along = make_swiss_roll(1500, noise=0.05, random_state=0)
    points[:, 1] /= 2           # as in the article: the clusters of a narrow roll are bands
    neighbours = kneighbors_graph(points, 10)
    clusters = AgglomerativeClustering(len(BANDS), connectivity=neighbours, linkage='ward')
    found = clusters.fit_predict(points)
    means = [along[found == cluster].mean() for cluster in range(len(BANDS))]
    return points, np.argsort(np.argsort(means))[found]


def tsne(mu, dims):
    """Return codes (N, Z) by t-SNE, (N, dims), scaled so that the largest coordinate is 1."""
    from sklearn.manifold import TSNE

    print(f't-SNE of {len(mu)} codes into {dims} dimensions ...', flush=True)
    points = TSNE(dims, perplexity=min(30, len(mu) / 4), random_state=0,
                  init='pca' if mu.shape[1] >= dims else 'random').fit_transform(mu)
    points -= points.mean(axis=0)
    return points / np.abs(points).max()


def turning(points, draw, title, width=400, height=400, zoom=0.95, views=AROUND):
    """Draw points (N, 3) by draw(axes); yield the figure as they turn in a square at its left."""
    figure = pictures.figure_of(width, height)
    figure.text(height / width / 2, 1 - 8 / height, title, size=12, ha='center', va='top')
    axes = figure.add_axes((0, 0, height / width, 1), projection='3d')
    draw(axes)
    axes.set_box_aspect(np.ptp(points, axis=0), zoom=zoom)
    axes.tick_params(labelcolor='none')
    for elevation, azimuth in views:
        axes.view_init(elevation, azimuth)
        yield figure
