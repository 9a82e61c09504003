"""The fast score of the test digits: what train_vae.py's `score_func` does, in large products.

It does what net.py says, or steps aside, as the fast step of updater.py does; proof.py tells.
"""

import sys

from support.fast import proof  # lets chainer import
from support.run import observe

import chainer
import numpy as np

FEW = 16                # digits on which it is compared with net.py


class Scores:
    """Evaluation function that reports what `plain` does, of train_vae.py's `score_func`.

    It draws the same noise. Before each minibatch a guard looks whether it still does the same, and
    once in each evaluation it compares itself with `plain`. If they differ, `plain` scores.
    """

    def __init__(self, updater, plain):
        self.updater, self.plain, self.model = updater, plain, updater.model
        self.k = proof.score_samples(plain, self.model)
        self.guard = proof.Guard(lambda: proof.watch_model(self.model), self.check)
        self.refused, self.proved_in, self.told = '', None, set()

    def __call__(self, x):
        """Report the losses of a minibatch, each with the number of its digits."""
        why = self.guard() or self.updater.refused or self.refused
        if not why and (self.guard.is_new or self.proved_in != self.updater.epoch):
            self.prove(x[:FEW])
            why = self.refused
        if why:
            self.tell(why)
            self.updater.stepper.rest()
            self.updater.stepper.with_parts(self.plain)(x)
        else:
            losses = self.updater.stepper.score(x, self.k)
            chainer.report({name: (loss, len(x)) for name, loss in losses.items()}, self.model)

    def check(self):
        """Make the slower checks that the plain function is what was compiled."""
        proof.check_model(self.model)
        proof.require(proof.score_samples(self.plain, self.model) == self.k, 'score_func is edited')

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
            try:
                found = self.updater.stepper.score(x, self.k)
            except Exception as error:      # as in FastUpdater.difference
                self.refused = proof.refusal(error, self.model.xp)
                return
            if proof.comparable(expected.values()):
                differs = proof.compare(found, expected, (drawn, np.random.get_state()))
                self.refused = differs and proof.NOT_COMPILED + differs
