"""What a step of an edited model costs here, in stock Chainer and in PyTorch, side by side.

    python tests/benchmarks/edits.py --torch PYTHON

PYTHON is an interpreter that has PyTorch. As in epoch.py, each contestant is a process of its own,
which works only when its turn comes. The first epoch is not timed, but its losses must agree.
"""

import argparse
import json
import os
import random
import statistics
import sys
import tempfile

import epoch
from epoch import Ours  # noqa: F401  (for `epoch.serve`)
import numpy as np

LE2, NLL = 'h2 = self.act_func(self.le2(h1))', 'F.bernoulli_nll(x, logits)'
LINK = 'self.le2 = L.Linear(n_h, n_h, initialW=Xavier(n_h, n_h))'
KL = 'C * F.gaussian_kl_divergence(mu, ln_var)'
IWAE = """\
            log_w = []
            for _ in range(5):
                z = F.gaussian(mu, ln_var)
                nll = F.sum(F.bernoulli_nll(x, self.decode(z, sigmoid=False), reduce='no'), axis=1)
                log_w.append(F.sum((z - mu) ** 2 / F.exp(ln_var) + ln_var - z ** 2, axis=1) / 2
                             - nll)
            self.loss = np.log(5) - F.sum(F.logsumexp(F.stack(log_w), axis=0)) / batchsize
"""
EDITS = {               # what: old and new text of net.py
    'dropout': [(LE2, 'h2 = F.dropout(self.act_func(self.le2(h1)), 0.2)')],
    'a layer more': [(LINK, LINK + '; ' + LINK.replace('le2', 'le2b')),
                     (LE2, LE2 + '; h2 = self.act_func(self.le2b(h2))')],
    'relu in one layer': [(LE2, 'h2 = F.relu(self.le2(h1))')],
    'batch normalization': [(LINK, LINK + '; self.bn = L.BatchNormalization(n_h)'),
                            (LE2, 'h2 = self.act_func(self.bn(self.le2(h1)))')],
    'squared error': [(NLL, 'F.sum((x - F.sigmoid(logits)) ** 2)')],
    'k = 3': [('C=1.0, k=1', 'C=1.0, k=3')],
    'beta = 4': [(KL, KL.replace('C', '4'))],
    'IWAE of 5 samples': [("            self.loss.name = 'loss'\n", IWAE),
                          ('for _ in six.moves.range(k)', 'for _ in range(0)'),
                          ("self.rec_loss.name = 'reconstruction error'", 'pass')],
    'sub-chains': [(LINK, f'self.le2 = chainer.Sequential({LINK.partition(" = ")[2]}, F.softplus)'),
                   (LE2, 'h2 = self.le2(h1)')],
    'KL annealing': [(KL, KL.replace('C', 'min(1, self.calls / 1000)')),
                     ('batchsize = len(mu)', 'batchsize = len(mu)\n'
                      "            self.calls = getattr(self, 'calls', 0) + 1")],
    'autoencoder of section 1-1': []}
AT_ONCE = ', in PyTorch at once'       # all samples of z, which net.py has in a loop
EDITS |= {what + AT_ONCE: EDITS[what] for what in ('k = 3', 'IWAE of 5 samples')}
CONTESTANTS = 'ours', 'stock', 'torch', 'torch_fused'


def edit_net(what, folder):
    """Write net.py into a folder, with an edit in its class VAE."""
    with open(os.path.join(epoch.ROOT, 'net.py')) as file:
        before, head, text = file.read().partition('class VAE')
    for old, new in EDITS[what]:
        assert old in text
        text = text.replace(old, new)
    with open(os.path.join(folder, 'net.py'), 'w') as file:
        file.write(before + head + text + ('' if EDITS[what] else 'VAE = Autoencoder\n'))


