"""The step on a GPU, replayed as one CUDA graph; the names are those of compiled.py and step.py."""

import ctypes
import functools
import os
import sys
import types

from support.base import command
from support.fast import step

import chainer
import numpy as np


class Stepper:
    """Takes the steps of a model on its GPU, as cpu.py's `Stepper` does on a CPU."""

    how, on, beside = 'CUDA graph', '', 'standard'

    def __init__(self, optimizer, k, digits):
        self.model, self.k, self.device = optimizer.target, k, optimizer.target.device
        with chainer.using_device(self.device):
            self.xp = self.device.xp
            self.stream = self.xp.cuda.Stream(non_blocking=True)        # as a capture wants it
            self.cublas = Cublas(self.stream.ptr, self.xp)
        self.digits = self.device.send(digits)
        self.step, self.graph, self.can_capture, self.scores = None, None, True, {}

    def take(self, rows, numbers, C):
        """Take a step, as cpu.py's `Stepper` does."""
        with chainer.using_device(self.device):
            # between two steps, others may change the weights on another stream
            self.stream.wait_event(self.xp.cuda.get_current_stream().record())
        with chainer.using_device(self.device), self.stream:
            if self.step is None or len(self.step.rows) != len(rows):
                self.xp.cuda.Device().synchronize()             # the other streams, too
                self.step = Step(self.model, len(rows), self.k, self.digits, dot=self.cublas.dot)
                self.graph = None
            self.step.rows.set(rows)            # what differs from step to step: the graph reads it
            self.step.numbers.set(np.array([*numbers, C / len(rows)], np.float32))
            step.draw_noise(self.step.space.eps, self.k)
            if self.graph is not None:
                self.graph.launch(self.stream)
            else:
                self.step()                 # loads what must not be loaded in a capture
                if self.can_capture:
                    self.capture()
            for name, param in self.model.namedparams():
                if param.grad is not self.step.grads[name]:     # as others replaced it
                    param.grad = self.step.grads[name]
            return self.step.losses(C)

    def capture(self):
        """Make the graph of a step, without taking it; where that fails, warn and do without."""
        try:
            self.stream.begin_capture()
            try:
                self.step()
            finally:
                graph = self.stream.end_capture()
            self.graph = graph
        except Exception as error:          # whatever CuPy, CUDA or cuBLAS may raise
            self.can_capture = False
            print(f'warning: no CUDA graph ({command.printable(error)}); training goes on without '
                  'one, which takes longer', file=sys.stderr)

    def score(self, x, k):
        """Return the losses of digits (N, D) under k samples, by name."""
        key = len(x), k, self.model.act_func, *(param.shape for param in self.model.params())
        if key not in self.scores:
            self.scores[key] = Step(self.model, len(x), k)
        its_step = self.scores[key]
        its_step.space.x[:] = x
        step.draw_noise(its_step.space.eps, k)
        its_step.forward()
        return its_step.losses()

    def renew(self):
        """Let the next step look for its arrays again."""
        self.params = list(self.model.params())
        for param in self.params:               # or send what was loaded to the GPU
            param.update_rule._init_states(param)
        self.step = None

    def with_parts(self, function):
        """Return a function as it is: parts are compiled for a CPU."""
        return function

    def rest(self):
        """Do nothing, as a GPU keeps no threads."""


