"""`sdedit train`: train a score model on a domain."""

from __future__ import annotations

from sdedit_pl.cli import say
from sdedit_pl.cli.explain import explain, wants_help
from sdedit_pl.config import Key, read_file, take_file
from sdedit_pl.fit import fit
from sdedit_pl.resources import find_config
from sdedit_pl.settings import TRAINING

USAGE = """sdedit train config=NAME|FILE.yaml [key=value ...]

Trains a score model and leaves in `out` the checkpoint that editing takes, previews and logs. The same command again
goes on from the newest checkpoint."""
CONFIG_KEY = Key(str, None, "a YAML file, or the name of a bundled configuration; without one, the defaults")


def run(arguments: list[str]) -> None:
    """Reads the configuration and trains."""
    if wants_help(arguments):
        say(explain(TRAINING, USAGE, {"config": CONFIG_KEY}))
        return
    given, typed = TRAINING.read_arguments(arguments)
    file = take_file(given, typed)
    base = {} if file is None else read_file(find_config(file))
    config = TRAINING.resolve(TRAINING.merge(base, given), typed, taken=("config",))
    checkpoint = fit(config)
    say(f"edit with: sdedit edit ckpt={checkpoint} guide=...")
