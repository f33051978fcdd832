"""This project's editing checkpoints: a `.safetensors` file of a network's weights.

Its metadata holds, as JSON, the model's configuration, facts about its training and, if it was imported, its origin.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, get_args

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from sdedit_pl.build.model import build_denoiser
from sdedit_pl.checkpoints.expected_tensors import shape_difference, without_weights
from sdedit_pl.checkpoints.safe_reading import CheckpointError, read_safetensors
from sdedit_pl.configuration import ConfigError
from sdedit_pl.configuration.model_config import ModelConfig
from sdedit_pl.data.image_format import Fit, ImageShape
from sdedit_pl.denoiser import Denoiser
from sdedit_pl.files import whole_file

CHECKPOINT_FORMAT = "sdedit_pl"
CHECKPOINT_VERSION = 1


@dataclass(frozen=True)
class Description:
    """A checkpoint's model and history.

    Args:
        training: facts about its training, such as steps and images seen, and the run's configuration.
        parameters: number of floating-point numbers in the network.
        origin: for a foreign or imported checkpoint, its program, file and preset.
    """

    path: Path
    format: str
    model: ModelConfig
    training: dict[str, Any]
    parameters: int
    dtypes: tuple[str, ...]
    origin: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def of(
        cls,
        path: Path,
        format: str,
        model: ModelConfig,
        training: dict[str, Any],
        origin: dict[str, Any],
        tensors: Mapping[str, Tensor],
    ) -> Description:
        floating = [tensor for tensor in tensors.values() if tensor.is_floating_point()]
        dtypes = tuple(sorted({str(tensor.dtype).removeprefix("torch.") for tensor in floating}))
        return cls(path, format, model, training, sum(tensor.numel() for tensor in floating), dtypes, origin)

    @property
    def image(self) -> ImageShape:
        return self.model.image

    @property
    def config(self) -> Mapping[str, Any]:
        """The configuration of its training run; empty if unknown."""
        found = self.training.get("config")
        return found if isinstance(found, Mapping) else {}

    @property
    def fit(self) -> Fit:
        """How its training images were brought to the proportions of the model."""
        return next((fit for fit in get_args(Fit) if fit == self._data.get("fit")), "crop")

    @property
    def guidance(self) -> tuple[float, tuple[float, float] | None]:
        """Weight and range of noise levels of the guidance that its training chose for edits; 1 and None for none."""
        chosen = self.config.get("checkpoint") or {}
        levels = chosen.get("guidance_range")
        return float(chosen.get("guidance", 1)), None if levels is None else (float(levels[0]), float(levels[1]))

    def val_fraction(self, given: float | None) -> float:
        """`given`, or the share of images that training held out, or else 0.05."""
        own = self._data.get("val_fraction")
        return given if given is not None else own if isinstance(own, float) else 0.05

    @property
    def _data(self) -> Mapping[str, Any]:
        return self.config.get("data") or {}


def save_denoiser(
    path: str | Path,
    denoiser: Denoiser,
    model: ModelConfig,
    training: Mapping[str, Any] | None = None,
    *,
    dtype: torch.dtype = torch.float32,
) -> None:
    """Writes an editing checkpoint with `save_weights`; raises ValueError if `model` describes another denoiser."""
    check_described(denoiser, model)
    save_weights(path, denoiser.network.state_dict(), model, training, dtype=dtype)


def save_weights(
    path: str | Path,
    weights: Mapping[str, Tensor],
    model: ModelConfig,
    training: Mapping[str, Any] | None = None,
    origin: Mapping[str, Any] | None = None,
    *,
    dtype: torch.dtype | None = None,
) -> None:
    """Writes an editing checkpoint atomically.

    Args:
        path: the `.safetensors` file, replaced if it exists.
        dtype: type of the floating-point weights in the file; None keeps theirs.

    Raises:
        OSError: the file cannot be written; an existing file is unchanged.
        ValueError: a weight is not finite, or is too large for `dtype`.
    """
    path = Path(path)
    tensors = {
        name: (tensor.to(dtype) if dtype and tensor.is_floating_point() else tensor).detach().cpu().contiguous()
        for name, tensor in weights.items()
    }
    for name, tensor in tensors.items():
        if not tensor.isfinite().all():
            kind = str(tensor.dtype).removeprefix("torch.")
            raise ValueError(f"{path} was not written: {name} has numbers that are NaN or infinite in {kind}")
    metadata = {"format": CHECKPOINT_FORMAT, "version": str(CHECKPOINT_VERSION), "model": json.dumps(model.as_data())}
    metadata["training"] = json.dumps(dict(training or {}))
    if foreign := _classes_of_others(model):
        metadata["registered"] = foreign
    if origin:
        metadata["origin"] = json.dumps(dict(origin))
    content = save(tensors, metadata)
    end = 8 + int.from_bytes(content[:8], "little")
    # safetensors writes the metadata in random order; a fixed order makes equal checkpoints equal files.
    header = json.loads(content[8:end]) | {"__metadata__": metadata}
    text = json.dumps(header, ensure_ascii=False, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    with whole_file(path) as unfinished, unfinished.open("wb") as file:
        file.writelines((len(text).to_bytes(8, "little"), text, memoryview(content)[end:]))


def check_described(denoiser: Denoiser, model: ModelConfig) -> None:
    """Raises ValueError unless `model` describes a denoiser in all but the values of its weights."""
    try:
        with without_weights():
            described = build_denoiser(model)
    except (TypeError, RuntimeError) as error:
        raise ValueError(f"model describes no denoiser that can be built: {error}") from error
    difference = shape_difference(described.network.state_dict(), denoiser.network.state_dict())
    for part in ("sde", "parameterisation", "t_max", "labels", "noise"):
        if getattr(denoiser, part) != getattr(described, part):
            difference = f"{part} is {getattr(denoiser, part)}, described as {getattr(described, part)}"
    if difference:
        raise ValueError(f"model does not describe this denoiser, which could not be loaded again: {difference}")


def is_native(file: Path) -> bool:
    if file.suffix != ".safetensors" or not file.is_file():
        return False
    try:
        with safe_open(file, framework="pt") as opened:
            return (opened.metadata() or {}).get("format") == CHECKPOINT_FORMAT
    except (SafetensorError, OSError):
        return False


def read_weights(file: Path) -> tuple[Description, dict[str, Tensor]]:
    """Reads an editing checkpoint, with memory-mapped tensors; raises CheckpointError for other or newer files."""
    tensors, metadata = read_safetensors(file)
    if metadata.get("format") != CHECKPOINT_FORMAT:
        raise CheckpointError(
            f"{file} holds tensors but no sdedit_pl configuration, so its model is unknown; expected a file written by "
            "this project's training or import, or in a format that sdedit import reads"
        )
    version = metadata.get("version", "")
    if not version.isdecimal() or int(version) > CHECKPOINT_VERSION:
        raise CheckpointError(
            f"{file} has version {version or 'unknown'}, and this program reads versions up to {CHECKPOINT_VERSION}: "
            "update sdedit_pl"
        )
    try:
        model = json.loads(metadata["model"])
        training, origin = (json.loads(metadata.get(key, "{}")) for key in ("training", "origin"))
    except (KeyError, json.JSONDecodeError, RecursionError) as error:
        raise CheckpointError(
            f"the configuration in {file} cannot be read ({error}); export or download the checkpoint again"
        ) from error
    if not all(isinstance(part, dict) for part in (model, training, origin)):
        raise CheckpointError(f"the configuration in {file} must be JSON objects: model, training and origin")
    try:
        described = ModelConfig.from_data(model)
    except ConfigError as error:
        needed = metadata.get("registered")
        remedy = f"first import what registers {needed[:200]}" if needed else "it may come from a newer version"
        text = f"{file} describes a model that this version cannot build: {error}; {remedy}"
        raise CheckpointError(text) from error
    return Description.of(file, CHECKPOINT_FORMAT, described, training, origin, tensors), tensors


def _classes_of_others(model: ModelConfig) -> str:
    """Names in `model` that another program has registered, with the import paths of their classes."""
    parts = (model.sde, model.network, model.parameterisation, model.condition, model.noise)
    return ", ".join(
        f"{part.section}.name={part.name} ({part.cls.__module__}.{getattr(part.cls, '__qualname__', part.name)})"
        for part in parts
        if not part.cls.__module__.startswith("sdedit_pl.")
    )
