"""A model that is only looked at stays as it was."""

import contextlib
import threading

from support.run import observe  # lets chainer import

import chainer
import chainer.functions as F
import chainer.links as L
import numpy as np


class Busy(chainer.Chain):
    """A model whose call changes what it holds, in each way that there is."""

    def __init__(self):
        super().__init__()
        with self.init_scope():
            self.bn = L.BatchNormalization(3)
            self.layers = chainer.Sequential(L.BatchNormalization(3), F.relu)
        self.add_persistent('steps', 0)
        self.history, self.rng, self.lock = [], np.random.RandomState(0), threading.Lock()

    def __call__(self, x):
        self.steps += 1
        self.history.append(self.rng.normal() + np.random.normal())
        with self.lock:                                 # which cannot be copied
            self.loss = F.sum(self.layers(self.bn(x))) + self.history[-1]
        return self.loss


def held(model):
    """Return what a model holds, to be compared: numbers and arrays as text."""
    serializer = chainer.serializers.DictionarySerializer()
    model.serialize(serializer)
    return repr([serializer.target, model.history, model.rng.get_state(), np.random.get_state()])


def test_a_model_that_is_looked_at_stays_as_it_was():
    model, x = Busy(), np.random.RandomState(1).normal(size=(5, 3)).astype(np.float32)
    model(x)
    before, own = held(model), {name: dict(vars(link)) for name, link in model.namedlinks()}
    nodes, seen = [id(param.node) for param in model.params()], []
    for fails in (False, True):
        with contextlib.suppress(KeyError), observe.unchanged(model):
            seen.append(float(model(x).array))
            model.other = 1
            assert (model.steps, len(model.history)) == (2, 2)
            assert [id(param.node) for param in model.params()] == nodes    # as graphs name them
            if fails:
                raise KeyError
    assert held(model) == before
    for name, link in model.namedlinks():
        assert vars(link).keys() == own[name].keys()
        assert all(vars(link)[key] is value for key, value in own[name].items())
    assert seen == [float(model(x).array)] * 2
    assert held(model) != before
