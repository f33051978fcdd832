"""From a configuration to objects: the one place that reads one.

Everything takes the resolved configuration of `sdedit_pl.config` (plain data, every key present) and returns objects
that know nothing of it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from lightning.pytorch.callbacks import Callback

from sdedit_pl.config import ConfigError, Family, construct, keys_of, resolve_component
from sdedit_pl.data import ImageDataModule
from sdedit_pl.denoiser import Denoiser
from sdedit_pl.settings import MODEL_SECTIONS, TRAINING
from sdedit_pl.training.augmentation import Augmentation
from sdedit_pl.training.early_stopping import Patience
from sdedit_pl.training.learned_uncertainty import LogUncertainty
from sdedit_pl.training.memorisation_alarm import SIDE, MemorisationAlarm
from sdedit_pl.training.module import ScoreModule
from sdedit_pl.training.weight_averaging import ImageHalfLifeAveraging


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
    told = construct("augment", Augmentation, **config.get("augment", {})).labels
    facts = {"image": image, "t_max": config.get("times", {}).get("t_max", 1.0), "augmentation_labels": told}
    return {**facts, **{section: config[section] for section in MODEL_SECTIONS}}


def resolve_model(model: Mapping[str, Any]) -> dict[str, Any]:
    """What `model_config` returns, of a description that leaves out keys which have their defaults.

    Raises:
        ConfigError: on unknown names or keys.
    """
    sections = {
        section: resolve_component(section, model[section], TRAINING.families[section]) for section in MODEL_SECTIONS
    }
    facts = {"t_max": model.get("t_max", 1.0), "augmentation_labels": model.get("augmentation_labels", 0)}
    return {"image": dict(model["image"]), **facts, **sections}


def build_denoiser(model: Mapping[str, Any]) -> Denoiser:
    """The denoiser that `model_config` describes, with weights as its network initialises them.

    Raises:
        ConfigError: on unknown names or keys, on arguments that a class refuses, and on an image size that the network
            cannot divide.
    """
    resolved = resolve_model(model)
    size, channels = (model["image"][key] for key in ("size", "channels"))
    for key, value in (("size", size), ("channels", channels)):
        if not isinstance(value, int) or value < 1:
            raise ConfigError(f"image.{key} must be a positive whole number, got {value!r}")
    told = resolved["augmentation_labels"]
    if not isinstance(told, int) or told < 0:
        raise ConfigError(f"augmentation_labels must be a whole number of at least 0, got {told!r}")
    parameterisation = build_component(resolved, "parameterisation")
    network = build_component(
        resolved,
        "network",
        image_channels=channels,
        output_channels=parameterisation.output_channels(channels),
        augmentation_labels=told,
    )
    divisor = network.size_divisor
    if size % divisor:
        below, above = max(divisor, size // divisor * divisor), (size // divisor + 1) * divisor
        raise ConfigError(
            f"data.size must be a multiple of {divisor} for this network (its down-sampling and patch), got {size}; "
            f"the nearest are {below} and {above}"
        )
    parts = {"parameterisation": parameterisation, "sde": build_component(resolved, "sde")}
    return construct("times", Denoiser, network=network, **parts, t_max=resolved["t_max"])


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
    module = ScoreModule(
        denoiser,
        build_component(config, "weighting"),
        build_component(config, "times"),
        build_component(config, "optimizer"),
        build_component(config, "schedule"),
        reduction=config["reduction"],
        augmentation=construct("augment", Augmentation, **config["augment"]),
        sigma_edges=config["validation"]["sigma_edges"],
        uncertainty=LogUncertainty() if config["uncertainty"] else None,
        seed=config["seed"],
        config=dict(config),
    )
    if config["compile"]:
        module.compile_losses()
    return module


def build_averaging(config: Mapping[str, Any]) -> ImageHalfLifeAveraging:
    """The callback that averages the weights; those of `init_from` are an average already."""
    continues = config["init_from"] is not None
    return construct("average", ImageHalfLifeAveraging, **config["average"], continues=continues)


def build_safeguards(
    config: Mapping[str, Any], data: ImageDataModule, averaging: ImageHalfLifeAveraging, denoiser: Denoiser
) -> list[Callback]:
    """What watches over a run on few images: the alarm for remembered images, and the end where patience is over.

    Raises:
        ConfigError: patience without validation images.
    """
    settings = config["validation"]
    originals = data.val_images(settings["memory_edits"])
    watching: list[Callback] = []
    if settings["patience"] is not None:
        if not len(originals):
            raise ConfigError("validation.patience needs validation images, and there are none; see data.val_fraction")
        watching.append(Patience(averaging, settings["patience"]))
    seen = data.small_training_images(SIDE, settings["memory_images"])
    if seen is not None and len(originals):
        watching.append(MemorisationAlarm(averaging, denoiser, originals, seen))
    return watching
