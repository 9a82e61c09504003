"""The state of a Trainer in a snapshot: believed, completed, or refused by the name of its part."""

from support.run import snapshot  # lets chainer import

import numpy as np
import pytest
from runs import check_refused, last, rewrite


@pytest.mark.parametrize('key, change, part', [
    ('iterator:main/order', lambda order: np.arange(59), 'the iterator of '),
    ('iterator:main/order', lambda order: order + 1, 'the iterator of '),
    ('optimizer:main/t', lambda t: None, 'the optimizer of '),
    ('iterator:main/is_new_epoch', lambda flag: np.zeros(3), ''),
    ('optimizer:main/le1/W/m', lambda m: m.T, 'the optimizer of ')])
def test_what_does_not_fit_is_named_with_its_part(cli, small_run, key, change, part):
    key = 'updater/' + key
    bad = change(snapshot.read(last(small_run))[key])
    path = rewrite(last(small_run), small_run / 'copy', **{key: bad})
    check_refused(cli('--resume', path, '-e', '3'), f'{path} does not fit {part}train_vae.py (',
                  key * bool(part), ' with -m\n')


def test_a_count_of_losses_that_would_divide_by_nothing(cli, small_run):
    prefix = 'extensions/LogReport/_summary/'
    sums = {prefix + '_names': np.array('["main/loss"]'), prefix + '_summaries/0/_x': np.array(9.0),
            prefix + '_summaries/0/_x2': np.array(81.0)}
    for n, status in ((0, 2), (3, 0)):
        path = rewrite(last(small_run), small_run / 'copy', **sums, **{
            prefix + '_summaries/0/_n': np.array(n)})
        ended, _, err = cli('--resume', path, '-e', '3', '-o', small_run / str(n))
        assert (ended, 'is damaged: its ' in err) == (status, status == 2)
