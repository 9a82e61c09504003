"""What the Trainer does besides: stop, look at the losses, log, print, draw; first and last words.

Each is an extension of Chainer's, or a class of Chainer's with what it lacks; `whole_run` stands
around `trainer.run()`.
"""

import contextlib
import json
import math
import os
import shlex
import signal
import sys
import time

from support import compat, files, losses, models, resume, snapshot, terminal  # lets chainer import

from chainer import training
from chainer.training import extensions, triggers
import numpy as np

SIGHUP = getattr(signal, 'SIGHUP', None)        # Windows has none


class UntilStopped(triggers.IntervalTrigger):
    """Stop trigger: after so many epochs, or after the iteration in which a signal came.

    A subclass of IntervalTrigger because ProgressBar asks its stop trigger for the length.

    Args:
        epochs (int): After which the run ends.

    Attributes:
        caught (int): The signal that came to this process, or None.
        signum (int): The one that stops the run, or None.
        is_agreed (bool): Whether `signum` is set by others, once all ranks know of it.
        rank (int): This process's; rank 0 speaks.
        status (int): Exit status of the run.
    """

    signals = compat.ENDING
    caught = signum = None
    is_agreed, rank, status = False, 0, 0

    def __init__(self, epochs):
        super().__init__(epochs, 'epoch')

    def __call__(self, trainer):
        """Tell whether the run is over."""
        return self.signum is not None or trainer.updater.epoch >= self.period

    def on_signal(self, signum, frame):
        """Remember the signal; the same again has its default effect, at once."""
        self.stop(signum)
        # a terminal that closes says so twice
        signal.signal(signum, signal.SIG_IGN if signum == SIGHUP else signal.SIG_DFL)
        if self.rank > 0:
            return
        more = b'' if signum == SIGHUP else b'; once more quits at once'
        with contextlib.suppress(OSError):          # the line break ends that of the terminal's ^C
            os.write(2, b'\n' * os.isatty(2) + b'stopping after this iteration' + more + b'\n')

    def stop(self, signum):
        """Let the run end after this iteration, as after this signal."""
        self.caught = signum
        if not self.is_agreed:
            self.signum = signum


def every(epochs, last):
    """Make the trigger of snapshots: after every so many epochs, and after the last.

    Args:
        epochs (int): Epochs from one to the next.
        last (int): The last epoch of the run.

    Returns:
        callable: Of the trainer, after an iteration; tells whether a snapshot is due.
    """
    def due(trainer):
        epoch = trainer.updater.epoch
        before = int(trainer.updater.previous_epoch_detail)
        return before // epochs < epoch // epochs or epoch >= last

    return due


def check_finite(resumed):
    """Make the extension that stops a run when a loss is not finite.

    Args:
        resumed (str): The snapshot that the run goes on from, or None.

    Returns:
        callable: Of the trainer; it raises a FloatingPointError, with the epoch and the iteration,
        before anything is logged or saved.
    """
    @training.make_extension(trigger=(1, 'iteration'), priority=training.PRIORITY_EDITOR,
                             default_name='check_finite')
    def check(trainer):
        at = trainer.updater
        for key, name in (('main/loss', 'training loss'), ('validation/main/loss', 'test loss')):
            loss = trainer.observation.get(key)
            loss = loss[0] if isinstance(loss, tuple) else loss         # which has a weight, too
            is_number = isinstance(loss, (int, float)) or getattr(loss, 'ndim', None) == 0
            if is_number and not math.isfinite(float(getattr(loss, 'array', loss))):
                raise snapshot.not_finite(name, int(at.previous_epoch_detail) + 1, at.iteration,
                                          trainer.out, resumed)

    return check


class LogReport(extensions.LogReport):
    """Chainer's log of the epochs, which replaces OUT/log only when it is whole.

    Args:
        keys, trigger, postprocess: As for Chainer's; by default a row an epoch, of all losses.
        filename (str): In OUT.
    """

    def __init__(self, keys=None, trigger=(1, 'epoch'), postprocess=None, filename='log'):
        super().__init__(keys, trigger, postprocess, log_name=None)     # it may leave a folder
        self.filename = filename

    def __call__(self, trainer):
        """Add up the losses, and where a row is due write their means."""
        rows = len(self.log)
        super().__call__(trainer)
        if len(self.log) > rows:
            files.make_again(trainer.out)
            files.write_text(trainer.out, self.filename.format(**self.log[-1]),
                             json.dumps(self.log, indent=4) + '\n', mend=files.go_on(trainer.out))


