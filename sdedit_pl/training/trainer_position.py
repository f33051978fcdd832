"""The position of a run: images seen, and the ends of optimiser steps."""

from __future__ import annotations

from typing import Any

import lightning


def images_seen(trainer: lightning.Trainer) -> int:
    """Training images that the weights have seen, over all devices and all former processes of the run."""
    data: Any = trainer.datamodule  # pyright: ignore[reportAttributeAccessIssue]
    return data.consumed_samples


class StepCallback(lightning.Callback):
    """A callback after each optimiser step, which may take several batches."""

    def on_train_batch_end(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if (batch_idx + 1) % trainer.accumulate_grad_batches == 0:
            self.on_step_end(trainer, pl_module)

    def on_step_end(self, trainer: lightning.Trainer, pl_module: Any) -> None:
        """Called on every device."""
