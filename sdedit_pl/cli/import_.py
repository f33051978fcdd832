"""`sdedit import`: turn another program's checkpoint into one for editing."""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from textwrap import fill
from typing import TYPE_CHECKING, Literal

from sdedit_pl.checkpoints.importers import CHECKPOINT_FORMATS
from sdedit_pl.checkpoints.importers.presets import PRESETS
from sdedit_pl.cli import say
from sdedit_pl.configuration import ConfigError
from sdedit_pl.configuration.help_text import HELP_WIDTH
from sdedit_pl.configuration.schema import Command
from sdedit_pl.result_folder import already_in, refuse_replacing, result_folder

if TYPE_CHECKING:
    from sdedit_pl.checkpoints import Description
    from sdedit_pl.checkpoints.importers.checkpoint_format import Imported

USAGE = f"""sdedit import ckpt=FILE|FOLDER out=FILE.safetensors [preset=NAME | config=FILE.json] [key=value ...]

Reads every tensor of another program's checkpoint, and writes an editing checkpoint.

{fill("The presets: " + ", ".join(PRESETS), HELP_WIDTH, break_on_hyphens=False)}."""


@dataclass
class Arguments:
    """A checkpoint to import, and its model.

    Args:
        ckpt: the checkpoint: a file, or a folder that diffusers wrote.
        out: the editing checkpoint (.safetensors) to write.
        format: the format of ckpt: score_sde, ddim, diffusers, guided_diffusion, edm or lightning; null recognises it.
        weights: which weights to read, ema (averaged) or raw.
        preset: published name of the model, such as celeba_hq or ve/church_ncsnpp_continuous; null derives it from the
            tensors, if they fit one model only.
        config: instead of a preset, a JSON file of the configuration published with the checkpoint.
        dtype: the number type of the weights in out; null keeps that of the file.
        overwrite: replace out.
    """

    ckpt: str
    out: str
    format: str | None = None
    weights: Literal["ema", "raw"] = "ema"
    preset: str | None = None
    config: str | None = None
    dtype: Literal["float32", "float16", "bfloat16"] | None = None
    overwrite: bool = False

    def __post_init__(self) -> None:
        if self.format is not None and self.format not in CHECKPOINT_FORMATS:
            raise ValueError(f"format must be one of {', '.join(CHECKPOINT_FORMATS)}, got {self.format!r}")


COMMAND = Command(USAGE, Arguments)


def run(words: list[str]) -> None:
    arguments = COMMAND.parse(words)
    from sdedit_pl.checkpoints.importing import import_checkpoint

    out = Path(arguments.out)
    if out.suffix != ".safetensors":
        raise ConfigError(f"out={out} must be a .safetensors file, as editing checkpoints are")
    if out.is_dir():
        raise ConfigError(f"out={out} is a folder; name a file in it")
    refuse_replacing(out, True, Path(arguments.ckpt))
    replaced = {out.name}
    with result_folder(out.parent, out.name, replaced) as results:
        description, imported = import_checkpoint(
            arguments.ckpt,
            results / out.name,
            format=arguments.format,
            weights=arguments.weights,
            preset=arguments.preset,
            config=None if arguments.config is None else Path(arguments.config),
            dtype=arguments.dtype,
        )
        if arguments.overwrite or not already_in(out.parent, results):
            refuse_replacing(out, arguments.overwrite)
    say("\n".join(import_report(description, imported)))
    say(f"edit with: sdedit edit {shlex.quote(f'ckpt={out}')} guide=...")


def import_report(description: Description, imported: Imported) -> Iterator[str]:
    origin, used = description.origin, sum(map(len, imported.used.values()))
    yield f"{description.path}: {origin.get('preset') or 'a model'} in the format {description.format}"
    yield f"  weights: {origin.get('weights')}, {', '.join(description.dtypes)}"
    yield f"  tensors: {used} in the file became {len(imported.used)}; {len(imported.ignored)} not needed"
    yield from (f"    {name}: {reason}" for name, reason in imported.ignored.items())
    yield f"  parameters: {description.parameters:,}"
    model = imported.model.as_data()
    for section in ("image", "sde", "parameterisation"):
        yield f"  {section}: {', '.join(f'{key} {value}' for key, value in model[section].items())}"
    low, high = origin.get("data_range", (-1, 1))
    yield f"  images: in [-1, 1] here, in [{low:g}, {high:g}] in the source"
    yield f"  sha256 of the source: {origin.get('sha256')}"
