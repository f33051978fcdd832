"""From a configuration to objects: the one place that reads one.

Everything takes the resolved configuration of `sdedit_pl.config` (plain data, every key present) and returns objects
that know nothing of it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from sdedit_pl.config import ConfigError, Family, construct, keys_of, resolve_component
from sdedit_pl.data import ImageDataModule
from sdedit_pl.denoiser import Denoiser
from sdedit_pl.settings import MODEL_SECTIONS, TRAINING
from sdedit_pl.training.average import ImageHalfLifeAveraging
from sdedit_pl.training.module import ScoreModule


def build_component(config: Mapping[str, Any], section: str, family: Family | None = None, **supplied: Any) -> Any:
    """The object that a component's section describes, of a training configuration's families if none is given.

    Raises:
        ConfigError: if the class refuses its arguments.
    """
    family = family or TRAINING.families[section]
    chosen = config[section]
    cls = family.table[chosen["name"]]
    arguments = {key: value for key, value in chosen.items() if key in keys_of(cls)}
    return construct(section, cls, **arguments, **supplied)


def model_config(config: Mapping[str, Any]) -> dict[str, Any]:
    """The part of a training configuration that describes the denoiser: what a checkpoint carries."""
    image = {key: config["data"][key] for key in ("size", "channels")}
    return {"image": image, **{section: config[section] for section in MODEL_SECTIONS}}


def build_denoiser(model: Mapping[str, Any]) -> Denoiser:
    """The denoiser that `model_config` describes, with weights as its network initialises them.

    Raises:
        ConfigError: on unknown names or keys, on arguments that a class refuses, and on an image size that the network
            cannot divide.
    """
    resolved = {
        section: resolve_component(section, model[section], TRAINING.families[section]) for section in MODEL_SECTIONS
    }
    size, channels = (model["image"][key] for key in ("size", "channels"))
    for key, value in (("size", size), ("channels", channels)):
        if not isinstance(value, int) or value < 1:
            raise ConfigError(f"image.{key} must be a positive whole number, got {value!r}")
    network = build_component(resolved, "network", image_channels=channels)
    divisor = network.size_divisor
    if size % divisor:
        below, above = max(divisor, size // divisor * divisor), (size // divisor + 1) * divisor
        raise ConfigError(
            f"data.size must be a multiple of {divisor} for this network (its down-sampling and patch), got {size}; "
            f"the nearest are {below} and {above}"
        )
    return Denoiser(network, build_component(resolved, "parameterisation"), build_component(resolved, "sde"))


def build_data(config: Mapping[str, Any]) -> ImageDataModule:
    """The data module of a training configuration."""
    section = config["data"]
    source = build_component(config, "data")
    of_source = keys_of(TRAINING.families["data"].table[section["name"]])
    shared = {key: section[key] for key in keys_of(ImageDataModule) if key in section and key not in of_source}
    return construct("data", ImageDataModule, source=source, seed=config["seed"], **shared)


def build_module(config: Mapping[str, Any], denoiser: Denoiser) -> ScoreModule:
    """The LightningModule that trains `denoiser` as the configuration says."""
    if config["channels_last"]:
        denoiser = denoiser.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
    if config["compile"]:
        # In place, so that the weights keep their names.
        denoiser.network.compile()
    return ScoreModule(
        denoiser,
        build_component(config, "weighting"),
        build_component(config, "times"),
        build_component(config, "optimizer"),
        build_component(config, "schedule"),
        reduction=config["reduction"],
        seed=config["seed"],
        config=dict(config),
    )


def build_averaging(config: Mapping[str, Any]) -> ImageHalfLifeAveraging:
    """The callback that averages the weights; those of `init_from` are an average already."""
    continues = config["init_from"] is not None
    return construct("average", ImageHalfLifeAveraging, **config["average"], continues=continues)
