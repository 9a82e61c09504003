"""The fast step behind Chainer's Updater interface, which proves that it does what net.py says.

It is net.py's mathematics written out, from the same random draws and on the same arrays. Which
functions of compiled.py (on a GPU of cuda_graph.py's `Step`) mirror which lines of net.py:

    VAE.encode                          forward, its first half; back: the end of backward
    F.gaussian: z = mu + eps * sigma    infer, infer_back; the noise eps is drawn by step.draw_noise
    F.gaussian_kl_divergence            infer, infer_back
    VAE.decode                          forward, its second half; back: the start of backward
    F.bernoulli_nll, act_func           bernoulli_nll, activate
    loss.backward(), the optimizer      descend, update

Where proof.py finds that something differs, Chainer's own step takes the minibatch, on a CPU with
compiled parts (parts.py). `Scores` does the same for the score of the test digits.
"""

import copy
import sys

from support.fast import proof, step  # lets chainer import
from support.run import observe

import chainer
from chainer.dataset import convert
from chainer.training import extensions, updaters
import numpy as np

FEW = 16                # digits on which the score is compared with net.py's


def fast(updater, evaluator):
    """Return an updater that takes the same steps in less time, or else this one.

    It is fast for a StandardUpdater that trains a `VAE` by Adam and `VAE.get_loss_func`, on digits
    (any, D) float32 in one array. Its `kind` says how it trains, and if it is not fast, why. The
    evaluation function of the evaluator, if that is of train_vae.py's `score_func`, is replaced by
    a faster one, too. What is not fast has compiled parts, on a CPU.
    """
    optimizer = updater.get_optimizer('main')
    model, stepper, why = optimizer.target, None, proof.obstacle(updater)
    if not why:
        try:
            if model.xp is np:
                from support.fast.cpu import Stepper
            else:
                from support.fast.cuda_graph import Stepper
            _, k = proof.loss_settings(updater.loss_func, model)
            stepper = Stepper(optimizer, k, updater.get_iterator('main').dataset)
        except Exception as error:      # Numba is missing or too old, or CUDA fails, say
            why = proof.refusal(error, model.xp)
    why = proof.agreed(optimizer, why)
    if why:
        return with_parts(updater, evaluator, why)
    made = FastUpdater(updater, stepper)
    if (type(evaluator) is extensions.Evaluator and evaluator.converter is convert.concat_examples
            and proof.score_samples(evaluator.eval_func, model)):
        evaluator.eval_func = Scores(made, evaluator.eval_func)
    else:
        stepper.how += '; score_func is edited, and scores by itself'
    return made


def with_parts(updater, evaluator, why):
    """Let Chainer's own updater and evaluator work with compiled parts, where there are some."""
    updater.kind, model = f'standard ({why})', updater.get_optimizer('main').target
    if model.xp is np and not any(param.array is not None and param.dtype != np.float32
                                  for param in model.params()):
        try:
            from support.fast.cpu import Threads
        except Exception:                   # as above
            return updater
        threads = Threads()
        updater.update_core = threads.with_parts(updater.update_core)
        if isinstance(evaluator, extensions.Evaluator):
            evaluator.evaluate = threads.with_parts(evaluator.evaluate)
        updater.kind, updater.on = f'{threads.beside} ({why})', threads.on
    return updater


