"""TensorBoard's projector: what it is given, what it serves, and what Chromium shows of it."""

import contextlib
import re
import subprocess
import sys
import time

from support.figures import tensorboard  # lets chainer import

from conftest import make_digits, open_chromium
import numpy as np
import pytest
from shown import first_frame

import net

DIGITS, LABELS = make_digits(30, 0)
DIGITS = DIGITS.reshape(30, 784).astype(np.float32) / 255


def codes_of(dims, n=30):
    """Return codes in clusters, (n, dims), around as many places as there are labels."""
    rng = np.random.RandomState(0)
    return 2 * rng.normal(size=(10, dims))[np.arange(n) % 10] + 0.1 * rng.normal(size=(n, dims))


def same_label(vectors, labels):
    """Return how many of the 5 neighbours by the dot product have a vector's label, on average."""
    dot = vectors @ vectors.T
    np.fill_diagonal(dot, -np.inf)
    return np.mean(labels[np.argsort(-dot, axis=1)[:, :5]] == labels[:, None])


@pytest.mark.parametrize('dims', [1, 2, 3, 20])
def test_neighbours_on_the_sphere_are_those_of_the_codes(dims):
    codes, labels = codes_of(dims, 300), np.arange(300) % 10
    vectors = tensorboard.on_sphere(codes)
    assert vectors.shape == (300, max(dims + 1, 3))
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1)
    distance = np.linalg.norm(codes[:, None] - codes, axis=2)
    np.fill_diagonal(distance, np.inf)
    wanted = np.mean(labels[np.argsort(distance, axis=1)[:, :5]] == labels[:, None])
    assert same_label(vectors, labels) > wanted - 0.02
    if dims < 4:                                            # why there are two
        assert same_label(tensorboard.padded(codes), labels) < wanted - 0.1


@pytest.mark.parametrize('old, new', [
    ('', ''), ('F.bernoulli_nll(x, logits)', 'F.sum((x - F.sigmoid(logits)) ** 2)'),
    ('def decode(self, z, sigmoid=True):', 'def decode(self, z, sigmoid):\n        self.seen = z')])
def test_the_loss_of_a_digit_is_that_of_the_model(edit, old, new):
    if old:
        edit(old, new)
    model = net.VAE(784, 2, 8)
    model.le3_ln_var.W.array[...] = 0
    model.le3_ln_var.b.array[...] = -60                     # sigma = 0: no noise
    losses = tensorboard.losses(model, DIGITS)
    assert not hasattr(model, 'seen')
    wanted = [float(model.get_loss_func()(x[None]).array) for x in DIGITS]
    np.testing.assert_allclose(losses, wanted, rtol=1e-4)
    np.testing.assert_array_equal(losses, tensorboard.losses(model, DIGITS))


# All text of a page, in its web components too.
TEXT = """
const text = node => [...node.childNodes].map(child => child.nodeType == 3 ? child.textContent
  : /STYLE|SCRIPT/.test(child.tagName) ? '' : (child.shadowRoot ? text(child.shadowRoot) : '')
    + text(child)).join(' ');
return text(document.body).replace(/\\s+/g, ' ');"""


@contextlib.contextmanager
def served(folder):
    """Yield the address where TensorBoard serves a folder."""
    process = subprocess.Popen(
        [sys.executable, '-m', 'tensorboard.main', '--logdir', folder, '--host', '127.0.0.1',
         '--port', '0'], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    try:
        lines = []
        while not (found := re.search(r'http://127\.0\.0\.1:\d+/', ''.join(lines))):
            lines.append(process.stderr.readline())
            assert lines[-1], ''.join(lines)
        yield found[0]
    finally:
        process.terminate()
        process.wait()
        process.stderr.close()


@pytest.mark.tools
@pytest.mark.parametrize('dims', [2, pytest.param(20, marks=pytest.mark.slow)])
def test_the_projector_in_chromium(tmp_path, dims):
    tensorboard.save(str(tmp_path / 'projector'), codes_of(dims), DIGITS,
                     {'label': LABELS, 'index': range(30), 'loss': range(100, 130)})
    with (open_chromium('--window-size=1500,1000', '--use-angle=swiftshader',    # its graphics
                        '--enable-unsafe-swiftshader') as browser,
          served(str(tmp_path / 'projector')) as address):
        browser.get(address + '#projector')
        end, page = time.monotonic() + 120, ''
        while not re.search(r'Total variance described: \S', page):
            assert time.monotonic() < end, page[:2000]
            time.sleep(0.5)
            browser.switch_to.default_content()
            with contextlib.suppress(Exception):            # what is not there yet
                for _ in range(2):
                    browser.switch_to.frame(browser.find_element('tag name', 'iframe'))
                page = browser.execute_script(TEXT)
        variance = re.search(r'Total variance described: (.*?)%', page)[1]
        assert float(variance) == pytest.approx(100, abs=60 if dims > 3 else 0.1)
        assert f'Points: 30 | Dimension: {max(dims, 3)}' in page.replace('Dimension', '| Dimension')
        for words in ('2 tensors found', tensorboard.FOR_PCA, tensorboard.FOR_NEIGHBOURS,
                      'label 10 colors', 'Label by label index loss'):
            assert words in page
        dark = 0
        while dark < 1000:                      # digits, as pictures where the points are
            assert time.monotonic() < end
            browser.save_screenshot(str(tmp_path / 'seen.png'))
            dark = (first_frame(tmp_path / 'seen.png')[150:-50, 320:1150].max(axis=2) < 40).sum()
