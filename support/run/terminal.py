"""What a run prints while it trains: its table and progress line, and streams that may be lost."""

import contextlib
import math
import shutil
import sys

from support.base import command  # lets chainer import
from support.run import losses

from chainer import training
from chainer.training import extensions, triggers
from tqdm import tqdm

RESUMED = 3             # earlier rows with which the table of a resumed run begins


def find(trainer, kind):
    """Return the extension of a trainer that is of a class, whatever its name; None without one.

    Of several it is the one whose class is nearest: ours before Chainer's, of which it is made.
    """
    found = [entry.extension for entry in trainer._extensions.values()
             if isinstance(entry.extension, kind)]
    return max(found, key=lambda extension: len(type(extension).__mro__), default=None)


def length_of(stop_trigger):
    """Return how long a run is to be, as a number and `epoch` or `iteration`; or None and None."""
    tell = getattr(stop_trigger, 'get_training_length', None)
    return (None, None) if tell is None else tell()


def length_in_words(stop_trigger):
    """Return how many epochs a run is to have, in words, as far as its stop trigger tells."""
    length, unit = length_of(stop_trigger)
    if length is None:
        return 'until the stop trigger fires'
    inner = getattr(stop_trigger, 'inner', stop_trigger)        # which a signal may forestall
    most = '' if isinstance(inner, triggers.IntervalTrigger) else 'at most '
    return most + (f'{length}' if unit == 'epoch' else f'as many as {length} iterations take')


def log_of(trainer):
    """Return the rows of a trainer's LogReport, ours or Chainer's; None where it has none."""
    report = find(trainer, extensions.LogReport)
    return None if report is None else report.log


class PrintReport(training.Extension):
    """The table of the log, as Chainer's extension of this name prints it, but in 80 columns.

    In a narrower terminal it has only what `narrow` names. In a terminal its headings come again
    with every screenful. The iteration stands in it once the log has several rows an epoch.
    """

    columns = {                                     # of the log: group, heading, width, format
        'epoch': ('', 'epoch', 5, 'd'),
        'main/loss': ('training', 'loss', 9, '.3f'),
        'main/rec_loss': ('', 'rec_loss', 10, '.3f'),
        'main/latent_loss': ('', 'latent_loss', 13, '.3f'),
        'validation/main/loss': ('test', 'loss', 9, '.3f'),
        'validation/main/rec_loss': ('', 'rec_loss', 10, '.3f'),
        'validation/main/latent_loss': ('', 'latent_loss', 13, '.3f'),
        'elapsed_time': ('elapsed', 'seconds', 9, '.1f')}
    narrow = 'epoch', 'iteration', 'main/loss', 'validation/main/loss', 'elapsed_time'
    trigger = 1, 'iteration'
    priority = training.PRIORITY_READER - 1         # after the log, whichever stands first

    def __init__(self):
        self.printed = 0                            # rows
        self.rows_left = 0                          # until the headings come again
        self.is_finer = False

    def initialize(self, trainer):
        """Leave out what an earlier run has printed, but its last rows."""
        self.printed = max(0, len(log_of(trainer) or ()) - RESUMED)

    def __call__(self, trainer):
        """Print the rows that are new in the log."""
        log = log_of(trainer) or ()
        for i in range(self.printed, len(log)):
            if not self.is_finer and losses.is_finer(log[max(0, i - 1):i + 1]):
                self.is_finer, self.rows_left = True, 0
            if self.rows_left == 0:
                self.print_headings()
            self.rows_left -= 1
            tqdm.write(''.join(self.field(log[i].get(key), width, form)
                               for key, (_, _, width, form) in self.shown.items()))
        if self.printed < len(log):
            self.printed = len(log)
            sys.stdout.flush()

    def field(self, value, width, form):
        """Return a number so wide, blank where the log has none; a large one as 2.3e+07."""
        if not isinstance(value, (int, float)):
            return ' ' * width
        text = f'{value:{form if form != "d" or isinstance(value, int) else "g"}}'
        if len(text) >= width and form != 'd':
            text = f'{value:.2g}'
        return f'{text:>{width}}'

    def print_headings(self):
        """Print the headings of the columns that there is room for."""
        self.shown, self.rows_left = self.columns, -1
        if self.is_finer:                           # each wide column gives it a place
            self.shown = {'epoch': self.columns['epoch'], 'iteration': ('', 'iter', 7, 'd')} | {
                key: (*heads, width - (width > 9 or key == 'elapsed_time'), form)
                for key, (*heads, width, form) in self.columns.items()}
        if sys.stdout.isatty():
            room, lines = shutil.get_terminal_size()
            if room < sum(width for _, _, width, _ in self.shown.values()):
                self.shown = {key: self.shown[key] for key in self.narrow if key in self.shown}
            self.rows_left = max(1, lines - 3)      # with both lines of headings, and the progress
        for line in (0, 1):
            tqdm.write(''.join(f'{column[line]:>{column[2]}}' for column in self.shown.values()))


