"""`sdedit train`: train a score model on a domain."""

from __future__ import annotations

import shlex

from sdedit_pl.cli import fail, is_first_process, say
from sdedit_pl.configuration.bundled_configs import find_config
from sdedit_pl.configuration.schema import Command
from sdedit_pl.configuration.training_config import TrainingConfig
from sdedit_pl.configuration.yaml_reading import read_file
from sdedit_pl.training.stop_signals import Interrupted
from sdedit_pl.training_runs.training_run import fit

USAGE = """sdedit train config=NAME|FILE.yaml [key=value ...]

Trains a score model and writes the checkpoint for editing, previews and logs to `out`. The same command resumes from
the newest checkpoint. SIGTERM and SIGUSR1 (clusters) and Ctrl-C end training after a checkpoint, with the exit codes
75, 75 and 130."""
COMMAND = Command(
    USAGE,
    TrainingConfig,
    "a YAML file or the name of a bundled configuration; without it, the defaults apply",
    first=(
        *("config", "data", "out", "ckpt", "data.batch_size", "trainer.max_steps"),
        *("data.size", "data.val_fraction", "augment.probability", "preview.t0", "trainer.devices", "logger"),
    ),
    examples=(
        "sdedit train config=finetune64 data=photos/ out=runs/mine",
        "sdedit train config=domain64 data=photos/ out=runs/mine trainer.max_steps=100000",
        "sdedit train config=domain64 data.name=webdataset data=shards/ out=runs/shards trainer.devices=8",
    ),
)


def run(words: list[str]) -> None:
    config = COMMAND.parse(words, read=lambda file: read_file(find_config(file)))
    try:
        checkpoint = fit(config)
    except Interrupted as stop:
        # Only the first process exits with the code: launchers kill the others as soon as one fails.
        raise SystemExit(fail(str(stop), stop.exit_code) if is_first_process() else 0) from stop
    say(f"edit with: sdedit edit {shlex.quote(f'ckpt={checkpoint}')} guide=...")
