"""The fast score of the test digits: what train_vae.py's `score_func` does, in large products.

It does what net.py says, or steps aside, as the fast step of updater.py does; proof.py tells.
"""

import sys

from support.fast import compiled, cuda_graph, proof, step, threads  # lets chainer import
from support.run import observe

import chainer
import numpy as np

FEW = 16                # digits on which it is compared with net.py


class Scores:
    """Evaluation function that does what a plain one does: the same draws, in large products.

    Before each minibatch a guard looks whether it still does, and once in each evaluation it
    compares itself with the plain one, as a `FastUpdater` does; where not, the plain one scores.

    Args:
        updater (FastUpdater): Whose model it scores.
        plain (callable): Of a minibatch (N, D) float32; reports the losses; of train_vae.py's
            `score_func`.
    """

    def __init__(self, updater, plain):
        self.updater, self.plain = updater, plain
        self.model = updater.model
        self.k = proof.score_samples(plain, self.model)
        self.guard = proof.Guard(lambda: proof.watch_model(self.model), self.judge, self.renew)
        self.refused, self.proved_in, self.told = '', None, set()
        self.workers = threads.Workers(self.model, self.k)
        self.steps = {}                     # on a GPU, by the number of digits

    def __call__(self, x):
        """Report the losses of a minibatch, each with the number of its digits."""
        why = self.guard() or self.updater.refused or self.refused
        if not why and (self.guard.is_new or self.proved_in != self.updater.epoch):
            self.prove(x[:FEW])
            why = self.refused
        if why:
            self.tell(why)
            self.updater.give_threads_back()
            self.plain(x)
        else:
            chainer.report({name: (loss, len(x)) for name, loss in self.losses(x).items()},
                           self.model)

    def renew(self):
        """Let the next minibatch look for the arrays again."""
        self.steps.clear()

    def judge(self):
        """Say at length what keeps it from scoring; '' for nothing."""
        changed = proof.score_samples(self.plain, self.model) != self.k
        return proof.unlike(self.model) or ('score_func is edited' if changed else '')

    def tell(self, why):
        """Warn, once for each reason, that net.py itself scores; not of what the step told."""
        if why not in {*self.told, *self.updater.told}:
            print(f'warning: in scoring, {why}; net.py itself scores', file=sys.stderr)
        self.told.add(why)

    def prove(self, x):
        """Compare the losses of digits (N, D) with the plain ones."""
        self.proved_in = self.updater.epoch
        with observe.same_noise(self.model.xp) as rewind:
            _, expected = observe.reported(self.plain, x, self.model)
            drawn = np.random.get_state()
            rewind()
            found = self.losses(x)
            if proof.comparable(expected.values()):
                differs = proof.compare(found, expected, (drawn, np.random.get_state()))
                self.refused = differs and proof.NOT_COMPILED + differs

    def losses(self, x):
        """Return the losses of digits (N, D) by name, float32, under fresh noise."""
        sums = self.on_cpu(x) if self.model.xp is np else self.on_gpu(x)
        return step.mean_losses(sums, len(x), self.k)

    def on_cpu(self, x):
        """Return the sums of the losses of digits (N, D), as the threads'."""
        space, shares = self.workers.prepare(len(x))
        space.x[:] = x
        step.draw(space.eps, self.k)
        layers, kind = step.layers_of(self.model), step.ACTIVATIONS[self.model.act_func]
        arguments = [(layers, part, kind, self.k, step.f32(1)) for _, part in shares]
        with threads.BLAS.limit(limits=1):
            entry = compiled.compile_for(compiled.score, arguments[0])
            return self.workers.call(entry, arguments)

    def on_gpu(self, x):
        """Return the sums of the losses of digits (N, D), in a list of one."""
        if len(x) not in self.steps:
            self.steps[len(x)] = cuda_graph.Step(self.model, len(x), self.k)
        its_step = self.steps[len(x)]
        its_step.space.x[:] = x
        step.draw(its_step.space.eps, self.k)
        its_step.forward()
        return its_step.sums()
