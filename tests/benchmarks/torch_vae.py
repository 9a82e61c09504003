"""The same VAE in PyTorch, as its users write it: a peer for epoch.py, and a script of its own.

    python torch_vae.py OUT                 one epoch of scikit-learn's digits
    python torch_vae.py OUT DIGITS EPOCHS   many of those in an npz file, as epoch.py writes it

After each epoch it scores the test digits with k = 10, and saves weights and Adam. epoch.py runs
it in an environment that has PyTorch, but not Chainer.
"""

import os
import sys

import numpy as np
import torch
from torch import nn
import torch.nn.functional as F


class VAE(nn.Module):
    """Encoder D-H-H-Z and decoder Z-H-H-D of softplus units."""

    def __init__(self, n_in, n_latent, n_h):
        super().__init__()
        self.encoder = nn.Sequential(nn.Linear(n_in, n_h), nn.Softplus(),
                                     nn.Linear(n_h, n_h), nn.Softplus())
        self.mu, self.ln_var = nn.Linear(n_h, n_latent), nn.Linear(n_h, n_latent)
        self.decoder = nn.Sequential(nn.Linear(n_latent, n_h), nn.Softplus(),
                                     nn.Linear(n_h, n_h), nn.Softplus(), nn.Linear(n_h, n_in))
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.xavier_uniform_(module.weight)
                nn.init.zeros_(module.bias)

    def forward(self, x, k=1):
        """Return the negative ELBO of k samples, summed over pixels, mean over digits (N, D)."""
        h = self.encoder(x)
        mu, ln_var = self.mu(h), self.ln_var(h)
        z = mu + torch.exp(ln_var / 2) * torch.randn(k, *mu.shape, device=mu.device)
        logits = self.decoder(z)
        rec = F.binary_cross_entropy_with_logits(logits, x.expand_as(logits), reduction='sum') / k
        kl = (mu ** 2 + ln_var.exp() - ln_var - 1).sum() / 2
        return (rec + kl) / len(x)


class Peer:
    """A model in training, by Adam or the fused one; of a graph, all but a shorter last step."""

    def __init__(self, train, test, dim_z, dim_h, batch_size, device='cpu', fused=False,
                 graph=False):
        torch.manual_seed(0)
        self.train, self.test = (torch.from_numpy(digits).to(device) for digits in (train, test))
        self.model = VAE(train.shape[1], dim_z, dim_h).to(device)
        self.adam = torch.optim.Adam(self.model.parameters(), fused=fused or graph,
                                     capturable=graph)
        self.batch_size, self.total = batch_size, torch.zeros((), device=device)
        self.rows = torch.arange(batch_size, device=device)     # which the graph reads
        self.graph = self.capture() if graph else None

    def capture(self):
        """Return a step as a CUDA graph, after some steps that load what it needs."""
        stream, graph = torch.cuda.Stream(), torch.cuda.CUDAGraph()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for _ in range(3):
                self.step(self.rows)
        torch.cuda.current_stream().wait_stream(stream)
        with torch.cuda.graph(graph):
            self.step(self.rows)
        return graph

    def step(self, rows):
        """Take a step on the digits of these numbers."""
        self.adam.zero_grad()
        loss = self.model(self.train[rows])
        loss.backward()
        self.adam.step()
        self.total += loss.detach() * len(rows)

    def epoch(self):
        self.total.zero_()
        for rows in torch.randperm(len(self.train), device=self.train.device).split(
                self.batch_size):
            if self.graph is None or len(rows) != self.batch_size:
                self.step(rows)
            else:
                self.rows.copy_(rows)
                self.graph.replay()
        return self.total.item() / len(self.train)

    @torch.no_grad()
    def score(self):
        total = sum(self.model(x, k=10) * len(x) for x in self.test.split(self.batch_size))
        return total.item() / len(self.test)

    def version(self):
        return f'PyTorch {torch.__version__}'


def main(out, path=None, epochs=1):
    """Do what `train_vae.py --epoch EPOCHS -o OUT` does, without its log, pictures and checks."""
    digits = np.load(path) if path else load_digits()
    peer = Peer(digits['train'], digits['test'], 20, 500, 100, fused=True)
    os.makedirs(out, exist_ok=True)
    for epoch in range(1, int(epochs) + 1):
        print(epoch, 'training loss', peer.epoch(), 'test loss', peer.score(), flush=True)
        torch.save({'model': peer.model.state_dict(), 'adam': peer.adam.state_dict()},
                   os.path.join(out, f'epoch_{epoch}.pt'))


def load_digits():
    """Return scikit-learn's digits, in the form and size of MNIST's."""
    from PIL import Image
    from sklearn import datasets

    images = datasets.load_digits().images
    digits = np.zeros((len(images), 28, 28), np.float32)
    for digit, image in zip(digits, images, strict=True):
        small = Image.fromarray(np.round(image * (255 / 16)).astype(np.uint8))
        digit[4:24, 4:24] = np.asarray(small.resize((20, 20), Image.Resampling.BICUBIC)) / 255
    return {'train': digits[:1500].reshape(-1, 784), 'test': digits[1500:].reshape(-1, 784)}


if __name__ == '__main__':
    main(*sys.argv[1:])
