"""The state of a Trainer in a snapshot: believed, completed, or refused by the name of its part."""

import json

from support.run import snapshot, state  # lets chainer import

import chainer
from chainer import optimizers
import numpy as np
import pytest
from test_snapshot import last, rewrite

import net


@pytest.mark.parametrize('key, part', [
    ('updater/iterator:main/order', 'the iterator'), ('updater/optimizer:main/t', 'the optimizer'),
    ('updater/optimizer:main/le1/W/m', 'the optimizer'), ('updater/model:main/le1/W', 'the model'),
    ('updater/iteration', 'the updater'), ('stop_trigger/_summary/', 'the stop trigger'),
    ('extensions/LogReport/_log', 'the extension LogReport'),
    ('extension_triggers/val/next_time', 'the trigger of the extension val'),
    ('_snapshot_elapsed_time', 'the trainer')])
def test_the_part_of_a_key(key, part):
    assert state.part_of(key) == part


class Part:
    """Something to load: a value of each kind that Chainer saves."""

    def __init__(self, **values):
        self.values = values

    def serialize(self, serializer):
        for name, value in self.values.items():
            self.values[name] = serializer['in']['it'](name, value)


@pytest.mark.parametrize('value, good, bad', [
    (1, [np.array(5), np.array(5, 'u1')], [np.array(5.0), np.array(True), np.array([5]),
                                           np.array('5')]),
    (1.5, [np.array(2.5), np.array(2.5, 'f'), np.array(2)], [np.array([2.5]), np.array('2'),
                                                             np.array(2j)]),
    (True, [np.array(False)], [np.array(0), np.array(0.0)]),
    ('a', [np.array('text')], [np.array(3), np.array(b'text'), np.array(['text'])]),
    (np.zeros(2, 'f'), [np.ones(2, 'f'), np.ones(2, '>f4')],
     [np.ones(2), np.ones(2, 'f2'), np.ones((2, 1), 'f'), np.array(1, 'f'), np.ones(2, int)]),
    (np.zeros(2, np.int64), [np.ones(2, np.int32)], [np.ones(2), np.ones(2, 'u8')]),
    (np.zeros(2, np.uint32), [np.ones(2, np.uint32)], [np.ones(2, np.uint8), np.ones(2, int)]),
    (None, [np.ones(3), np.array('text')], [])])
def test_an_array_is_taken_for_what_it_is(value, good, bad):
    for array in good:
        part = Part(x=value)
        state.Loader({'in/it/x': array}).load(part)
        np.testing.assert_array_equal(part.values['x'], array)
        assert value is None or type(part.values['x']) is type(value)
    for array in bad:
        loader = state.Loader({'in/it/y': np.array(1), 'in/it/x': array})
        with pytest.raises(ValueError, match=' of shape '):
            loader.load(Part(y=2, x=value))
        assert loader.at == ['in/it/x']


def test_none_is_loaded_as_none_and_what_is_missing_is_named():
    part = Part(x=3.0)
    state.Loader({'in/it/x': np.array(None)}).load(part)
    assert part.values == {'x': None}
    loader = state.Loader({'in/it/x': np.array(1)})
    with pytest.raises(KeyError):
        loader.load(Part(x=3, z=4))
    assert loader.at == ['in/it/z']


@pytest.mark.parametrize('text, is_one', [
    ('[]', True), ('[{"epoch": 1, "main/loss": NaN, "more": "text", "none": null}]', True),
    ('{}', False), ('[[]]', False), ('[1]', False), ('3', False), ('', False), ('null', False),
    ('[' * 10**5, False), (json.dumps([{'main/loss': 10**400}]), False)])
def test_a_log_is_rows_of_what_can_be_printed(text, is_one):
    assert state.is_log(np.array(text)) == is_one


@pytest.mark.parametrize('array, is_one', [
    (np.array(0), True), (np.array(7, 'u1'), True), (np.array(8), False), (np.array(-1), False),
    (np.array(1.0), False), (np.array([1]), False), (np.array('1'), False), (np.array(None), False),
    (np.array(2**64 - 1, 'u8'), False)])
def test_a_number_within_limits(array, is_one):
    assert state.is_number(array, 'iu', 0, 7) == is_one
    assert not state.is_number(np.array(np.nan))
    assert not state.is_number(np.array(np.inf))


@pytest.mark.parametrize('make', [
    optimizers.Adam, optimizers.MomentumSGD, optimizers.SGD, optimizers.RMSprop,
    optimizers.AdaDelta, optimizers.SMORMS3, lambda: optimizers.Adam(amsgrad=True)])
def test_moments_of_any_optimizer(make):
    optimizer = make().setup(net.VAE(6, 2, 4))
    for seed in (0, 1):
        np.random.seed(seed)
        optimizer.update(optimizer.target.get_loss_func(), np.zeros((3, 6), 'f'))
    arrays = chainer.serializers.npz.serialize(optimizer)
    arrays = {state.OPTIMIZER_PREFIX + key: np.asarray(array) for key, array in arrays.items()}
    assert state.are_moments(arrays, optimizer)
    moments = [key for key, array in arrays.items() if array.ndim]
    for key in moments[:3]:
        good = arrays[key]
        for bad in (good.astype(float), good[..., :1], np.full_like(good, np.nan)):
            assert not state.are_moments(arrays | {key: bad}, optimizer)
        negative = state.are_moments(arrays | {key: -1 - good}, optimizer)
        assert negative == (not (isinstance(optimizer, optimizers.Adam)
                                 and key.endswith(('/v', '/vhat'))))


def test_a_count_of_losses_that_would_divide_by_nothing(cli, small_run):
    prefix = 'extensions/LogReport/_summary/'
    sums = {prefix + '_names': np.array('["main/loss"]'), prefix + '_summaries/0/_x': np.array(9.0),
            prefix + '_summaries/0/_x2': np.array(81.0)}
    for n, status in ((0, 2), (-1, 2), (np.nan, 2), (3, 0)):
        path = rewrite(last(small_run), small_run / 'copy', **sums, **{
            prefix + '_summaries/0/_n': np.array(n)})
        ended, _, err = cli('--resume', path, '-e', '3', '-o', small_run / str(n))
        assert ended == status
        assert ('is damaged: its count of losses cannot be; ' in err) == (status == 2)


def test_a_snapshot_of_fewer_digits_names_the_iterator(cli, small_run):
    order = np.arange(59)
    path = rewrite(last(small_run), small_run / 'copy', **{state.ORDER_KEYS[0]: order})
    status, _, err = cli('--resume', path, '-e', '3')
    assert (status, err.count('\n')) == (2, 1)
    assert 'does not fit the iterator of train_vae.py (updater/iterator:main/order: ' in err
    assert 'of shape (59,), not int64 of shape (60,)); ' in err


def test_what_is_not_a_trainers_is_not_missed(cli, small_run):
    arrays = snapshot.read(last(small_run))
    more = {key.replace('LogReport', 'other'): array for key, array in arrays.items()
            if 'LogReport' in key}
    path = rewrite(last(small_run), small_run / 'copy', **more)
    assert cli('--resume', path, '-e', '3')[::2] == (0, '')
