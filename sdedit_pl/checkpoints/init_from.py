"""Starts a training run from a trained model.

Keys of the network that the configuration leaves at their defaults are taken from the checkpoint. The run must have the
checkpoint's network, image size and parameterisation, and its SDE if the parameterisation depends on it. Dropout, the
range of noise levels and conditioning on augmentation or labels (whose weights start at zero) may differ.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping, Sequence
from dataclasses import replace

from torch import Tensor

from sdedit_pl.checkpoints.loading import load_described
from sdedit_pl.checkpoints.native import Description
from sdedit_pl.configuration import Component, ConfigError
from sdedit_pl.configuration.help_text import shown
from sdedit_pl.configuration.model_config import ModelConfig
from sdedit_pl.configuration.resolving import as_data, resolve_component
from sdedit_pl.configuration.schema import schema_of
from sdedit_pl.configuration.values import as_tuples
from sdedit_pl.data.image_format import ImageShape
from sdedit_pl.denoiser import Denoiser
from sdedit_pl.losses import denoising_error
from sdedit_pl.networks.unet import UNet
from sdedit_pl.typing import Images

logger = logging.getLogger(__name__)

MAY_DIFFER = ("dropout", "checkpoint_gradients", "init_scale", "fourier_scale")
"""Arguments of a network that affect its training or its initial weights only."""
COMPARED_LEVELS = (0.1, 0.4, 1.6)
"""Noise levels at which the checkpoints of a list `ckpt=` are compared."""
AUGMENTATION_WEIGHT = "label_embedding.augmentation.weight"
CONDITION_WEIGHT = "label_embedding.condition.weight"
OPTIONAL_WEIGHTS = {AUGMENTATION_WEIGHT: "augmentation", CONDITION_WEIGHT: "these labels"}
"""The weights for augmentation and for labels, which either side may lack."""


def nearest_base(names: Sequence[str], image: ImageShape, images: Images) -> str:
    """The checkpoint that denoises images of the run best, by the geometric mean of its errors at `COMPARED_LEVELS`.

    An error is the mean squared error over the squared noise level. Raises ConfigError if one is for other images.
    """
    errors = {}
    for name in names:
        denoiser, description = load_described(name)
        check_image(name, description.model.image, image)
        denoiser.at_once = None
        errors[name] = math.prod(denoising_error(denoiser, images, level) for level in COMPARED_LEVELS) ** (
            1 / len(COMPARED_LEVELS)
        )
    chosen = min(errors, key=errors.__getitem__)
    found = ", ".join(f"{name} {error:.4g}" for name, error in errors.items())
    logger.info("ckpt: denoising error on %d validation images: %s; starting from %s", len(images), found, chosen)
    return chosen


def network_from(theirs: Component[UNet], own: Component[UNet]) -> Component[UNet]:
    """The network `own` of a configuration; keys that it leaves at their defaults take the values of `theirs`.

    Keys in `MAY_DIFFER` stay, and so does a network of another name or size, which `initialise` refuses.
    """
    declared = schema_of(ModelConfig).families["network"]
    if own.name not in (declared.default, theirs.name):
        return own
    defaults = {name: as_tuples(key.default) for name, key in declared.keys(own.name).items()}
    stated = {name: value for name, value in own.values.items() if name in MAY_DIFFER or value != defaults[name]}
    known = {name: value for name, value in stated.items() if name in theirs.values}
    return resolve_component("network", {**as_data(theirs), **as_data(known)}, declared)


def initialise(denoiser: Denoiser, model: ModelConfig, path: str, *, rate: float) -> None:
    """Loads the weights of the checkpoint at `path` into `denoiser`, which `model` describes, and logs which are used.

    Warns if `rate` exceeds the checkpoint's learning rate. Raises ConfigError if the weights' shapes or meaning differ.
    """
    trained, description = load_described(path)
    theirs = description.model
    check_image(path, theirs.image, model.image)
    _check_network(path, theirs.network, model.network)
    _check_meaning(path, theirs, trained, denoiser)
    given, own = trained.network.state_dict(), denoiser.network.state_dict()
    if trained.parameterisation.learned_variance:
        given = _without_variance(given)
        logger.info("ckpt: left out the learned variance, because training fits the estimate alone")
    if trained.labels != replace(denoiser.labels, drop=trained.labels.drop):
        given.pop(CONDITION_WEIGHT, None)  # column k belongs to another class
    taken = {name: weight for name, weight in given.items() if name in own}
    denoiser.network.load_state_dict(own | taken, strict=True)
    count = sum(weight.numel() for weight in taken.values())
    logger.info("ckpt=%s: loaded %d tensors (%.2f M numbers)", path, len(taken), count / 1e6)
    for name, trait in OPTIONAL_WEIGHTS.items():
        if name in given.keys() - own.keys():
            logger.info("ckpt: left out %s, because this run does not use %s", name, trait)
        if name in own.keys() - given.keys():
            logger.info("ckpt: %s starts at zero, because the checkpoint was trained without %s", name, trait)
    levels = trained.highest_noise_level, denoiser.highest_noise_level
    if levels[0] < 0.99 * levels[1]:
        logger.info("ckpt: was trained up to noise level %.3g; levels up to %.3g are new to it", *levels)
    if trained.noise != denoiser.noise:
        logger.info("ckpt: was trained on the noise %s; this run uses %s", trained.noise, denoiser.noise)
    _warn_of_rate(description, rate)


def check_image(path: str, given: ImageShape, own: ImageShape) -> None:
    if given.channels != own.channels:
        raise ConfigError(
            f"ckpt={path} was trained on images of {given.channels} channels, this run has {own.channels}; "
            f"set data.channels={given.channels}"
        )
    if given.size != own.size:
        raise ConfigError(
            f"ckpt={path} was trained on images of {given}, this run has {own}: its weights expect details and noise "
            f"of that scale; set data.size={shown(given.size)}, or train without ckpt"
        )


def _check_network(path: str, theirs: Component[UNet], ours: Component[UNet]) -> None:
    given, own = as_data(theirs), as_data(ours)
    if given.get("patch") != own.get("patch"):
        raise ConfigError(
            f"ckpt={path} has network.patch={given.get('patch')}, this configuration {own.get('patch')}: its "
            f"first and last layers see patches of another size; set network.patch={given.get('patch')}"
        )
    keys = [key for key in given if key not in MAY_DIFFER and key in own]
    differing = [key for key in keys if given[key] != own[key]]
    if differing:
        differences = ", ".join(f"{key}={given[key]} there and {own[key]} here" for key in differing)
        raise ConfigError(
            f"ckpt={path} has a different network from this configuration: {differences}; "
            f"train with its network section (`sdedit info ckpt={path}` shows it)"
        )


def _check_meaning(path: str, model: ModelConfig, trained: Denoiser, denoiser: Denoiser) -> None:
    sections = (
        ["parameterisation"] if denoiser.parameterisation.knows_noise_level_alone else ["parameterisation", "sde"]
    )
    meanings = {"parameterisation": trained.parameterisation.without_variance(), "sde": trained.sde}
    for section in sections:
        if meanings[section] != getattr(denoiser, section):
            raise ConfigError(
                f"ckpt={path} was trained with another {section}, so its weights mean something else here: "
                f"{as_data(getattr(model, section))}; train with that {section}"
            )


def _without_variance(given: Mapping[str, Tensor]) -> dict[str, Tensor]:
    outputs = ("head.convolution.weight", "head.convolution.bias")
    return {name: weight[: len(weight) // 2] if name in outputs else weight for name, weight in given.items()}


def _warn_of_rate(description: Description, rate: float) -> None:
    own = description.config.get("optimizer", {}).get("rate")
    if isinstance(own, float) and rate > own > 0:
        logger.warning(
            "ckpt: optimizer.rate=%g is above %g, the checkpoint's own, so the run will forget much of what "
            "the checkpoint learned; for a similar domain begin with a fifth of its rate",
            rate,
            own,
        )
