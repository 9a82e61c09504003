"""What a run prints while it trains: its table and progress line, and streams that may be lost."""

import functools
import math
import shutil
import sys

from support.base import command  # lets chainer import
from support.run import losses, stopping

from chainer import training
from chainer.training import extensions
from tqdm import tqdm

RESUMED = 3             # earlier rows at the top of a resumed run's table


def find(trainer, wanted):
    """Return a trainer's extension of a class, or None; of Chainer's own and ours, ours."""
    found = [entry.extension for entry in trainer._extensions.values()
             if isinstance(entry.extension, wanted)]
    return max(found, key=lambda extension: len(type(extension).__mro__), default=None)


def length_in_words(stop):
    """Return how many epochs a run is to have, in words, as far as its `UntilStopped` tells."""
    length, unit = stopping.length_of(stop)
    if length == math.inf:
        return 'until the stop trigger fires'
    most = '' if stop.is_plain else 'at most '
    return most + (f'{length}' if unit == 'epoch' else f'as many as {length} iterations take')


def log_of(trainer):
    """Return the rows of a trainer's LogReport, ours or Chainer's; None where it has none."""
    report = find(trainer, extensions.LogReport)
    return None if report is None else report.log


class PrintReport(training.Extension):
    """The table of the log, like that of Chainer's PrintReport, but in 80 columns.

    In a narrower terminal it has only the columns of `narrow`. A terminal gets the headings again
    with every screenful. A log of several rows an epoch gets a column for the iteration.
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
        self.printed = self.rows_left = 0           # rows, and those until headings come again
        self.is_finer = False

    def initialize(self, trainer):
        """Leave out the rows of an earlier run, but for its last."""
        self.printed = max(0, len(log_of(trainer) or ()) - RESUMED)

    def __call__(self, trainer):
        """Print the new rows of the log."""
        log = log_of(trainer) or ()
        for i in range(self.printed, len(log)):
            if not self.is_finer and losses.is_finer(log[max(0, i - 1):i + 1]):
                self.is_finer, self.rows_left = True, 0
            if self.rows_left == 0:
                self.print_headings(log[i])
            self.rows_left -= 1
            tqdm.write(''.join(self.field(log[i].get(key), width, form)
                               for key, (_, _, width, form) in self.shown.items()))
        if self.printed < len(log):
            self.printed = len(log)
            sys.stdout.flush()

    def field(self, value, width, form):
        """Return a number as text of this width: blank for none, 2.3e+07 for a large one."""
        if not isinstance(value, (int, float)):
            return ' ' * width
        text = f'{value:{form if form != "d" or isinstance(value, int) else "g"}}'
        if len(text) >= width and form != 'd':
            text = f'{value:.2g}'
        return f'{text:>{width}}'

    def print_headings(self, row):
        """Choose the columns that have room, and print their headings."""
        lacking = [name for name in ('rec_loss', 'latent_loss')     # an autoencoder has neither
                   if not {f'main/{name}', f'validation/main/{name}'} & row.keys()]
        columns = {key: column for key, column in self.columns.items()
                   if key.rpartition('/')[2] not in lacking}
        self.shown, self.rows_left = columns, -1
        if self.is_finer:                           # each wide column gives one place for it
            self.shown = {'epoch': columns['epoch'], 'iteration': ('', 'iter', 7, 'd')} | {
                key: (*heads, width - (width > 9 or key == 'elapsed_time'), form)
                for key, (*heads, width, form) in columns.items()}
        if sys.stdout.isatty():
            room, lines = shutil.get_terminal_size()
            if room < sum(width for _, _, width, _ in self.shown.values()):
                self.shown = {key: self.shown[key] for key in self.narrow if key in self.shown}
            self.rows_left = max(1, lines - 3)      # less two of headings, one of progress
        for line in (0, 1):
            tqdm.write(''.join(f'{column[line]:>{column[2]}}' for column in self.shown.values()))


class ProgressBar(training.Extension):
    """A line below the table in a terminal: the epoch, how much is done, how fast, time left.

    If the stop trigger does not tell the length of the run: the epoch and how fast.
    """

    bar = None
    trigger = staticmethod(lambda trainer: True)    # without a state, which snapshots would hold

    def __call__(self, trainer):
        """Count the iterations."""
        updater = trainer.updater
        length, unit = stopping.length_of(trainer.stop_trigger)
        is_known = length < math.inf
        if self.bar is None:
            total = length
            if is_known and unit == 'epoch':
                rate = updater.epoch_detail - updater.previous_epoch_detail     # an iteration
                total = updater.iteration + round((length - updater.epoch_detail) / rate, 3)
            self.bar = tqdm(
                total=max(updater.iteration, math.ceil(total)) if is_known else None,
                initial=updater.iteration, leave=False,
                file=sys.stdout, disable=None, dynamic_ncols=True, mininterval=0.2, delay=0.2,
                bar_format='epoch {desc}, ' + '{percentage:.0f} %, ' * is_known
                           + '{rate_fmt}' + ', {remaining} left' * is_known)
        epoch = updater.epoch + 1
        if is_known and unit == 'epoch':
            epoch = f'{min(epoch, math.ceil(length))}/{length:g}'
        self.bar.set_description_str(str(epoch), refresh=False)
        self.bar.update(updater.iteration - self.bar.n)

    def finalize(self):
        """Clear the line."""
        if self.bar is not None:
            self.bar.close()


class Lasting:
    """A stream that may be lost; what is written then goes nowhere, and nothing fails.

    Of stdout there is a warning, or if its reader closed the pipe, as `head` does, `stop` ends the
    run as a signal would.
    """

    def __init__(self, stream, stop=None):
        self.stream, self.stop, self.is_lost = stream, stop, False

    def __getattr__(self, name):
        found = getattr(self.stream, name)
        return functools.partial(self.attempt, found) if name in ('write', 'flush') else found

    def attempt(self, function, *args):
        """Call a method of the stream, unless that is lost."""
        try:
            if not self.is_lost:
                function(*args)
        except OSError as error:
            self.is_lost = True
            command.hush(self.stream)
            if self.stop is not None and isinstance(error, BrokenPipeError):
                self.stop.stop(command.SIGPIPE)
            else:                               # of a lost stderr this goes nowhere
                print(f'warning: stdout is lost ({error.strerror}); training goes on',
                      file=sys.stderr, flush=True)
