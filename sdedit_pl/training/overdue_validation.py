"""Runs a validation that an earlier process did not finish."""

from __future__ import annotations

import lightning

from sdedit_pl.training.lightning_internals import run_validation, set_max_steps, validation_is_due


class OverdueValidation(lightning.Callback):
    """Validates first if a run resumes from a checkpoint that was written before a validation."""

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
