"""`sdedit import`: turn another program's checkpoint into one for editing."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from textwrap import fill
from typing import Any, Literal

import torch

from sdedit_pl.checkpoints import Description, describe, find_checkpoint, save_weights
from sdedit_pl.checkpoints.importers import FORMATS, importer
from sdedit_pl.checkpoints.importers.checkpoint_format import Imported
from sdedit_pl.checkpoints.importers.presets import PRESETS
from sdedit_pl.checkpoints.loading import assemble_denoiser
from sdedit_pl.checkpoints.locating import foreign_format
from sdedit_pl.cli import say
from sdedit_pl.cli.explain import WIDTH
from sdedit_pl.cli.results import refuse_replacing
from sdedit_pl.configuration import ConfigError
from sdedit_pl.configuration.command_line import Command

USAGE = f"""sdedit import src=FILE|FOLDER out=FILE.safetensors [preset=NAME | config=FILE.json] [key=value ...]

Reads a checkpoint of another program, every tensor of it, and writes the file that editing takes.

{fill("The presets: " + ", ".join(PRESETS), WIDTH, break_on_hyphens=False)}."""


@dataclass
class Arguments:
    """What to import, and as what.

    Args:
        src: the checkpoint: a file, or a folder of diffusers.
        out: the editing checkpoint (.safetensors) that it becomes.
        format: of src: score_sde, ddim, diffusers, guided_diffusion or lightning; null tells it from the file.
        weights: ema, the averaged ones, or raw.
        preset: published name of the model, such as celeba_hq or ve/church_ncsnpp_continuous; null tells it from the
            tensors, where they fit one model only.
        config: in place of a preset, a JSON file of the configuration published with the checkpoint.
        dtype: of the weights in out; null keeps that of the file.
        overwrite: replace out.
    """

    src: str
    out: str
    format: str | None = None
    weights: Literal["ema", "raw"] = "ema"
    preset: str | None = None
    config: str | None = None
    dtype: Literal["float32", "float16", "bfloat16"] | None = None
    overwrite: bool = False

    def __post_init__(self) -> None:
        if self.format is not None and self.format not in FORMATS:
            raise ValueError(f"format must be one of {', '.join(FORMATS)}, got {self.format!r}")


COMMAND = Command(USAGE, Arguments)


def run(words: list[str]) -> None:
    """Reads the source, writes the editing checkpoint and says what became of it."""
    arguments = COMMAND.parse(words)
    out = Path(arguments.out)
    check_out(out, arguments.overwrite)
    published = None if arguments.config is None else read_json(Path(arguments.config))
    source = find_checkpoint(arguments.src)
    format = arguments.format or told_format(source)
    imported = importer(format).read(source, weights=arguments.weights, preset=arguments.preset, config=published)
    description = imported.description(source)
    # Proves that it can be edited with before anything is written.
    assemble_denoiser(description, imported.weights)
    dtype = None if arguments.dtype is None else getattr(torch, arguments.dtype)
    save_weights(out, imported.weights, imported.model, description.training, description.origin, dtype=dtype)
    say("\n".join(report(description, imported)))
    say(f"edit with: sdedit edit ckpt={out} guide=...")


def check_out(out: Path, overwrite: bool) -> None:
    """Raises ConfigError if `out` cannot be the file of an editing checkpoint, or is one already."""
    if out.suffix != ".safetensors":
        raise ConfigError(f"out={out} must be a .safetensors file: editing tells it by that")
    if out.is_dir():
        raise ConfigError(f"out={out} is a folder; name a file in it")
    refuse_replacing(out, overwrite)


def read_json(file: Path) -> dict[str, Any]:
    """A published configuration.

    Raises:
        ConfigError: if there is no such file, or it is not a JSON object.
    """
    if not file.is_file():
        raise ConfigError(f"there is no configuration file {file}; give the published configuration as JSON")
    try:
        config = json.loads(file.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError, RecursionError) as error:
        raise ConfigError(f"config={file} is not readable JSON: {error}") from error
    if not isinstance(config, dict):
        raise ConfigError(f"config={file} must hold a JSON object, got {type(config).__name__}")
    return config


def told_format(source: Path) -> str:
    """The format of a source, as it looks.

    Raises:
        ConfigError: if it looks like none that is known.
    """
    format = foreign_format(source)
    if format is None:
        describe(source)
        raise ConfigError(f"{source} is an editing checkpoint already: sdedit edit ckpt={source} takes it")
    return format


def report(description: Description, imported: Imported) -> Iterator[str]:
    """What became of a source, a line at a time."""
    origin, mapped = description.origin, imported.mapped
    used = sum(map(len, mapped.used.values()))
    yield f"{description.path}: {origin.get('preset') or 'a model'} in the format {description.format}"
    yield f"  weights: {origin.get('weights')}, {', '.join(description.dtypes)}"
    yield f"  tensors: {used} in the file became {len(mapped.used)}; {len(mapped.ignored)} not needed"
    yield from (f"    {name}: {reason}" for name, reason in mapped.ignored.items())
    yield f"  parameters: {description.parameters:,}"
    model = imported.model.as_data()
    for section in ("image", "sde", "parameterisation"):
        facts = ", ".join(f"{key} {value}" for key, value in model[section].items())
        yield f"  {section}: {facts}"
    low, high = origin.get("data_range", (-1, 1))
    yield f"  images: in [-1, 1] here, in [{low:g}, {high:g}] where it comes from"
    yield f"  sha256 of the source: {origin.get('sha256')}"
