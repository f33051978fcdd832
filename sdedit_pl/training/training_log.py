"""What is said of a run while it trains: its loss, its rate of images, how far it is.

Lightning's own log of a training step reads a number from the device at every step that is to be shown in the progress
bar. Here the device is asked at the logging intervals alone; the loss is then reduced over the devices, and what was
logged is in the loggers before a checkpoint of the same step is written.
"""

from __future__ import annotations

import time
from typing import Any

import lightning
import torch
from torch import Tensor

from sdedit_pl.training.average import images_seen
from sdedit_pl.training.divergence_watch import DivergenceWatch
from sdedit_pl.training.module import ScoreModule


class TrainingLog(lightning.Callback):
    """Logs the loss, the learning rate, the images seen since the very first step, and how many a second.

    The loss is that of one optimiser step: the mean over its batches and over all devices. Entries carry the number,
    from 0, of the optimiser step, as Lightning's do.

    Args:
        every_steps: optimiser steps between two entries.
        watch: told every loss, and asked at every entry and before every validation.

    Raises:
        ValueError: `every_steps` below 1.
    """

    def __init__(self, every_steps: int, watch: DivergenceWatch) -> None:
        if every_steps < 1:
            raise ValueError(f"log entries need at least 1 step between them, got {every_steps}")
        self.every_steps = every_steps
        self.watch = watch
        self.latest: dict[str, float] = {}
        self._losses: list[Tensor] = []
        self._rate = 0.0
        self._last: tuple[int, float] | None = None

    def on_train_batch_start(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, batch: Tensor, batch_idx: int
    ) -> None:
        self._rate = trainer.optimizers[0].param_groups[0]["lr"]  # before the schedule moves on

    def on_train_batch_end(
        self,
        trainer: lightning.Trainer,
        pl_module: lightning.LightningModule,
        outputs: Any,
        batch: Tensor,
        batch_idx: int,
    ) -> None:
        assert isinstance(pl_module, ScoreModule)
        self._losses.append(pl_module.batch_loss)
        if between_steps(trainer, batch_idx):
            return
        loss = torch.stack(self._losses).mean()
        self._losses = []
        self.watch.observe(loss, trainer.global_step)
        if trainer.global_step % self.every_steps == 0:
            self.watch.look(trainer, pl_module)
            self._log(trainer, loss)

    def on_validation_start(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        self.watch.look(trainer, pl_module)

    def on_validation_end(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        # Time spent validating is not the training's rate.
        self._last = None

    def on_train_end(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        self.watch.look(trainer, pl_module)

    def _log(self, trainer: lightning.Trainer, loss: Tensor) -> None:
        images, now = images_seen(trainer), time.monotonic()
        self.latest = {
            "train/loss": trainer.strategy.all_gather(loss).mean().item(),
            "train/rate": self._rate,
            "train/images": float(images),
        }
        if self._last is not None and images > self._last[0]:
            self.latest["train/images_per_second"] = (images - self._last[0]) / (now - self._last[1])
        self._last = (images, now)
        for logger in trainer.loggers:
            logger.log_metrics(self.latest, step=trainer.global_step - 1)


def between_steps(trainer: lightning.Trainer, batch_idx: int) -> bool:
    """Whether the batch was not the last of its optimiser step, where gradients are accumulated."""
    return (batch_idx + 1) % trainer.accumulate_grad_batches != 0
