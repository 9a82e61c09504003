"""Many processes that train one model, by ChainerMN; one process is the plain case of them.

`start` returns what the script calls `comm`: an `Alone`, or where the command line says
--communicator the `Ranks` that mpiexec started. Both answer to the same calls. Each rank takes
minibatches of its own, from its own share of the digits, and all take the same step with the mean
of their gradients. Rank 0 alone reads, prints and writes.
"""

import argparse
import contextlib
import os
import sys
import tempfile
import warnings

from support.base import command, devices  # lets chainer import
from support.run import snapshot, stopping

from chainer import training
from chainer.training import extensions, triggers
import numpy as np

REPORTS = {                 # which rank 0 alone has, by name or class
    'check_finite', 'FailOnNonNumber', 'LogReport', 'PrintReport', 'PlotReport', 'ProgressBar',
    'Record', 'DumpGraph', 'VariableStatisticsPlot'}


def start(argv):
    """Meet the other processes that mpiexec started, where the command line has --communicator.

    Args:
        argv (list of str): The command line, or None for the program's own.

    Returns:
        Ranks: By which they agree on what follows; an `Alone` without that flag.

    Raises:
        UserError: If mpi4py or an MPI is missing, mpiexec is of another MPI, or that flag is.
    """
    started = set_by_mpiexec('PMI_SIZE', 'OMPI_COMM_WORLD_SIZE') or 1
    place = set_by_mpiexec('PMI_RANK', 'OMPI_COMM_WORLD_RANK') or 0
    scan = argparse.ArgumentParser(add_help=False)
    scan.add_argument('--communicator', nargs='?', const='')
    wanted = scan.parse_known_args(argv)[0].communicator is not None
    if not wanted and started == 1:
        return Alone()
    try:
        if not wanted:
            raise command.UserError(f'mpiexec started {started} processes; add --communicator '
                                   'naive, or pure_nccl for GPUs')
        return Ranks(connect(started))
    except command.UserError:
        if place > 0:
            raise SystemExit(2) from None           # the first process tells
        raise


def set_by_mpiexec(*names):
    """Return the number in the first of these environment variables that is set, or None.

    Raises:
        UserError: If it is no number.
    """
    for name in names:
        text = os.environ.get(name)
        if text:
            if not text.isdecimal():
                raise command.UserError(
                    f'{name}={text} is not a number, as mpiexec sets it; unset it')
            return int(text)
    return None


