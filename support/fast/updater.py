"""The fast step behind Chainer's Updater interface, which proves that it does what net.py says.

`fast` takes the script's StandardUpdater and returns a faster equal, or it as it is. What trains
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
now. Where something differs, Chainer's own step takes that very minibatch. On the first minibatch
of a run, and on one of each epoch, net.py's own loss, its terms and all gradients have to be those
of the fast step, from the same random state; else Chainer's own step trains from then on.
"""

import copy
import sys

from support.base import command  # lets chainer import
from support.fast import cuda_graph, proof, step
from support.run import models, observe

import chainer
from chainer.dataset import convert
from chainer.training import extensions, updaters
import numpy as np

try:
    from support.fast import blas, compiled, scoring, threads
except (ImportError, ValueError) as error:     # Numba is missing, or told what it cannot do
    compiled, missing = None, error


def fast(updater, evaluator):
    """Return an updater that does what this one does, in less time; it where there is none.

    Args:
        updater (StandardUpdater): Trains a `VAE` by Adam and `VAE.get_loss_func`, on digits
            (any, D) float32 in one array.
        evaluator (Evaluator): Its evaluation function, of train_vae.py's `score_func`, is replaced
            by a faster one, too.

    Returns:
        StandardUpdater: Its `kind` says how it trains, and if it is not fast, why.
    """
    optimizer = updater.get_optimizer('main')
    model = optimizer.target
    device = updater.device or model.device
    why = proof.obstacle(optimizer) or proof.uncovered(updater)
    if type(updater) is not updaters.StandardUpdater or proof.OWN & vars(updater).keys():
        why = 'updater is not plain StandardUpdater'
    if not why and compiled is None:
        why = str(missing)
    why = proof.agreed(optimizer, why)
    if not why:
        made_for = CompiledUpdater if device.xp is np else GraphUpdater
        try:
            made = made_for(updater)
        except Exception as error:      # whatever CuPy, CUDA or cuBLAS may raise
            if device.xp is np:
                raise
            why = cuda_graph.refusal(error)
    if why:
        updater.kind = f'standard ({why})'
        return updater
    is_plain = (type(evaluator) is extensions.Evaluator
                and evaluator.converter is convert.concat_examples)
    if is_plain and proof.score_samples(evaluator.eval_func, model):
        evaluator.eval_func = scoring.Scores(made, evaluator.eval_func)
    else:
        made.how += '; score_func is edited, and scores by itself'
    return made


# The updaters -----------------------------------------------------------------------------------


