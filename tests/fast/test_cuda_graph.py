"""cuda_graph.py: the step in NumPy, kernels as C++, calls of cuBLAS; all of it on a GPU itself."""

import ctypes
import shutil
import subprocess
import types

from support.fast import cuda_graph, step, updater
from support.run import snapshot

import chainer
from chainer import iterators, optimizers, training
from chainer.backends import cuda
from conftest import needs_gpu
import numpy as np
import pytest
from test_proof import evaluator_of
from test_updater import DIGITS, SETTINGS, check_close, make, model_of, one_step


def numpy_kernels():
    """Return what `cuda_graph.cuda_kernels` does, of NumPy, with the same arguments."""
    def fetch(digits, rows, D, x):
        x[:] = digits[rows]
        assert x.shape[1] == D

    def activate(a, b, kind, h, d):
        a = a + b
        h[:] = (np.logaddexp(a, 0), np.tanh(a), np.maximum(a, 0))[kind]
        d[:] = (1 / (1 + np.exp(-a)), 1 - np.tanh(a) ** 2, a > 0)[kind]

    def infer(mu0, b_mu, ln_var0, b_ln_var, eps, k, Z, mu, ln_var, sigma, kl, z):
        mu[:], ln_var[:] = mu0 + b_mu, ln_var0 + b_ln_var
        sigma[:] = np.exp(ln_var / 2)
        kl[:] = (mu ** 2 + sigma ** 2 - ln_var - 1) / 2
        z[:] = np.repeat(mu, k, 0) + eps * np.repeat(sigma, k, 0)
        assert z.shape[1] == Z

    def infer_back(sigma, eps, z_back, k, Z, numbers, mu, ln_var):
        through = z_back * eps * np.repeat(sigma, k, 0) / 2
        mu[:] = mu * numbers[4] + z_back.reshape(-1, k, Z).sum(1)
        ln_var[:] = (sigma ** 2 - 1) / 2 * numbers[4] + through.reshape(-1, k, Z).sum(1)

    def bernoulli_nll(y, b, x, k, D, scale, delta, nll):
        a, x = y + b, np.repeat(x, k, 0)
        assert a.shape[1] == D
        nll[:] = np.logaddexp(a, 0) - x * a
        delta[:] = (1 / (1 + np.exp(-a)) - x) * scale

    def adam(grad, numbers, param, m, v):
        m += numbers[1] * (grad - m)
        v += numbers[2] * (grad ** 2 - v)
        param -= numbers[0] * m / (np.sqrt(v) + numbers[3])

    return types.SimpleNamespace(**{
        function.__name__: function
        for function in (fetch, activate, infer, infer_back, bernoulli_nll, adam)})


@pytest.mark.parametrize('name', SETTINGS)
def test_the_gpus_step_in_numpy_is_that_of_the_standard_updater(name):
    settings = {'C': 1.0, 'k': 1, 'batch': 40} | SETTINGS[name]
    standard = make('standard', **settings)
    losses = [one_step(standard) for _ in range(2)]

    other = make('standard', **settings)
    model, iterator = model_of(other), other.get_iterator('main')
    iterator.dataset = range(len(DIGITS))
    rows = [np.array(iterator.next())]
    its_step = cuda_graph.Step(model, len(rows[0]), settings['k'], DIGITS,
                            numpy_kernels())
    for i in range(2):
        its_step.rows[:] = rows[0] if i == 0 else iterator.next()
        step.draw(its_step.space.eps, settings['k'])
        its_step.numbers[:] = [*step.count_step(other.get_optimizer('main')),
                               settings['C'] / len(its_step.rows)]
        its_step()
        found = step.mean_losses(its_step.sums(), len(its_step.rows), settings['k'],
                                    settings['C'])
        assert [found[key] for key in snapshot.LOSSES] == pytest.approx(losses[i], rel=1e-5)
    for (path, param), expected in zip(model.namedparams(), model_of(standard).params(),
                                       strict=True):
        assert abs(param.array - expected.array).max() < 1e-4, path
        check_close(param.grad, expected.grad, 1e-3, path)


