"""What test_ranks.py lets each rank do: mpiexec -n 2 python tests/on_ranks.py NAME FOLDER [...]."""

import importlib.util
import os
import shutil
import sys
import types

from support.fast import proof  # lets chainer import
from support.fast.updater import fast
from support.run import ranks
from support.run.stopping import UntilStopped

import chainer
from chainer import iterators, optimizers, training
from chainer.training import extensions
import joblib
import numpy as np
import pytest
import threadpoolctl

import net
import train_vae

STEPS, BATCH, DIM_Z = 20, 100, 5
NAIVE = ['--communicator', 'naive']
MPIEXEC = shutil.which('mpiexec', path=os.path.dirname(sys.executable)) or shutil.which('mpiexec')
needs_mpi = pytest.mark.skipif(
    MPIEXEC is None or importlib.util.find_spec('mpi4py') is None,
    reason='needs pip install mpi4py mpich')


def make(seed):
    np.random.seed(seed)
    return optimizers.Adam().setup(net.VAE(784, DIM_Z, 50, chainer.functions.softplus))


def noise_of(rows):
    """Return a stand-in for standard_normal: these rows of a whole minibatch's noise."""
    generator = np.random.RandomState(1)
    return lambda shape: generator.standard_normal((BATCH, DIM_Z))[rows]


def digits_of(n):
    return np.random.RandomState(0).uniform(0, 1, (n, 784)).astype(np.float32)


def scattered(comm, seed, train, test):
    """Return what `scatter` gives this rank of an optimizer and of digits."""
    return comm.scatter(make(seed), train, test, types.SimpleNamespace(seed=0))


def extended(extend):
    """Call a function of a rank and its trainer whenever a trainer joins the others."""
    def join_and_extend(comm, trainer):
        join(comm, trainer)
        extend(comm.rank, trainer)

    join, ranks.Ranks.join = ranks.Ranks.join, join_and_extend


def step(updater):
    for _ in range(STEPS):
        updater.update()
    return {name[1:].replace('/', '_'): param.array
            for name, param in updater.get_optimizer('main').target.namedparams()}


def updater_of(optimizer, digits, n):
    return training.StandardUpdater(
        iterators.SerialIterator(digits, n, shuffle=False), optimizer, device='@numpy',
        loss_func=optimizer.target.get_loss_func(2.0, 2))


def steps(folder, kind):
    """Train by this kind of updater, on this rank's parts of minibatches and of their noise."""
    comm = ranks.start(NAIVE)
    part = BATCH // comm.size
    digits = digits_of(STEPS * BATCH)
    minibatches = digits.reshape(STEPS, comm.size, part, 784)
    of_ranks = minibatches.swapaxes(0, 1).reshape(-1, 784)      # one rank's after the other's
    # weights of its own, until it hears from rank 0
    optimizer, train, _ = scattered(comm, comm.rank, of_ranks, digits[:10])
    np.random.standard_normal = noise_of(slice(comm.rank * part, (comm.rank + 1) * part))
    updater = updater_of(optimizer, train, part)
    if kind == 'fast':
        updater = fast(updater, None)
        updater.guard.look()
        updater.guard.proved_in = 0           # as that noise cannot be drawn again
    np.savez(f'{folder}/rank{comm.rank}.npz', **step(updater))


def disagreeing(folder, name):
    """Train, where this function finds on rank 1 alone that the fast step differs from net.py."""
    comm = ranks.start(NAIVE)
    digits = digits_of(STEPS * BATCH)
    optimizer, train, _ = scattered(comm, 0, digits, digits[:10])
    if comm.rank == 1:
        setattr(proof, name, lambda *args: f'rank 1 says {name}')
    standard = updater_of(optimizer, train, BATCH)
    updater = fast(standard, None)
    assert (updater is standard) == (name == 'obstacle')
    np.savez(f'{folder}/rank{comm.rank}.npz', **step(updater), kind=updater.kind)


def steps_alone():
    """Return the parameters after the same steps of one process, on whole minibatches."""
    optimizer = make(0)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(np.random, 'standard_normal', noise_of(slice(None)))
        return step(updater_of(optimizer, digits_of(STEPS * BATCH), BATCH))


def evaluation(folder):
    """Score shares of 31 digits, of different sizes, by how bright they are."""
    comm = ranks.start(NAIVE)
    threadpoolctl.threadpool_limits(2 * comm.size)      # what BLAS would take of so many cores
    joblib.cpu_count = lambda: 2 * comm.size
    optimizer, train, test = scattered(comm, 0, digits_of(31), digits_of(31))
    model = optimizer.target

    def score(x):
        chainer.report({'loss': (x.sum(axis=1).mean(), len(x))}, model)

    trainer = training.Trainer(
        training.StandardUpdater(iterators.SerialIterator(train, 5), optimizer), UntilStopped(1))
    trainer.extend(extensions.Evaluator(
        iterators.SerialIterator(test, 7, repeat=False, shuffle=False), model, eval_func=score))
    trainer.extend(extensions.snapshot(), name='snapshot')
    comm.join(trainer)
    found = trainer.get_extension('validation')()
    threads = [library['num_threads'] for library in threadpoolctl.threadpool_info()
               if library['user_api'] == 'blas']
    np.savez(f'{folder}/rank{comm.rank}.npz', size=len(test), threads=threads,
             loss=found['validation/main/loss'])


def watched(folder, *argv):
    """Run train_vae.py; leave the process id, each epoch's parameters, all noise and losses."""
    plain, noise, params, losses = np.random.standard_normal, [], [], []

    def standard_normal(shape):
        noise.append(plain(shape))
        return noise[-1]

    def extend(rank, trainer):
        def watch_loss(trainer):
            loss = trainer.observation['main/loss']
            losses.append(float(getattr(loss, 'array', loss)))

        def watch(trainer):
            model = trainer.updater.get_optimizer('main').target
            params.append(np.concatenate(
                [chainer.get_device('@numpy').send(param.array).ravel()
                 for param in model.params()]))

        trainer.extend(watch_loss, trigger=lambda trainer: True, priority=10**6)     # its own
        trainer.extend(watch, trigger=lambda trainer: trainer.updater.is_new_epoch)

    extended(extend)
    rank = ranks.start(NAIVE).rank
    with open(f'{folder}/pid{rank}', 'w') as file:
        file.write(str(os.getpid()))
    np.random.standard_normal = standard_normal
    status = train_vae.cli(list(argv))
    np.savez(f'{folder}/rank{rank}.npz', params=params,
             noise=[array[0, 0] for array in noise], losses=losses)
    sys.exit(status)


def failing(folder, *argv):
    """Run train_vae.py, where rank 1 finds no memory in its tenth iteration."""
    def extend(rank, trainer):
        def fail(trainer):
            if rank == 1 and trainer.updater.iteration == 10:
                raise MemoryError('so many bytes')

        trainer.extend(fail, name='fail', trigger=(1, 'iteration'))

    extended(extend)
    sys.exit(train_vae.cli(list(argv)))


if __name__ == '__main__':
    globals()[sys.argv[1]](*sys.argv[2:])
