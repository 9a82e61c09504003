"""The step on a CPU: compiled functions on threads.

The threads share the digits of a minibatch, and then the rows of each weight.
"""

from concurrent import futures
import functools
import glob
import itertools
import os

from support.fast import blas, compiled, step
from support.fast.parts import in_place

import numpy as np
import threadpoolctl

SHARE = 16                      # the fewest digits for which a further thread is used
BLAS = threadpoolctl.ThreadpoolController().select(user_api='blas')


class Threads:
    """Threads for compiled functions, as many as BLAS would take now; they sleep between calls."""

    beside = 'compiled parts'               # what trains where the fast step does not

    def __init__(self):
        self.count = max((library['num_threads'] for library in BLAS.info()), default=1)
        self.pool = futures.ThreadPoolExecutor(self.count)
        self.on = f'{self.count} thread{"s" * (self.count != 1)}, {blas.WHOSE}'

    def call(self, function, arguments):
        """Call a function with each of the tuples of arguments, on threads; return the results."""
        others = []
        try:
            for args in arguments[1:]:
                others.append(self.pool.submit(function, *args))
            return [function(*arguments[0]), *(other.result() for other in others)]
        finally:                            # after a Ctrl-C, say
            futures.wait(others)

    def with_parts(self, function):
        """Return a function that does the same with compiled parts on these threads.

        BLAS has one thread in the meantime, as its own would spin while these work.
        """
        @functools.wraps(function)
        def call(*args):
            with BLAS.limit(limits=1), in_place(self):
                return function(*args)
        return call


class Stepper(Threads):
    """Takes the steps of a model on a CPU, by Adam or the multi-node optimizer around it."""

    def __init__(self, optimizer, k, digits):
        super().__init__()
        self.optimizer, self.model, self.k, self.digits = optimizer, optimizer.target, k, digits
        self.comm = getattr(optimizer, 'communicator', None)
        self.spaces, self.prepared, self.one_thread = {}, None, None
        self.how, folder = self.on, compiled.backward.stats.cache_path
        # private to Numba, of 0.60 to 0.68: the files that it keeps
        kept = glob.glob(os.path.join(glob.escape(folder or ''), 'compiled.backward-*.nbc'))
        if not folder:
            self.how += '; compiled anew each time, unless NUMBA_CACHE_DIR names a folder for it'
        elif (self.comm is None or self.comm.rank == 0) and os.path.getmtime(
                compiled.__file__) >= max(map(os.path.getmtime, kept), default=0):
            print('compiling the fast step, once per installation: some 15 seconds', flush=True)

    def take(self, rows, numbers, C):
        """Take a step on digits of these numbers (N,), by Adam's numbers; return losses by name."""
        n = len(rows)
        if self.prepared is None or self.prepared[0] != n:
            self.prepare(n)
        if self.one_thread is None:
            self.one_thread = BLAS.limit(limits=1)
        _, eps, shares, parts, backward, descend = self.prepared
        step.draw_noise(eps, self.k)
        scale = step.f32(C / n)
        sums = self.call(backward, [
            (*args, scale, self.digits, rows[digits]) for digits, args in shares])
        # Adam takes the mean of all ranks' gradients; a proof is of this rank's alone
        is_shared = self.comm is not None and numbers is not step.NO_ADAM
        now = step.NO_ADAM if is_shared else numbers
        self.call(descend, [(*part, now, False) for part in parts])
        for param, grad in zip(self.params, self.grads.values(), strict=True):
            if param.grad is not grad:
                param.grad = grad
        if is_shared:
            self.comm.multi_node_mean_grad(self.model, self.optimizer.zero_fill)
            self.call(descend, [(*part, numbers, True) for part in parts])
        return step.mean_losses(sums, n, self.k, C)

    def score(self, x, k):
        """Return the losses of digits (N, D) under k samples, by name."""
        space, shares = self.share(len(x), k, step.f32(1))
        space.x[:] = x
        step.draw_noise(space.eps, k)
        arguments = [args for _, args in shares]
        with BLAS.limit(limits=1):
            sums = self.call(compiled.compile_for(compiled.score, arguments[0]), arguments)
        return step.mean_losses(sums, len(x), k)

    def renew(self):
        """Let the next step look for its arrays again."""
        params = dict(self.model.namedparams())
        self.params, self.prepared = list(params.values()), None
        self.grads = {name: np.zeros_like(param.array) for name, param in params.items()}
        for param in self.params:
            param.update_rule._init_states(param)
            state = param.update_rule.state
            for moment in 'mv':             # a file may hold them in another order
                state[moment] = np.ascontiguousarray(state[moment])

    def rest(self):
        """Let BLAS have its threads again, until the next step."""
        if self.one_thread is not None:
            self.one_thread.restore_original_limits()
            self.one_thread = None

    def prepare(self, n):
        """Prepare what the compiled functions take, for minibatches of n digits."""
        scale = step.f32(1 / (n * self.k))
        space, shares = self.share(n, self.k, scale)
        descents = []
        for name, (h, _, delta) in step.FLOW.items():
            arrays = [getattr(space, key) for key in (h, delta)]
            for key in step.Layer._fields:
                param = getattr(self.model[name], key)
                state = param.update_rule.state
                arrays += [param.array, self.grads[f'/{name}/{key}'], state['m'], state['v']]
            descents.append(compiled.Descent(*arrays))
        parts = [(tuple(descents), i, len(shares)) for i in range(len(shares))]
        no_rows = np.zeros(0, np.int64)
        self.prepared = (
            n, space.eps, shares, parts,
            compiled.compile_for(compiled.backward, (*shares[0][1], scale, self.digits, no_rows)),
            compiled.compile_for(compiled.descend, (*parts[0], step.NO_ADAM, False)))

    def share(self, n, k, scale):
        """Return a Space, and for each thread a slice of the n digits and `forward`'s arguments."""
        sizes = n, *(len(self.model[name].b) for name in ('ld3', 'le1', 'le3_mu'))
        if self.spaces.get(k, [None])[0] != sizes:
            space = step.make_space(self.model, n, k)
            count = max(1, min(self.count, n // SHARE))
            ends = [n * i // count for i in range(count + 1)]
            self.spaces[k] = sizes, space, [
                (slice(start, end), step.Space(*(
                    array[start * len(array) // n:end * len(array) // n] for array in space)))
                for start, end in itertools.pairwise(ends)]
        _, space, shares = self.spaces[k]
        layers, activation = step.layers_of(self.model), step.ACTIVATIONS[self.model.act_func]
        return space, [(digits, (layers, part, activation, k, scale)) for digits, part in shares]
