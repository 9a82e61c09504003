"""The state of a Trainer in a snapshot: believed, completed, or refused by the name of its part."""

from support.run import snapshot  # lets chainer import

import numpy as np
import pytest
from runs import check_refused, last, rewrite


@pytest.mark.parametrize('key, change, part', [
    ('updater/iterator:main/order', lambda order: np.arange(59), 'the iterator'),
    ('updater/iterator:main/order', lambda order: order + 1, 'the iterator'),
    ('updater/iterator:main/current_position', lambda position: np.array(61), 'the iterator'),
    ('updater/optimizer:main/t', lambda t: None, 'the optimizer'),
    ('updater/optimizer:main/le1/W/m', lambda m: m.T, 'the optimizer'),
    ('extensions/LogReport/_log', lambda log: None, 'the extension LogReport')])
def test_what_does_not_fit_is_named_with_its_part(cli, small_run, key, change, part):
    bad = change(snapshot.read(last(small_run))[key])
    path = rewrite(last(small_run), small_run / 'copy', **{key: bad})
    check_refused(cli('--resume', path, '-e', '3'),
                  f'{path} does not fit {part} of train_vae.py ({key}: ', ' with -m\n')


def test_what_cannot_be_loaded_is_told(cli, small_run):
    key = 'updater/iterator:main/is_new_epoch'
    path = rewrite(last(small_run), small_run / 'copy', **{key: np.zeros(3)})
    check_refused(cli('--resume', path, '-e', '3'), f'{path} does not fit train_vae.py (')


def test_a_count_of_losses_that_would_divide_by_nothing(cli, small_run):
    prefix = 'extensions/LogReport/_summary/'
    sums = {prefix + '_names': np.array('["main/loss"]'), prefix + '_summaries/0/_x': np.array(9.0),
            prefix + '_summaries/0/_x2': np.array(81.0)}
    for n, status in ((0, 2), (3, 0)):
        path = rewrite(last(small_run), small_run / 'copy', **sums, **{
            prefix + '_summaries/0/_n': np.array(n)})
        ended, _, err = cli('--resume', path, '-e', '3', '-o', small_run / str(n))
        assert (ended, 'is damaged: its ' in err) == (status, status == 2)


def test_what_is_not_a_trainers_is_not_missed(cli, small_run):
    arrays = snapshot.read(last(small_run))
    more = {key.replace('LogReport', 'other'): array for key, array in arrays.items()
            if 'LogReport' in key}
    path = rewrite(last(small_run), small_run / 'copy', **more)
    assert cli('--resume', path, '-e', '3')[::2] == (0, '')
