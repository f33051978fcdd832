"""Logs the training loss and speed at intervals.

Lightning's `log` transfers numbers from the accelerator at every step, `TrainingLog` only when it logs. Every entry
reaches the loggers before a checkpoint of the same step is written.
"""

from __future__ import annotations

import time
from typing import Any

import lightning
import torch
from torch import Tensor

from sdedit_pl.training.divergence_watch import DivergenceWatch
from sdedit_pl.training.module import ScoreModule
from sdedit_pl.training.trainer_position import StepCallback, images_seen


class TrainingLog(StepCallback):
    """Logs the loss, the learning rate, the images seen over all restarts of the run, and images per second.

    The loss is the mean of one optimiser step, over its batches and over all devices. Steps are counted from 0, as in
    Lightning. The watch receives every loss and is checked at every entry and before every validation.
    """

    def __init__(self, every_steps: int, watch: DivergenceWatch) -> None:
        self.every_steps = every_steps
        self.watch = watch
        self.latest: dict[str, float] = {}
        self._losses: list[Tensor] = []
        self._rate = 0.0
        self._last: tuple[int, float] | None = None

    def on_train_batch_start(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        self._rate = trainer.optimizers[0].param_groups[0]["lr"]  # before the schedule moves on

    def on_train_batch_end(self, trainer: lightning.Trainer, pl_module: ScoreModule, *batch: Any) -> None:
        self._losses.append(pl_module.batch_loss)
        super().on_train_batch_end(trainer, pl_module, *batch)

    def on_step_end(self, trainer: lightning.Trainer, pl_module: ScoreModule) -> None:
        loss = torch.stack(self._losses).mean()
        self._losses = []
        self.watch.observe(loss, trainer.global_step)
        if trainer.global_step % self.every_steps == 0:
            self.watch.check(trainer, pl_module)
            self._log(trainer, loss)

    def on_validation_start(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        self.watch.check(trainer, pl_module)

    def on_validation_end(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        # Validation time does not count towards images per second.
        self._last = None

    def on_train_end(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        self.watch.check(trainer, pl_module)

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
