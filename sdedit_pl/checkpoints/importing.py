"""Import of another program's checkpoint as an editing checkpoint."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from sdedit_pl.checkpoints.importers import importer
from sdedit_pl.checkpoints.importers.checkpoint_format import Imported
from sdedit_pl.checkpoints.loading import assemble_denoiser, describe
from sdedit_pl.checkpoints.locating import find_checkpoint, foreign_format
from sdedit_pl.checkpoints.native import Description, save_weights
from sdedit_pl.configuration import ConfigError
from sdedit_pl.files import read_json


def import_checkpoint(
    source: str,
    out: Path,
    *,
    format: str | None = None,
    weights: str = "ema",
    preset: str | None = None,
    config: Path | None = None,
    dtype: str | None = None,
) -> tuple[Description, Imported]:
    """Writes a checkpoint of another program as an editing checkpoint.

    Raises CheckpointError, and writes nothing, if the source cannot be read or used for editing; ConfigError if
    `config` is not a JSON object, or the source is an editing checkpoint already.

    Args:
        out: the `.safetensors` file, replaced if it exists.
        format: None to recognise it.
        weights: "ema" or "raw".
        config: JSON file of the published configuration.
        dtype: type of the weights in `out`; None keeps that of the source.
    """
    published = None if config is None else _read_published(config)
    path = find_checkpoint(source)
    imported = importer(format or _recognised_format(path)).read(path, weights=weights, preset=preset, config=published)
    description = imported.description(path)
    assemble_denoiser(description, imported.weights)  # raises if it cannot be edited with
    kind = None if dtype is None else getattr(torch, dtype)
    save_weights(out, imported.weights, imported.model, description.training, description.origin, dtype=kind)
    return description, imported


def _read_published(file: Path) -> dict[str, Any]:
    if not file.is_file():
        raise ConfigError(f"there is no configuration file {file}; give the published configuration as JSON")
    try:
        return read_json(file)
    except ValueError as error:
        raise ConfigError(f"config={error}") from error


def _recognised_format(path: Path) -> str:
    format = foreign_format(path)
    if format is None:
        describe(path)
        raise ConfigError(f"{path} is an editing checkpoint already: sdedit edit ckpt={path} takes it")
    return format