class PlotReport(training.Extension):
    """Redraws OUT/loss.png after an epoch, at most each half minute; `whole_run` draws the last."""

    priority = -200         # after the snapshot, which is worth more where the run is killed
    seconds = 30
    due = -math.inf
    drawn = 0               # rows of the log

    def trigger(self, trainer):
        """Fire after an epoch; without a state, which the snapshot before would hold too early."""
        return trainer.updater.is_new_epoch

    def __call__(self, trainer):
        """Draw, if that is due; after a signal, work is kept first."""
        is_stopped = getattr(trainer.stop_trigger, 'signum', None) is not None
        if time.monotonic() >= self.due and not is_stopped:
            self.draw(trainer)

    def draw(self, trainer):
        """Draw what is new; where that fails, warn and do without: training is worth more."""
        log = terminal.log_of(trainer)
        if self.due == math.inf or not log or len(log) == self.drawn:
            return
        self.drawn = len(log)
        try:
            plot_losses(trainer)
            self.due = time.monotonic() + self.seconds
        except Exception as error:          # whatever matplotlib, its settings and OUT may raise
            self.due = math.inf
            print(f'warning: loss.png is not drawn ({compat.printable(error)}); the run does '
                  'without it', file=sys.stderr)


def plot_losses(trainer):
    """Draw OUT/loss.png from the log of a trainer, as `losses.plot` does."""
    settings, updater = trainer.get_extension('run').settings, trainer.updater
    losses.plot(terminal.log_of(trainer), settings['loss'], settings['kl_weight'],
                updater.epoch_detail / max(1, updater.iteration),
                os.path.join(trainer.out, 'loss.png'))


# First and last words ---------------------------------------------------------------------------


@contextlib.contextmanager
def whole_run(trainer, args, digits, graph):
    """Stand around `trainer.run()`: what a run says and writes at its start and at its end.

    Within, a first Ctrl-C, SIGTERM or SIGHUP stops the trainer after its iteration, which
    `snapshot_interrupted` then keeps. `trainer.stop_trigger.status` is the exit status afterwards.

    Args:
        trainer (Trainer): That of this rank, which `resume.make_exact` has seen.
        args (argparse.Namespace): The command line; as from `options.parsed`.
        digits (mnist.Digits): Those that the run trains on.
        graph (str): What `cg.dot` is to tell.

    Raises:
        FileError: If the results have no room in OUT, or cannot be written.
    """
    stop, comm = trainer.stop_trigger, args.comm
    if trainer.updater.epoch >= args.epoch:
        yield                               # nothing will be done
        if comm.rank == 0:
            report_no_more(trainer, args)
        return
    comm.on_root(prepare_folder, trainer, args, digits, graph)
    with terminal.lasting(stop):
        if comm.rank == 0:
            print_header(trainer, args, digits)
        with (compat.handled(stop.signals, stop.on_signal),
              np.errstate(all='ignore')):               # check_finite looks for itself
            yield
            if stop.signum:
                trainer.get_extension('run').gather(trainer)
                if comm.rank == 0:
                    trainer.get_extension('snapshot').writer.interrupt(trainer)
            if comm.rank == 0:              # what mpiexec returns is rank 0's
                stop.status = report_end(trainer, args)
        if comm.rank == 0:
            trainer.get_extension('PlotReport').draw(trainer)


def prepare_folder(trainer, args, digits, graph):
    """Make sure that the snapshots have room in OUT, and write what a run writes at its start.

    Args:
        trainer (Trainer): Where the run starts.
        args (argparse.Namespace): The command line.
        digits (mnist.Digits): Those that the run trains on.
        graph (str): What `cg.dot` is to tell.

    Raises:
        FileError: If they have not, or it cannot be written.
    """
    updater = trainer.updater
    model = updater.get_optimizer('main').target
    size = 3 * sum(param.array.nbytes for param in model.params()) + 8 * len(digits.train)
    files.check_room(args.out, size, args.keep, args.overwrite,     # weights, moments; the order
                     more=math.ceil((args.epoch - updater.epoch) / args.snapshot_every))
    if args.overwrite:
        files.clear(args.out)
    settings = trainer.get_extension('run').now()
    files.write_text(args.out, 'args.json', json.dumps(settings, indent=4) + '\n')
    files.write_text(args.out, 'cg.dot', graph)


