"""Builds a denoiser from its description."""

from __future__ import annotations

from sdedit_pl.build.component import build_component
from sdedit_pl.configuration.model_config import ModelConfig
from sdedit_pl.configuration.schema import ConfigError, construct
from sdedit_pl.denoiser import Denoiser


def supplied_to_network(model: ModelConfig) -> dict[str, int]:
    channels = model.image.channels
    outputs = build_component(model.parameterisation).output_channels(channels)
    return {
        "image_channels": channels,
        "output_channels": outputs,
        "augmentation_labels": model.augmentation_labels,
        "condition_labels": build_component(model.condition).size,
    }


def build_denoiser(model: ModelConfig) -> Denoiser:
    """A new denoiser with initial weights; raises ConfigError for arguments that a class refuses."""
    parameterisation = build_component(model.parameterisation)
    network = build_component(model.network, **supplied_to_network(model))
    divisor = network.size_divisor
    for side in model.image.sides:
        if side % divisor:
            below, above = max(divisor, side // divisor * divisor), (side // divisor + 1) * divisor
            raise ConfigError(
                f"data.size must be a multiple of {divisor} for this network, because of its down-sampling and "
                f"patches, got {side}; the nearest are {below} and {above}"
            )
    parts = {"parameterisation": parameterisation, "sde": build_component(model.sde)}
    parts |= {"labels": build_component(model.condition), "noise": build_component(model.noise)}
    return construct("times", Denoiser, network=network, **parts, t_max=model.t_max)