class Cublas:
    """Matrix products that a CUDA graph can capture; CuPy refuses to let its own be captured."""

    def __init__(self, stream, xp):
        xp.dot(xp.ones((1, 1)), xp.ones((1, 1)))    # CuPy finds cuBLAS, wherever that may be
        version = xp.cuda.runtime.runtimeGetVersion() // 1000
        self.library = ctypes.CDLL(f'cublas64_{version}.dll' if os.name == 'nt' else
                                   f'libcublas.so.{version}')
        self.handle = ctypes.c_void_p()
        self.call('cublasCreate_v2', ctypes.byref(self.handle))
        self.call('cublasSetStream_v2', self.handle, ctypes.c_void_p(stream))
        self.workspace = xp.zeros(2**25, np.uint8)      # what a graph uses must not be freed
        self.call('cublasSetWorkspace_v2', self.handle, ctypes.c_void_p(self.workspace.data.ptr),
                  ctypes.c_size_t(self.workspace.nbytes))

    def call(self, name, *args):
        """Call a function of cuBLAS."""
        status = getattr(self.library, name)(*args)
        if status:
            raise RuntimeError(f'{name} of cuBLAS returned {status}')

    def dot(self, a, b, out):
        """Write the product of matrices (m, k) and (k, n), float32, into out (m, n)."""
        (m, k), n = a.shape, b.shape[1]
        one, zero = ctypes.c_float(1), ctypes.c_float(0)

        def operand(array):                 # whether it lies transposed, pointer, row length
            is_plain = int(array.flags.c_contiguous)
            return 1 - is_plain, ctypes.c_void_p(array.data.ptr), array.shape[is_plain]

        # cuBLAS has columns where CuPy has rows, so it is asked for out.T = b.T a.T
        transposed_b, b, ld_b = operand(b)
        transposed_a, a, ld_a = operand(a)
        self.call('cublasSgemm_v2', self.handle, transposed_b, transposed_a, n, m, k,
                  ctypes.byref(one), b, ld_b, a, ld_a, ctypes.byref(zero),
                  ctypes.c_void_p(out.data.ptr), n)


class Step:
    """A step in array calls that CUDA can capture; without `digits` it only goes `forward`."""

    def __init__(self, model, n, k, digits=None, dot=None):
        self.xp = model.xp
        self.kernels = cuda_kernels(self.xp)
        self.dot = dot or self.xp.dot
        self.model, self.k, self.digits = model, k, digits
        self.activation = step.ACTIVATIONS[model.act_func]
        self.scale = step.f32(1 / (n * k))
        self.space = step.make_space(model, n, k, self.xp)
        self.nll = self.xp.zeros_like(self.space.dec_d3)            # (M, D)
        self.kl = self.xp.zeros_like(self.space.mu)                 # (N, Z)
        self.ones = self.xp.ones((1, n * k), np.float32)
        self.rows = self.xp.zeros(n, np.int64)
        self.numbers = self.xp.zeros(len(step.Adam._fields) + 1, np.float32)     # and C / n
        params = model.namedparams() if digits is not None else ()
        self.grads = {name: self.xp.zeros_like(param.array) for name, param in params}

    def __call__(self):
        """Take the step."""
        self.kernels.fetch(self.digits, self.rows, self.digits.shape[1], self.space.x)
        self.forward()
        self.backward()
        self.descend()

    def forward(self):
        """Compute the losses of the digits in `space.x`, as the compiled one does."""
        space, layers = self.space, step.layers_of(self.model)
        self.through('le1', 'le2', 'le3_mu', 'le3_ln_var')
        self.kernels.infer(space.mu, layers.le3_mu.b, space.ln_var, layers.le3_ln_var.b, space.eps,
                           self.k, space.mu.shape[1], space.mu, space.ln_var, space.sigma, self.kl,
                           space.z)
        self.through('ld1', 'ld2', 'ld3')
        self.kernels.bernoulli_nll(space.dec_d3, layers.ld3.b, space.x, self.k, space.x.shape[1],
                                   self.scale, space.dec_d3, self.nll)

    def through(self, *names):
        """Take the minibatch through layers, and activate what has another array for its delta."""
        for name in names:
            link = self.model[name]
            h, out, d = (getattr(self.space, key) for key in step.FLOW[name])
            self.dot(h, link.W.array.T, out)
            if out is not d:
                self.kernels.activate(out, link.b.array, self.activation, out, d)

    def backward(self):
        """Compute the deltas of all layers, as the compiled one does."""
        space, kernels, dot, multiply = self.space, self.kernels, self.dot, self.xp.multiply
        _, le2, le3_mu, le3_ln_var, ld1, ld2, ld3 = step.layers_of(self.model)
        dot(space.dec_d3, ld3.W, space.dec_back)                    # (M, H)
        multiply(space.dec_d2, space.dec_back, space.dec_d2)
        dot(space.dec_d2, ld2.W, space.dec_back)                    # (M, H)
        multiply(space.dec_d1, space.dec_back, space.dec_d1)
        dot(space.dec_d1, ld1.W, space.z_back)                      # (M, Z)
        kernels.infer_back(space.sigma, space.eps, space.z_back, self.k, space.mu.shape[1],
                           self.numbers, space.mu, space.ln_var)
        dot(space.mu, le3_mu.W, space.enc_back)                     # (N, H)
        dot(space.ln_var, le3_ln_var.W, space.enc_back2)            # (N, H)
        self.xp.add(space.enc_back, space.enc_back2, space.enc_back)
        multiply(space.enc_d2, space.enc_back, space.enc_d2)
        dot(space.enc_d2, le2.W, space.enc_back)                    # (N, H)
        multiply(space.enc_d1, space.enc_back, space.enc_d1)

    def descend(self):
        """Take a step of Adam, as the compiled `descend` does."""
        for name, flow in step.FLOW.items():
            h, _, delta = (getattr(self.space, key) for key in flow)
            link = self.model[name]
            W_grad, b_grad = self.grads[f'/{name}/W'], self.grads[f'/{name}/b']
            self.dot(delta.T, h, W_grad)
            self.dot(self.ones[:, :len(delta)], delta, b_grad[None])
            for param, grad in ((link.W, W_grad), (link.b, b_grad)):
                state = param.update_rule.state
                self.kernels.adam(grad, self.numbers, param.array, state['m'], state['v'])

    def losses(self, C=1.0):
        """Return the losses by name."""
        sums = float(self.nll.sum(dtype=np.float64)), float(self.kl.sum(dtype=np.float64))
        return step.mean_losses([sums], len(self.space.x), self.k, C)