class NumpyCublas:
    """What `cuda_graph.Cublas` needs of cuBLAS, on NumPy's arrays, by BLAS's own definition."""

    def __getattr__(self, name):
        return lambda *args: 0

    def cublasSgemm_v2(self, handle, op_a, op_b, m, n, k, alpha, a, ld_a, b, ld_b, beta, c, ld_c):
        """Compute c = op(a) op(b), whose matrices lie by columns."""
        def matrix(pointer, rows, columns, ld):
            data = np.ctypeslib.as_array(
                ctypes.cast(pointer, ctypes.POINTER(ctypes.c_float)), (ld * columns,))
            return data.reshape(columns, ld)[:, :rows].T

        a = matrix(a, k, m, ld_a).T if op_a else matrix(a, m, k, ld_a)
        b = matrix(b, n, k, ld_b).T if op_b else matrix(b, k, n, ld_b)
        matrix(c, m, n, ld_c)[:] = alpha._obj.value * a @ b
        return 0


def numpy_cublas():
    """Return a Cublas that works on arrays of NumPy."""
    xp = types.SimpleNamespace(
        zeros=lambda *args: types.SimpleNamespace(data=types.SimpleNamespace(ptr=0), nbytes=0),
        cuda=types.SimpleNamespace(runtime=types.SimpleNamespace(runtimeGetVersion=lambda: 13000)))
    return cuda_graph.Cublas(0, xp, NumpyCublas())


class Pointed(np.ndarray):
    """Array of NumPy whose address is where CuPy has it."""

    @property
    def data(self):
        """Return the memory."""
        return types.SimpleNamespace(ptr=self.ctypes.data)


@pytest.mark.parametrize(('m', 'k', 'n'), [(3, 4, 5), (1, 4, 5), (3, 1, 5), (3, 4, 1), (1, 1, 1)])
@pytest.mark.parametrize('transposed', ['', 'a', 'b', 'ab'])
def test_cublas_is_told_the_right_product(m, k, n, transposed):
    rng = np.random.RandomState(0)
    a, b = (rng.standard_normal(shape[::-1]).astype(np.float32).T if name in transposed else
            rng.standard_normal(shape).astype(np.float32)
            for name, shape in (('a', (m, k)), ('b', (k, n))))
    out = np.zeros((m, n), np.float32)
    numpy_cublas().dot(a.view(Pointed), b.view(Pointed), out.view(Pointed))
    assert np.allclose(out, a @ b, rtol=1e-5, atol=1e-6)


def test_what_cublas_refuses_is_an_error():
    cublas = numpy_cublas()
    cublas.library = types.SimpleNamespace(cublasSgemm_v2=lambda *args: 7)
    a = np.ones((2, 2), np.float32).view(Pointed)
    with pytest.raises(RuntimeError, match='cublasSgemm_v2 of cuBLAS returned 7'):
        cublas.dot(a, a, a)


@needs_gpu
@pytest.mark.parametrize('name', SETTINGS)
def test_gpu_kernels_are_those_in_numpy(name):
    kind = SETTINGS[name].get('activation', 'softplus')
    results = []
    for kernels, xp in ((numpy_kernels(), np), (None, cuda.cupy)):
        model = model_of(make('standard', **SETTINGS[name]))
        if xp is not np:
            model.to_device('@cupy:0')
        k = SETTINGS[name].get('k', 1)
        its_step = cuda_graph.Step(model, 40, k, xp.asarray(DIGITS), kernels)
        noise = np.random.RandomState(5).standard_normal(its_step.space.eps.shape)
        its_step.space.eps[:] = xp.asarray(noise, np.float32)
        its_step.rows[:] = xp.arange(40)
        its_step.numbers[:] = xp.asarray([1e-3, 0.1, 0.001, 1e-3, 2.0 / 40])
        its_step()
        results.append([*its_step.sums()[0], *(cuda.to_cpu(array) for array in its_step.space),
                        *(cuda.to_cpu(param.grad) for param in model.params()),
                        *(cuda.to_cpu(param.array) for param in model.params())])
    for array, expected in zip(*results, strict=True):
        assert np.allclose(array, expected, rtol=1e-3, atol=1e-4), kind


def on_gpu(kind, C=1.0, k=1):
    """Return an updater of this kind on the GPU, with minibatches of 23 digits."""
    model = model_of(make('standard'))
    model.to_device('@cupy:0')
    standard = training.StandardUpdater(
        iterators.SerialIterator(DIGITS, 23), optimizers.Adam().setup(model),
        device=chainer.get_device('@cupy:0'), loss_func=model.get_loss_func(C, k))
    return standard if kind == 'standard' else updater.GraphUpdater(standard)


