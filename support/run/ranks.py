"""Many processes that train one model, by ChainerMN; one process is the plain case of them.

The script's `comm` is an `Alone`, or with --communicator the `Ranks` that mpiexec started. Each of
these has its share of the digits, and all take the same step. Rank 0 alone reads, prints and
writes.
"""

import argparse
import contextlib
import functools
import os
import tempfile
import warnings

from support.base import command, devices  # lets chainer import
from support.run import stopping

from chainer import training
from chainer.training import extensions, triggers
import numpy as np

REPORTS = {                 # extensions of rank 0 alone, by name or class
    'check_finite', 'FailOnNonNumber', 'LogReport', 'PrintReport', 'PlotReport', 'ProgressBar',
    'Record', 'DumpGraph', 'VariableStatisticsPlot'}


def start(argv):
    """Return the `Ranks` that mpiexec started, or an `Alone` without --communicator.

    Raises:
        UserError: If they cannot be had, or mpiexec started several without that flag.
    """
    numbers = {name: int(text) for name, text in os.environ.items() if text.isdecimal()}
    started, rank = (max(numbers.get(name, 0) for name in names) for names in (     # by mpiexec
        ('PMI_SIZE', 'OMPI_COMM_WORLD_SIZE'), ('PMI_RANK', 'OMPI_COMM_WORLD_RANK')))
    scan = argparse.ArgumentParser(add_help=False)
    scan.add_argument('--communicator', nargs='?', const='')
    try:
        if scan.parse_known_args(argv)[0].communicator is not None:
            return Ranks(connect(started))
        if started < 2:
            return Alone()
        raise command.UserError(f'mpiexec started {started} processes; add --communicator naive, '
                                'or pure_nccl for GPUs')
    except command.UserError:
        if rank > 0:
            raise SystemExit(2) from None           # the first process tells
        raise


