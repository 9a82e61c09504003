"""Parts of train_vae.py exchanged: each extension deleted, or Chainer's own; triggers, iterators.

Each edit of the script trains, gets a SIGTERM in its middle, resumes, and ends as the run that
nothing disturbed.
"""

import ast
import contextlib
import json
import os
import types

from support.run import snapshot  # lets chainer import

import chainer
from chainer import training
from conftest import SMALL, in_process, train, write_files
import numpy as np
import pytest
from runs import stopping_at

import train_vae

pytestmark = [
    pytest.mark.skipif(os.name != 'posix', reason='needs POSIX signals'),
    # of Chainer's MultiprocessIterator, on today's Python
    pytest.mark.filterwarnings('ignore::DeprecationWarning')]

with open(train_vae.__file__) as file:
    SCRIPT = file.read()
# each `trainer.extend(...)` of the script, by the text of its first argument
EXTENDS = {ast.unparse(node.value.args[0]): ast.get_source_segment(SCRIPT, node)
           for node in ast.walk(ast.parse(SCRIPT)) if isinstance(node, ast.Expr)
           and ast.unparse(node.value).startswith('trainer.extend(')}
SNAPSHOT = next(name for name in EXTENDS if name.startswith('extensions.snapshot('))
CHAINERS = {                # what Chainer has in their places, if anything
    'evaluator': 'extensions.Evaluator(test_iter, model, device=device, '
                 'eval_func=model.get_loss_func(k=TEST_K))',
    'check_finite(args.resume)': 'extensions.FailOnNonNumber()',
    'LogReport()': 'extensions.LogReport()',
    'PrintReport()': "extensions.PrintReport(['epoch', 'main/loss', 'validation/main/loss'])",
    'PlotReport()': "extensions.PlotReport(['main/loss'], trigger=(2, 'epoch'))",
    'Record(digits)': None,
    'ProgressBar()': 'extensions.ProgressBar(update_interval=1, out=sys.stdout)',
    SNAPSHOT: 'extensions.snapshot()'}
STOP = 'UntilStopped(args.epoch)'
ITERATOR = 'iterators.SerialIterator(train, args.batch_size)'
NO_SHUFFLE = 'iterators.SerialIterator(train, args.batch_size, shuffle=False)'
EPOCHS, STOPPED_AT = 3, 5   # epochs of 3 iterations each


class Countdown:
    """A trigger of somebody's own, which fires at its n-th call."""

    def __init__(self, calls):
        self.left = calls

    def __call__(self, trainer):
        self.left -= 1
        return self.left == 0


def edited(*edits):
    """Return train_vae.py with some of its text replaced, as a module of its own."""
    text, module = SCRIPT, types.ModuleType('edited')
    for old, new in edits:
        assert text.count(old) == 1, old
        text = text.replace(old, new)
    exec(compile(text, train_vae.__file__, 'exec'), vars(module))
    module.Countdown = Countdown
    return module


def with_extension(name, other):
    """Return the edit of the script by which an extension is another, or, for None, deleted."""
    new = 'pass' if other is None else f'trainer.extend({other})'
    return [(EXTENDS[name], new)]


EXPECTED = (                # how the lines start that some edits are told
    'warning: the trainer has no LogReport',
    "warning: from iteration 4 on Chainer's own step trains")


class Runs:
    """Runs of an edited script in a folder, and the state in which its last trainer ended."""

    def __init__(self, folder, edits, capsys, data):
        self.module = edited(*edits)
        self.command = in_process(self.module.cli, capsys)
        self.start = ['--data-dir', data, *SMALL, '-e', EPOCHS]
        self.folder = folder

    def __call__(self, *argv, stopped_at=None):
        """Run; return status, stdout and stderr."""
        with recorded() as trainers, stopping_at(stopped_at):
            result = self.command(*argv)
        self.trainer = trainers[0] if trainers else None
        return *result[:2], ''.join(line for line in result[2].splitlines(keepends=True)
                                    if not line.startswith(EXPECTED))

    def whole(self):
        """Return the state after a run that nothing disturbs."""
        status, _, err = self(*self.start, '-o', self.folder / 'whole')
        assert (status, err) == (0, '')
        return state_of(self.trainer)

    def disturbed(self, stopped_at=STOPPED_AT):
        """Return the state after a run that is stopped by a signal and resumed."""
        out = self.folder / 'run'
        status, text, err = self(*self.start, '-o', out, stopped_at=stopped_at)
        assert (status, err) == (143, '')
        assert f'iteration {stopped_at}; go on with: ' in text.splitlines()[-1]
        assert snapshot.read_iteration(snapshot.newest(str(out))) == stopped_at
        status, text, err = self('--resume', '-o', out)
        assert (status, err) == (0, '')
        assert 'finished at epoch ' in text
        self.text = text
        return state_of(self.trainer)