def edit_torch(what):
    """Let the VAE of torch_vae.py have the same edit."""
    import torch
    from torch import nn
    import torch.nn.functional as F
    import torch_vae

    class Edited(torch_vae.VAE):
        calls = 0

        def __init__(self, n_in, n_latent, n_h):
            super().__init__(n_in, n_latent, n_h)
            more = {'dropout': [nn.Dropout(0.2)],
                    'a layer more': [nn.Linear(n_h, n_h), nn.Softplus()]}.get(what, [])
            self.encoder.extend(more)
            if what == 'relu in one layer':
                self.encoder[3] = nn.ReLU()
            if what == 'batch normalization':
                self.encoder.insert(3, nn.BatchNorm1d(n_h))

        def forward(self, x):
            self.calls += 1
            k = {'k = 3': 3, 'IWAE of 5 samples': 5}.get(what.removesuffix(AT_ONCE), 1)
            several = [k] if what.endswith(AT_ONCE) else [1] * k
            C = {'beta = 4': 4, 'KL annealing': min(1, self.calls / 1000)}.get(what, 1)
            h = self.encoder(x)
            mu = self.mu(h)
            if what.startswith('autoencoder'):
                return ((x - torch.sigmoid(self.decoder(mu))) ** 2).sum() / len(x)
            ln_var = self.ln_var(h)
            recs, log_ws = [], []
            for n in several:
                z = mu + torch.exp(ln_var / 2) * torch.randn(n, *mu.shape)
                logits = self.decoder(z)
                if what == 'squared error':
                    recs.append(((x - torch.sigmoid(logits)) ** 2).sum())
                elif what.startswith('IWAE'):
                    nll = F.binary_cross_entropy_with_logits(logits, x.expand_as(logits),
                                                             reduction='none')
                    log_ws.append(((z - mu) ** 2 / ln_var.exp() + ln_var - z ** 2).sum(-1) / 2
                                  - nll.sum(-1))
                else:
                    recs.append(F.binary_cross_entropy_with_logits(
                        logits, x.expand_as(logits), reduction='sum'))
            if log_ws:
                return np.log(k) - torch.logsumexp(torch.cat(log_ws), 0).sum() / len(x)
            kl = (mu ** 2 + ln_var.exp() - ln_var - 1).sum() / 2
            return (sum(recs) / k + C * kl) / len(x)

    torch_vae.VAE = Edited


def main():
    """Time all edits, and print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add('--torch', metavar='PYTHON', default=sys.executable, help='interpreter with PyTorch')
    add('--rounds', type=int, default=7, help='of some 2 seconds for each edit (default: 7)')
    add('--only', metavar='EDIT', nargs='+', choices=EDITS, default=list(EDITS))
    add('--serve', help=argparse.SUPPRESS)
    args = parser.parse_args()
    sys.path[:0] = [epoch.ROOT]
    if args.serve:
        settings = json.loads(args.serve)
        what = settings.pop('edit')
        if settings['name'].startswith('torch'):
            edit_torch(what)
        else:
            sys.path[:0] = [os.path.dirname(settings['digits'])]
            import net  # noqa: F401  (the edited one)
        epoch.serve(settings)
        return

    from support.data import mnist

    digits = mnist.get_digits('digits', None)
    print(f'{epoch.cpu()}, {os.cpu_count()} cores; {len(digits.train)} digits, {args.rounds} '
          'rounds\n\n| a step of | of stock | of PyTorch | of PyTorch, fused | ms | scoring, of '
          'stock | trained by |\n|---|---:|---:|---:|---:|---:|---|')
    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, 'digits.npz')
        np.savez(path, train=digits.train, test=digits.test)
        for what in args.only:
            edit_net(what, folder)
            print(row(args, what, path, len(digits.train) // 100), flush=True)


def row(args, what, digits, steps):
    """Time an edit; return its row of the table."""
    contestants = {name: epoch.Contestant(
        args.torch if name.startswith('torch') else sys.executable, 'edits.py', name=name,
        edit=what, digits=digits, device='cpu', dim_z=20, dim_h=500, batch_size=100)
        for name in CONTESTANTS}
    first = [contestant.do('epoch')[1] for contestant in contestants.values()]
    if max(first) - min(first) > 0.1 * min(first):
        sys.exit(f'not the same work: losses of {what} after an epoch are {first}')
    times, scores = ({name: [] for name in contestants} for _ in range(2))
    for i in range(args.rounds):
        for name in random.Random(i).sample(list(contestants), len(contestants)):
            times[name].append(contestants[name].do('epoch')[0])
            if not name.startswith('torch'):
                scores[name].append(contestants[name].do('score')[0])
    for contestant in contestants.values():
        contestant.close()
    ratios = [epoch.ratio(times['ours'], times[other]) for other in CONTESTANTS[1:]]
    kind = contestants['ours'].version.partition(': ')[2]
    return (f'| {what} | {" | ".join(f"{one:.2f}" for one in ratios)} | '
            f'{statistics.median(times["ours"]) / steps * 1e3:.1f} | '
            f'{epoch.ratio(scores["ours"], scores["stock"]):.2f} | {kind} |')


if __name__ == '__main__':
    main()
