"""Compares the training loop of `train.py` with a bare loop that does the same arithmetic.

Both take turns within one run of Lightning: after each turn of Lightning's steps, a callback trains a copy of the model
for as many steps on one fixed batch, while Lightning's clock is stopped. The bare loop has no data pipeline, log or
callbacks. A configuration that keeps its images in memory gives the fairest comparison, as worker processes would
decode images during the bare loop's turns.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Mapping
from copy import deepcopy
from dataclasses import replace
from pathlib import Path
from typing import Any

import lightning
import torch
from torch import Tensor

from sdedit_pl.build.model import build_denoiser
from sdedit_pl.build.training_parts import build_averaging, build_data, build_module, resolve_arithmetic
from sdedit_pl.configuration.resolving import resolve
from sdedit_pl.configuration.training_config import TrainingConfig
from sdedit_pl.configuration.yaml_reading import read_file
from sdedit_pl.data.datamodule import ImageDataModule
from sdedit_pl.data.image_format import images_from_bytes
from sdedit_pl.losses import denoising_loss
from sdedit_pl.machine import this_machine
from sdedit_pl.training.checkpoint_io import DurableCheckpoints
from sdedit_pl.training.divergence_watch import DivergenceWatch
from sdedit_pl.training.loss_logging import TrainingLog
from sdedit_pl.training.module import ScoreModule
from sdedit_pl.training_runs.run_trainer import build_trainer


class BareLoop:
    """Training steps of a copy of the denoiser on one batch: augmentation, loss, gradient, clipping, Adam, average."""

    def __init__(self, module: ScoreModule, images: Tensor, clip: float | None) -> None:
        self.module = module
        self.denoiser = deepcopy(module.denoiser)
        self.images = images
        self.clip = clip
        self.weights = [weight for weight in self.denoiser.parameters() if weight.requires_grad]
        self.optimizer = module.optimizer.build(self.weights, fused=True)
        self.average = [weight.detach().clone() for weight in self.weights]

    def step(self, trainer: lightning.Trainer) -> None:
        """One step, in the precision of `trainer`."""
        module, images = self.module, self.images
        self.optimizer.zero_grad()
        with trainer.precision_plugin.forward_context():
            t = module.times.times(self.denoiser.sde, torch.rand(len(images)))
            noise = torch.randn(images.shape)
            images, conditions, _ = module.augmentation(images)
            losses = denoising_loss(
                self.denoiser, images, t, noise, module.weighting, reduction=module.reduction, conditions=conditions
            )
        losses.mean().backward()
        if self.clip is not None:
            torch.nn.utils.clip_grad_norm_(self.weights, self.clip)
        self.optimizer.step()
        torch._foreach_lerp_(self.average, [weight.detach() for weight in self.weights], 0.01)


class Turns(lightning.Callback):
    """Times turns of `steps` steps of Lightning and of the bare loop."""

    def __init__(self, bare: BareLoop, steps: int) -> None:
        self.bare = bare
        self.steps = steps
        self.seconds: dict[str, list[float]] = {"Lightning": [], "bare loop": []}
        self._started: float | None = None

    def on_train_batch_end(self, trainer: lightning.Trainer, *_: Any) -> None:
        if trainer.global_step % self.steps:
            return
        ended = time.perf_counter()
        for _ in range(self.steps):
            self.bare.step(trainer)
        resumed = time.perf_counter()
        if self._started is not None:  # the first turn of each is not counted
            self.seconds["Lightning"].append((ended - self._started) / self.steps)
            self.seconds["bare loop"].append((resumed - ended) / self.steps)
        self._started = resumed


def measure_loops(file: Path, steps: int, rounds: int) -> dict[str, Any]:
    """Seconds per step of both loops in each round, in turns of `steps` steps.

    Raises:
        ValueError: the configuration is invalid.
        OSError: the data cannot be read.
    """
    config = _prepared(file, steps * (rounds + 1))
    config = resolve_arithmetic(config, this_machine(config.trainer.accelerator))
    data = build_data(config)
    data.setup()
    module = build_module(config, build_denoiser(config.model))
    turns = Turns(BareLoop(module, _first_batch(data), config.trainer.gradient_clip_val), steps)
    log = TrainingLog(config.trainer.log_every_n_steps, DivergenceWatch())
    with tempfile.TemporaryDirectory() as folder:
        callbacks = [log, build_averaging(config), turns]
        trainer = build_trainer(replace(config, out=folder), callbacks, [], DurableCheckpoints())
        trainer.fit(module, datamodule=data)
    return {
        "config": str(file),
        "batch": data.batch_size,
        "precision": config.trainer.precision,
        "steps": steps,
        "seconds": turns.seconds,
    }


def _prepared(file: Path, steps: int) -> TrainingConfig:
    """The configuration with `steps` steps on the CPU, without validation and progress bar."""
    given: dict[str, Any] = dict(read_file(file))
    own: Mapping[str, Any] = {
        "max_steps": steps,
        "accelerator": "cpu",
        "devices": 1,
        "limit_val_batches": 0,
        "enable_progress_bar": False,
    }
    return resolve(TrainingConfig, {**given, "trainer": {**given.get("trainer", {}), **own}})


def _first_batch(data: ImageDataModule) -> Tensor:
    loader = data.training_loader()
    batch = images_from_bytes(next(iter(loader)))
    loader.close()
    return batch
