"""What the Trainer does besides: look at losses, log, draw; the first and last words of a run."""

import contextlib
import json
import math
import os
import shlex
import sys
import time

from support.base import command, files
from support.run import losses, models, record, resume, run_folder, snapshot, stopping, terminal

from chainer import serializers, training
from chainer.training import extensions
import numpy as np


def check_finite(resumed):
    """Make the extension that raises a FloatingPointError for a loss that is not finite.

    It comes before the log and the snapshot. `resumed` is that which the run goes on from, or None.
    """
    @training.make_extension(trigger=(1, 'iteration'), priority=training.PRIORITY_EDITOR,
                             default_name='check_finite')
    def check(trainer):
        at = trainer.updater
        for key, name in (('main/loss', 'training loss'), ('validation/main/loss', 'test loss')):
            loss = trainer.observation.get(key)
            loss = loss[0] if isinstance(loss, tuple) else loss         # a tuple has a weight, too
            if not all(map(np.isfinite, stopping.scalars_of({key: loss}).values())):
                raise snapshot.not_finite(name, int(at.previous_epoch_detail) + 1, at.iteration,
                                          trainer.out, resumed)

    return check


class LogReport(extensions.LogReport):
    """Chainer's log of the epochs, but OUT/`filename` is replaced only by a whole file."""

    def __init__(self, keys=None, trigger=(1, 'epoch'), postprocess=None, filename='log'):
        super().__init__(keys, trigger, postprocess, log_name=None)     # it may leave a folder
        self.filename = filename

    def __call__(self, trainer):
        """Add up the losses, and if a row is due, write their means."""
        rows = len(self.log)
        super().__call__(trainer)
        if len(self.log) > rows:
            run_folder.make_again(trainer.out)
            files.write_text(trainer.out, self.filename.format(**self.log[-1]),
                             json.dumps(self.log, indent=4) + '\n',
                             mend=run_folder.MEND)


class PlotReport(training.Extension):
    """Redraws OUT/loss.png after an epoch, at most each half minute; `whole_run` draws the last."""

    priority = -200         # after the snapshot, which must not be lost if the run is killed
    seconds = 30
    due = -math.inf
    drawn = 0               # rows of the log

    # a trigger with a state would come too late for the snapshot
    trigger = staticmethod(lambda trainer: trainer.updater.is_new_epoch)

    def __call__(self, trainer):
        """Draw, if that is due."""
        is_stopped = getattr(trainer.stop_trigger, 'signum', None) is not None
        if time.monotonic() >= self.due and not is_stopped:     # else the work is saved first
            self.draw(trainer)

    def draw(self, trainer):
        """Draw new rows; if that fails, warn once and train on."""
        log = terminal.log_of(trainer)
        if self.due == math.inf or not log or len(log) == self.drawn:
            return
        self.drawn = len(log)
        try:
            plot_losses(trainer)
            self.due = time.monotonic() + self.seconds
        except Exception as error:          # whatever matplotlib, its settings and OUT may raise
            self.due = math.inf
            print(f'warning: loss.png is not drawn ({command.printable(error)}); training goes on '
                  'without it', file=sys.stderr)


def plot_losses(trainer):
    """Draw OUT/loss.png from the log of a trainer, as `losses.plot` does."""
    settings, updater = trainer.get_extension('run').settings, trainer.updater
    losses.plot(terminal.log_of(trainer), settings.loss, settings.kl_weight,
                updater.epoch_detail / max(1, updater.iteration),
                os.path.join(trainer.out, 'loss.png'))


@contextlib.contextmanager
def whole_run(trainer, args, digits, graph):
    """Stand around `trainer.run()`: what a run says and writes at its start and at its end.

    Within the `with` block the first Ctrl-C, SIGTERM or SIGHUP stops the trainer after its
    iteration, and `snapshot_interrupted` keeps the work. A run with nothing left to do writes
    nothing. It yields the `stopping.UntilStopped`, whose `status` is the exit status afterwards.

    Raises:
        FileError: If OUT has no room for the results, or cannot be written.
    """
    stop, comm = stopping.until_stopped(trainer), args.comm

    def begin():
        comm.on_root(prepare_folder, trainer, args, digits, graph)
        noted = terminal.find(trainer, record.Record)
        if noted is not None and trainer.updater.iteration == 0:
            noted(trainer)
        if comm.rank == 0:
            print_header(trainer, args, digits)

    def end():
        name = comm.on_root(name_unsaved, trainer)
        if name:
            trainer.get_extension('run').gather()
            if comm.rank == 0:
                write = writer_of(trainer) or snapshot.Writer(args.keep, args.resume)
                write(name, trainer.out, serializers.npz.serialize(trainer))

    stop.begin, stop.end = begin, end
    with (contextlib.redirect_stderr(terminal.Lasting(sys.stderr)),
          contextlib.redirect_stdout(terminal.Lasting(sys.stdout, stop))):
        with (command.handled(stop.signals, stop.on_signal),
              np.errstate(all='ignore')):               # check_finite looks for itself
            yield stop
            if comm.rank == 0:              # mpiexec returns rank 0's status
                stop.status = report_end(trainer, args)
        plot = terminal.find(trainer, PlotReport)
        if comm.rank == 0 and plot is not None and (stop.has_begun or args.is_newest):
            with contextlib.suppress(KeyboardInterrupt):    # the run has ended already
                plot.draw(trainer)          # its last file


