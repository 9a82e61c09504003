"""The threads on which compiled functions work, and what each takes of a minibatch."""

from concurrent import futures
import itertools

from support.fast import blas  # noqa: F401  (loads the library that has to be found below)
from support.fast.step import Space, make_space

import threadpoolctl

SHARE = 16                      # digits that are worth a thread
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

    def call(self, function, arguments):
        """Call a function with each of the arguments, on threads.

        Args:
            function: As from `compiled.compile_for`.
            arguments (list of tuple): A thread's each, of the types that it was compiled for.

        Returns:
            list: The results.
        """
        others = []
        try:
            for args in arguments[1:]:
                others.append(self.pool.submit(function, *args))
            return [function(*arguments[0]), *(other.result() for other in others)]
        finally:                            # after a Ctrl-C, say
            futures.wait(others)

    def prepare(self, n):
        """Return the Space of a minibatch, and each thread's share of the digits and of it.

        Args:
            n (int): Digits in the minibatch.

        Returns:
            tuple: The Space, and a list of slice and Space for each thread.
        """
        sizes = n, *(len(self.model[name].b) for name in ('ld3', 'le1', 'le3_mu'))
        if self.prepared[0] != sizes:
            space = make_space(self.model, n, self.k)
            count = max(1, min(self.count, n // SHARE))
            ends = [n * i // count for i in range(count + 1)]
            self.prepared = sizes, space, [
                (slice(start, end), Space(*(array[start * len(array) // n:end * len(array) // n]
                                            for array in space)))
                for start, end in itertools.pairwise(ends)]
        return self.prepared[1:]
