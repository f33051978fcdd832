"""Shows the progress of a run: a progress bar in a terminal, a line a minute in a log file."""

from __future__ import annotations

import logging
import sys
import time
from typing import Any

import lightning
from lightning.pytorch.callbacks import ProgressBar, TQDMProgressBar

from sdedit_pl.training.loss_logging import TrainingLog
from sdedit_pl.training.trainer_position import StepCallback, images_seen

logger = logging.getLogger(__name__)

_FIRST_STEPS = 10
_SECONDS_BETWEEN_LINES = 60.0


class TrainingSpeed(StepCallback):
    """Measures images per second from this process's second step on, without the time spent on validation.

    Numbers are None before the tenth step, `minutes_to_preview` also without validation. No data leave the accelerator.
    """

    def __init__(self) -> None:
        self.images_per_second: float | None = None
        self.hours_left: float | None = None
        self.minutes_to_preview: float | None = None
        self._steps = 0
        self._begin = (0, 0.0)  # images seen and time at the end of the first step
        self._validation_began = 0.0

    def on_train_start(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        self._steps = 0
        self.images_per_second = self.hours_left = self.minutes_to_preview = None

    def on_step_end(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        images, now = images_seen(trainer), time.monotonic()
        self._steps += 1
        if self._steps == 1:
            self._begin = (images, now)
        if self._steps < _FIRST_STEPS:
            return
        images_before, began = self._begin
        seconds = max(now - began, 1e-9)
        self.images_per_second = (images - images_before) / seconds
        seconds_per_step = seconds / (self._steps - 1)
        steps_left = trainer.max_steps - trainer.global_step
        self.hours_left = steps_left * seconds_per_step / 3600
        if trainer.enable_validation:
            every = int(trainer.val_check_batch or 1) // trainer.accumulate_grad_batches
            steps = min(steps_left, every - trainer.global_step % every)
            self.minutes_to_preview = steps * seconds_per_step / 60

    def on_validation_start(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        self._validation_began = time.monotonic()

    def on_validation_end(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        images, began = self._begin
        self._begin = (images, began + time.monotonic() - self._validation_began)


class RunProgressBar(TQDMProgressBar):
    """A progress bar over the batches of the whole run, also after a resume."""

    def __init__(self, log: TrainingLog, speed: TrainingSpeed) -> None:
        super().__init__(refresh_rate=10)
        self.training_log = log
        self.speed = speed

    def on_train_epoch_start(self, trainer: lightning.Trainer, *arguments: Any) -> None:
        super().on_train_epoch_start(trainer, *arguments)
        bar = self.train_progress_bar
        # Lightning would count batches of an epoch, from 0.
        bar.total = trainer.max_steps * trainer.accumulate_grad_batches
        bar.initial = bar.n = trainer.global_step * trainer.accumulate_grad_batches
        bar.set_description("Training")

    def get_metrics(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule
    ) -> dict[str, int | str | float | dict[str, float]]:
        shown: dict[str, Any] = {}
        if "train/loss" in self.training_log.latest:
            shown["train/loss"] = self.training_log.latest["train/loss"]
        if self.speed.images_per_second is not None:
            shown["images/s"] = f"{self.speed.images_per_second:.1f}"
            shown["hours left"] = f"{self.speed.hours_left:.2f}"
        return shown | {
            name: value for name, value in super().get_metrics(trainer, pl_module).items() if name != "v_num"
        }


class ProgressLines(StepCallback, ProgressBar):
    """Logs a line after ten steps and then every minute: the step, the latest loss, the speed and the time left.

    A ProgressBar by type, so that Lightning adds none of its own.
    """

    def __init__(self, log: TrainingLog, speed: TrainingSpeed) -> None:
        super().__init__()
        self.training_log = log
        self.speed = speed
        self.enabled = True
        self._latest = float("-inf")

    def disable(self) -> None:
        self.enabled = False

    def enable(self) -> None:
        self.enabled = True

    def on_step_end(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        now = time.monotonic()
        if not self.enabled or self.speed.images_per_second is None or now - self._latest < _SECONDS_BETWEEN_LINES:
            return
        self._latest = now
        loss, minutes = self.training_log.latest.get("train/loss"), self.speed.minutes_to_preview
        logger.info(
            "step %d of %d:%s %.1f images/s%s, %.2f hours left",
            *(trainer.global_step, trainer.max_steps, "" if loss is None else f" loss {loss:.4g},"),
            *(self.speed.images_per_second, "" if minutes is None else f", next preview in {minutes:.1f} minutes"),
            self.speed.hours_left,
        )


def progress_display(log: TrainingLog) -> list[lightning.Callback]:
    speed = TrainingSpeed()
    return [speed, RunProgressBar(log, speed) if sys.stdout.isatty() else ProgressLines(log, speed)]
