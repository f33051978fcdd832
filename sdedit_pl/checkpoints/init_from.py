"""Starting a training run from a trained model.

Weights mean something only together with the arithmetic around them, so what a checkpoint was trained with has to be
what it goes on with: the shape of the network, the size of the images, the parameterisation and, where that depends on
it, the SDE. Free to differ is what starts no weight anew: dropout, the noise levels that are trained, and whether the
network is told of augmentation, whose weights start at zero and are not missed.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping

import torch
from torch import Tensor

from sdedit_pl.checkpoints.loading import load_described
from sdedit_pl.checkpoints.native import Description
from sdedit_pl.configuration import Component, ConfigError
from sdedit_pl.configuration.model_config import ImageShape, ModelConfig
from sdedit_pl.configuration.resolution import as_data
from sdedit_pl.denoiser import Denoiser
from sdedit_pl.networks.unet import UNet

logger = logging.getLogger(__name__)

FREE = ("dropout", "checkpoint_gradients", "init_scale", "fourier_scale")
"""Arguments of a network that may differ: they change how it is trained, or only how its weights begin."""
TOLD = "label_embedding.augmentation.weight"
"""The weights for augmentation labels, which may be left or stay at zero."""


def initialise(denoiser: Denoiser, model: ModelConfig, path: str, *, rate: float) -> None:
    """Gives a denoiser the weights of an editing checkpoint, and logs which it took and which it left.

    Args:
        denoiser: changed in place.
        model: its description.
        path: the checkpoint, or the folder of a run.
        rate: learning rate of the run that begins; a warning says where it is not below the checkpoint's own.

    Raises:
        ConfigError: its weights do not fit, or would mean something else here.
        CheckpointError: it cannot be read.
    """
    trained, description = load_described(path)
    theirs = description.model
    _check_image(path, theirs.image, model.image)
    _check_network(path, theirs.network, model.network)
    _check_meaning(path, theirs, trained, denoiser)
    given, own = trained.network.state_dict(), denoiser.network.state_dict()
    if trained.parameterisation.learned_variance:
        given = _without_variance(given)
        logger.info("init_from: left the learned variance, as training fits the estimate alone")
    _check_shapes(path, given, own)
    taken = {name: weight for name, weight in given.items() if name in own}
    denoiser.network.load_state_dict(own | taken, strict=True)
    count = sum(weight.numel() for weight in taken.values())
    logger.info("init_from=%s: took %d tensors (%.2f M numbers)", path, len(taken), count / 1e6)
    if TOLD in given.keys() - own.keys():
        logger.info("init_from: left %s, as this run does not tell the network of augmentation", TOLD)
    if TOLD in own.keys() - given.keys():
        logger.info("init_from: %s starts at zero, as the checkpoint was not told of augmentation", TOLD)
    levels = [
        part.sde.noise_level(torch.tensor(part.t_max, dtype=torch.float64)).item() for part in (trained, denoiser)
    ]
    if levels[0] < 0.99 * levels[1]:
        logger.info("init_from: was trained up to noise level %.3g; what lies above, up to %.3g, is new to it", *levels)
    _warn_of_rate(description, rate)


def _check_image(path: str, given: ImageShape, own: ImageShape) -> None:
    if given.channels != own.channels:
        raise ConfigError(
            f"init_from={path} was trained on images of {given.channels} channels, this run has {own.channels}; "
            f"set data.channels={given.channels}"
        )
    if given.size != own.size:
        raise ConfigError(
            f"init_from={path} was trained at {given.size} px, this run has data.size={own.size}: its weights "
            f"expect details and noise of that scale; set data.size={given.size}, or train without init_from"
        )


def _check_network(path: str, theirs: Component[UNet], ours: Component[UNet]) -> None:
    given, own = as_data(theirs), as_data(ours)
    if given.get("patch") != own.get("patch"):
        raise ConfigError(
            f"init_from={path} has network.patch={given.get('patch')}, this configuration {own.get('patch')}: its "
            f"first and last layers see patches of another size; set network.patch={given.get('patch')}"
        )
    keys = [key for key in given if key not in FREE and key in own]
    differing = [key for key in keys if given[key] != own[key]]
    if differing:
        differences = ", ".join(f"{key}={given[key]} there and {own[key]} here" for key in differing)
        raise ConfigError(
            f"init_from={path} has another network than this configuration: {differences}; "
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
                f"init_from={path} was trained with another {section}, which gives its weights another meaning: "
                f"{as_data(getattr(model, section))}; train with that {section}"
            )


def _check_shapes(path: str, given: Mapping[str, Tensor], own: Mapping[str, Tensor]) -> None:
    unlike = sorted((given.keys() ^ own.keys()) - {TOLD})
    unlike += sorted(name for name in given.keys() & own.keys() if given[name].shape != own[name].shape)
    if unlike:
        raise ConfigError(
            f"init_from={path} has another network than this configuration: {', '.join(unlike[:3])} differ in shape "
            f"or are in one of the two only; train with its network section (`sdedit info ckpt={path}` shows it)"
        )


def _without_variance(given: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The weights of a network with the first half of its output channels."""
    outputs = ("head.convolution.weight", "head.convolution.bias")
    return {name: weight[: len(weight) // 2] if name in outputs else weight for name, weight in given.items()}


def _warn_of_rate(description: Description, rate: float) -> None:
    config = description.training.get("config")
    own = config.get("optimizer", {}).get("rate") if isinstance(config, Mapping) else None
    if isinstance(own, float) and rate >= own > 0:
        logger.warning(
            "init_from: optimizer.rate=%g is no lower than the %g that the checkpoint was trained with, so that much "
            "of it is forgotten: right for images of another kind; for more of the same, begin with a fifth of it",
            rate,
            own,
        )
