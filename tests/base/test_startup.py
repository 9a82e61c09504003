"""A command that cannot start says why in one line."""

import os
import subprocess
import sys

from support.base import startup

from conftest import ROOT
import pytest


def line_of(script, *flags, **options):
    """Return the one line that a script refuses to start with, without its own name."""
    run = subprocess.run([sys.executable, *flags, script], capture_output=True, text=True,
                         check=False, cwd=ROOT, timeout=60, **options)
    name, _, line = run.stderr.partition(': error: ')
    assert (run.returncode, run.stdout, name, line.find('\n')) == (2, '', script, len(line) - 1)
    return line[:-1]


def test_a_missing_package():
    for script in startup.COMMANDS:
        assert line_of(script, '-S', '-E') == f"No module named 'numpy'; {startup.ACTIVATE}"
    run = subprocess.run([sys.executable, '-S', '-E', '-c', 'from support import compat'],
                         capture_output=True, text=True, check=False, cwd=ROOT)
    assert run.stderr.splitlines()[-1] == "ModuleNotFoundError: No module named 'numpy'"


@pytest.mark.parametrize(('source', 'cause'), [
    ('try:\n    import no_such\nexcept ImportError as error:\n'
     '    raise ImportError("\\n\\nREAD THIS!\\n") from error', "No module named 'no_such'"),
    ('raise ImportError', 'ImportError')])
def test_a_damaged_package(tmp_path, source, cause):
    (tmp_path / 'numpy.py').write_text(source)
    assert line_of('train_vae.py', env={**os.environ, 'PYTHONPATH': str(tmp_path)}) \
        == f'{cause}; {startup.REINSTALL}'


def test_too_little_address_space():
    resource = pytest.importorskip('resource', reason='needs POSIX')
    line = line_of('train_vae.py', preexec_fn=lambda: resource.setrlimit(
        resource.RLIMIT_AS, (700 << 20, 700 << 20)))
    assert line == 'ulimit -v leaves 700 MB of address space; let it have 1024 MB or more'


@pytest.mark.parametrize(('name', 'text', 'message'), [
    ('CHAINER_DTYPE', 'float', 'incorrect dtype name in CHAINER_DTYPE: "float".'),
    ('CHAINER_DEBUG', 'x', 'invalid literal')])
def test_what_chainer_cannot_read(name, text, message):
    line = line_of('train_vae.py', env={key: value for key, value in os.environ.items()
                                        if not key.startswith('CHAINER_')} | {name: text})
    assert line.startswith(message)
    assert line.endswith(f"; mend Chainer's environment variables: {name}")
