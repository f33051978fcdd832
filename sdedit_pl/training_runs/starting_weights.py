"""The denoiser that a training run starts from: its weights, and which of them are trained."""

from __future__ import annotations

import logging
import math
import os
from dataclasses import replace

import torch

from sdedit_pl.build.component import build_component
from sdedit_pl.build.model import build_denoiser
from sdedit_pl.checkpoints import describe
from sdedit_pl.checkpoints.expected_tensors import state_shapes
from sdedit_pl.checkpoints.init_from import CONDITION_WEIGHT, OPTIONAL_WEIGHTS, initialise, nearest_base, network_from
from sdedit_pl.configuration.model_config import ModelConfig
from sdedit_pl.configuration.resolving import as_data, resolve_component
from sdedit_pl.configuration.schema import ConfigError, construct, schema_of
from sdedit_pl.configuration.training_config import TrainingConfig
from sdedit_pl.data.datamodule import ImageDataModule
from sdedit_pl.denoiser import Denoiser
from sdedit_pl.networks.layers import FourierFeatures
from sdedit_pl.training.freezing import freeze_all_but

logger = logging.getLogger(__name__)

CHOOSING_IMAGES = 32
"""Validation images on which the checkpoints of a list are compared."""
MEASURED_GAINS = {
    "photos64": "the KID of edits, relative to that of their strokes, fell from 0.47 to 0.11 after 13,760 images of "
    "fruit, a kind that photos64 had not seen, and from 0.68 to 0.50 after 16,000, to 0.31 after 60,000 and to 0.25 "
    "after 200,000 images of clothes"
}
"""Bundled model -> the gain from training it on new images, as docs/training.md reports it."""


def with_base(config: TrainingConfig, data: ImageDataModule) -> TrainingConfig:
    """The configuration of a new run with a single `ckpt` and its network; raises ConfigError or CheckpointError."""
    base = config.ckpt
    if not base:
        return config
    if not isinstance(base, str):
        data.setup()
        images = data.val_images(CHOOSING_IMAGES)
        if not len(images):
            raise ConfigError(
                f"there are no validation images by which to choose among ckpt={list(base)}; give one of them as "
                "ckpt=, or a larger data.val_fraction"
            )
        base = nearest_base(base, config.image, images)
    if base in MEASURED_GAINS:
        logger.info("expected gain, as measured on other images: %s (docs/training.md)", MEASURED_GAINS[base])
    network = network_from(describe(base).model.network, config.network)
    return replace(config, ckpt=base, network=network)


def with_labels(config: TrainingConfig, data: ImageDataModule) -> TrainingConfig:
    """The configuration with a condition completed from the labels of the images, which `data` encodes from here on.

    Raises ConfigError or ValueError if the labels are missing or cannot be encoded.
    """
    condition = build_component(config.condition)
    if data.labels is None:
        if condition.size:
            raise ConfigError(
                f"condition.name={config.condition.name} needs the labels of the images; give data.labels="
            )
        return config
    if data.source.streams and not condition.complete:
        raise ConfigError(
            "the labels of remote shards are read during training; state condition.classes=[...], or for "
            "condition=number condition.low= and condition.high="
        )
    data.prepare_data()
    data.setup()
    fitted = construct("condition", condition.fitted, labels=list(data.label_names))
    data.encode_labels(fitted)
    logger.info("labels: %s", fitted.known)
    section = {"name": config.condition.name, **as_data(fitted)}
    return replace(
        config, condition=resolve_component("condition", section, schema_of(ModelConfig).families["condition"])
    )


def starting_denoiser(config: TrainingConfig, *, new: bool) -> tuple[Denoiser, int]:
    """The denoiser and its number of trained parameters; in a resumed run a checkpoint replaces its weights.

    Raises ConfigError or CheckpointError if the configuration is invalid or needs more memory than there is.
    """
    needed = 4 * sum(tensor.numel() for tensor in state_shapes(config.model).values())
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") if hasattr(os, "sysconf") else math.inf
    if needed > memory:
        raise ConfigError(
            f"the weights of this network take {needed / 1e9:,.0f} GB, and this machine has {memory / 1e9:,.0f} GB; "
            "lower network.channels, channel_multipliers or blocks_per_level"
        )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        denoiser = build_denoiser(config.model)
    if new:
        initialise_new_run(denoiser, config)
    return denoiser, freeze_untrained(denoiser, config)


def initialise_new_run(denoiser: Denoiser, config: TrainingConfig) -> None:
    """Loads the weights of `ckpt`, if it is given.

    Raises ConfigError if they do not fit, if `train.only` freezes labels that `ckpt` was not trained with, or, without
    `ckpt`, if the noise labels are too large for Fourier features.
    """
    if not isinstance(config.ckpt, str):
        label, scale = denoiser.parameterisation.label, denoiser.parameterisation.label_scale
        fourier = any(isinstance(module, FourierFeatures) for module in denoiser.network.modules())
        if fourier and label == "time" and abs(scale) > 100:
            raise ConfigError(
                f"network.label_embedding=fourier needs labels of order one, and those of parameterisation="
                f"{config.parameterisation.name} go up to {scale:g}; set network.label_embedding=positional"
            )
        return
    initialise(denoiser, config.model, config.ckpt, rate=build_component(config.optimizer).rate)
    only, weights = config.train.only, denoiser.network.state_dict()
    untrained = [name for name in OPTIONAL_WEIGHTS if name in weights and not weights[name].any()]
    if only and "label" not in only and CONDITION_WEIGHT in untrained:
        raise ConfigError(
            f"train.only={list(only)} freezes the weights of the labels, which ckpt was not trained with; add label to "
            "train.only"
        )
    if only and "label" not in only and untrained:
        raise ConfigError(
            f"train.only={list(only)} freezes the augmentation label, which ckpt was not trained with, so that "
            f"edits would be rotated and shifted like training images; add label to train.only, or set "
            f"augment.probability=0"
        )


def freeze_untrained(denoiser: Denoiser, config: TrainingConfig) -> int:
    """Freezes the parts outside `train.only`; returns the number of trained parameters, or raises ConfigError."""
    only = config.train.only
    if only and not config.ckpt:
        raise ConfigError(f"train.only={list(only)} trains a part of a trained model; give the model as ckpt=")
    return construct("train.only", freeze_all_but, network=denoiser.network, parts=only)
