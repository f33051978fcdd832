"""Ends a run whose validation loss has stopped falling."""

from __future__ import annotations

import logging
from typing import Any

import lightning

from sdedit_pl.training.editing_checkpoint import best_average
from sdedit_pl.training.module import ScoreModule
from sdedit_pl.training.weight_averaging import ImageHalfLifeAveraging

logger = logging.getLogger(__name__)


class Patience(lightning.Callback):
    """Ends a run when the loss of the best average has not decreased for `validations` validations."""

    def __init__(self, averaging: ImageHalfLifeAveraging, validations: int) -> None:
        self.averaging = averaging
        self.validations = validations
        self.lowest = float("inf")
        self.waited = 0

    def state_dict(self) -> dict[str, Any]:
        return {"lowest": self.lowest, "waited": self.waited}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.lowest, self.waited = state_dict["lowest"], state_dict["waited"]

    def on_validation_end(self, trainer: lightning.Trainer, pl_module: ScoreModule) -> None:
        _, loss = best_average(self.averaging, trainer, pl_module)
        if loss < self.lowest:
            self.lowest, self.waited = loss, 0
            return
        self.waited += 1
        if self.waited >= self.validations:
            logger.info(
                "step %d: %s has not decreased for %d validations; the run ends",
                *(trainer.global_step, pl_module.criterion(), self.waited),
            )
            trainer.should_stop = True
