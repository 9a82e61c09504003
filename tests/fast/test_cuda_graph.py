"""cuda_graph.py on a GPU, or an emulated one: all but the steps, which test_updater.py takes."""

from support.fast import cuda_graph, updater

from chainer.backends import cuda
from conftest import needs_gpu
import numpy as np
import pytest
from steps import arrays_of, check_same, evaluator_of, make, model_of, one_step, seed


def on_gpu(kind='fast', C=1.0, k=1):
    return make(kind, C=C, k=k, batch=23, device='@cupy:0')


def steps_of(fast, change=lambda fast: None):
    """Take some steps, each before a change; return all that came of them."""
    seed('@cupy:0')
    losses = []
    for _ in range(5):
        losses.append(one_step(fast))
        change(fast)
    assert (fast.why, len({loss for loss, _, _ in losses})) == ('', 5)
    return arrays_of(fast) | {'losses': np.array(losses)}


@needs_gpu
def test_replays_differ_and_equal_uncaptured_steps():
    check_same(steps_of(on_gpu(k=2)), steps_of(
        on_gpu(k=2), lambda fast: setattr(fast.stepper, 'graph', None)))


@needs_gpu
def test_without_a_graph_steps_are_the_same(capsys):
    class Uncapturable(cuda.cupy.cuda.Stream):
        def begin_capture(self, mode=None):
            raise RuntimeError('cannot\ncapture')

    fast = on_gpu(k=2)
    fast.stepper.stream = Uncapturable(non_blocking=True)
    fast.stepper.cublas = cuda_graph.Cublas(fast.stepper.stream.ptr, cuda.cupy)
    check_same(steps_of(fast), steps_of(on_gpu(k=2)))
    assert capsys.readouterr().err == (
        'warning: no CUDA graph (cannot capture); training goes on without one, which takes '
        'longer\n')


@needs_gpu
def test_gpu_steps_see_what_others_write_into_the_weights_between_them():
    losses = []
    for kind in ('standard', 'fast'):
        its_updater = on_gpu(kind, 2.0, 2)
        if kind == 'fast':              # a proof reads losses back, which waits for all streams
            its_updater.guard.look()
            its_updater.guard.proved_in = 0
        seed('@cupy:0')
        losses.append([])
        for i in range(4):
            losses[-1].append(one_step(its_updater))
            weights = model_of(its_updater).ld1.W.array
            weights[...] = weights.clip(-0.05, 0.05) * (1 - i / 10)
    assert its_updater.why == ''
    assert np.allclose(*losses, rtol=1e-4)


@needs_gpu
@pytest.mark.parametrize('where', ['sgemm', 'kernel', 'create'])
def test_where_the_gpu_refuses_chainers_own_step_trains(monkeypatch, where):
    def refuse(*args, **kwargs):
        raise RuntimeError('cannot\ndo that')

    if where == 'kernel':
        monkeypatch.setattr(cuda_graph, 'cuda_kernels', refuse)
    else:
        monkeypatch.setattr(cuda_graph.Cublas, '__init__' if where == 'create' else 'dot', refuse)
    plain = on_gpu('standard')
    made = updater.fast(plain, evaluator_of(model_of(plain)))
    if where != 'create':
        made.prove()
    assert made.kind == 'standard (the GPU refuses: cannot do that)'
    seed('@cupy:0')
    found = one_step(made)
    expected = on_gpu('standard')
    seed('@cupy:0')
    assert found == one_step(expected)


@needs_gpu
@pytest.mark.parametrize(('m', 'k', 'n'), [(3, 4, 5), (1, 4, 5), (3, 1, 5), (3, 4, 1), (1, 1, 1)])
@pytest.mark.parametrize('transposed', ['', 'a', 'b', 'ab'])
def test_cublas_is_told_the_right_product(m, k, n, transposed):
    rng, stream = np.random.RandomState(0), cuda.cupy.cuda.get_current_stream()
    a, b = (rng.standard_normal(shape).astype(np.float32) for shape in ((m, k), (k, n)))
    given = [cuda.cupy.asarray(matrix.T).T if name in transposed else cuda.cupy.asarray(matrix)
             for name, matrix in (('a', a), ('b', b))]
    out = cuda.cupy.zeros((m, n), np.float32)
    cuda_graph.Cublas(stream.ptr, cuda.cupy).dot(*given, out)
    assert np.allclose(cuda.to_cpu(out), a @ b, rtol=1e-5, atol=1e-6)
