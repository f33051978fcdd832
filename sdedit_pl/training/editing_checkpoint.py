"""Writes the weights that editing uses: those with the lowest validation loss, or the last ones."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightning

from sdedit_pl.denoiser import Denoiser
from sdedit_pl.training.module import ScoreModule
from sdedit_pl.training.trainer_position import StepCallback, images_seen
from sdedit_pl.training.weight_averaging import ImageHalfLifeAveraging

logger = logging.getLogger(__name__)


def best_average(
    averaging: ImageHalfLifeAveraging, trainer: lightning.Trainer, module: ScoreModule
) -> tuple[int, float]:
    """Half-life and loss of the average with the lowest loss in the latest validation, the same on all devices.

    A loss that is not a number counts as infinite.
    """
    first, *others = averaging.half_lives
    names = {first: module.criterion(), **{other: module.criterion(other) for other in others}}
    losses = {half_life: float(trainer.callback_metrics[name]) for half_life, name in names.items()}
    known = {half_life: math.inf if math.isnan(loss) else loss for half_life, loss in losses.items()}
    return min(known.items(), key=lambda item: item[1])


class EditingCheckpoint(StepCallback):
    """Writes averaged weights after validations, as the file that editing uses.

    With `best` the file holds the average with the lowest validation loss so far: weights that memorise training images
    have a higher loss on others. Otherwise it holds the latest state of the average that was best in the last
    validation. A run without validation writes its first average at the end. `all_averages` and `early` are keys of
    `CheckpointSettings`; `save` writes a denoiser and facts about its training, and returns False on failure.
    """

    def __init__(
        self,
        averaging: ImageHalfLifeAveraging,
        path: Path,
        save: Callable[[Path, Denoiser, dict[str, Any]], bool],
        *,
        best: bool = True,
        all_averages: bool = False,
        early: float | None = None,
    ) -> None:
        self.averaging = averaging
        self.path = path
        self.save = save
        self.best = best
        self.all_averages = all_averages
        self.early = early
        self.lowest: float | None = None
        self.preferred: int | None = None

    def state_dict(self) -> dict[str, Any]:
        return {"lowest": self.lowest, "preferred": self.preferred}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.lowest = state_dict["lowest"]
        self.preferred = state_dict.get("preferred")

    def on_step_end(self, trainer: lightning.Trainer, pl_module: ScoreModule) -> None:
        if self.early is None or not trainer.is_global_zero:
            return
        if trainer.global_step == max(1, round(self.early * trainer.max_steps)):
            path, half_life = self._beside("early"), self.averaging.half_lives[0]
            if self.save(path, self.averaging.averaged(pl_module), _facts(trainer, half_life)):
                logger.info("step %d: wrote %s", trainer.global_step, path)

    def on_validation_end(self, trainer: lightning.Trainer, pl_module: ScoreModule) -> None:
        self._write_all(trainer, pl_module)
        half_life, loss = best_average(self.averaging, trainer, pl_module)
        self.preferred = half_life
        if self.best and self.lowest is not None and not loss < self.lowest:
            logger.info("step %d: %s already has weights with a lower loss", trainer.global_step, self.path.name)
            return
        if self._write(trainer, pl_module, half_life, {pl_module.criterion(): loss}):
            self.lowest = loss

    def on_fit_end(self, trainer: lightning.Trainer, pl_module: ScoreModule) -> None:
        # A resumed run reaches this even without a step left: the former process may have ended before this call.
        self._write_all(trainer, pl_module)
        if not self.best or self.lowest is None or not self.path.is_file():
            first, *others = self.averaging.half_lives
            half_life = next((other for other in others if other == self.preferred), first)
            self._write(trainer, pl_module, half_life, {})

    def _write(
        self, trainer: lightning.Trainer, pl_module: ScoreModule, half_life: int, losses: dict[str, float]
    ) -> bool:
        """Writes on the first device; returns whether the file now holds these weights, and True on other devices."""
        if not trainer.is_global_zero:
            return True
        facts = _facts(trainer, half_life) | losses
        if not self.save(self.path, self.averaging.averages(pl_module)[half_life], facts):
            return False
        logger.info("step %d: wrote %s", trainer.global_step, self.path)
        return True

    def _beside(self, mark: str) -> Path:
        return self.path.with_name(f"{self.path.stem}-{mark}{self.path.suffix}")

    def _write_all(self, trainer: lightning.Trainer, pl_module: ScoreModule) -> None:
        if not trainer.is_global_zero or not self.all_averages:
            return
        for half_life, denoiser in self.averaging.averages(pl_module).items():
            self.save(self._beside(str(half_life)), denoiser, _facts(trainer, half_life))


def _facts(trainer: lightning.Trainer, half_life: int) -> dict[str, Any]:
    return {
        "steps": trainer.global_step,
        "images_seen": images_seen(trainer),
        "average_half_life_images": half_life,
    }
