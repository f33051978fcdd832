"""`sdedit train`: train a score model on a domain."""

from __future__ import annotations

from sdedit_pl.cli import fail, say, speaks
from sdedit_pl.cli.arguments import configuration
from sdedit_pl.config import Key, read_file
from sdedit_pl.fit import fit
from sdedit_pl.resources import find_config
from sdedit_pl.settings import TRAINING
from sdedit_pl.training.stop_signals import Interrupted

USAGE = """sdedit train config=NAME|FILE.yaml [key=value ...]

Trains a score model and leaves in `out` the checkpoint that editing takes, previews and logs. The same command again
goes on from the newest checkpoint. SIGTERM and SIGUSR1 (clusters) and Ctrl-C end it after a checkpoint, with the exit
codes 75, 75 and 130."""
CONFIG_KEY = Key(str, None, "a YAML file, or the name of a bundled configuration; without one, the defaults")


def run(arguments: list[str]) -> None:
    """Reads the configuration and trains."""
    config = configuration(
        arguments, TRAINING, USAGE, file_key=CONFIG_KEY, read=lambda file: read_file(find_config(file))
    )
    if config is None:
        return
    try:
        checkpoint = fit(config)
    except Interrupted as stop:
        # The first process speaks and carries the code: where one ends with a code, launchers kill the others.
        raise SystemExit(fail(str(stop), stop.exit_code) if speaks() else 0) from stop
    say(f"edit with: sdedit edit ckpt={checkpoint} guide=...")
