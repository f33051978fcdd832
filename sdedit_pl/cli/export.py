"""`sdedit export`: write a model in another program's format."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from sdedit_pl.checkpoints.exporters import EXPORTS, exporter
from sdedit_pl.cli import say
from sdedit_pl.configuration import ConfigError, nearest
from sdedit_pl.configuration.schema import Command
from sdedit_pl.result_folder import already_in, refuse_replacing, result_folder, results_in

USAGE = """sdedit export ckpt=FILE|FOLDER format=NAME out=FILE|FOLDER [key=value ...]

Writes a model in another program's format. A model that the format cannot express is refused, with the reason."""


@dataclass
class Arguments:
    """A model to export, and the format.

    Args:
        ckpt: the model, as `sdedit edit` takes it.
        out: the file or folder to write.
        label: the label of the images that the exported model makes, if it was trained with labels; null for none.
        format: the format to write: diffusers (a pipeline's folder), onnx or torch_export (the network's file).
        overwrite: replace out, if it is an earlier export.
    """

    ckpt: str
    out: str
    label: str | None = None
    format: str = "diffusers"
    overwrite: bool = False

    def __post_init__(self) -> None:
        if self.format not in EXPORTS:
            raise ValueError(f"format={self.format} is not known{nearest(self.format, EXPORTS)}")


COMMAND = Command(USAGE, Arguments)


def run(words: list[str]) -> None:
    """Writes the export; a failed one leaves nothing."""
    arguments = COMMAND.parse(words)
    from sdedit_pl.checkpoints import load_described
    from sdedit_pl.checkpoints.guidance_settings import labelled

    out = Path(arguments.out)
    denoiser, description = load_described(arguments.ckpt)
    refuse_replacing(out, True, description.path)
    replaced: set[str] = set()
    with result_folder(out.parent, out.name, replaced) as results:
        denoiser = labelled(denoiser, arguments.label)
        exporter(arguments.format).write(denoiser, description.model, results / out.name)
        if arguments.overwrite or not already_in(out.parent, results):
            refuse_replacing(out, arguments.overwrite)
            check_replaceable(out, results / out.name)
        replaced |= {*results_in(results)}
    say(f"{arguments.format}: {out}")


def check_replaceable(out: Path, new: Path) -> None:
    """Raises ConfigError if `out` exists and is not an earlier export of the same kind as `new`."""
    if not out.exists():
        return
    if out.is_dir() != new.is_dir() or (new.is_file() and start_of(out) != start_of(new)):
        kind = "folder" if out.is_dir() else "file"
        raise ConfigError(f"out={out} is a {kind}, but not an earlier export in this format; give another out=")
    others = sorted({*files_in(out)} - {*files_in(new)})
    if others:
        raise ConfigError(f"out={out} is not an earlier export, it holds {others[0]}; empty it, or give another out=")


def files_in(folder: Path) -> list[str]:
    return [str(file.relative_to(folder)) for file in folder.rglob("*")]


def start_of(file: Path) -> bytes:
    """The bytes in which an ONNX file, a torch.export archive and a checkpoint differ."""
    with file.open("rb") as opened:
        return opened.read(2)
