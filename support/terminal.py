"""What a run prints while it trains: its table and progress line, and streams that may be lost."""

import contextlib
import math
import shutil
import sys

from support import compat

from chainer import training
from tqdm import tqdm

RESUMED = 3             # earlier rows with which the table of a resumed run begins


def find(trainer, kind):
    """Return the extension of a trainer that is of a class, whatever its name; None without one.

    Of several it is the one whose class is nearest: ours before Chainer's, of which it is made.
    """
    found = [entry.extension for entry in trainer._extensions.values()
             if isinstance(entry.extension, kind)]
    return max(found, key=lambda extension: len(type(extension).__mro__), default=None)


class PrintReport(training.Extension):
    """The table of the log, as Chainer's extension of this name prints it, but in 80 columns.

    In a narrower terminal it has only what `narrow` names. In a terminal its headings come again
    with every screenful.
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
    narrow = 'epoch', 'main/loss', 'validation/main/loss', 'elapsed_time'
    trigger = 1, 'epoch'

    def __init__(self):
        self.printed = None                         # rows
        self.rows_left = 0                          # until the headings come again

    def __call__(self, trainer):
        """Print the rows that are new in the log."""
        log = trainer.get_extension('LogReport').log
        if self.printed is None:
            self.printed = max(0, len(log) - 1 - RESUMED)
        for row in log[self.printed:]:
            if self.rows_left == 0:
                self.print_headings()
            self.rows_left -= 1
            tqdm.write(''.join(self.field(row.get(key), width, form)
                               for key, (_, _, width, form) in self.shown.items()))
        self.printed = len(log)
        sys.stdout.flush()

    def field(self, value, width, form):
        """Return a number so wide, blank where the log has none; a large one as 2.3e+07."""
        text = '' if value is None else f'{value:{form}}'
        if len(text) >= width and form != 'd':
            text = f'{value:.2g}'
        return f'{text:>{width}}'

    def print_headings(self):
        """Print the headings of the columns that there is room for."""
        self.shown, self.rows_left = self.columns, -1
        if sys.stdout.isatty():
            room, lines = shutil.get_terminal_size()
            if room < sum(width for _, _, width, _ in self.columns.values()):
                self.shown = {key: self.columns[key] for key in self.narrow}
            self.rows_left = max(1, lines - 3)      # with both lines of headings, and the progress
        for line in (0, 1):
            tqdm.write(''.join(f'{column[line]:>{column[2]}}' for column in self.shown.values()))


class ProgressBar(training.Extension):
    """A line below the table: the epoch, how much is done, how fast, and what time is left."""

    bar = None

    def __call__(self, trainer):
        """Count the iterations."""
        updater, epochs = trainer.updater, trainer.stop_trigger.period
        if self.bar is None:
            iterator = updater.get_iterator('main')
            left = (epochs - updater.epoch_detail) * len(iterator.dataset) / iterator.batch_size
            self.bar = tqdm(
                total=updater.iteration + math.ceil(left), initial=updater.iteration, leave=False,
                file=sys.stdout, dynamic_ncols=True, mininterval=0.2, delay=0.2,
                bar_format='epoch {desc}, {percentage:.0f} %, {rate_fmt}, {remaining} left')
        epoch = min(updater.epoch + 1, epochs)
        self.bar.set_description_str(f'{epoch}/{epochs}', refresh=False)
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
            compat.hush(self.stream)
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
            stop.stop(compat.SIGPIPE)
        else:
            print(f'warning: stdout is lost ({error.strerror}); training goes on',
                  file=sys.stderr, flush=True)

    with (contextlib.redirect_stderr(Lasting(sys.stderr, lambda error: None)),
          contextlib.redirect_stdout(Lasting(sys.stdout, on_loss))):
        yield