@contextlib.contextmanager
def recorded():
    def run(self, **options):
        trainers.append(self)
        return plain(self, **options)

    trainers, plain = [], training.Trainer.run
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(training.Trainer, 'run', run)
        yield trainers


def state_of(trainer):
    """Return weights, Adam's moments, the random state and the log, each as bytes or numbers."""
    optimizer = trainer.updater.get_optimizer('main')
    serializer = chainer.serializers.DictionarySerializer()
    optimizer.target.serialize(serializer['model'])
    optimizer.serialize(serializer['optimizer'])
    arrays = {key: np.asarray(array).tobytes() for key, array in serializer.target.items()}
    random = np.random.get_state()
    return arrays | {'iteration': trainer.updater.iteration,
                     'random': (random[1].tobytes(), *random[2:])}


def log_of(trainer):
    """Return the rows of a trainer's log without the elapsed time; None where it has none."""
    with contextlib.suppress(ValueError):
        return [{key: value for key, value in row.items() if key != 'elapsed_time'}
                for row in trainer.get_extension('LogReport').log]
    return None


@pytest.fixture(scope='module')
def data(tmp_path_factory, idx_files):
    return write_files(tmp_path_factory.mktemp('parts') / 'data', idx_files)


@pytest.fixture
def runs(tmp_path, capsys, data):
    """Return a function of edits of the script that makes its `Runs`."""
    def make(*edits):
        folder = tmp_path / str(len(made))
        folder.mkdir()
        made.append(Runs(folder, edits, capsys, data))
        return made[-1]

    made = []
    return make


@pytest.fixture(scope='module')
def plain(tmp_path_factory, data):
    """Return the state and the log at the end of the script as it comes."""
    with recorded() as trainers:
        train(data, tmp_path_factory.mktemp('plain'), *SMALL, '-e', str(EPOCHS))
    return {'state': state_of(trainers[0]), 'log': log_of(trainers[0])}


# Extensions -------------------------------------------------------------------------------------


@pytest.mark.parametrize(('name', 'other'), [
    (name, other) for name in EXTENDS if name != 'evaluator'            # each, also a new one
    for other in dict.fromkeys((None, CHAINERS[name]))])
def test_an_extension_that_is_another(runs, plain, name, other):
    run = runs(*with_extension(name, other))
    assert run.disturbed() == plain['state']
    has_log = name != 'LogReport()' or other is not None
    assert log_of(run.trainer) == (plain['log'] if has_log else None)
    names = {path.name for path in (run.folder / 'run').iterdir()}
    assert ('log' in names) == has_log
    kept = {f'snapshot_epoch_{epoch}' for epoch in (1, 2, 3)}
    if name == SNAPSHOT:
        kept = {'snapshot_interrupted'} | {f'snapshot_iter_{i}' for i in (3, 6, 9) if other}
    assert {name for name in names if name.startswith('snapshot')} == kept


@pytest.mark.parametrize('other', [None, CHAINERS['evaluator']])
def test_an_evaluator_that_is_another(runs, other):
    run = runs(*with_extension('evaluator', other))
    assert run.disturbed() == run.whole()
    columns = {key for row in log_of(run.trainer) for key in row}
    assert ('validation/main/loss' in columns) == (other is not None)
    assert 'main/loss' in columns


@pytest.mark.parametrize(('snapshot_of', 'last', 'kept', 'anew'), [
    ("extensions.snapshot(filename='snapshot_epoch-{.updater.epoch}')", 'snapshot_epoch-3',
     {'snapshot_epoch-1', 'snapshot_epoch-2', 'snapshot_interrupted'}, {'snapshot_epoch-1'}),
    ("extensions.snapshot(filename='model_{.updater.iteration}')", 'snapshot_interrupted',
     {'model_3', 'model_6', 'model_9'}, {'model_3', 'model_6', 'model_9'}),
    ("extensions.snapshot(writer=snapshot.Writer(1)), trigger=(2, 'iteration')",
     'snapshot_epoch_3', {'snapshot_iter_8'}, {'snapshot_iter_2', 'snapshot_epoch_1'})])
def test_a_snapshot_of_another_name(runs, draw, plain, snapshot_of, last, kept, anew):
    def names():
        return {path.name for path in out.iterdir() if path.name.startswith(('snapshot', 'model'))}

    run = runs(*with_extension(SNAPSHOT, snapshot_of))
    assert run.disturbed() == plain['state']
    out = run.folder / 'run'
    assert snapshot.newest(str(out)) == str(out / last)
    assert names() == kept | {last}
    assert ('; its last snapshot is ' in run.text) == ('model' in snapshot_of)
    assert draw('digits', '-o', out)[::2] == (0, '')
    status, _, err = run(*run.start, '-o', out)
    assert (status, 'holds the snapshots of an earlier run' in err) == (2, True)
    assert run(*run.start, '-o', out, '--overwrite', '-e', 1)[::2] == (0, '')
    assert names() == anew