class FastUpdater(updaters.StandardUpdater):
    """StandardUpdater of a VAE and Adam, made fast; each goes on from the other's snapshots.

    As that one, it leaves gradients in `param.grad`, and losses on the model. `why` tells why
    Chainer's own step took the last minibatch; it is '' where it did not. `on` tells which threads
    and whose BLAS train, as the last bits depend on them.
    """

    why = ''

    def __init__(self, plain, stepper):
        optimizer = plain.get_optimizer('main')
        self.model = optimizer.target
        super().__init__(plain._iterators, plain._optimizers,
                         device=plain.device or self.model.device, loss_func=plain.loss_func,
                         auto_new_epoch=plain.auto_new_epoch)
        self.stepper, self.on = stepper, stepper.on
        self.dataset = self.get_iterator('main').dataset
        _, self.k = proof.loss_settings(self.loss_func, self.model)
        self.guard = proof.Guard(self.model, self.watch, self.difference, stepper.renew, optimizer)

    @property
    def kind(self):
        """How it trains, for people."""
        return (f'{self.stepper.beside} ({self.why})' if self.why else
                f'fast ({self.stepper.how})')

    def prove(self):
        """Compare the fast step with net.py before a run, whose header says what came of it."""
        self.why = self.guard(self.epoch)
        self.guard.told.add(self.why)

    def update_core(self):
        """Train on a minibatch."""
        self.why = self.guard(self.epoch)
        iterator, optimizer = self.get_iterator('main'), self.get_optimizer('main')
        # Chainer's dump_graph needs the loss with its graph
        if self.why or chainer.config.keep_graph_on_report:
            comm = getattr(optimizer, 'communicator', None)
            if self.why not in {'', *self.guard.told} and (comm is None or comm.rank == 0):
                print(f"warning: from iteration {self.iteration + 1} on Chainer's own step trains: "
                      f'{self.why}', file=sys.stderr)
            self.guard.told.add(self.why)
            self.stepper.rest()
            self.stepper.with_parts(super().update_core)()
            return
        numbers = step.count_step(optimizer, self.stepper.params)
        losses = {name: chainer.Variable(np.array(loss)) for name, loss in self.stepper.take(
            self.next_rows(iterator), numbers, self.C).items()}
        for name, loss in losses.items():
            setattr(self.model, name, loss)
        chainer.report(losses, self.model)
        if self.auto_new_epoch and iterator.is_new_epoch:
            optimizer.new_epoch(auto=True)

    def next_rows(self, iterator):
        """Return the numbers of the digits in the next minibatch, (N,) int64."""
        iterator.dataset = range(len(self.dataset))
        try:
            return np.array(iterator.next(), np.int64)
        finally:
            iterator.dataset = self.dataset

    def watch(self):
        """Look at what the step needs, as `Guard` takes it."""
        objects, arrays, (self.C, k) = proof.watch_training(self)
        proof.require(self.get_optimizer('main').target is self.model,
                      'the optimizer has another model')
        proof.require(self.get_iterator('main').dataset is self.dataset,
                      'the iterator has other digits than at the start')
        proof.require(k == self.k, 'the loss takes another number of samples k')
        return objects, arrays

    def difference(self):
        """Say in what net.py and the fast step differ on the minibatch that comes next."""
        def plain():
            loss, losses = observe.reported(
                self.loss_func, self.device.send(self.dataset[rows]), self.model)
            self.model.cleargrads()
            with np.errstate(all='ignore'):
                loss.backward()
            return losses | gradients()

        def fast():
            return self.stepper.take(rows, step.NO_ADAM, self.C) | gradients()

        def gradients():
            return {f'gradient of {name}': param.grad for name, param in self.model.namedparams()}

        with observe.same_noise(np):        # for the order of the digits
            rows = self.next_rows(copy.copy(self.get_iterator('main')))
        try:
            for _ in range(proof.TRIES):
                differs = proof.difference(plain, fast, self.device.xp)
                if not differs:
                    break
                rows = (rows + 1) % len(self.dataset)
            return differs
        finally:
            self.stepper.rest()

    def finalize(self):
        """End the training."""
        super().finalize()
        self.stepper.rest()


class Scores:
    """Evaluation function that reports what `plain` does, on the same noise, or calls that."""

    def __init__(self, updater, plain):
        self.updater, self.plain, self.model = updater, plain, updater.model
        self.stepper, self.k = updater.stepper, proof.score_samples(plain, self.model)
        self.guard = proof.Guard(self.model, lambda: proof.watch_model(self.model), self.difference)

    def __call__(self, x):
        """Report the losses of digits (N, D), each with their number."""
        self.few = x[:FEW]
        why = self.updater.guard.refused or self.guard(self.updater.epoch)
        if not why:
            losses = self.stepper.score(x, self.k)
            chainer.report({name: (loss, len(x)) for name, loss in losses.items()}, self.model)
            return
        if why not in self.guard.told | self.updater.guard.told:
            print(f'warning: in scoring, {why}; net.py itself scores', file=sys.stderr)
        self.guard.told.add(why)
        self.stepper.rest()
        self.stepper.with_parts(self.plain)(x)

    def difference(self):
        """Say in what net.py's scores and the fast ones differ."""
        return proof.difference(lambda: observe.reported(self.plain, self.few, self.model)[1],
                                lambda: self.stepper.score(self.few, self.k), self.model.xp)
