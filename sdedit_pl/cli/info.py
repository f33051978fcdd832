"""`sdedit info`: describe a checkpoint."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import yaml

from sdedit_pl.cli import say
from sdedit_pl.configuration.schema import Command

USAGE = "sdedit info ckpt=FILE|FOLDER\n\nDescribes a checkpoint: its model, training, size and origin."


@dataclass
class Arguments:
    """The checkpoint to describe.

    Args:
        ckpt: an editing checkpoint (.safetensors), a training checkpoint (.ckpt), a run's folder, a bundled
            checkpoint's name, or a checkpoint of another program.
    """

    ckpt: str


COMMAND = Command(USAGE, Arguments)


def run(words: list[str]) -> None:
    arguments = COMMAND.parse(words)
    from sdedit_pl.checkpoints import files_of, find_checkpoint, load_described
    from sdedit_pl.files import sha256_of

    checkpoint = find_checkpoint(arguments.ckpt)
    description = load_described(checkpoint)[1]  # metadata alone may claim what the file does not hold
    guidance, levels = description.guidance
    shown: dict[str, Any] = {
        "file": str(description.path),
        "format": description.format,
        "sha256": {file.name: sha256_of(file) for file in files_of(checkpoint)},
        "parameters": description.parameters,
        "weights": ", ".join(description.dtypes),
        "data_range": [-1, 1],
        "model": description.model.as_data(),
        "training": {key: value for key, value in description.training.items() if key != "config"},
        "edits": {"guidance": guidance, "guidance_range": levels and [*levels]} if guidance != 1 else {},
        "origin": description.origin,
    }
    say(yaml.safe_dump({key: value for key, value in shown.items() if value != {}}, sort_keys=False).rstrip())
