"""The settings of a run: one dataclass, from flags to JSON and back, each within its limits."""

import argparse
import json

from support.run import settings  # lets chainer import

import pytest

GOOD = settings.Settings(n_in=784, checksum='x', kl_weight=1.0)


def test_json_and_back():
    found = settings.Settings(n_in=9, data_dir='/a\n', beta=0.5, updater='standard', kl_weight=None,
                              methods={'VAE': '1'}, varied={'alpha': [0.1, 1]})
    assert settings.Settings.from_json(found.to_json()) == found
    assert json.loads(found.to_json(indent=4)) == vars(found)


@pytest.mark.parametrize('change', [
    {'dim_h': 10**12}, {'dim_z': '2'}, {'k': True}, {'data_dir': 3}, {'beta': float('inf')},
    {'kl_weight': float('nan')}, {'test': 1}, {'dataset': 'evil'}, {'methods': 'x'},
    {'optimizer': 'Adam\x1b[2J'}, {'varied': {'alpha': 0.1}}, {'varied': {'alpha': [1, 10**400]}}])
def test_what_does_not_fit_is_named(change):
    name, = change
    with pytest.raises(ValueError, match=f'^its {name} is ') as error:
        settings.Settings.from_json(json.dumps(vars(GOOD) | change))
    assert str(error.value).isprintable()


@pytest.mark.parametrize('text', ['', '[]', '3', '{}', '{"dim_z": 2}', '[' * 10**5, '9' * 10**5])
def test_what_is_no_settings(text):
    with pytest.raises(ValueError, match='it has no settings'):
        settings.Settings.from_json(text)


@pytest.mark.parametrize('loss, weight', [
    ('', 0.5), ('negative ELBO, beta = 0.5', 0.5), ('of an edited train_vae.py', None)])
def test_what_earlier_commits_did_not_note(loss, weight):
    found = vars(GOOD) | {'beta': 0.5, 'loss': loss, 'ranks_changed': False}
    for name in ('kl_weight', 'updater', 'varied', 'ranks'):
        del found[name]
    old = settings.Settings.from_json(json.dumps(found))
    assert (old.kl_weight, old.updater, old.varied, old.ranks) == (weight, 'standard', {}, 1)


@pytest.mark.parametrize('name, good, bad', [
    ('k', {'1': 1, '1000': 1000}, ['0', '1001', '1.5', 'inf', 'x', '']),
    ('beta', {'1e-9': 1e-9, '3': 3.0}, ['0', '-1', 'inf', 'nan', '1e999', 'x']),
    ('seed', {'0': 0}, ['-1', '4294967296'])])
def test_a_number_of_the_command_line(name, good, bad):
    parse = settings.flag(name, 'words')['type']
    for text, value in good.items():
        assert (parse(text), type(parse(text))) == (value, type(value))
    for text in bad:
        with pytest.raises(argparse.ArgumentTypeError, match=f'^{text} is not a '):
            parse(text)
