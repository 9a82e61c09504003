"""The fast step behind Chainer's Updater interface, which proves that it does what net.py says.

`fast` takes the script's StandardUpdater and returns a faster equal, or the same one. What trains
then is net.py's mathematics written out, from the same random draws and on the same arrays. Which
functions of compiled.py (on a GPU of cuda_graph.py's `Step`) mirror which lines of net.py:

    VAE.encode                          forward, its first half; back: the end of backward
    F.gaussian: z = mu + eps * sigma    infer, infer_back; the noise eps is drawn by step.draw
    F.gaussian_kl_divergence            infer, infer_back
    VAE.decode                          forward, its second half; back: the start of backward
    F.bernoulli_nll                     bernoulli_nll
    act_func                            activate
    loss.backward(), for the weights    gradients
    the optimizer's Adam                descend, update

Before each step a guard (proof.py) compares all that the step was compiled for with what is there
now. Where something differs, Chainer's own step takes that very minibatch, on a CPU with compiled
parts (parts.py). On the first minibatch of a run, and on one of each epoch, net.py's own loss, its
terms and all gradients have to be those of the fast step, from the same random state; else
Chainer's own step trains from then on.
"""

import copy
import sys

from support.fast import proof, scoring, step  # lets chainer import
from support.run import observe

import chainer
from chainer.dataset import convert
from chainer.training import extensions, updaters
import numpy as np


def fast(updater, evaluator):
    """Return an updater that takes the same steps in less time.

    Where the fast step does not apply, it is this one, on a CPU with compiled parts.

    Args:
        updater (StandardUpdater): Trains a `VAE` by Adam and `VAE.get_loss_func`, on digits
            (any, D) float32 in one array.
        evaluator (Evaluator): Its evaluation function, if that is of train_vae.py's `score_func`,
            is replaced by a faster one, too. Otherwise it scores with compiled parts, too.

    Returns:
        StandardUpdater: Its `kind` says how it trains, and if it is not fast, why.
    """
    optimizer = updater.get_optimizer('main')
    model = optimizer.target
    is_plain = type(updater) is updaters.StandardUpdater
    why = proof.obstacle(updater) if is_plain else proof.NOT_UPDATER
    stepper = None
    if not why:
        try:
            stepper = make_stepper(updater)
        except Exception as error:      # Numba is missing or too old, or CUDA fails, say
            why = proof.refusal(error, model.xp)
    why = proof.agreed(optimizer, why)
    if why:
        return with_parts(updater, evaluator, why)
    made = FastUpdater(updater, stepper)
    if (type(evaluator) is extensions.Evaluator and evaluator.converter is convert.concat_examples
            and proof.score_samples(evaluator.eval_func, model)):
        evaluator.eval_func = scoring.Scores(made, evaluator.eval_func)
    else:
        stepper.how += '; score_func is edited, and scores by itself'
    return made