def test_what_a_snapshot_lacks_starts_anew(runs, plain):
    run = runs(*(edit for name in ('PrintReport()', 'LogReport()', 'PlotReport()')
                 for edit in with_extension(name, None)))
    other, out = runs((STOP, STOPS['early'])), run.folder / 'run'
    assert run(*run.start, '-o', out, stopped_at=STOPPED_AT)[0] == 143
    status, text, err = other('--resume', '-o', out)
    assert (status, err) == (0, (
        f'warning: {out / "snapshot_interrupted"} holds nothing of the stop trigger of '
        'train_vae.py and the extension LogReport of train_vae.py, which start anew\n'))
    assert '\nfinished at epoch 4: ' in text        # the first that it sees is the second
    first, second, _ = log_of(other.trainer)        # the first from the one iteration that is left
    assert (first['iteration'], second) == (6, plain['log'][2])
    status, _, err = run('--resume', out / 'snapshot_epoch_2')      # which has one more
    assert (status, err) == (0, '')
    assert state_of(run.trainer) == plain['state']


def test_triggers_of_another_kind_start_where_the_snapshot_was_taken(runs, plain):
    run, other = runs(), runs(
        (EXTENDS['LogReport()'], 'trainer.extend(extensions.LogReport(trigger=training.triggers.'
                                 "TimeTrigger(10**6)), trigger=(2, 'iteration'))"),
        (EXTENDS['PlotReport()'], "trainer.extend(note, trigger=(2, 'epoch'))"))
    seen, out = [], run.folder / 'run'
    assert run(*run.start, '-o', out, stopped_at=STOPPED_AT)[0] == 143
    other.module.note = lambda trainer: seen.append(trainer.updater.iteration)
    status, _, err = other('--resume', '-o', out)
    assert (status, err, seen) == (0, '', [6])
    assert state_of(other.trainer) == plain['state']


# Stop triggers ----------------------------------------------------------------------------------


STOPS = {
    'iterations': "(9, 'iteration')",
    'early': "training.triggers.EarlyStoppingTrigger(monitor='validation/main/loss', mode='max', "
             'patience=2)',         # the loss falls, so that the first is the best
    'in mid-epoch': "training.triggers.EarlyStoppingTrigger((2, 'iteration'), "
                    "monitor='main/rec_loss', mode='max', patience=3)",
    'a list': "training.triggers.ManualScheduleTrigger([9], 'iteration')",
    'lambda': 'lambda trainer: trainer.updater.epoch >= args.epoch',
    "one's own": 'Countdown(10)',   # at iterations 0 to 9
}


@pytest.mark.parametrize('name', STOPS)
def test_a_stop_trigger_that_is_another(runs, plain, name):
    run = runs((STOP, STOPS[name]))
    out = run.folder / 'run'
    if name == 'in mid-epoch':
        whole, end = run.whole(), f'epoch 2.67, iteration 8: {out / "snapshot_iter_8"}'
    else:
        whole, end = plain['state'], f'epoch 3: {out / "snapshot_epoch_3"}'
    assert run.disturbed() == whole
    assert f'\nfinished at {end}\n' in run.text
    before = {path: path.read_bytes() for path in out.iterdir() if path.is_file()}
    status, text, err = run('--resume', '-o', out)      # nothing is left to do
    assert (status, err, text.count('\n')) == (0, '', 1)
    assert ' already; ' in text
    assert {path: path.read_bytes() for path in before} == before


def test_the_end_is_saved_whenever_it_comes(runs, plain):
    run = runs((STOP, STOPS['early']))
    out = run.folder / 'run'
    for way in (['--data-dir', run.start[1], *SMALL, '-e', '9', '--snapshot-every', '2', '-o', out],
                ['--resume', out / 'snapshot_epoch_2']):
        status, text, err = run(*way)
        assert (status, err) == (0, '')
        assert f'\nfinished at epoch 3: {out / "snapshot_epoch_3"}\n' in text
        assert state_of(run.trainer) == plain['state']
    status, text, err = run('--resume', '-o', out, '-e', '20')      # it is asked again, once
    assert (status, err) == (0, '')
    assert text == (f'{out / "snapshot_epoch_3"} is at epoch 3 already; to go on, give '
                    'train_vae.py a stop trigger that fires later\n')
    patient = runs((STOP, STOPS['early'].replace('patience=2', 'patience=4')))
    status, text, err = patient('--resume', '-o', out)
    assert (status, err) == (0, '')
    assert f'\nfinished at epoch 5: {out / "snapshot_epoch_5"}\n' in text