def report_no_more(trainer, args):
    """Say that a resumed run has no epochs left, and do what a kill may have prevented."""
    if args.is_newest:
        writer = trainer.get_extension('snapshot').writer
        writer.iteration = trainer.updater.iteration
        writer.clean(args.out, trainer.updater.epoch)
        trainer.get_extension('PlotReport').draw(trainer)       # a run's last file
    print(f'{args.resume} is at epoch {trainer.updater.epoch} already; '
          'go on with a larger --epoch')


def print_header(trainer, args, digits):
    """Say what will happen: device, digits, model, batch, epochs, and where the results go."""
    settings, updater = trainer.get_extension('run').settings, trainer.updater
    where = ('CPU' if args.gpu < 0 else f'GPU {args.gpu}') + args.comm.description
    iterator, evaluator = updater.get_iterator('main'), terminal.find(trainer, extensions.Evaluator)
    batch = snapshot.describe_step(getattr(iterator, 'batch_size', args.batch_size), args.comm.size)
    pixels = '' if not args.binary else ', binary'
    model = updater.get_optimizer('main').target
    z = models.sizes_of(model).get('dim_z', args.dim_z)
    test = 'none' if evaluator is None else digits_of(
        evaluator.get_iterator('main'), digits.test, args.comm.size)
    start = '' if not args.resume else f', from {updater.epoch_detail:.4g} of {args.resume}'
    print(f"""\
device   {where}
updater  {resume.kind_of(updater)}
digits   {digits.title}: {digits_of(iterator, digits.train, args.comm.size)} to train, {test} to \
test{pixels}
model    {models.describe_layers(model)}, z = {z}, {settings['activation']}\
{', no noise' * args.autoencoder}
loss     {settings['loss']}, {batch}, {settings['optimizer']}, seed {args.seed}
epochs   {terminal.length_in_words(trainer.stop_trigger)}{start}
results  {args.out}
""", flush=True)
    lacking = [name for name, kind in (('the table', terminal.PrintReport),
                                       ('loss.png', PlotReport)) if terminal.find(trainer, kind)]
    if terminal.log_of(trainer) is None and lacking:
        print(f'warning: {" and ".join(lacking)} need a LogReport, which the trainer does not '
              'have; the run does without', file=sys.stderr)


def digits_of(iterator, digits, ranks):
    """Return of how many digits an iterator yields a rank's share.

    Args:
        iterator (Iterator): That of this rank.
        digits (ndarray): All that the run has, (N, D).
        ranks (int): How many share them; shares may differ by one.
    """
    share = len(getattr(iterator, 'dataset', digits))
    return len(digits) if abs(share * ranks - len(digits)) < ranks else share * ranks


def report_end(trainer, args):
    """Say how the run ended and what comes next; return the exit status."""
    updater, signum = trainer.updater, trainer.stop_trigger.signum
    if updater.epoch >= args.epoch:
        print(f'finished at epoch {updater.epoch}: '
              f'{os.path.join(args.out, files.EPOCH_PREFIX + str(updater.epoch))}\n'
              f'draw its figures with: python visualize.py -o {shlex.quote(args.out)}')
        return 0
    if updater.iteration == 0:
        print('interrupted before the first iteration; start it again')
        return 128 + signum
    gpu = f' --gpu {args.gpu}' if args.gpu >= 0 else ''
    mpiexec, communicator = ('', '') if args.communicator is None else (
        f'mpiexec -n {args.comm.size} ', f' --communicator {args.communicator}')
    print(f'interrupted at epoch {updater.epoch_detail:.2f}, iteration {updater.iteration}; go on '
          f'with: {mpiexec}python train_vae.py --resume -o {shlex.quote(args.out)}{gpu}'
          f'{communicator}')
    return 128 + signum
