"""Exponential moving averages of the weights, with half-lives counted in images."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from copy import deepcopy
from typing import Any, cast

import lightning
import torch
from torch import Tensor, nn

from sdedit_pl.denoiser import Denoiser
from sdedit_pl.training.lightning_internals import AccessibleWeightAveraging
from sdedit_pl.training.module import ScoreModule, images_of
from sdedit_pl.training.trainer_position import images_seen

logger = logging.getLogger(__name__)

OTHERS = "sdedit_averages"
"""Key of a checkpoint for the networks of the further averages, by half-life."""


class ImageHalfLifeAveraging(AccessibleWeightAveraging):
    """Averages the weights so that the influence of an image halves every `half_life_images` images.

    The average does not depend on the batch size or the number of devices. Early in training the half-life is the
    fraction `ramp` of the images seen, so that the initial weights are soon forgotten. Lightning validates the first of
    several averages, and previews show it; the module validates the others.

    Args:
        half_life_images: images after which the weight of an update has halved; one number or several.
        ramp: largest half-life as a fraction of the images seen so far; 0 switches the ramp off.

    Source: Karras et al. 2022, appendix F.3.
    """

    def __init__(self, half_life_images: int | Sequence[int] = 500_000, ramp: float = 0.05) -> None:
        half_lives = (half_life_images,) if isinstance(half_life_images, int) else tuple(half_life_images)
        if not half_lives or min(half_lives) < 1 or ramp < 0:
            raise ValueError(
                f"the average needs half_life_images >= 1 and ramp >= 0, got {half_life_images} and {ramp}"
            )
        if len(set(half_lives)) < len(half_lives):
            raise ValueError(f"half_life_images must differ from each other, got {list(half_lives)}")
        super().__init__()
        self.half_lives = half_lives
        self.ramp = ramp
        self._others: dict[int, Denoiser] = {}
        self._weights: list[tuple[list[Tensor], list[Tensor]]] = []

    def decay(self, images_seen: int, images_per_step: int, half_life: int | None = None) -> float:
        """Fraction of the average that an optimiser step of `images_per_step` images keeps; None: first half-life."""
        images = float(half_life or self.half_lives[0])
        if self.ramp:
            images = min(images, self.ramp * images_seen)
        return 0.5 ** (images_per_step / max(images, 1e-8))

    def setup(self, trainer: lightning.Trainer, pl_module: ScoreModule, stage: str) -> None:
        super().setup(trainer, pl_module, stage)
        self._weights = []
        if self.average is not None:
            self.updates = 0
            self._others = {
                half_life: deepcopy(pl_module.denoiser).to(pl_module.device).requires_grad_(False).eval()
                for half_life in self.half_lives[1:]
            }
            pl_module.averages = self._others

    def on_fit_start(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        # Lightning copies the module before it has its precision.
        if self.average is not None:
            self.average.to(pl_module.dtype)
        for denoiser in self._others.values():
            denoiser.to(pl_module.dtype)

    def on_train_batch_end(
        self, trainer: lightning.Trainer, pl_module: ScoreModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if trainer.global_step > self.latest_update_step:
            images_per_step = len(images_of(batch)) * trainer.world_size * trainer.accumulate_grad_batches
            self._update(pl_module, images_seen(trainer), images_per_step)
            self.latest_update_step = trainer.global_step

    def averages(self, pl_module: ScoreModule) -> dict[int, Denoiser]:
        """Half-life -> denoiser of its average, in the order of `half_lives`; do not change them."""
        return {self.half_lives[0]: self.averaged(pl_module), **self._others}

    def averaged(self, pl_module: ScoreModule) -> Denoiser:
        """The denoiser that currently holds the first average; do not change it."""
        if self.average is None or self.exchanged:
            return pl_module.denoiser
        return cast(ScoreModule, self.average).denoiser

    @contextmanager
    def evaluated(self, trainer: lightning.Trainer, pl_module: ScoreModule) -> Iterator[Denoiser]:
        """The denoiser of the first average, in evaluation mode and under the precision of the run."""
        denoiser = self.averaged(pl_module)
        training = denoiser.training
        denoiser.eval()
        try:
            with torch.inference_mode(), trainer.precision_plugin.forward_context():
                yield denoiser
        finally:
            denoiser.train(training)

    def on_save_checkpoint(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        super().on_save_checkpoint(trainer, pl_module, checkpoint)
        if self._others:
            checkpoint[OTHERS] = {half_life: other.network.state_dict() for half_life, other in self._others.items()}

    def on_load_checkpoint(
        self, trainer: lightning.Trainer, pl_module: ScoreModule, checkpoint: dict[str, Any]
    ) -> None:
        super().on_load_checkpoint(trainer, pl_module, checkpoint)
        kept, first = checkpoint.get(OTHERS, {}), self.averaged(pl_module).network
        for half_life, other in self._others.items():
            if half_life not in kept:
                logger.info("the average of half-life %d starts from the first one in the checkpoint", half_life)
            other.network.load_state_dict(kept.get(half_life, first.state_dict()))
        if self.half_lives[0] in kept:  # the list began with another one
            first.load_state_dict(kept[self.half_lives[0]])

    @torch.no_grad()
    def _update(self, pl_module: ScoreModule, images_seen: int, images_per_step: int) -> None:
        """One kernel per average; Lightning's update copies a counter to the device, which waits for queued work."""
        assert self.average is not None
        if not self._weights:
            pairs: list[tuple[nn.Module, nn.Module]] = [(self.average, pl_module)]
            pairs += [(other, pl_module.denoiser) for other in self._others.values()]
            self._weights = [(list(average.parameters()), list(current.parameters())) for average, current in pairs]
        first = self.updates == 0
        for half_life, (average, current) in zip(self.half_lives, self._weights, strict=True):
            weight = 1.0 if first else 1 - self.decay(images_seen, images_per_step, half_life)
            torch._foreach_lerp_(average, current, weight)  # pyright: ignore[reportPrivateImportUsage, reportArgumentType]
        self.updates += 1