class FastUpdater(updaters.StandardUpdater):
    """StandardUpdater of a VAE and Adam, made fast; here what a CPU and a GPU have in common.

    It serializes as StandardUpdater does: each goes on from the other's snapshots. As that does, it
    leaves the gradients in `param.grad`, and `rec_loss`, `latent_loss` and `loss` on the model.

    Args:
        plain (StandardUpdater): As for `fast`. Its iterator yields the numbers of digits from now
            on.

    Attributes:
        C (float), k (int): As for `VAE.get_loss_func`, of the loss function as it is now.
        why (str): Why Chainer's own step took the last minibatch; '' where it did not.
    """

    how = why = refused = ''
    proved_in = None                        # epoch

    def __init__(self, plain):
        iterator = plain.get_iterator('main')
        self.model = plain.get_optimizer('main').target
        super().__init__(plain._iterators, plain._optimizers,
                         device=plain.device or self.model.device, loss_func=plain.loss_func,
                         auto_new_epoch=plain.auto_new_epoch)
        self.C, self.k = proof.loss_settings(self.loss_func, self.model)
        self.dataset = iterator.dataset
        self.digits = self.device.send(self.dataset)
        self.numbers = range(len(self.dataset))         # in their place, while a step takes some
        self.guard = proof.Guard(lambda: proof.watch_training(self), self.judge, self.renew)
        self.told = set()                   # reasons

    @property
    def comm(self):
        """ChainerMN's communicator of the ranks; None without."""
        return getattr(self.get_optimizer('main'), 'communicator', None)

    @property
    def kind(self):
        """How it trains, for people."""
        return f'standard ({self.why})' if self.why else f'fast ({self.how})'

    def update_core(self):
        """Train on a minibatch."""
        iterator, optimizer = self.get_iterator('main'), self.get_optimizer('main')
        batch = self.next_of(iterator)
        if self.proved_in != int(iterator.previous_epoch_detail):
            self.prove(batch)
        else:
            self.look()
            if self.guard.is_new and not self.why:      # which numbers have not seen yet
                self.prove(batch, together=False)
        # Chainer's dump_graph wants the loss with its graph
        if self.why or chainer.config.keep_graph_on_report:
            self.tell()
            self.give_threads_back()
            self.take_standard_step(batch)
        else:
            losses = self.take_step(np.array(batch, np.int64), step.count_step(optimizer))
            losses = {name: chainer.Variable(np.array(loss)) for name, loss in losses.items()}
            for name, loss in losses.items():
                setattr(self.model, name, loss)
            chainer.report(losses, self.model)
        if self.auto_new_epoch and iterator.is_new_epoch:
            optimizer.new_epoch(auto=True)

    def next_of(self, iterator):
        """Return the next minibatch: the numbers of its digits, or the items of another dataset."""
        if iterator.dataset is not self.dataset:
            return iterator.next()
        iterator.dataset = self.numbers
        try:
            return iterator.next()
        finally:
            iterator.dataset = self.dataset

    def look(self):
        """Set `why`, and C to what it is now, as before each step."""
        self.why = self.guard() or self.refused
        if not self.why:
            self.C = models.closure_of(self.loss_func)['C']

    def judge(self):
        """Say at length what stands in the way of the next step; '' for nothing."""
        optimizer = self.get_optimizer('main')
        if optimizer.target is not self.model:
            return 'the optimizer has another model'
        return proof.obstacle(optimizer) or proof.uncovered(self, self.dataset)

    def renew(self):
        """Make the step anew, for other arrays, say."""
        raise NotImplementedError

    def tell(self):
        """Warn, once for each reason, that Chainer's own step trains."""
        if self.why and self.why not in self.told and (self.comm is None or self.comm.rank == 0):
            print(f"warning: from iteration {self.iteration + 1} on Chainer's own step trains: "
                  f'{self.why}', file=sys.stderr)
        self.told.add(self.why)

    def take_standard_step(self, batch):
        """Take Chainer's own step on a minibatch, as from the iterator."""
        if self.get_iterator('main').dataset is self.dataset:
            batch = [self.dataset[i] for i in batch]
        x = convert._call_converter(self.converter, batch, self.device)
        args, named = (x, {}) if isinstance(x, tuple) else ((), x) if isinstance(x, dict) else (
            (x,), {})
        optimizer = self.get_optimizer('main')
        optimizer.update(self.loss_func or optimizer.target, *args, **named)

    def fetch(self, rows):
        """Return the digits of these numbers, (N, D) float32, on the device."""
        return self.digits[self.device.send(rows)]

    def take_step(self, rows, numbers):
        """Take a step on some digits, of Adam with these numbers; leave the gradients.

        Args:
            rows (ndarray): Numbers of the digits, (N,) int64.
            numbers (Adam): As from `step.count_step`, or `step.NO_ADAM`.

        Returns:
            dict: The losses by name, float32.
        """
        raise NotImplementedError

    def prove(self, batch=None, together=True):
        """Compare the fast step with net.py. If they differ, net.py trains from now on.

        Args:
            batch (list of int): Numbers of the digits; by default those that come next.
            together (bool): Whether all ranks do this now.
        """
        iterator = self.get_iterator('main')
        self.proved_in = self.epoch if batch is None else int(iterator.previous_epoch_detail)
        self.look()
        differs = ''
        if not self.why:
            with observe.same_noise(self.device.xp) as rewind:
                rows = np.array(self.next_of(copy.copy(iterator)) if batch is None else batch)
                for beside in range(proof.TRIES):
                    rewind()
                    differs = self.difference((rows + beside) % len(self.digits), rewind)
                    if not differs:
                        break
        # all ranks ask each other, whatever stands in the way of one of them
        self.refused = self.refused or (
            proof.agreed(self.get_optimizer('main'), differs) if together else differs)
        self.why = self.why or self.refused
        if batch is None:
            self.told.add(self.why)         # the header of the run tells

    def difference(self, rows, rewind):
        """Say what net.py's loss and the fast step differ in, on a minibatch; '' for nothing.

        Args:
            rows (ndarray): Numbers of its digits, (N,) int64.
            rewind (callable): As from `observe.same_noise`.
        """
        loss, expected = observe.reported(self.loss_func, self.fetch(rows), self.model)
        self.model.cleargrads()
        with np.errstate(all='ignore'):
            loss.backward()
        params = {f'gradient of {name}': param for name, param in self.model.namedparams()}
        expected |= {name: param.grad for name, param in params.items()}
        drawn = np.random.get_state()
        if not proof.comparable([float(loss.array)], [param.grad for param in params.values()]):
            return ''
        rewind()
        found = self.take_step(rows, step.NO_ADAM)
        found |= {name: param.grad for name, param in params.items()}
        differs = proof.compare(found, expected, (drawn, np.random.get_state()))
        return differs and proof.NOT_COMPILED + differs

    def give_threads_back(self):
        """Let others have the threads that a step keeps them from; here there are none."""


