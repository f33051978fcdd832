"""`sdedit export`: write a model in the form of another program."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from sdedit_pl.checkpoints import load_described
from sdedit_pl.checkpoints.exporters import EXPORTS, exporter
from sdedit_pl.cli import say
from sdedit_pl.cli.results import Results, refuse_replacing
from sdedit_pl.configuration import ConfigError, nearest
from sdedit_pl.configuration.command_line import Command

USAGE = """sdedit export ckpt=FILE|FOLDER format=NAME out=FILE|FOLDER [key=value ...]

Writes a model in the form of another program. What that has no words for is refused, with the reason."""


@dataclass
class Arguments:
    """What to write, and how.

    Args:
        ckpt: the model: whatever editing takes.
        out: the file or folder to make.
        format: of out: diffusers (a pipeline's folder), onnx or torch_export (the network's file).
        overwrite: replace out, if it is an earlier export.
    """

    ckpt: str
    out: str
    format: str = "diffusers"
    overwrite: bool = False

    def __post_init__(self) -> None:
        if self.format not in EXPORTS:
            raise ValueError(f"format={self.format} is not known{nearest(self.format, EXPORTS)}")


COMMAND = Command(USAGE, Arguments)


def run(words: list[str]) -> None:
    """Writes the model, or nothing at all."""
    arguments = COMMAND.parse(words)
    out = Path(arguments.out)
    refuse_replacing(out, arguments.overwrite)
    denoiser, description = load_described(arguments.ckpt)
    with Results(out.parent) as results:
        exporter(arguments.format).write(denoiser, description.model, results / out.name)
        check_replaceable(out, results / out.name)
    say(f"{arguments.format}: {out}")


def check_replaceable(out: Path, new: Path) -> None:
    """Raises a ConfigError if something is at `out` that writing `new` should not destroy."""
    if not out.exists():
        return
    if out.is_dir() != new.is_dir():
        raise ConfigError(
            f"out={out} is a {'folder' if out.is_dir() else 'file'}, the export is not; give another out="
        )
    if out.is_dir():
        others = sorted({entry.name for entry in out.iterdir()} - {entry.name for entry in new.iterdir()})
        if others:
            raise ConfigError(
                f"out={out} is not an earlier export alone, it holds {others[0]}; empty it, or give another out="
            )
