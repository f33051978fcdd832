"""Writes the checkpoints that a run resumes from, and removes old ones.

A checkpoint is taken before a validation of the same step and written during it, so that a validation that fails loses
no training. A run that resumes there validates first (`DueValidations`).
"""

from __future__ import annotations

import logging
import os
import shutil
import time
from pathlib import Path
from typing import Any, NoReturn

import lightning
from lightning.pytorch.callbacks import Checkpoint

from sdedit_pl.files import whole_file
from sdedit_pl.training.checkpoint_io import DurableCheckpoints
from sdedit_pl.training.divergence_watch import DivergenceWatch
from sdedit_pl.training.lightning_internals import (
    ignore_signals,
    recount_batches,
    run_validation,
    set_max_steps,
    validation_is_due,
)
from sdedit_pl.training.module import ScoreModule
from sdedit_pl.training.number_exchange import Agreement
from sdedit_pl.training.stop_signals import Interrupted, StopSignals
from sdedit_pl.training.trainer_position import StepCallback

logger = logging.getLogger(__name__)

BEST = "best.ckpt"


class ResumableCheckpoint(StepCallback, Checkpoint):
    """Writes step=NNNNNNNN.ckpt at intervals, before validations, on a stop signal and after the last step.

    The folder can be moved. A signal ends the run on all devices after the same step.

    Args:
        keep: number of newest checkpoints to keep.
        files: writes the files; the trainer must use the same object.
        watch: checked before each checkpoint, so that none holds weights that are not finite.
        resumes_from: must be the same on all devices (ValueError at the start of training).
        every_minutes: on the first device's clock; None counts steps only.
        best: also keep the checkpoint with the lowest `ScoreModule.criterion`, as best.ckpt.
    """

    def __init__(
        self,
        folder: Path,
        every_steps: int,
        keep: int,
        *,
        files: DurableCheckpoints,
        watch: DivergenceWatch,
        signals: StopSignals,
        resumes_from: Path | None = None,
        every_minutes: float | None = None,
        best: bool = True,
    ) -> None:
        self.folder = folder
        self.every_steps = every_steps
        self.every_minutes = every_minutes
        self.keep = keep
        self.best = best
        self.files = files
        files.after = self._remove_old
        self.watch = watch
        self.signals = signals
        self.resumes_from = resumes_from
        self.agreement = Agreement()
        self.lowest = float("inf")
        self._written_step = 0
        self._written_at = 0.0
        self._requested = self._served = 0  # checkpoints requested by the clock, and those written on its request

    def state_dict(self) -> dict[str, float]:
        return {"lowest": self.lowest}

    def load_state_dict(self, state_dict: dict[str, float]) -> None:
        self.lowest = state_dict["lowest"]

    def setup(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, stage: str) -> None:
        if stage != "fit":
            return
        ignore_signals(trainer)
        self.agreement.begin(trainer.world_size)
        found = self.agreement.gathered(None if self.resumes_from is None else self.resumes_from.name)
        if len(set(found)) > 1:
            raise ValueError(
                f"the devices see different checkpoints in {self.folder}: their newest ones are "
                f"{', '.join(map(str, found))}; `out` must lie on a file system that all nodes share"
            )
        self.signals.defer()

    def on_load_checkpoint(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        recount_batches(checkpoint, trainer.accumulate_grad_batches)

    def on_train_start(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        self._written_step, self._written_at = trainer.global_step, time.monotonic()

    def on_step_end(self, trainer: lightning.Trainer, pl_module: ScoreModule) -> None:
        step = trainer.global_step
        self._check_clock(trainer)
        stop, requested = self.agreement.largest(self.signals.received, self._requested)
        at_interval = step % self.every_steps == 0 or step == trainer.max_steps
        if at_interval or stop or requested > self._served or validation_is_due(trainer):
            self._served = requested
            self._write(trainer, pl_module)
        if stop:
            self._end(trainer, stop)

    def on_validation_batch_end(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, *args: Any, **kwargs: Any
    ) -> None:
        # The checkpoint of this step exists; the resumed run repeats the validation.
        stop, _ = self.agreement.largest(self.signals.received, self._requested)
        if stop:
            self._end(trainer, stop)

    def on_validation_end(self, trainer: lightning.Trainer, pl_module: ScoreModule) -> None:
        if not self.best:
            return
        loss = trainer.callback_metrics[pl_module.criterion()].item()
        if loss < self.lowest and (not trainer.is_global_zero or self._keep_as_best(self.path(trainer.global_step))):
            self.lowest = loss

    def path(self, step: int) -> Path:
        return self.folder / f"step={step:08d}.ckpt"

    def _check_clock(self, trainer: lightning.Trainer) -> None:
        now = time.monotonic()
        if self.every_minutes is None or now - self._written_at < 60 * self.every_minutes:
            return
        self._written_at = now
        if trainer.is_global_zero:
            self._requested += 1

    def _end(self, trainer: lightning.Trainer, stop: int) -> NoReturn:
        failure = self.files.failure
        trainer.strategy.barrier()  # a launcher kills the first device, which writes, once another has ended
        raise Interrupted(stop, trainer.global_step, failure)

    def _write(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        step = trainer.global_step
        if step == self._written_step:
            return
        self.watch.check(trainer, pl_module)
        trainer.save_checkpoint(self.path(step), weights_only=False)
        self._written_step, self._written_at = step, time.monotonic()

    def _remove_old(self, newest: Path) -> None:
        # Any later checkpoint is damaged; otherwise the run would have resumed from it.
        written = [path for path in sorted(self.folder.glob("step=*.ckpt")) if path <= newest]
        for old in written[: -self.keep]:
            old.unlink()

    def _keep_as_best(self, checkpoint: Path) -> bool:
        self.files.wait()
        if not checkpoint.exists():  # the disk was full
            return False
        try:
            with whole_file(self.folder / BEST) as unfinished:
                try:
                    os.link(checkpoint, unfinished)
                except OSError:  # a file system without hard links
                    shutil.copyfile(checkpoint, unfinished)
        except OSError as error:
            logger.warning("%s cannot be written: %s", self.folder / BEST, error.strerror)
            return False
        return True


class DueValidations(lightning.Callback):
    """Validates after the last step, and at the start of a run resumed from a checkpoint that precedes a validation."""

    def __init__(self) -> None:
        self._max_steps = -1

    def on_fit_start(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        # With no step left, Lightning would skip on_train_start and with it this validation.
        self._max_steps = trainer.max_steps
        set_max_steps(trainer, -1)

    def on_train_start(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        set_max_steps(trainer, self._max_steps)
        if trainer.global_step > 0 and validation_is_due(trainer):
            run_validation(trainer)

    def on_train_batch_end(self, trainer: lightning.Trainer, *_: Any) -> None:
        if trainer.global_step == trainer.max_steps:
            trainer.should_stop = True  # Lightning then validates, whatever the interval