class CompiledUpdater(FastUpdater):
    """`FastUpdater` on a CPU, by compiled functions on threads."""

    def __init__(self, plain):
        super().__init__(plain)
        self.grads = {}
        self.workers = threads.Workers(self.model, self.k)
        self.one_thread, self.prepared = None, None
        self.on = f'{self.workers.count} thread{"s" * (self.workers.count != 1)}, {blas.WHOSE}'
        self.how = self.on
        if not compiled.backward.stats.cache_path:
            self.how += '; compiled anew each time, unless NUMBA_CACHE_DIR names a folder for it'
        elif (self.comm is None or self.comm.rank == 0) and not compiled.is_compiled(
                compiled.backward):
            print('compiling the fast step, once per installation: some 15 seconds', flush=True)

    def take_step(self, rows, numbers):
        """Take a step, as `FastUpdater.take_step`."""
        n = len(rows)
        if self.prepared is None or self.prepared[0] != n:
            self.prepare(n)
        if self.one_thread is None:
            self.one_thread = threads.BLAS.limit(limits=1)
        _, eps, shares, parts, backward, gradients, descend = self.prepared
        step.draw(eps, self.k)
        scale = step.f32(self.C / n)
        sums = self.workers.call(backward, [
            (*args, scale, self.digits, rows[digits]) for digits, args in shares])
        # Adam takes the mean of all ranks' gradients; a proof is of this rank's alone
        is_shared = self.comm is not None and numbers is not step.NO_ADAM
        now = step.NO_ADAM if is_shared else numbers
        self.workers.call(gradients, [(*part, now) for part in parts])
        for name, param in self.model.namedparams():
            if param.grad is not self.grads[name]:
                param.grad = self.grads[name]
        if is_shared:
            self.comm.multi_node_mean_grad(self.model, self.get_optimizer('main').zero_fill)
            self.workers.call(descend, [(*part, numbers) for part in parts])
        return step.mean_losses(sums, n, self.k, self.C)

    def prepare(self, n):
        """Prepare what the compiled functions take, for minibatches of n digits."""
        space, shares = self.workers.prepare(n)
        layers, kind = step.layers_of(self.model), step.ACTIVATIONS[self.model.act_func]
        scale = step.f32(1 / (n * self.k))
        shares = [(digits, (layers, part, kind, self.k, scale)) for digits, part in shares]
        descents = tuple(self.descent(name, space) for name in step.FLOW)
        parts = [(descents, i, len(shares)) for i in range(len(shares))]
        self.prepared = (n, space.eps, shares, parts, *(
            compiled.compile_for(function, args) for function, args in (
                (compiled.backward, (*shares[0][1], scale, self.digits, np.zeros(0, np.int64))),
                (compiled.gradients, (*parts[0], step.NO_ADAM)),
                (compiled.descend, (*parts[0], step.NO_ADAM)))))

    def descent(self, name, space):
        """Return what `descend` needs of a layer."""
        arrays = [getattr(space, key) for key in step.FLOW[name]]
        for key in step.Layer._fields:
            param = getattr(self.model[name], key)
            state = param.update_rule.state
            arrays += [param.array, self.grads[f'/{name}/{key}'], state['m'], state['v']]
        return compiled.Descent(*arrays)

    def renew(self):
        """Let the next step look for its arrays again."""
        for name, param in self.model.namedparams():
            if getattr(self.grads.get(name), 'shape', None) != param.shape:
                self.grads[name] = np.zeros_like(param.array)
            param.update_rule._init_states(param)
            state = param.update_rule.state
            for moment in 'mv':             # a file may hold them in another order
                state[moment] = np.ascontiguousarray(state[moment])
        self.prepared = None

    def prove(self, batch=None, together=True):
        """Compare with net.py, as `FastUpdater.prove`; BLAS has all its threads afterwards."""
        try:
            super().prove(batch, together)
        finally:
            self.give_threads_back()

    def finalize(self):
        """End the training."""
        super().finalize()
        self.give_threads_back()

    def give_threads_back(self):
        """Let BLAS have its threads again."""
        if self.one_thread is not None:
            self.one_thread.restore_original_limits()
            self.one_thread = None


