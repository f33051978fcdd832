"""`sdedit info`: say what a checkpoint is."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import yaml

from sdedit_pl.checkpoints import describe
from sdedit_pl.cli import say
from sdedit_pl.cli.arguments import configuration
from sdedit_pl.config import Schema

USAGE = "sdedit info ckpt=FILE|FOLDER\n\nSays what a checkpoint is: its model, its training, its size."


@dataclass
class Arguments:
    """What to describe.

    Args:
        ckpt: an editing checkpoint (.safetensors), a training checkpoint (.ckpt), or the folder of a run.
    """

    ckpt: str


SCHEMA = Schema(top=Arguments, settings={}, families={})


def run(arguments: list[str]) -> None:
    """Prints a checkpoint's description as YAML."""
    config = configuration(arguments, SCHEMA, USAGE)
    if config is None:
        return
    description = describe(config["ckpt"])
    training = {key: value for key, value in description.training.items() if key != "config"}
    shown: dict[str, Any] = {
        "file": str(description.path),
        "format": description.format,
        "parameters": description.parameters,
        "weights": ", ".join(description.dtypes),
        "model": description.model,
        "training": training,
    }
    say(yaml.safe_dump(shown, sort_keys=False).rstrip())