def connect(started):
    """Return a ChainerMN communicator of the processes that mpiexec started, or raise UserError."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter('ignore')         # mpi4py's, about what is told below
            import chainermn

            comm = chainermn.create_communicator('naive')
        if comm.size >= started:
            return comm
        cause = f'mpiexec, which started {started} processes, is of another MPI than mpi4py'
    except (ImportError, RuntimeError) as error:
        cause = str(error).splitlines()[0].partition(': ChainerMN')[0]
        cause = f'it needs mpi4py and an MPI ({cause})'
    raise command.UserError(f'--communicator: {cause}; pip install mpi4py mpich, and use its '
                            'mpiexec')


class Alone:
    """One process: it has all digits, and nobody to ask; `Ranks` explains its methods."""

    rank, size, description = 0, 1, ''
    ending_together = contextlib.nullcontext
    together = on_root = staticmethod(lambda function, *args: function(*args))
    get_device = staticmethod(lambda gpu, communicator: devices.get_device(gpu))
    scatter = staticmethod(lambda optimizer, train, test, args: (optimizer, train, test))
    join = staticmethod(lambda trainer: None)


class Ranks:
    """Several processes, each of which calls these methods in the same order.

    `rank` is the place of this process, `size` their number; `description` is for the header.
    """

    def __init__(self, comm):               # a communicator of ChainerMN
        self.comm, self.rank, self.size, self.description = comm, comm.rank, comm.size, ''

    @contextlib.contextmanager
    def ending_together(self):
        """Within a `with` block, let an exception on one rank end all ranks."""
        try:
            yield
        except BaseException as error:
            if self.size > 1 and not getattr(error, 'is_agreed', False):
                import mpi4py.run

                status = command.exit_status(error)
                mpi4py.run.set_abort_status(status)         # aborts all when this rank has ended
                if self.rank > 0 and isinstance(error, KeyboardInterrupt):
                    raise SystemExit(status) from None      # rank 0 got it, too, and says so
            raise

    def together(self, function, *args):
        """Call a function on every rank. If it fails on any, the first of these tells; all end."""
        result = error = status = None
        try:
            result = function(*args)
        except BaseException as caught:
            error, status = caught, (command.exit_status(caught),)
        statuses = self.of_all(status)
        failed = [rank for rank, status in enumerate(statuses) if status is not None]
        if not failed:
            return result
        if self.rank != failed[0]:
            error = SystemExit(*statuses[failed[0]])
        error.is_agreed = True
        raise error

    def on_root(self, function, *args):
        """Call a function on rank 0 only, as `together` does, and return its result on all."""
        result = self.together(function if self.rank == 0 else lambda *args: None, *args)
        return result if self.size == 1 else self.comm.bcast_obj(
            None if self.rank > 0 else (result,))[0]

    def of_all(self, value):
        """Return the values of all ranks as a list, on each of them."""
        return self.comm.mpi_comm.allgather(value)

    def get_device(self, gpu, communicator):
        """Return this rank's device, one of the GPUs from `gpu` on; choose the communicator."""
        def choose():
            if communicator == 'naive':
                return self.comm
            import chainermn

            try:
                return chainermn.create_communicator(communicator)
            except RuntimeError as error:
                raise command.UserError(
                    f'--communicator {communicator}: {error} pip install nvidia-nccl-cu13, or '
                    'nvidia-nccl-cu12 for a driver of CUDA 12') from None

        device = self.together(devices.get_device, gpu + self.comm.intra_rank if gpu >= 0 else gpu)
        self.comm = self.together(choose)
        hosts = f'{self.comm.inter_size} host{"s" * (self.comm.inter_size > 1)}'
        self.description = (
            f', 1 rank of {communicator} (mpiexec -n N starts more)' if self.size == 1 else
            f', {self.size} ranks on {hosts}, by {communicator}')
        return device

    def scatter(self, optimizer, train, test, args):
        """Give this rank rank 0's weights, an optimizer that all share, and its share of digits.

        These are views of train and test; of train all have as many, so that all come to the end of
        an epoch together. One rank alone takes the same steps as one process without MPI.
        """
        import chainermn

        if len(test) < self.size:               # on all ranks alike; the first one tells
            self.on_root(refuse, f'{len(test)} test digits are too few for {self.size} ranks; '
                                 'start fewer')
        self.comm.bcast_data(optimizer.target)
        optimizer = chainermn.create_multi_node_optimizer(optimizer, self.comm)
        optimizer.is_changed(optimizer.target)      # else the first update would only do that bcast
        if self.size > 1:
            np.random.seed([args.seed, self.rank])
        pinned = os.sched_getaffinity(0) if hasattr(os, 'sched_getaffinity') else None
        ours = self.comm.inter_rank, pinned
        devices.limit_blas(self.of_all(ours).count(ours))       # ranks on the same cores
        first, last = chainermn.scatter_index(len(train), self.comm)
        first_test, last_test = chainermn.scatter_index(len(test), self.comm,
                                                        force_equal_length=False)
        return optimizer, train[first:last], test[first_test:last_test]

    def join(self, trainer):
        """Connect a trainer, with all its extensions, with those of the other ranks.

        Rank 0 alone then has the extensions that report, and writes.
        """
        stop, entries = stopping.until_stopped(trainer), trainer._extensions
        stop.ranks = self
        for name, entry in list(entries.items()):
            extension = entry.extension
            names = {name, *(each.__name__ for each in type(extension).__mro__)}
            if self.rank > 0 and names & REPORTS:
                del entries[name]           # Chainer has no other way to take one out
            elif hasattr(extension, 'condition'):       # a snapshot's
                extension.condition = functools.partial(self.writes, extension.condition, trainer)
            elif isinstance(extension, extensions.Evaluator):
                self.share(extension)
            if isinstance(entry.trigger, triggers.TimeTrigger):     # clocks differ
                entry.trigger = self.agreed(entry.trigger)
        if self.rank > 0:
            self.scratch = tempfile.TemporaryDirectory()            # for other files
            trainer.out = self.scratch.name
        trainer.extend(functools.partial(self.agree), 'agree',      # a method takes no attributes
                       priority=training.PRIORITY_EDITOR + 1)

    def share(self, evaluator):
        """Let an evaluator return the mean over all test digits, whatever this rank's share."""
        import chainermn

        evaluate, share = evaluator.evaluate, len(evaluator.get_iterator('main').dataset)
        weight = self.size * share / sum(self.of_all(share))
        evaluator.evaluate = lambda: {key: mean * weight for key, mean in evaluate().items()}
        chainermn.create_multi_node_evaluator(evaluator, self.comm)

    def writes(self, condition, trainer):
        """Gather the states of all ranks for a snapshot; tell whether this rank writes it."""
        trainer.get_extension('run').gather()
        return self.rank == 0 and condition()

    def agreed(self, trigger):
        """Return a trigger that fires on all ranks when that of rank 0 does."""
        def fires(trainer):
            return self.of_all(bool(trigger(trainer)))[0]

        fires.serialize = trigger.serialize
        return fires

    def agree(self, trainer):
        """Extension: let all observe the means of their losses, and stop in the same iteration."""
        stop = trainer.stop_trigger
        here = {key: float(array) for key, array in stopping.scalars_of(
            trainer.observation).items() if key.startswith('main/')}
        losses, signums = zip(*self.of_all((here, stop.caught)), strict=True)
        trainer.observation.update({
            key: sum(of[key] for of in losses) / self.size
            for key in here if all(key in of for of in losses)})
        stop.signum = next(filter(None, signums), stop.signum)


def refuse(message):
    """Raise a UserError."""
    raise command.UserError(message)
