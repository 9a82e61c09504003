"""What you read is what runs: a copy of the tree with an edited net.py trains what it then says."""

import ast
import os
import shutil
import subprocess
import sys

from support.run import models, snapshot  # lets chainer import

import chainer.functions as F
from conftest import ROOT, SMALL, edited
import numpy as np
import pytest
from steps import trained

import net

pytest.importorskip('numba')
pytestmark = pytest.mark.skipif(os.name != 'posix', reason='needs symbolic links')
SCRIPT = """\
import sys
from support.run import extensions
import train_vae
extensions.plot_losses = lambda trainer: None
for kind in ('fast', 'standard'):
    assert train_vae.cli([*sys.argv[2:], '--updater', kind, '-o', sys.argv[1] + '/' + kind]) == 0
"""
# what is done before: net.py is imported from one file, and then another takes its name
SWAP = """\
import importlib, os
import net, train_vae
os.replace('other.py', 'net.py')
"""
RELOAD = SWAP + 'importlib.reload(net)\n'
NLL = 'F.bernoulli_nll(x, logits)'
LF = '            x = chainer.as_variable(x)                          # one leaf'
LE2 = 'h2 = self.act_func(self.le2(h1))'
LD3 = '            self.ld3 = L.Linear(n_h, n_in, initialW=Xavier(n_h, n_in))\n'
CALLS = """\
            self.calls = getattr(self, 'calls', 0) + 1
            C = 1.0 if self.calls <= 100 else 5.0
"""
EDITS = {       # what: the text of net.py, what takes its place, and the reason that is named
    'another reconstruction error':
        (NLL, '1000 * F.mean_squared_error(x, F.sigmoid(logits))', 'VAE.get_loss_func is edited'),
    'another weight of the KL divergence':
        ('C * F.gaussian', '2 * C * F.gaussian', 'VAE.get_loss_func is edited'),
    'no gradient into the encoder':
        ('z = F.gaussian(mu, ln_var)', 'z = chainer.Variable(F.gaussian(mu, ln_var).array)',
         'VAE.get_loss_func is edited'),
    'after 100 calls': (LF, CALLS + LF, 'VAE.get_loss_func is edited'),
    'dropout': (LE2, 'h2 = F.dropout(self.act_func(self.le2(h1)), 0.2)', 'VAE.encode is edited'),
    'no sigmoid': ('F.sigmoid(h3) if sigmoid else h3', 'h3', 'VAE.decode is edited'),
    'a layer of its own more':
        (LD3, LD3 + '            self.ld4 = L.Linear(n_in, n_in)\n', 'there is another link, ld4'),
    'another activation':
        ('self.act_func = act_func', 'self.act_func = F.leaky_relu',
         'activation leaky_relu is not compiled'),
    'activations written out':
        ('        self.act_func = act_func\n', '        self.softplus = F.softplus\n',
         "'VAE' object has no attribute 'act_func'"),
    # what only numbers tell, as the text of the methods is as it was
    "another gradient under Chainer's name":
        ('ACTIVATIONS = {', 'nll = F.bernoulli_nll\nF.bernoulli_nll = lambda x, y: '
         'nll(x, y - 0.5 * (y - y.array))\nACTIVATIONS = {', 'gradient of /ld1/W differs'),
    'a comment': (LE2, '# deeper\n        ' + LE2, ''),
}
QUICK = 'another reconstruction error', "another gradient under Chainer's name", 'a comment'


def train(folder, data_dir, old, new, *flags, first='', edited_first=True):
    """Train by both updaters in a copy of the tree, in which net.py is edited; return stdout.

    Before that, `first` is done; net.py is the edited one until then, or only afterwards.
    """
    tree = folder / 'tree'
    tree.mkdir()
    for name in ('support', 'train_vae.py', 'xavier.py'):   # a link, so that Numba finds its cache
        (tree / name).symlink_to(os.path.join(ROOT, name))
    with open(os.path.join(ROOT, 'net.py')) as file:
        text = edited(file.read(), old, new)
    if 'self.softplus' in new:
        text = text.replace('self.act_func(', 'self.softplus(')
    shutil.copy(os.path.join(ROOT, 'net.py'), tree / ('other.py' if edited_first else 'net.py'))
    (tree / ('net.py' if edited_first else 'other.py')).write_text(text)
    ended = subprocess.run(
        [sys.executable, '-c', first + SCRIPT, folder, '--data-dir', data_dir, *SMALL,
         *flags], cwd=tree, capture_output=True, text=True, check=False,
        env={**os.environ, 'PYTHONPATH': str(tree)})
    lines = [line for line in ended.stderr.splitlines()
             if not line.startswith('warning: training changes calls of ')]
    assert (ended.returncode, lines) == (0, [])
    return ended.stdout


