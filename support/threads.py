"""The threads on which compiled functions work, and what each takes of a minibatch."""

from concurrent import futures
import itertools

from support import blas
from support.step import Space, make_space

import numba
import numpy as np
import scipy.linalg  # noqa: F401  (Numba takes its BLAS, which has to be found below)
import threadpoolctl

if numba.config.DISABLE_JIT:
    raise ImportError('NUMBA_DISABLE_JIT is set')

SHARE = 16                      # digits that are worth a thread
WHOSE, SGEMM = blas.choose()
BLAS = threadpoolctl.ThreadpoolController().select(user_api='blas')


class Workers:
    """Threads that share the digits of a minibatch, and the arrays in which they work.

    There are as many as BLAS would take now, but each has `SHARE` digits at least.

    Args:
        model (VAE): The model.
        k (int): Monte Carlo samples for each digit.
        count (int): The most threads, by default as many as BLAS would take.
    """

    def __init__(self, model, k, count=None):
        self.model, self.k = model, k
        self.count = count or max((library['num_threads'] for library in BLAS.info()), default=1)
        self.pool = futures.ThreadPoolExecutor(self.count)
        self.prepared = None, None, None

    def compile(self, function, args):
        """Return a function for `call`, compiled for such arguments.

        Calling it spares Numba's look at the type of each argument, which takes long.
        """
        signature = tuple(map(numba.typeof, (*args, np.zeros(1, np.int64))))
        function.compile(signature)
        return function.get_overload(signature)

    def call(self, function, arguments):
        """Call a function with each of the arguments, on threads.

        Args:
            function: As from `compile`; its last argument, given here, is a counter for `barrier`.
            arguments (list of tuple): A thread's each, of the types that it was compiled for.

        Returns:
            list: The results.
        """
        counter = np.zeros(1, np.int64)
        others = []
        try:
            for args in arguments[1:]:
                others.append(self.pool.submit(function, *args, counter))
            return [function(*arguments[0], counter), *(other.result() for other in others)]
        finally:                            # after a Ctrl-C, say, let nobody wait for this thread
            counter[0] = len(arguments)
            futures.wait(others)

    def prepare(self, n):
        """Return the Space of a minibatch, and each thread's share of the digits and of it.

        Args:
            n (int): Digits in the minibatch.

        Returns:
            tuple: The Space, and a list of slice and Space for each thread.
        """
        if self.prepared[0] != n:
            space = make_space(self.model, n, self.k)
            count = max(1, min(self.count, n // SHARE))
            ends = [n * i // count for i in range(count + 1)]
            self.prepared = n, space, [
                (slice(start, end), Space(*(array[start * len(array) // n:end * len(array) // n]
                                            for array in space)))
                for start, end in itertools.pairwise(ends)]
        return self.prepared[1:]