def writer_of(trainer):
    """Return the `snapshot.Writer` that a trainer's snapshots are written by, or None."""
    writers = [getattr(entry.extension, 'writer', None) for entry in trainer._extensions.values()]
    return next((writer for writer in writers if isinstance(writer, snapshot.Writer)), None)


def name_unsaved(trainer):
    """Return the name for a snapshot of the last iteration; '' if it is saved, or need not be."""
    stop, updater, writer = trainer.stop_trigger, trainer.updater, writer_of(trainer)
    saved = 0 if writer is None else writer.iteration
    if updater.iteration in (0, saved) or not (stop.has_begun or stop.signum):
        return ''
    if stop.signum and not stop.is_over:
        return run_folder.INTERRUPTED
    if writer is None:                      # the script saves its own way
        return ''
    return (f'{run_folder.EPOCH_PREFIX}{updater.epoch}' if updater.is_new_epoch else
            f'{files.ITERATION_PREFIX}{updater.iteration}')


def prepare_folder(trainer, args, digits, graph):
    """Make sure that OUT has room for the snapshots, and write the first files of a run."""
    # of a snapshot: weights and two moments; the order of the digits
    size = 8 * len(digits.train) + 3 * sum(
        param.array.nbytes for param in resume.model_of(trainer.updater).params())
    run_folder.check_room(args, size, args.epoch - trainer.updater.epoch)
    if args.overwrite:
        run_folder.clear(args.out)
    text = trainer.get_extension('run').now().to_json(indent=4)
    files.write_text(args.out, 'args.json', text + '\n')
    files.write_text(args.out, 'cg.dot', graph)


def print_header(trainer, args, digits):
    """Say what will happen: device, digits, model, batch, epochs, and where the results go."""
    settings, updater, ranks = trainer.get_extension('run').settings, trainer.updater, args.comm
    device = 'CPU' if args.gpu < 0 else f'GPU {args.gpu}'
    iterator, evaluator = updater.get_iterator('main'), terminal.find(trainer, extensions.Evaluator)
    n_train = count_shares(iterator, digits.train, ranks.size)
    n_test = 'none' if evaluator is None else count_shares(
        evaluator.get_iterator('main'), digits.test, ranks.size)
    size, model = getattr(iterator, 'batch_size', args.batch_size), resume.model_of(updater)
    batch = f'minibatches of {size}' + f' a rank, {ranks.size * size} in all' * (ranks.size > 1)
    batch += ' (more than an epoch)' * (size * ranks.size > n_train)
    z = models.sizes_of(model).get('dim_z', args.dim_z)
    start = '' if not args.resume else f', from {updater.epoch_detail:.4g} of {args.resume}'
    print(f"""\
device   {device}{ranks.description}
updater  {getattr(updater, 'kind', 'standard')}
digits   {digits.title}: {n_train} to train, {n_test} to test{', binary' * args.binary}
model    {models.describe_layers(model)}, z = {z}, {settings.activation}\
{', no noise' * args.autoencoder}
loss     {settings.loss}, {batch}, {settings.optimizer}, seed {args.seed}
epochs   {terminal.length_in_words(trainer.stop_trigger)}{start}
results  {args.out}
""", flush=True)
    if terminal.log_of(trainer) is None:
        print('warning: the trainer has no LogReport, so that there is no table and no loss.png',
              file=sys.stderr)


def count_shares(iterator, digits, ranks):
    """Return how many of all `digits` the iterators of all ranks have; shares may differ by one."""
    share = len(getattr(iterator, 'dataset', digits))
    return len(digits) if abs(share * ranks - len(digits)) < ranks else share * ranks


def report_end(trainer, args):
    """Say how the run ended and what comes next; return the exit status."""
    stop, updater, writer = trainer.stop_trigger, trainer.updater, writer_of(trainer)
    iteration = f'epoch {updater.epoch_detail:.2f}, iteration {updater.iteration}'
    at = f'epoch {updater.epoch}' if updater.is_new_epoch else iteration
    if not stop.is_over and updater.iteration == 0:
        print('interrupted before the first iteration; start it again')
    elif not stop.is_over:
        gpu = f' --gpu {args.gpu}' if args.gpu >= 0 else ''
        mpiexec, communicator = ('', '') if args.communicator is None else (
            f'mpiexec -n {args.comm.size} ', f' --communicator {args.communicator}')
        print(f'interrupted at {iteration}; go on with: {mpiexec}python train_vae.py --resume '
              f'-o {shlex.quote(args.out)}{gpu}{communicator}')
    elif stop.has_begun:
        where = ''
        with contextlib.suppress(files.FileError):
            last = snapshot.newest(args.out) if writer is None else writer.path
            is_whole = writer is not None or snapshot.read_iteration(last) == updater.iteration
            where = f': {last}' if is_whole else f'; its last snapshot is {last}'
        print(f'finished at {at}{where}')
        collapse = losses.collapse(terminal.log_of(trainer) or [])
        if collapse:
            print(f'note: {collapse}')
        if where:
            print(f'draw its figures with: python visualize.py -o {shlex.quote(args.out)}')
    else:
        if writer is not None and args.is_newest:       # a kill may have prevented it
            writer.iteration = updater.iteration
            writer.clean(args.out, args.resume)
        is_past = stop.is_past(trainer) and stopping.length_of(stop) == (args.epoch, 'epoch')
        mend = 'go on with a larger --epoch' if is_past else (
            'to go on, give train_vae.py a stop trigger that fires later')
        print(f'{args.resume or "a new run"} is at {at} already; {mend}')
    return 0 if stop.is_over else 128 + stop.signum
