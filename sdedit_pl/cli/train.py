"""`sdedit train`: train a score model on a domain."""

from __future__ import annotations

from sdedit_pl.cli import say
from sdedit_pl.cli.arguments import configuration
from sdedit_pl.config import Key, read_file
from sdedit_pl.fit import fit
from sdedit_pl.resources import find_config
from sdedit_pl.settings import TRAINING

USAGE = """sdedit train config=NAME|FILE.yaml [key=value ...]

Trains a score model and leaves in `out` the checkpoint that editing takes, previews and logs. The same command again
goes on from the newest checkpoint."""
CONFIG_KEY = Key(str, None, "a YAML file, or the name of a bundled configuration; without one, the defaults")


def run(arguments: list[str]) -> None:
    """Reads the configuration and trains."""
    config = configuration(
        arguments, TRAINING, USAGE, file_key=CONFIG_KEY, read=lambda file: read_file(find_config(file))
    )
    if config is not None:
        say(f"edit with: sdedit edit ckpt={fit(config)} guide=...")
