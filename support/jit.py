"""How Numba compiles functions, and keeps them; and how threads within them wait for each other."""

import contextlib
import functools
import hashlib
import os
import sys

import numba
import numba.core.caching
import numba.extending

TURNS, MICROSECONDS = 300, 50   # of a thread that waits: how often it looks, and then sleeps


@functools.cache
def stamp():
    """Return what changes with each edit of the files that compiled functions are made of."""
    text = hashlib.sha256()
    for name in ('blas.py', 'compiled.py', 'jit.py', 'step.py'):
        with open(os.path.join(os.path.dirname(__file__), name), 'rb') as file:
            text.update(file.read())
    return text.hexdigest()


class Cache(numba.core.caching.FunctionCache):
    """Numba's files of a compiled function, whose failure stops nothing: it is compiled again."""

    is_refused = False                      # which is said once for all functions

    def __init__(self, function):
        super().__init__(function)
        kept = self._cache_file
        kept._source_stamp = stamp()                    # Numba's own is of one file
        # Its list of files is written before a file, which may never come: where one of that name
        # is there from before, it would be taken for the new one.
        kept._data_name_pattern = kept._data_name_pattern.replace(
            '.{number:d}.', f'.{{number:d}}-{stamp()[:8]}-{os.getpid()}.')

    def load_overload(self, signature, context):
        """Return what the files have for these types, or None."""
        try:
            return super().load_overload(signature, context)
        except Exception:                   # cut short, say, and whatever pickle makes of that
            with contextlib.suppress(OSError):
                self.flush()
            return None

    def save_overload(self, signature, result):
        """Write what was compiled for these types."""
        try:
            super().save_overload(signature, result)
        except OSError as error:            # a full disk, say
            if not Cache.is_refused:
                print(f'warning: {self.cache_path} cannot keep what Numba compiles '
                      f'({error.strerror}), so that each run compiles it anew; mend that, or '
                      'name a folder in NUMBA_CACHE_DIR', file=sys.stderr)
            Cache.is_refused = True


def compiled(function):
    """Compile a function by Numba at its first call on this installation; Numba keeps the rest.

    LLVM may take -0 for 0, but may neither reorder sums nor fuse them with products: what it would
    make of that differs between the run that compiles and later ones, and between processors.
    """
    entry = numba.njit(nogil=True, error_model='numpy', fastmath={'nsz'})(function)
    with contextlib.suppress(RuntimeError):     # there is no folder to keep it in
        entry._cache = Cache(function)          # as `cache=True` does, with that of Numba
    return entry


@numba.extending.intrinsic
def add_atomically(context, array, number):
    """Add an int64 to the only number in an array, for all threads to see; return what it was."""
    def generate(context, builder, signature, args):
        pointer = context.make_array(signature.args[0])(context, builder, args[0]).data
        return builder.atomic_rmw('add', pointer, args[1], 'seq_cst')

    return numba.types.int64(array, numba.types.int64), generate


if os.name == 'posix':
    give_way = numba.types.ExternalFunction('sched_yield', numba.types.int32())
    sleep = numba.types.ExternalFunction('usleep', numba.types.int32(numba.types.uint32))
else:
    @compiled
    def give_way():
        """Go on: Windows has no such call."""

    @compiled
    def sleep(microseconds):
        """Go on: Windows has no such call."""


@compiled
def barrier(counter, parts):
    """Wait until all threads have come here.

    At first without sleeping, as waking up takes longer than the usual wait. Who waits for longer
    than that does so for a thread that has no core, and burns none meanwhile.

    Args:
        counter (array): Of one int64, 0 at first.
        parts (int): How many threads will come.
    """
    add_atomically(counter, 1)
    turns = 0
    while add_atomically(counter, 0) < parts:
        if turns < TURNS:
            give_way()                      # to whom this core is due, who may be one of us
        else:
            sleep(MICROSECONDS)
        turns += 1
