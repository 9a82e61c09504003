#!/usr/bin/env python3
"""Train the Variational Autoencoder of the article on digits (section 2).

From top to bottom a Chainer training script: flags, digits, model, Adam, iterators, updater,
trainer, extensions, run. The article's notebook has the loop by hand (its cell 11); here it is
Chainer's Trainer. What is beside the point stands in support/ and comes in by a line each.

A run leaves in its folder OUT: `snapshot_epoch_N` (after Ctrl-C `snapshot_interrupted`), `log`
(losses, JSON), `args.json` (settings), `loss.png` (learning curves) and `cg.dot` (computational
graph).
"""

import argparse
import sys

from support.base import command
from support.data import mnist
from support.run import models, observe, options, resume, settings, snapshot
from support.run.extensions import LogReport, PlotReport, check_finite, whole_run
from support.run.record import Record
from support.run.stopping import UntilStopped, every
from support.run.terminal import PrintReport, ProgressBar

import chainer
from chainer import iterators, optimizers, training
from chainer.training import extensions
import numpy as np

import net

TEST_K = 10         # Monte Carlo samples that score a test digit, as in the article's log
EXAMPLES = """

examples:
  python train_vae.py -o results/mnist          MNIST, the article's settings
  python train_vae.py -z 2 -o results/z2        z = 2, to plot the latent space
  python train_vae.py --dataset digits          digits that need no download
  python train_vae.py --resume -o results/mnist     go on where that run ended
  mpiexec -n 4 python train_vae.py --communicator naive -b 25   four processes
"""


def build_parser():
    """Return the parser of the command line."""
    parser = command.Parser(prog='train_vae.py', description=__doc__.splitlines()[0] + EXAMPLES,
                           formatter_class=argparse.RawDescriptionHelpFormatter)
    add, flag = parser.add_argument, settings.flag
    add('-g', '--gpu', type=int, default=-1, metavar='N',
        help='train on GPU N (default: on the CPU)')
    add('-o', '--out', default='results',
        help='folder for the results (default: results, or that of --resume FILE)')
    add('-e', '--epoch', **flag('epoch', 'epochs to train'))
    add('-b', '--batch-size', **flag('batch_size', 'digits in a minibatch (for each process)'))
    add('-z', '--dim-z', **flag('dim_z', 'dimensions of the latent variable z'))
    add('--dim-h', **flag('dim_h', 'units of each hidden layer'))
    add('--activation', **flag('activation', 'activation of the hidden layers',
                               choices=net.ACTIVATIONS))
    add('--beta', **flag('beta', 'weight of the latent loss, the KL divergence; 1 for the ELBO',
                         metavar='C'))
    add('-k', '--k', **flag('k', 'Monte Carlo samples of z for each digit in training'))
    add('--autoencoder', **flag(
        'autoencoder', 'train the plain autoencoder of section 1-1: no noise, no latent loss'))
    add('--binary', **flag('binary', 'round pixels to 0 or 1'))
    add('--test', **flag('test', f'use only {mnist.TINY} digits, to check that everything works'))
    add('-m', '--initmodel', metavar='FILE', help='start from the weights of this snapshot')
    add('-r', '--resume', nargs='?', const=options.NEWEST, metavar='FILE',
        help='go on from this snapshot, or from the newest in OUT, with its settings; '
             'a larger --epoch trains for longer')
    options.add_further(parser)         # --dataset, --activation, --seed, --updater, --keep, ...
    return parser


def score_func(model, k):
    """Make the evaluation function: the negative ELBO (C = 1) of k Monte Carlo samples.

    It takes a minibatch of pixels (N, 784). What it reports weighs by N, so that a short last
    minibatch counts for as many digits as it has.
    """
    lf = model.get_loss_func(k=k)

    def score(x):
        lf(x)
        chainer.report({name: (getattr(model, name), len(x)) for name in snapshot.LOSSES
                        if hasattr(model, name)}, model)

    return score


def train_vae(args):
    """Train, and leave in `args.out` what the head of this file names; return the exit status.

    Of the command line, `args.device` is where to train, and `args.comm` knows the other processes
    that train the same model, if there are any.
    """
    comm, device = args.comm, args.device
    device.use()
    np.random.seed(args.seed)

    # digits: pixels in [0, 1], (N, 784) float32 to train and (M, 784) to test; of several
    # processes the first one reads them
    digits = comm.on_root(mnist.get_digits, args.dataset, args.data_dir, args.test, args.binary)
    train, test = digits.train, digits.test

    # model
    model_class = net.Autoencoder if args.autoencoder else net.VAE
    model = model_class(train.shape[1], args.dim_z, args.dim_h, net.ACTIVATIONS[args.activation])
    if args.initmodel is not None:
        comm.on_root(models.load_weights, args.initmodel, model)
    with observe.unchanged(model):              # the graph for OUT/cg.dot
        graph = net.draw_graph(model, train[:args.batch_size], args.beta, args.k)
    model.to_device(device)

    # optimizer; each process takes its share of the digits
    optimizer = optimizers.Adam()
    optimizer.setup(model)
    optimizer, train, test = comm.scatter(optimizer, train, test, args)

    # iterators over minibatches
    train_iter = iterators.SerialIterator(train, args.batch_size)
    test_iter = iterators.SerialIterator(test, args.batch_size, repeat=False, shuffle=False)

    # updater: a step of Adam down the gradient of the loss; evaluator: the score of the test digits
    updater = training.updaters.StandardUpdater(
        train_iter, optimizer, device=device, loss_func=model.get_loss_func(args.beta, args.k))
    evaluator = extensions.Evaluator(
        test_iter, model, device=device, eval_func=score_func(model, TEST_K))
    if args.updater == 'fast':          # the same, compiled, as long as net.py is what was compiled
        from support.fast.updater import fast

        updater = fast(updater, evaluator)

    # trainer and its extensions
    trainer = training.Trainer(updater, UntilStopped(args.epoch), args.out)
    trainer.extend(evaluator)
    trainer.extend(check_finite(args.resume))
    trainer.extend(LogReport())
    trainer.extend(PrintReport())
    trainer.extend(PlotReport())
    trainer.extend(Record(digits))              # what training.gif shows, epoch by epoch
    trainer.extend(ProgressBar())               # in a terminal
    trainer.extend(extensions.snapshot(filename='snapshot_epoch_{.updater.epoch}',
                                       writer=snapshot.Writer(args.keep, args.resume)),
                   name='snapshot', trigger=every(args.snapshot_every, args.epoch))
    comm.join(trainer)                          # to those of the other processes
    resume.make_exact(trainer, args, digits)    # with --resume, go to where a snapshot was taken

    # run; around it the first and last words, and Ctrl-C that keeps the work done
    with whole_run(trainer, args, digits, graph) as run:
        trainer.run(show_loop_exception_msg=False)
    return run.status


def main(argv=None):
    """Train as the command line `argv` (default: the program's) says; return the exit status."""
    with options.parsed(build_parser(), argv) as args:
        return train_vae(args)


def cli(argv=None):
    """Run `main`; where it fails, say why in one line on stderr. Return the exit status."""
    return command.status_of('train_vae.py', main, argv)


if __name__ == '__main__':
    sys.exit(cli())
