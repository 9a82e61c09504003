"""The command line of visualize.py: which figures it names, which fit the snapshot, the loop."""

import argparse
from collections import namedtuple
import os
import re
import shlex
import sys
import traceback

from support.base import command, files
from support.figures import pictures
from support.run import losses, original, run_folder, snapshot

import chainer

import net

WALK = ('start', 'end')         # the digits where the walk starts and ends
PLANE = range(2, sys.maxsize)   # two latent dimensions or more
EXAMPLES = '''
examples:
  python visualize.py -o results/mnist                 all that fit the snapshot
  python visualize.py scatter map -o results/z2        just those two
  python visualize.py interpolation --start 3 --end 5  the walk from a 3 to a 5
  python visualize.py --skip tsne -o results/mnist     all but the slowest'''


# how to draw a figure: a function of model, digits, path and of `keywords` (see `values` in
# visualize.main), which returns the paths that it wrote, or None for the one given; for which
# numbers of latent dimensions, None if it needs no snapshot; whether it shows q(z|x)
Recipe = namedtuple('Recipe', 'draw dims keywords of_vae',
                    defaults=(range(1, sys.maxsize), (), False))


def parse(figures, argv, description):
    """Return the command line; its `files` are those of the Recipes `figures` that it names."""
    parser = command.Parser(
        prog='visualize.py', description=description.splitlines()[0] + '\n' + EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog='\n'.join(['figures, with the section of the article:', *(
            f'  {file:<23}{recipe.draw.__doc__.splitlines()[0]}'
            for file, recipe in figures.items())]))
    add = parser.add_argument
    add('figure', nargs='*', metavar='FIGURE',
        help='figures to draw, with or without the extension (default: all that fit the snapshot)')
    add('-s', '--snapshot', metavar='FILE',
        help='draw from this snapshot (default: the one in --out with the most iterations), or '
             "from weights alone, such as the article's mlp_20.model")
    add('-o', '--out', metavar='DIR',
        help='folder of the run, and for the figures (default: that of the snapshot of -s, else '
             'results)')
    add('--skip', action='append', default=[], metavar='FIGURE',
        help='leave out this figure; may be given several times')
    add('--start', type=int, default=0, metavar='D',
        help='digit where the walk starts (default: 0)')
    add('--end', type=int, default=7, metavar='D', help='digit where the walk ends (default: 7)')
    add('--beside', metavar='DIR',
        help='folder of an autoencoder, which autoencoder.png shows beside the VAE')
    add('--data-dir', metavar='DIR',
        help='folder of the digits (default: where the run found them)')
    add('--dataset', choices=('auto', 'mnist', 'digits'),
        help='only with -s FILE of weights alone: their digits (default: auto)')
    add('--activation', choices=net.ACTIVATIONS,
        help='only with -s FILE of weights alone: their activation (default: softplus)')
    add('-g', '--gpu', type=int, default=-1, metavar='N',
        help='encode and decode on GPU N (default: on the CPU)')
    args = parser.parse_args(argv)
    args.out = args.out or run_folder.folder_of(args.snapshot) or 'results'
    if args.start == args.end:
        parser.error(f'the walk starts and ends at {args.start}; choose another --start (0 if it '
                     'is not given) or --end (7)')
    all_files = {file.replace('0to7', f'{args.start}to{args.end}'): file for file in figures}
    names = {}                      # what a user may call a figure: its files
    for file, key in all_files.items():
        short = key.replace('_0to7', '')
        for name in (file, key, short):
            names.setdefault(name, set()).add(file)
            names.setdefault(name.partition('.')[0], set()).add(file)

    def named(given):
        for name in given:
            if name.rstrip('/') not in names:
                ends = re.match('interpolation_([0-9]+)to([0-9]+)', name)
                parser.error(f'unknown figure {name}; ' + (
                    f'it is interpolation with --start {ends[1]} --end {ends[2]}' if ends else
                    'a folder is named with -o' if os.path.isdir(name) else
                    'the figures are ' + ', '.join(
                        dict.fromkeys(file.partition('.')[0] for file in figures))))
        return set().union(*(names[name.rstrip('/')] for name in given))

    chosen = (named(args.figure) or set(all_files)) - named(args.skip)
    args.files = {file: figures[key] for file, key in all_files.items() if file in chosen}
    if not args.files:
        parser.error('--skip leaves no figure; leave it out')
    if args.beside and 'autoencoder.png' not in args.files:
        parser.error('--beside is for autoencoder.png, which is not among the figures to draw; '
                     'leave it out')
    return args


def misfit(recipe, settings, values):
    """Say why a figure cannot be drawn of a run, and what helps; '' if it can."""
    if recipe.dims is None:
        return ''
    if recipe.of_vae and settings['autoencoder']:
        return 'shows q(z|x), which an autoencoder does not have; give the folder of a VAE with -o'
    if settings['dim_z'] not in recipe.dims:
        return (f'needs z = 2{" or more" * (len(recipe.dims) > 1)}, and the snapshot has z = '
                f'{settings["dim_z"]}; train one with: python train_vae.py -z 2 -o results/z2')
    if 'beside' in recipe.keywords and 'beside' not in values:
        return ('needs an autoencoder of the same digits; train one with: python train_vae.py '
                '--autoencoder -z 2 -o results/autoencoder, and give --beside results/autoencoder')
    return ''


def reason_of(error, model):
    """Return in one line why a figure failed, of a model or None; raise what ends the command."""
    if isinstance(error, (pictures.FigureError, snapshot.SnapshotError)):
        return ' '.join(str(error).splitlines())
    if isinstance(error, (files.FileError, MemoryError, BrokenPipeError)):
        raise error
    if chainer.is_debug():
        traceback.print_exception(error)
    edited = [] if model is None or isinstance(model, net.Autoencoder) else original.edited(model)
    where = f'net.py is edited in {", ".join(edited)}; ' if edited else ''
    return f'{pictures.cause_of(error)}; {where}CHAINER_DEBUG=1 shows the traceback'


def draw(args, model, digits, settings, values):
    """Draw the figures of a command line, and say on stdout which files that made.

    Return the exit status: 1 if a figure failed. Where it was asked for by name, raise FigureError.
    """
    misfits = {file: misfit(recipe, settings, values) for file, recipe in args.files.items()}
    for file, reason in misfits.items():
        if reason and args.figure:
            raise pictures.FigureError(f'{file}: {reason}')
    files.make_folder(args.out, '' if args.snapshot or not settings else
                      f'-s {shlex.quote(settings["path"])} and ')
    files.sweep(args.out, args.files)
    collapse = losses.collapse(settings.get('log', []))
    if collapse:
        print(f'note: {collapse}', flush=True)
    status, failed = 0, {}          # of figures asked for by name: the reason, and which
    for file, recipe in args.files.items():
        path = os.path.join(args.out, file)
        try:
            if misfits[file]:
                raise pictures.FigureError(misfits[file])
            written = recipe.draw(model, digits, path,
                                  **{key: values[key] for key in recipe.keywords})
        except Exception as error:          # of net.py's, which may be edited, or of ours
            reason = reason_of(error, recipe.dims and model)
            if args.figure:
                failed.setdefault(reason, []).append(file)
            elif isinstance(error, pictures.FigureError):
                print(f'skipped {file}: {reason}', flush=True)
            else:
                status = 1
                print(command.printable(f'visualize.py: error: {file}: {reason}'), file=sys.stderr)
        else:
            print(*written or [path], sep='\n', flush=True)
    if failed:
        raise pictures.FigureError(
            '; '.join(f'{", ".join(those)}: {reason}' for reason, those in failed.items()))
    return status
