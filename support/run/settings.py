"""The settings of a run: name, type, default and limits of each, for flags, snapshots, figures."""

import argparse
import contextlib
import dataclasses
import json
import math
import sys

MOST_COUNTED = 10**6        # of whatever a setting counts; more is a slip
MOST_SAMPLES = 1000         # Monte Carlo samples, each of which takes a digit's memory
LARGEST = sys.float_info.max
# on --resume, a flag may not change what is SAME; what is TAKEN it may
SAME, TAKEN = 'same', 'taken'


def setting(default=dataclasses.MISSING, resumed=None, least=1, most=MOST_COUNTED, choices=None):
    """Return the field of a setting; `resumed` is `SAME`, `TAKEN`, or None for what is no flag."""
    return dataclasses.field(default=default, metadata={
        'resumed': resumed, 'least': least, 'most': most, 'choices': choices})


@dataclasses.dataclass(kw_only=True)
class Settings:
    """What a run was asked for, and what it found: as a snapshot and args.json hold it."""

    autoencoder: bool = setting(False, SAME)
    n_in: int = setting()                               # pixels of a digit
    dim_z: int = setting(20, SAME)
    dim_h: int = setting(500, SAME)
    activation: str = setting('softplus', SAME)         # one of net.ACTIVATIONS, or an edit's own
    dataset: str = setting('auto', choices=('auto', 'mnist', 'digits'))
    data_dir: str | None = setting(None)                # absolute
    checksum: str = setting('')                         # of the digits
    binary: bool = setting(False, SAME)
    test: bool = setting(False, SAME)
    seed: int = setting(0, SAME, least=0, most=2**32 - 1)
    beta: float = setting(1.0, SAME, least=math.ulp(0), most=LARGEST)
    k: int = setting(1, SAME, most=MOST_SAMPLES)
    batch_size: int = setting(100, TAKEN)
    epoch: int = setting(100, TAKEN)
    snapshot_every: int = setting(1, TAKEN)             # epochs
    keep: int = setting(5, TAKEN)                       # snapshots
    device: str = setting('CPU', choices=('CPU', 'GPU'))
    updater: str = setting('fast', TAKEN, choices=('fast', 'standard'))
    trained_by: str = setting('standard', choices=('fast', 'compiled', 'standard'))
    trained_on: str = setting('')                       # threads and BLAS of the fast updater
    ranks: int = setting(1)
    methods: dict = dataclasses.field(default_factory=dict)     # as from models.notes_of_net
    optimizer: str = setting('')                        # as from models.describe_optimizer
    loss: str = setting('')                             # as from models.describe_loss
    # C of the loss, as from models.describe_loss
    kl_weight: float | None = setting(None, least=-LARGEST, most=LARGEST)
    varied: dict = dataclasses.field(default_factory=dict)      # as from resume.RunState

    @classmethod
    def from_json(cls, text):
        """Return the settings in a text of JSON, or raise a ValueError that says what is wrong."""
        try:
            found = dict(json.loads(text))
            settings = cls(**{'updater': 'standard'} | {
                name: found[name] for name in FIELDS.keys() & found.keys()})
        except (TypeError, ValueError, RecursionError):
            raise ValueError('it has no settings') from None
        for name, field in FIELDS.items():
            value = getattr(settings, name)
            if not fits(field, value):
                raise ValueError(f'its {name} is {str(value)[:40]!a}')
        if 'kl_weight' not in found and not settings.loss.startswith('of '):    # an edited loss
            settings.kl_weight = settings.beta
        return settings

    def to_json(self, **layout):
        """Return the settings as a text of JSON; `layout` is for `json.dumps`."""
        return json.dumps(vars(self), **layout)


FIELDS = {field.name: field for field in dataclasses.fields(Settings)}


def names_of(resumed):
    """Return the names of the settings that a resumed run treats so, as `SAME` or `TAKEN`."""
    return [name for name, field in FIELDS.items() if field.metadata.get('resumed') == resumed]


def fits(field, value):
    """Tell whether a value is of the type of a setting, and within its limits."""
    if not isinstance(value, field.type) or (isinstance(value, bool) and field.type is not bool):
        return False
    limits = field.metadata
    if isinstance(value, str):      # a folder may have any name; all else is printed as it is
        return (value in limits['choices'] if limits['choices'] else
                value.isprintable() or field.type is not str)
    if isinstance(value, (int, float)):
        return limits['least'] <= value <= limits['most'] or field.type is bool
    return field.name != 'varied' or all(       # else pairs of finite numbers
        isinstance(pair, list) and len(pair) == 2 and all(
            type(number) in (int, float) and abs(number) <= LARGEST for number in pair)
        for pair in value.values())


def flag(name, words, **options):
    """Return what `add_argument` needs for the flag of a setting; `options` replace some of that.

    `words` say in --help what it is; the default is added.
    """
    def number(text):
        with contextlib.suppress(ValueError):
            value = field.type(text)
            if fits(field, value):
                return value
        least, most = field.metadata['least'], field.metadata['most']
        wanted = 'positive number' if field.type is float else (
            f'positive whole number of at most {most}' if least else
            f'whole number from 0 to {most}')
        raise argparse.ArgumentTypeError(f'{text} is not a {wanted}')

    field = FIELDS[name]
    if field.type is bool:
        return {'action': 'store_true', 'help': words}
    limits = {'choices': field.metadata['choices']} if field.type is str else {
        'type': number, 'metavar': 'N'}
    options = limits | {'default': field.default} | options
    return options | {'help': f'{words} (default: {options["default"]})'}