@needs_gpu
def test_replays_differ_and_equal_uncaptured_steps():
    found = []
    for captured in (True, False):
        fast = on_gpu('graph', k=2)
        cuda.cupy.random.seed(7)
        np.random.seed(7)
        losses = []
        for _ in range(5):
            losses.append(one_step(fast))
            if not captured:
                fast.graph = None
        assert fast.why == ''
        assert len({loss for loss, _, _ in losses}) == 5
        found.append((losses, [cuda.to_cpu(param.array) for param in model_of(fast).params()]))
    assert found[0][0] == found[1][0]
    assert all(np.array_equal(a, b) for a, b in zip(found[0][1], found[1][1], strict=True))


@needs_gpu
def test_gpu_steps_are_those_of_the_standard_updater():
    losses = []
    for kind in ('standard', 'graph'):
        its_updater = on_gpu(kind, 2.0, 2)
        cuda.cupy.random.seed(7)
        losses.append([one_step(its_updater) for _ in range(6)])
    assert np.allclose(losses[1], losses[0], rtol=1e-4)


@needs_gpu
def test_without_a_graph_steps_are_the_same(capsys):
    class Uncapturable(cuda.cupy.cuda.Stream):
        """A stream that cannot be captured."""

        def begin_capture(self, mode=None):
            raise RuntimeError('cannot\ncapture')

    found = []
    for captured in (True, False):
        fast = on_gpu('graph', k=2)
        if not captured:
            fast.stream = Uncapturable(non_blocking=True)
            fast.cublas = cuda_graph.Cublas(fast.stream.ptr, cuda.cupy)
        cuda.cupy.random.seed(7)
        found.append([one_step(fast) for _ in range(4)])
    assert found[0] == found[1]
    assert capsys.readouterr().err == (
        'warning: no CUDA graph (cannot capture); training goes on without one, which takes '
        'longer\n')


@needs_gpu
def test_proof_on_a_gpu_disturbs_nothing_and_finds_an_edit(monkeypatch):
    fast, twin = on_gpu('graph'), on_gpu('graph')
    for its_updater in (fast, twin):
        cuda.cupy.random.seed(7)
        its_updater.proved_in = None if its_updater is fast else 0
        for _ in range(2):
            one_step(its_updater)
    assert (fast.proved_in, fast.why) == (0, '')
    assert all(bool((a.array == b.array).all()) for a, b in zip(
        model_of(fast).params(), model_of(twin).params(), strict=True))
    real = chainer.functions.bernoulli_nll
    monkeypatch.setattr(chainer.functions, 'bernoulli_nll', lambda x, y: 2 * real(x, y))
    fast.prove()
    assert fast.why == 'net.py is not what updater.py compiles: rec_loss differs'


def change_in_place(model, i):
    """Clip weights in place, and bring a layer's to others."""
    for param in model.params():
        param.array[...] = param.array.clip(-0.05, 0.05)
    model.ld1.W.array[...] *= 1 - i / 10


def assign(model, i):
    """Let a layer have other arrays, and Adam other moments."""
    model.ld1.W.array = model.ld1.W.array * (1 - i / 10)
    state = model.le2.W.update_rule.state
    if state:
        state['m'] = state['m'] * 0.5


@needs_gpu
@pytest.mark.parametrize('change', [change_in_place, assign])
def test_gpu_steps_see_what_others_do_to_the_weights_between_them(change):
    losses = []
    for kind in ('standard', 'graph'):
        its_updater = on_gpu(kind, 2.0, 2)
        if kind == 'graph':             # a proof reads losses back, which waits for all streams
            its_updater.look()
            its_updater.proved_in = 0
        cuda.cupy.random.seed(7)
        losses.append([])
        for i in range(4):
            losses[-1].append(one_step(its_updater))
            change(model_of(its_updater), i)
    assert its_updater.why == ''
    assert np.allclose(losses[1], losses[0], rtol=1e-4)


@needs_gpu
def test_gpu_steps_take_the_weight_of_the_latent_loss_as_it_is_now():
    losses = []
    for kind in ('standard', 'graph'):
        its_updater = on_gpu(kind)
        cuda.cupy.random.seed(7)
        losses.append([])
        for i in range(4):
            its_updater.loss_func = model_of(its_updater).get_loss_func(i / 3)
            losses[-1].append(one_step(its_updater))
    assert its_updater.why == ''
    assert np.allclose(losses[1], losses[0], rtol=1e-4)


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
    cuda.cupy.random.seed(7)
    found = one_step(made)
    expected = on_gpu('standard')
    cuda.cupy.random.seed(7)
    assert found == one_step(expected)