def make_stepper(updater):
    """Return what takes the steps on the model's device; only a CPU needs Numba."""
    optimizer = updater.get_optimizer('main')
    if optimizer.target.xp is np:
        from support.fast.cpu import Stepper
    else:
        from support.fast.cuda_graph import Stepper
    _, k = proof.loss_settings(updater.loss_func, optimizer.target)
    return Stepper(optimizer, k, updater.get_iterator('main').dataset)


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
    """StandardUpdater of a VAE and Adam, made fast.

    It serializes as StandardUpdater does: each goes on from the other's snapshots. Like that one,
    it leaves the gradients in `param.grad`, and `rec_loss`, `latent_loss` and `loss` on the model.
    `why` tells why Chainer's own step took the last minibatch; it is '' where it did not. `on`
    tells which threads and whose BLAS train, as the last bits depend on them.
    """

    why = refused = ''
    proved_in = None                        # epoch

    def __init__(self, plain, stepper):
        self.model = plain.get_optimizer('main').target
        super().__init__(plain._iterators, plain._optimizers,
                         device=plain.device or self.model.device, loss_func=plain.loss_func,
                         auto_new_epoch=plain.auto_new_epoch)
        self.stepper, self.on = stepper, stepper.on
        self.dataset = self.get_iterator('main').dataset
        _, self.k = proof.loss_settings(self.loss_func, self.model)
        self.numbers = range(len(self.dataset))     # stand for the digits, while a step takes some
        self.guard = proof.Guard(self.watch, lambda: proof.check_training(self), stepper.renew)
        self.told = set()                   # reasons

    @property
    def kind(self):
        """How it trains, for people."""
        return (f'{self.stepper.beside} ({self.why})' if self.why else
                f'fast ({self.stepper.how})')

    def update_core(self):
        """Train on a minibatch."""
        if self.proved_in != self.epoch:
            self.compare()
        else:
            self.look()
            if self.guard.is_new and not self.why:      # no numbers were compared with these yet
                self.compare(together=False)
        # Chainer's dump_graph needs the loss with its graph
        if self.why or chainer.config.keep_graph_on_report:
            self.tell()
            self.stepper.rest()
            self.stepper.with_parts(super().update_core)()
            return
        iterator, optimizer = self.get_iterator('main'), self.get_optimizer('main')
        rows = np.array(self.next_numbers(iterator), np.int64)
        numbers = step.count_step(optimizer, self.stepper.params)
        losses = {name: chainer.Variable(np.array(loss))
                  for name, loss in self.stepper.take(rows, numbers, self.C).items()}
        for name, loss in losses.items():
            setattr(self.model, name, loss)
        chainer.report(losses, self.model)
        if self.auto_new_epoch and iterator.is_new_epoch:
            optimizer.new_epoch(auto=True)

    def next_numbers(self, iterator):
        """Return the numbers of the digits in the next minibatch."""
        iterator.dataset = self.numbers
        try:
            return iterator.next()
        finally:
            iterator.dataset = self.dataset

    def look(self):
        """Set `why`, and C to what it is now, as before each step."""
        self.why = self.guard() or self.refused

    def watch(self):
        """Look at what the step needs, as `Guard` takes it."""
        objects, arrays, (self.C, k) = proof.watch_training(self)
        proof.require(self.get_optimizer('main').target is self.model,
                      'the optimizer has another model')
        proof.require(self.get_iterator('main').dataset is self.dataset,
                      'the iterator has other digits than at the start')
        proof.require(k == self.k, 'the loss takes another number of samples k')
        return objects, arrays

    def tell(self):
        """Warn, once for each reason, that Chainer's own step trains."""
        comm = getattr(self.get_optimizer('main'), 'communicator', None)
        if self.why and self.why not in self.told and (comm is None or comm.rank == 0):
            print(f"warning: from iteration {self.iteration + 1} on Chainer's own step trains: "
                  f'{self.why}', file=sys.stderr)
        self.told.add(self.why)

    def prove(self):
        """Compare the fast step with net.py before a run, whose header says what came of it."""
        self.compare()
        self.told.add(self.why)

    def compare(self, together=True):
        """Compare the fast step with net.py on the minibatch that comes next, all ranks `together`.

        If they differ, net.py trains from now on.
        """
        self.proved_in, differs = self.epoch, ''
        self.look()
        try:
            if not self.why:
                with observe.same_noise(self.device.xp) as rewind:
                    rows = np.array(self.next_numbers(copy.copy(self.get_iterator('main'))))
                    for beside in range(proof.TRIES):
                        rewind()
                        differs = self.difference((rows + beside) % len(self.dataset), rewind)
                        if not differs:
                            break
        finally:
            self.stepper.rest()
        # all ranks ask each other, even where one already steps aside
        self.refused = self.refused or (
            proof.agreed(self.get_optimizer('main'), differs) if together else differs)
        self.why = self.why or self.refused

    def difference(self, rows, rewind):
        """Say in what net.py's loss and the fast step differ on digits of these numbers (N,)."""
        try:
            x = self.device.send(self.dataset[rows])
            loss, expected = observe.reported(self.loss_func, x, self.model)
            self.model.cleargrads()
            with np.errstate(all='ignore'):
                loss.backward()
            params = {f'gradient of {name}': param for name, param in self.model.namedparams()}
            expected |= {name: param.grad for name, param in params.items()}
            drawn = np.random.get_state()
            if not proof.comparable([float(loss.array)], [param.grad for param in params.values()]):
                return ''
            rewind()
            found = self.stepper.take(rows, step.NO_ADAM, self.C)
            found |= {name: param.grad for name, param in params.items()}
            differs = proof.compare(found, expected, (drawn, np.random.get_state()))
        except Exception as error:          # whatever the compiler, CuPy, CUDA or cuBLAS may raise
            return proof.refusal(error, self.device.xp)
        return differs and proof.NOT_COMPILED + differs

    def finalize(self):
        """End the training."""
        super().finalize()
        self.stepper.rest()
