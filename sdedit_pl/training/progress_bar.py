"""The progress bar of a training."""

from __future__ import annotations

from typing import Any

import lightning
from lightning.pytorch.callbacks import TQDMProgressBar

from sdedit_pl.training.training_log import TrainingLog


class RunProgress(TQDMProgressBar):
    """A progress bar over the batches of the whole run, with the time left, also after a resume.

    Args:
        log: whose latest entry it shows.
        refresh_rate: batches between two updates.
    """

    def __init__(self, log: TrainingLog, refresh_rate: int = 10) -> None:
        super().__init__(refresh_rate=refresh_rate)
        self.log_shown = log

    def init_train_tqdm(self) -> Any:
        """The bar, from the batch that the run is at to its last."""
        bar = super().init_train_tqdm()
        bar.total = self.trainer.max_steps * self.trainer.accumulate_grad_batches
        bar.initial = bar.n = self.trainer.global_step * self.trainer.accumulate_grad_batches
        return bar

    def get_metrics(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule
    ) -> dict[str, int | str | float | dict[str, float]]:
        """The latest numbers of the log and of the validation."""
        shown = dict(super().get_metrics(trainer, pl_module))
        shown.pop("v_num", None)
        names = ("train/loss", "train/images_per_second")
        return {name: self.log_shown.latest[name] for name in names if name in self.log_shown.latest} | shown