@functools.cache
def cuda_kernels(xp):
    """Return the elementwise functions of `Step`, each as one CUDA kernel of CuPy, `xp`."""
    return types.SimpleNamespace(**{
        name: xp.ElementwiseKernel(inputs, outputs, code, name)
        for name, (inputs, outputs, code) in CUDA.items()})


CUDA = {                # name: inputs, outputs (some are both), and what is done for an element i
    'fetch': ('raw T digits, raw int64 rows, int32 D', 'T x', """
        x = digits[rows[i / D] * D + i % D];"""),
    'activate': ('T a0, T b, int32 activation', 'T h, T d', """
        T a = a0 + b;
        if (activation == 2) { h = a < 0 ? (T)0 : a; d = a > 0 ? 1 : 0; }
        else if (activation == 1) { h = tanh(a); d = 1 - h * h; }
        else {
            T e = exp(-fabs(a));
            h = (a < 0 ? (T)0 : a) + log1p(e);
            d = (a > 0 ? (T)1 : e) / (1 + e);
        }"""),
    'infer': ('T mu0, T b_mu, T ln_var0, T b_ln_var, raw T eps, int32 k, int32 Z',
              'T mu, T ln_var, T sigma, T kl, raw T z', """
        mu = mu0 + b_mu;
        ln_var = ln_var0 + b_ln_var;
        sigma = exp(ln_var / 2);
        kl = (mu * mu + sigma * sigma - ln_var - 1) / 2;
        for (ptrdiff_t m = i / Z * k; m < i / Z * k + k; m++)
            z[m * Z + i % Z] = mu + eps[m * Z + i % Z] * sigma;"""),
    'infer_back': ('T sigma, raw T eps, raw T z_back, int32 k, int32 Z, raw T numbers',
                   'T mu, T ln_var', """
        T sum_mu = mu * numbers[4], sum_ln_var = (sigma * sigma - 1) / 2 * numbers[4];
        for (ptrdiff_t m = i / Z * k; m < i / Z * k + k; m++) {
            T back = z_back[m * Z + i % Z];
            sum_mu += back;
            sum_ln_var += back * eps[m * Z + i % Z] * sigma / 2;
        }
        mu = sum_mu;
        ln_var = sum_ln_var;"""),
    'bernoulli_nll': ('T y0, T b, raw T x, int32 k, int32 D, T scale', 'T delta, T nll', """
        T a = y0 + b, e = exp(-fabs(a)), pixel = x[i / D / k * D + i % D];
        nll = (a < 0 ? (T)0 : a) + log1p(e) - pixel * a;
        delta = ((a > 0 ? (T)1 : e) / (1 + e) - pixel) * scale;"""),
    'adam': ('T grad, raw T numbers', 'T param, T m, T v', """
        m += numbers[1] * (grad - m);
        v += numbers[2] * (grad * grad - v);
        param -= numbers[0] * m / (sqrt(v) + numbers[3]);"""),
}