def connect(started):
    """Return a ChainerMN communicator of the processes that mpiexec started, so many.

    Raises:
        UserError: If mpi4py or an MPI is missing, or mpiexec is of another MPI.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter('ignore')         # of mpi4py, about what is told below
            import chainermn

            comm = chainermn.create_communicator('naive')
        if comm.size >= started:
            return comm
        why = f'mpiexec, which started {started} processes, is of another MPI than mpi4py'
    except (ImportError, RuntimeError) as error:
        cause = str(error).splitlines()[0].partition(': ChainerMN')[0]
        why = f'it needs mpi4py and an MPI ({cause})'
    raise command.UserError(f'--communicator: {why}; pip install mpi4py mpich, and use its mpiexec')


class Alone:
    """One process: it has all digits, and nobody to ask.

    Attributes:
        rank (int): Place of this process among all.
        size (int): How many there are.
        description (str): Of the processes, for the header.
    """

    rank, size, description = 0, 1, ''

    def ending_together(self):
        """Return a context in which nobody else has to end with this process."""
        return contextlib.nullcontext()

    def together(self, function, *args):
        """Return what a function returns."""
        return function(*args)

    def on_root(self, function, *args):
        """Return what a function returns."""
        return function(*args)

    def get_device(self, gpu, communicator):
        """Return the device for `--gpu N`, as `devices.get_device` does."""
        return devices.get_device(gpu)

    def scatter(self, optimizer, train, test, args):
        """Return the optimizer and the digits as they are."""
        return optimizer, train, test

    def join(self, trainer):
        """Leave a trainer as it is."""


class Ranks:
    """Several processes, each of which makes these calls in the same order.

    Args:
        comm (chainermn.CommunicatorBase): That of all.

    Attributes:
        rank, size, description: As of `Alone`.
    """

    def __init__(self, comm):
        self.comm = comm
        self.rank, self.size, self.description = comm.rank, comm.size, ''

    @contextlib.contextmanager
    def ending_together(self):
        """Let an exception within a `with` block of one rank end all ranks, not just this one."""
        try:
            yield
        except BaseException as error:
            if self.size > 1 and not getattr(error, 'agreed', False):
                import mpi4py.run

                status = command.exit_status(error)
                mpi4py.run.set_abort_status(status)         # for when this rank has ended
                if self.rank > 0 and isinstance(error, KeyboardInterrupt):
                    raise SystemExit(status) from None      # rank 0 was, too, and says it
            raise

    def together(self, function, *args):
        """Call a function on every rank; where it fails on any, end all, and let one say why.

        Args:
            function (callable): The function.
            *args: Its arguments.

        Returns:
            What the function returns, here.

        Raises:
            BaseException: What the function raises; SystemExit on all ranks but the first that
                fails.
        """
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
        error.agreed = True
        raise error

    def on_root(self, function, *args):
        """Call a function on rank 0 only, as `together` does, and return its result on all."""
        if self.size == 1:
            return function(*args)
        if self.rank > 0:
            self.together(bool)             # nothing that could fail
            return self.comm.bcast_obj(None)[0]
        return self.comm.bcast_obj((self.together(function, *args),))[0]

    def gather(self, value):
        """Return the values of all ranks as a list, on rank 0; an empty one elsewhere."""
        return self.comm.gather_obj(value) or []

    def of_all(self, value):
        """Return the values of all ranks as a list, on each of them."""
        return self.comm.bcast_obj(self.comm.gather_obj(value))

    def of_root(self, value):
        """Return the value of rank 0, on all."""
        return self.comm.bcast_obj(None if self.rank else value)

    def get_device(self, gpu, communicator):
        """Return this rank's device, and let all talk as that wants it.

        Args:
            gpu (int): Number of the GPU of the first rank on a host; a negative one stands for
                the CPU.
            communicator (str): Its kind, 'naive' or 'pure_nccl'.

        Raises:
            UserError: If the device cannot be used, or CuPy has no NCCL.
        """
        device = self.together(devices.get_device, gpu + self.comm.intra_rank if gpu >= 0 else gpu)
        self.comm = self.together(self.choose, communicator)
        hosts = f'{self.comm.inter_size} host{"s" * (self.comm.inter_size > 1)}'
        self.description = (
            f', 1 rank of {communicator} (mpiexec -n N starts more)' if self.size == 1 else
            f', {self.size} ranks on {hosts}, by {communicator}')
        return device

    def choose(self, name):
        """Return the ChainerMN communicator of this name, of these ranks.

        Raises:
            UserError: If CuPy has no NCCL.
        """
        if name == 'naive':
            return self.comm
        import chainermn

        try:
            return chainermn.create_communicator(name)
        except RuntimeError as error:
            raise command.UserError(
                f'--communicator {name}: {error} pip install nvidia-nccl-cu13, or '
                'nvidia-nccl-cu12 for a driver of CUDA 12') from None

    def scatter(self, optimizer, train, test, args):
        """Give this rank its part: gradients are of all ranks, digits and noise its own.

        Args:
            optimizer (chainer.Optimizer): Set up with the model, which takes rank 0's weights.
            train, test (ndarray): All digits, (N, D) and (M, D).
            args (argparse.Namespace): Its `seed` decides, with the rank, noise and shuffling; a
                rank alone goes on as a single process would.

        Returns:
            tuple: The multi-node optimizer, and views of this rank's share of train and test;
            shares of train are of one size, so that all ranks come to the end of an epoch together.

        Raises:
            UserError: If there are fewer test digits than ranks.
        """
        import chainermn

        self.on_root(check_shares, len(train), len(test), self.size, args.batch_size)
        self.comm.bcast_data(optimizer.target)
        optimizer = chainermn.create_multi_node_optimizer(optimizer, self.comm)
        optimizer.is_changed(optimizer.target)      # else the first update would only do that bcast
        if self.size > 1:
            np.random.seed([args.seed, self.rank])
        self.share_cores()
        first, last = chainermn.scatter_index(len(train), self.comm)
        first_test, last_test = chainermn.scatter_index(len(test), self.comm,
                                                        force_equal_length=False)
        return optimizer, train[first:last], test[first_test:last_test]

    def share_cores(self):
        """Let BLAS take no more threads than this rank's part of the cores it has with others."""
        pinned = os.sched_getaffinity(0) if hasattr(os, 'sched_getaffinity') else None
        ours = self.comm.inter_rank, pinned
        devices.limit_blas(self.of_all(ours).count(ours))

    def join(self, trainer):
        """Let what a trainer observes be of all ranks, a signal to any stop all, and rank 0 report.

        After each iteration what the model reports becomes its mean over all ranks, and the test
        losses those over all test digits, of which the ranks may have shares of different sizes.

        Args:
            trainer (Trainer): That of this rank, with all its extensions.
        """
        stop, entries = stopping.until_stopped(trainer), trainer._extensions
        stop.rank, stop.is_agreed, stop.agree = self.rank, True, self.of_root
        for name, entry in list(entries.items()):
            extension = entry.extension
            kinds = {name, *(kind.__name__ for kind in type(extension).__mro__)}
            if self.rank > 0 and kinds & REPORTS:
                del entries[name]           # Chainer has no other way to take one out
            elif hasattr(extension, 'condition'):       # a snapshot's
                self.gather_before(extension, trainer)
            elif isinstance(extension, extensions.Evaluator):
                self.share(extension)
            if isinstance(entry.trigger, triggers.TimeTrigger):     # clocks differ
                entry.trigger = self.agreed(entry.trigger)
        if self.rank > 0:
            self.scratch = tempfile.TemporaryDirectory()            # for whatever else writes
            trainer.out = self.scratch.name
        trainer.extend(self.agree_on(stop), 'agree', (1, 'iteration'), training.PRIORITY_EDITOR + 1)

    def share(self, evaluator):
        """Let an evaluator tell what all ranks find together."""
        import chainermn

        evaluate, share = evaluator.evaluate, len(evaluator.get_iterator('main').dataset)
        weight = self.size * share / self.comm.allreduce_obj(share)
        evaluator.evaluate = lambda: {key: mean * weight for key, mean in evaluate().items()}
        chainermn.create_multi_node_evaluator(evaluator, self.comm)

    def gather_before(self, extension, trainer):
        """Let a snapshot extension gather what all ranks have, and write on rank 0 alone."""
        def is_due():
            trainer.get_extension('run').gather(trainer)
            return self.rank == 0 and condition()

        condition, extension.condition = extension.condition, is_due

    def agreed(self, trigger):
        """Return a trigger that fires where that of rank 0 does."""
        def fires(trainer):
            return self.of_root(bool(trigger(trainer)))

        fires.serialize = trigger.serialize
        return fires

    def agree_on(self, stop):
        """Make the extension that agrees on what the model reports, and by `stop` on signals."""
        seen, keys = None, []

        def agree(trainer):
            nonlocal seen, keys
            here = {key: float(array) for key, array in stopping.scalars_of(
                trainer.observation).items() if key.startswith('main/')}
            caught = [stop.caught == signum for signum in stop.signals]
            sums = self.comm.allreduce(np.array(
                [seen != here.keys(), *caught, *(here.get(key, 0) for key in keys)], np.float64))
            for signum, count in zip(stop.signals, sums[1:], strict=False):
                if count:
                    stop.signum = signum
            if sums[0]:                     # some report others than before
                seen = here.keys()
                keys = sorted(set.intersection(*map(set, self.of_all([*seen]))))
                sums = self.comm.allreduce(np.array([0, *(here[key] for key in keys)], np.float64))
            means = sums[len(sums) - len(keys):] / self.size
            trainer.observation.update(zip(keys, means, strict=True))

        return agree


def check_shares(n_train, n_test, ranks, batch_size):
    """Make sure that each rank gets a test digit; warn where a step takes more than an epoch.

    Args:
        n_train, n_test (int): Digits to train and to test on.
        ranks (int): How many share them.
        batch_size (int): Digits in a minibatch of each.

    Raises:
        UserError: If one gets none.
    """
    if ranks > n_test:
        raise command.UserError(f'{n_test} test digits are too few for {ranks} ranks; start fewer')
    if ranks > 1 and ranks * batch_size > n_train:
        print(f'warning: {snapshot.describe_step(batch_size, ranks)}, are more than all digits, so '
              'that a step takes more than an epoch; give a smaller -b', file=sys.stderr)