class GraphUpdater(FastUpdater):
    """`FastUpdater` on a GPU, whose steps replay one CUDA graph.

    The digits lie on the GPU. What differs from step to step is written into the arrays that the
    graph reads: the numbers of the digits, the noise, and Adam's numbers.

    Raises:
        ImportError: If there is no cuBLAS.
    """

    how = 'CUDA graph'

    def __init__(self, plain):
        with chainer.using_device(plain.device):
            xp = plain.device.xp
            self.stream = xp.cuda.Stream(non_blocking=True)             # as a capture wants it
            self.cublas = cuda_graph.Cublas(self.stream.ptr, xp)
        super().__init__(plain)
        self.step, self.graph, self.can_capture = None, None, True

    def difference(self, rows, rewind):
        """Say what differs, as `FastUpdater.difference`, or what of the GPU fails."""
        try:
            return super().difference(rows, rewind)
        except Exception as error:          # whatever CuPy, the compiler, CUDA or cuBLAS may raise
            return cuda_graph.refusal(error)

    def take_step(self, rows, numbers):
        """Take a step, as `FastUpdater.take_step`."""
        with chainer.using_device(self.device):
            # what others do to the weights, between two steps, they do on a stream of their own
            self.stream.wait_event(self.device.xp.cuda.get_current_stream().record())
        with chainer.using_device(self.device), self.stream:
            if self.step is None or len(self.step.rows) != len(rows):
                self.device.xp.cuda.Device().synchronize()      # the other streams, too
                self.step = cuda_graph.Step(self.model, len(rows), self.k, self.digits,
                                            dot=self.cublas.dot)
                self.graph = None
            self.step.set_inputs(rows, numbers, self.C)
            if self.graph is not None:
                self.graph.launch(self.stream)
            else:
                self.step()                 # as it is, which also loads what a capture must not
                if self.can_capture:
                    self.capture()
            self.step.leave_grads()
            sums = self.step.sums()
        return step.mean_losses(sums, len(rows), self.k, self.C)

    def capture(self):
        """Make the graph of a step, without taking it; where that fails, warn and do without."""
        try:
            self.stream.begin_capture()
            try:
                self.step()
            finally:
                graph = self.stream.end_capture()
            self.graph = graph
        except Exception as error:          # whatever CuPy, CUDA or cuBLAS may raise
            self.can_capture = False
            print(f'warning: no CUDA graph ({command.printable(error)}); training goes on without '
                  'one, which takes longer', file=sys.stderr)

    def renew(self):
        """Let the next step look for its arrays again."""
        for param in self.model.params():       # or send what was loaded to the GPU
            param.update_rule._init_states(param)
        self.step = None