class ProgressBar(training.Extension):
    """A line below the table: the epoch, how much is done, how fast, and what time is left.

    Where the stop trigger does not tell how long the run is to be, only the epoch and how fast.
    """

    bar = None

    def __call__(self, trainer):
        """Count the iterations."""
        updater = trainer.updater
        length, unit = length_of(trainer.stop_trigger)
        if self.bar is None:
            left = None if length is None else length - updater.iteration
            if unit == 'epoch':
                rate = updater.epoch_detail - updater.previous_epoch_detail     # an iteration
                left = round((length - updater.epoch_detail) / rate, 3)
            self.bar = tqdm(
                total=None if left is None else updater.iteration + max(0, math.ceil(left)),
                initial=updater.iteration, leave=False,
                file=sys.stdout, dynamic_ncols=True, mininterval=0.2, delay=0.2,
                bar_format='epoch {desc}, ' + '{percentage:.0f} %, ' * (left is not None)
                           + '{rate_fmt}' + ', {remaining} left' * (left is not None))
        epoch, of = updater.epoch + 1, ''
        if unit == 'epoch':
            epoch, of = min(epoch, math.ceil(length)), f'/{length:g}'
        self.bar.set_description_str(f'{epoch}{of}', refresh=False)
        self.bar.update(updater.iteration - self.bar.n)

    def finalize(self):
        """Clear the line."""
        if self.bar is not None:
            self.bar.close()


class Lasting:
    """A stream whose loss stops nobody: what is written afterwards goes nowhere.

    Args:
        stream (file): The stream.
        on_loss (callable): Of the OSError, once.
    """

    def __init__(self, stream, on_loss):
        self.stream, self.on_loss, self.is_lost = stream, on_loss, False

    def __getattr__(self, name):
        """Return what the stream itself has."""
        return getattr(self.stream, name)

    def write(self, text):
        """Write, as long as that can be done."""
        self.attempt(self.stream.write, text)

    def flush(self):
        """Flush, as long as that can be done."""
        self.attempt(self.stream.flush)

    def attempt(self, function, *args):
        """Call a method of the stream, as long as that can be done."""
        if self.is_lost:
            return
        try:
            function(*args)
        except OSError as error:
            self.is_lost = True
            command.hush(self.stream)
            self.on_loss(error)


@contextlib.contextmanager
def lasting(stop):
    """Let a run outlast its terminal: within a `with` block no stream that is lost ends it.

    Args:
        stop (UntilStopped): Where the reader of stdout closes the pipe, as `head` does, it ends the
            run as after a signal, quietly.
    """
    def on_loss(error):
        if isinstance(error, BrokenPipeError):
            stop.stop(command.SIGPIPE)
        else:
            print(f'warning: stdout is lost ({error.strerror}); training goes on',
                  file=sys.stderr, flush=True)

    with (contextlib.redirect_stderr(Lasting(sys.stderr, lambda error: None)),
          contextlib.redirect_stdout(Lasting(sys.stdout, on_loss))):
        yield