def compile_kernels(folder):
    """Compile the bodies of the CUDA kernels as C++, and return them as functions of arrays."""
    source = ['#include <cmath>', '#include <cstddef>', 'using namespace std;', 'typedef float T;',
              'typedef int int32;', 'typedef long long int64;']
    for name, (inputs, outputs, code) in cuda_graph.CUDA.items():
        params = [param.split() for param in f'{inputs}, {outputs}'.split(', ')]
        args = ', '.join('int32 ' + param[-1] if param[0] == 'int32' else
                         f'{param[-2]}* {param[-1]}_' for param in params)
        names = {param[-1]: f'{param[1]}* {param[-1]} = {param[-1]}_;' if param[0] == 'raw' else
                 f'T& {param[-1]} = {param[-1]}_[i];' for param in params if param[0] != 'int32'}
        source += [f'extern "C" void {name}(long size, {args}) {{',
                   f'for (long i = 0; i < size; i++) {{ {" ".join(names.values())} {code} }} }}']
    (folder / 'kernels.cpp').write_text('\n'.join(source))
    subprocess.run(['c++', '-O1', '-shared', '-fPIC', '-o', folder / 'kernels.so',
                    folder / 'kernels.cpp'], check=True)
    library = ctypes.CDLL(str(folder / 'kernels.so'))

    def kernel(name):
        inputs, outputs, _ = cuda_graph.CUDA[name]
        kinds = [param.split() for param in f'{inputs}, {outputs}'.split(', ')]

        def call(*args):
            shape = args[len(inputs.split(', '))].shape     # of the first output
            held = [ctypes.c_int32(arg) if kind == 'int32' else np.ascontiguousarray(
                        np.broadcast_to(arg, shape) if kind == 'T' else arg,
                        np.int64 if 'int64' in more else np.float32)
                    for (kind, *more), arg in zip(kinds, args, strict=True)]
            getattr(library, name)(ctypes.c_long(np.prod(shape)), *(
                arg if isinstance(arg, ctypes.c_int32) else ctypes.c_void_p(arg.ctypes.data)
                for arg in held))
            for arg, result in list(zip(args, held, strict=True))[len(inputs.split(', ')):]:
                arg[:] = result

        return call

    return types.SimpleNamespace(**{name: kernel(name) for name in cuda_graph.CUDA})


@pytest.mark.skipif(shutil.which('c++') is None, reason='needs a C++ compiler')
def test_cuda_kernels_as_cpp_are_those_in_numpy(tmp_path):
    compiled = compile_kernels(tmp_path)
    for name in SETTINGS:
        settings = {'C': 1.0, 'k': 1} | SETTINGS[name]
        results = []
        for kernels in (numpy_kernels(), compiled):
            model = model_of(make('standard', **settings))
            its_step = cuda_graph.Step(model, 40, settings['k'], DIGITS, kernels)
            step.draw(its_step.space.eps, settings['k'])
            its_step.rows[:] = range(40)
            its_step.numbers[:] = 1e-3, 0.1, 0.001, 1e-3, settings['C'] / 40
            its_step()
            results.append([*its_step.sums()[0], *its_step.space,
                            *(param.grad for param in model.params()),
                            *(param.array for param in model.params())])
        for array, expected in zip(*results, strict=True):
            assert np.allclose(array, expected, rtol=1e-4, atol=1e-5), name


def test_a_step_writes_its_own_gradients_even_where_others_replaced_them():
    model = model_of(make('standard'))
    its_step = cuda_graph.Step(model, 40, 1, DIGITS, numpy_kernels())
    its_step.numbers[:] = [*step.NO_ADAM, 1 / 40]
    before = [param.array.copy() for param in model.params()]
    its_step.rows[:] = range(40)
    its_step()
    expected = [param.grad.copy() for param in model.params()]
    model.cleargrads()                  # as net.py's own backward does
    its_step()
    its_step.leave_grads()
    for param, grad, array in zip(model.params(), expected, before, strict=True):
        assert np.array_equal(param.grad, grad)
        assert np.array_equal(param.array, array)
        assert not param.update_rule.state['v'].any()
