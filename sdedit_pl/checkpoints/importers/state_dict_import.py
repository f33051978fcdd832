"""Imports another program's state dict, for a published configuration, a preset, or the only preset that fits."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypeAlias

from torch import Tensor

from sdedit_pl.checkpoints.expected_tensors import state_shapes
from sdedit_pl.checkpoints.importers.checkpoint_format import Imported, origin_of
from sdedit_pl.checkpoints.importers.presets import CENTERED, PRESETS, Preset
from sdedit_pl.checkpoints.importers.tensor_mapping import Difference, TensorSource, assembled_state, difference
from sdedit_pl.checkpoints.safe_reading import CheckpointError
from sdedit_pl.configuration import Component, ConfigError, nearest
from sdedit_pl.configuration.model_config import ModelConfig
from sdedit_pl.networks.unet import UNet

Model: TypeAlias = Mapping[str, Any]
"""Configuration of a denoiser: `image`, `sde`, `network` and `parameterisation`."""


@dataclass(frozen=True)
class StoredTensors:
    """A network's tensors in a file.

    Args:
        tensors: by name, without those that are not needed.
        weights: "ema", "raw" or, if the file does not say, `ONLY`.
        ignored: names in the file that are not needed -> the reason.
    """

    tensors: Mapping[str, Tensor]
    weights: str
    training: Mapping[str, Any] | None = None
    ignored: Mapping[str, str] = field(default_factory=dict)

    def without(self, name: str, reason: str) -> StoredTensors:
        if name not in self.tensors:
            return self
        others = {key: tensor for key, tensor in self.tensors.items() if key != name}
        return replace(self, tensors=others, ignored={**self.ignored, name: reason})


ONLY = "the only ones in the file"
"""`StoredTensors.weights` of a file with one set of weights whose kind is unknown."""


def import_network(
    path: Path,
    format: str,
    stored: StoredTensors,
    sources_of: Callable[[Component[UNet]], Mapping[str, TensorSource]],
    *,
    preset: str | None,
    configured: Model | None,
    data_range: tuple[float, float] = CENTERED,
    refine: Callable[[Difference, Model], Difference] = lambda found, model: found,
) -> Imported:
    """Reads a network from its tensors, strictly; raises CheckpointError unless they fit and determine the model.

    Args:
        sources_of: maps a network to the published tensors that make each of its own.
        configured: the model of a published configuration. Without it or a preset, the tensors determine the model.
        data_range: range of the images that a configured model's authors added noise to.
        refine: adds those differences between file and model that do not show in names and shapes.
    """
    differences: dict[Any, Difference] = {}  # many presets share a network

    def compare(data: Model) -> Difference:
        try:
            model = ModelConfig.from_data(data)
        except ConfigError as error:
            raise CheckpointError(f"the configuration cannot be used: {error}") from error
        key = (model.network, model.parameterisation.cls)
        if key not in differences:
            expected = state_shapes(model)  # first: it refuses networks that are too large to list
            differences[key] = difference(stored.tensors, sources_of(model.network), expected)
        return refine(differences[key], data)

    given = None if configured is None else Preset(format, configured, data_range=data_range)
    chosen, found = _choose_model(str(path), format, preset, given, compare)
    model = ModelConfig.from_data(found.model)
    sources = sources_of(model.network)
    weights = assembled_state(stored.tensors, sources, state_shapes(model))
    facts = {
        "preset": chosen,
        "weights": stored.weights,
        "data_range": list(found.data_range),
        "sampling": dict(found.sampling) or None,
    }
    return Imported(
        model=model,
        weights=weights,
        origin=origin_of(path, format, **facts, training=None if stored.training is None else dict(stored.training)),
        used={ours: sources[ours].names for ours in weights},
        ignored=stored.ignored,
    )


def _preset_of(name: str, format: str) -> Preset:
    if name not in PRESETS:
        raise CheckpointError(f"preset={name} is not known{nearest(name, PRESETS)}")
    if PRESETS[name].format != format:
        own = [other for other, preset in PRESETS.items() if preset.format == format]
        raise CheckpointError(
            f"preset={name} is a model in the format {PRESETS[name].format}, the file is in {format}, whose presets "
            f"are {', '.join(own)}"
        )
    return PRESETS[name]


def _choose_model(
    what: str,
    format: str,
    preset: str | None,
    configured: Preset | None,
    compare: Callable[[Model], Difference],
) -> tuple[str | None, Preset]:
    """The preset's name (None for a configuration; equal presets joined by "or") and the model."""
    if preset is not None and configured is not None:
        raise CheckpointError(f"give {what} a preset or a config, not both: each describes the model")
    if configured is not None:
        return None, _fitting(what, "the configuration", configured, compare)
    if preset is not None:
        return preset, _fitting(what, f"preset={preset}", _preset_of(preset, format), compare)
    fitting = {name: found for name, found in _presets_of(format).items() if not compare(found.model)}
    if not fitting:
        raise CheckpointError(
            f"{what} fits no preset{_likeliest(format, compare)}; give config=FILE.json, the configuration published "
            f"with it as JSON, to sdedit import, or preset=NAME (sdedit import --help lists them)"
        )
    first = next(iter(fitting.values()))
    if any(found.model != first.model for found in fitting.values()):
        raise CheckpointError(
            f"{what} fits the presets {', '.join(fitting)}, which differ in their SDE, label or dropout; choose one: "
            f"preset=NAME with sdedit import"
        )
    return " or ".join(fitting), first


def _presets_of(format: str) -> dict[str, Preset]:
    return {name: found for name, found in PRESETS.items() if found.format == format}


def _fitting(what: str, source: str, preset: Preset, compare: Callable[[Model], Difference]) -> Preset:
    found = compare(preset.model)
    if found:
        likeliest = _likeliest(preset.format, compare)
        raise CheckpointError(f"the tensors in {what} are not those of {source}: {found}{likeliest}")
    return preset


def _likeliest(format: str, compare: Callable[[Model], Difference]) -> str:
    """'; the likeliest preset is ...', or nothing if none has half of the tensors."""
    differences = {name: compare(found.model) for name, found in _presets_of(format).items()}
    least = min(map(len, differences.values()), default=0)
    nearest_ones = [name for name, found in differences.items() if len(found) == least]
    if not nearest_ones or 2 * least > differences[nearest_ones[0]].wanted:
        return ""
    fits = "" if least == 0 else f" ({least} of its {differences[nearest_ones[0]].wanted} tensors differ)"
    return f"; the likeliest preset is {' or '.join(nearest_ones)}{fits}"
