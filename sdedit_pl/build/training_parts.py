"""The parts of a training run: data, the LightningModule, and callbacks."""

from __future__ import annotations

from dataclasses import replace

import torch

from sdedit_pl.build.component import build_component
from sdedit_pl.configuration.schema import construct, keys_of
from sdedit_pl.configuration.training_config import TrainingConfig
from sdedit_pl.data.datamodule import ImageDataModule
from sdedit_pl.data.value_range import with_range
from sdedit_pl.denoiser import Denoiser
from sdedit_pl.machine import Machine, this_machine, training_arithmetic
from sdedit_pl.training.learned_uncertainty import LogUncertainty
from sdedit_pl.training.module import ScoreModule
from sdedit_pl.training.weight_averaging import ImageHalfLifeAveraging


def build_data(config: TrainingConfig) -> ImageDataModule:
    """Raises ConfigError if the source or the module refuses its arguments."""
    of_source, of_module = keys_of(config.data.cls), keys_of(ImageDataModule)
    shared = {key: value for key, value in config.data.values.items() if key in of_module and key not in of_source}
    source = build_component(config.data)
    return construct("data", ImageDataModule, source=source, seed=config.seed, **shared)


def with_format(config: TrainingConfig) -> TrainingConfig:
    """The configuration with the range of its images' values, measured if it is not stated; raises ConfigError."""
    if config.image.format is None:
        return config
    source = build_component(config.data)
    construct("data", source.prepare)
    values = {**config.data.values, "format": construct("data", with_range, source=source)}
    return replace(config, data=replace(config.data, values=values))


def resolve_arithmetic(config: TrainingConfig, machine: Machine) -> TrainingConfig:
    """Replaces `auto` by its values for a machine; raises ConfigError if it lacks what a key requires."""
    settings = config.trainer
    pixels = settings.max_steps * settings.accumulate_grad_batches * config.batch_size * config.image.pixels
    found = construct(
        "",
        training_arithmetic,
        machine=machine,
        pixels=pixels,
        precision=settings.precision,
        compile=config.compile,
        channels_last=config.channels_last,
    )
    trainer = replace(settings, precision=found.precision)
    return replace(config, trainer=trainer, compile=found.compile, channels_last=found.channels_last)


def build_module(config: TrainingConfig, denoiser: Denoiser) -> ScoreModule:
    config = resolve_arithmetic(config, this_machine(config.trainer.accelerator))
    if config.channels_last:
        denoiser = denoiser.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
    module = ScoreModule(
        denoiser,
        build_component(config.weighting),
        build_component(config.times),
        build_component(config.optimizer),
        build_component(config.schedule),
        reduction=config.reduction,
        augmentation=config.augment,
        sigma_edges=config.validation.sigma_edges,
        uncertainty=LogUncertainty() if config.uncertainty else None,
        seed=config.seed,
        config=config.as_data(),
    )
    if config.compile:
        module.compile_losses()
    return module


def build_averaging(config: TrainingConfig) -> ImageHalfLifeAveraging:
    """The callback that averages the weights; a run from `ckpt` starts from an average, which no ramp forgets."""
    half_lives, ramp = config.average.half_life_images, config.average.ramp
    continues = config.ckpt is not None
    return construct("average", ImageHalfLifeAveraging, half_life_images=half_lives, ramp=ramp, continues=continues)