def test_a_time_that_is_up_and_then_is_not(runs, monkeypatch):
    monkeypatch.setattr(training.Trainer, 'elapsed_time',
                        property(lambda self: 200 * self.updater.iteration))
    run = runs((STOP, 'training.triggers.TimeTrigger(1000)'))
    out = run.folder / 'run'
    status, text, err = run(*run.start, '-o', out)
    assert (status, err) == (0, '')
    assert f'\nfinished at epoch 2: {out / "snapshot_epoch_2"}\n' in text
    assert ' is at epoch 2 already; ' in run('--resume', '-o', out)[1]
    longer = runs((STOP, 'training.triggers.TimeTrigger(1900)'))
    status, text, err = longer('--resume', '-o', out)
    assert (status, err) == (0, '')
    assert f'finished at epoch 3.33, iteration 10: {out / "snapshot_iter_10"}\n' in text


# Iterators --------------------------------------------------------------------------------------


def test_processes_that_shuffle(runs):
    """Their thread shuffles from the generator that draws the noise, whichever is first."""
    run = runs((ITERATOR, 'iterators.MultiprocessIterator(train, args.batch_size, n_processes=1)'))
    assert run.disturbed()['iteration'] == 9


def test_another_batch_size_on_resume(runs):
    run = runs()
    out = run.folder / 'run'
    assert run(*run.start, '-o', out, stopped_at=STOPPED_AT)[0] == 143
    status, text, err = run('--resume', '-o', out, '-b', '7')
    assert (status, err) == (0, (
        f'warning: {out / "snapshot_interrupted"} was trained with minibatches of 20; with '
        'minibatches of 7 the run goes on, but not to exactly the same result\n'))
    assert '\nfinished at epoch 3: ' in text
    assert run.trainer.updater.iteration == 5 + 12          # 80 digits were left of 180
    assert json.loads((out / 'args.json').read_text())['batch_size'] == 7


# Edits of any line ------------------------------------------------------------------------------


LOG, SETUP = f'    {EXTENDS["LogReport()"]}\n', '    optimizer.setup(model)\n'
VARY = """    @training.make_extension(trigger=(1, 'iteration'))
    def vary(trainer):
        {}

    trainer.extend(vary)
"""
EDITS = {                   # the line, and what is put before it, or in its place
    # some of Chainer's extensions hold None until they are called
    'best': (LOG, "    trainer.extend(extensions.snapshot_object(model, 'best'), trigger="
                  "training.triggers.MinValueTrigger('validation/main/loss', (2, 'epoch')))\n"),
    'falling rate': (LOG, "    trainer.extend(extensions.ExponentialShift('alpha', 0.5), "
                          "trigger=(1, 'epoch'))\n"),
    'once': (LOG, '    trainer.extend(extensions.ParameterStatistics(model), '
                  'trigger=training.triggers.OnceTrigger())\n'),
    'two logs': (LOG, "    trainer.extend(extensions.LogReport(['main/loss'], (1, 'iteration'), "
                      "filename='finer'), name='finer')\n"),
    'varied C of the loss': (LOG, VARY.format(
        'trainer.updater.loss_func = model.get_loss_func(trainer.updater.iteration / 9, args.k)')),
    "varied Adam's alpha": (LOG, VARY.format('optimizer.alpha *= 0.9')),
    'a layer frozen at last': (LOG, VARY.format(
        'trainer.updater.iteration == 3 and model.le1.disable_update()')),
    'a layer frozen at first': (SETUP, f'{SETUP}    model.le1.disable_update()\n'),
    'varied batch size': (LOG, VARY.format(
        'if trainer.updater.iteration == 3: train_iter.batch_size = 10')),
    'no shuffle': (ITERATOR, NO_SHUFFLE),
    'processes': (ITERATOR, 'iterators.MultiprocessIterator(train, args.batch_size, shuffle=False, '
                            'n_processes=1)'),
    'threads': (ITERATOR, 'iterators.MultithreadIterator(train, args.batch_size)')}


@pytest.mark.parametrize('name', EDITS)
def test_an_edit_resumes_exactly(runs, name):
    """Where threads fetch the last minibatch of an epoch already, Chainer draws its order twice."""
    line, new = EDITS[name]
    run = runs((line, new + line if line == LOG else new))
    assert run.disturbed(STOPPED_AT - (name == 'threads')) == run.whole()
    with np.load(run.folder / 'run' / 'snapshot_epoch_1', allow_pickle=False) as npz:
        assert all(npz[key].dtype.kind != 'O' for key in npz.files)