def check_trained_alike(folder, epoch):
    """Assert that both updaters left the same, but for rounding."""
    parts, chainers = (trained(folder / kind / f'snapshot_epoch_{epoch}')
                       for kind in ('fast', 'standard'))
    assert parts.keys() == chainers.keys()
    for row, other in zip(*(ast.literal_eval(str(of.pop('log'))) for of in (parts, chainers)),
                          strict=True):
        assert row == pytest.approx(other, rel=1e-4)
    for name, other in chainers.items():
        if other.dtype.kind == 'f':
            most = 1e-3 * abs(other).max(initial=0)
            assert np.allclose(parts[name], other, rtol=1e-4, atol=most), name
        else:
            assert np.array_equal(parts[name], other), name


@pytest.mark.parametrize('what', [
    what if what in QUICK else pytest.param(what, marks=pytest.mark.slow) for what in EDITS])
def test_an_edit_trains_what_it_says(data_dir, tmp_path, what):
    old, new, why = EDITS[what]
    epochs = 40 if what == 'after 100 calls' else 2         # of three minibatches
    out = train(tmp_path, data_dir, old, new, '-e', str(epochs))
    if why and not why.startswith('activation'):
        why = 'net.py: ' + why
    assert '\nupdater  ' + (f'compiled parts ({why})\n' if why else 'fast (') in out
    assert '\nupdater  standard\n' in out
    check_trained_alike(tmp_path, epochs)


@pytest.mark.parametrize(('first', 'edited_first', 'is_edited'), [
    (RELOAD, False, True), pytest.param(SWAP, True, True, marks=pytest.mark.slow),
    pytest.param(SWAP, False, False, marks=pytest.mark.slow)])
def test_what_was_imported_last_trains_whatever_the_file_says_by_now(
        data_dir, tmp_path, first, edited_first, is_edited):
    old, new, why = EDITS['another weight of the KL divergence']
    out = train(tmp_path, data_dir, old, new, first=first, edited_first=edited_first)
    updater, loss = ((f'compiled parts (net.py: {why})\n', 'of an edited get_loss_func, ')
                     if is_edited else ('fast (', 'negative ELBO, '))
    assert f'\nupdater  {updater}' in out
    assert f'\nloss     {loss}' in out
    check_trained_alike(tmp_path, 2)
    noted = snapshot.read_settings(snapshot.read(
        str(tmp_path / 'fast' / 'snapshot_epoch_2')), '').methods['VAE.get_loss_func']
    assert (noted == models.notes_of_net()['VAE.get_loss_func']) == (not is_edited)


# A run, and the net.py of another day -------------------------------------------------------------


def test_a_run_notes_the_methods_of_net_py(cli, draw, data_dir, tmp_path, edit):
    out = tmp_path / 'run'
    told = (f'warning: {out / "snapshot_epoch_2"} was trained by a net.py that differs in '
            'VAE.encode; with this one its results may be others\n')
    assert cli('--data-dir', data_dir, *SMALL, '-o', out)[::2] == (0, '')
    assert draw('digits', '-o', out)[::2] == (0, '')
    edit('mu = self.le3_mu(h2)', 'mu = 2 * self.le3_mu(h2)')
    assert draw('digits', '-o', out)[::2] == (0, told)
    assert cli('-m', out / 'snapshot_epoch_2', '--data-dir', data_dir, *SMALL, '-o',
               tmp_path / 'other')[::2] == (0, told)
    status, _, err = cli('--resume', '-e', '3', '-o', out)
    assert (status, err.endswith(told), err.count('\n')) == (0, True, 2)     # and by another step
    told = told.replace('epoch_2', 'epoch_3')           # which both have trained
    assert draw('digits', '-o', out)[::2] == (0, told)


def test_sizes_and_activation_of_net_pys_own(cli, draw, data_dir, tmp_path, monkeypatch):
    def init(self, n_in, n_latent, n_h, act_func=F.tanh):
        plain(self, n_in, 3, 5, F.elu)

    plain, out = net.VAE.__init__, tmp_path / 'run'
    monkeypatch.setattr(net.VAE, '__init__', init)
    status, text, err = cli('--data-dir', data_dir, *SMALL, '-o', out)
    assert (status, err) == (0, '')
    assert '\nmodel    784-5-5-3-5-5-784, z = 3, elu\n' in text
    assert cli('--resume', '-e', '3', '-o', out)[::2] == (0, '')
    status, drew, err = draw('digits', 'scatter', '-o', out)
    assert (status, drew.count('.png\n'), err) == (0, 2, '')
    assert draw('map', '-o', out)[0] == 2               # which needs z = 2
    monkeypatch.undo()
    for refused in (draw('digits', '-o', out), cli('--resume', '-e', '4', '-o', out),
                    cli('-m', out / 'snapshot_epoch_3', '--data-dir', data_dir, '--dim-h', '5',
                        '-z', '3', '-o', tmp_path / 'other')):
        assert (refused[0], refused[2].count('\n')) == (2, 1)
        assert ('was trained with the activation elu, and this net.py has softplus, whose '
                'ACTIVATIONS lack it; ') in refused[2]
