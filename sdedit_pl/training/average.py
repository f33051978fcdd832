"""Exponential moving averages of the weights, with half-lives counted in images."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from copy import deepcopy
from typing import Any, cast

import lightning
import torch
from lightning.pytorch.callbacks import WeightAveraging
from torch import Tensor

from sdedit_pl.denoiser import Denoiser
from sdedit_pl.training.module import ScoreModule

logger = logging.getLogger(__name__)

OTHERS = "sdedit_averages"
"""Where a checkpoint keeps the networks of the further averages, by their half-lives."""


class ImageHalfLifeAveraging(WeightAveraging):
    """Averages the weights so that an image's influence halves every `half_life_images` images.

    Counting in images makes the average independent of the batch size and of the number of devices. Early in training
    the half-life is the share `ramp` of the images seen, so that the first weights are soon forgotten.

    Of several half-lives the first is the average that Lightning validates and previews show; further ones are kept
    beside it, and the module validates them too.

    Args:
        half_life_images: images after which an update's weight in the average has halved; one number or several.
        ramp: largest half-life as a share of the images seen so far; 0 switches the ramp off.
        continues: whether the first weights are an average already, as those of an editing checkpoint are: then they
            are not forgotten by a ramp.

    Source: Karras et al. 2022, appendix F.3.
    """

    def __init__(
        self, half_life_images: int | Sequence[int] = 500_000, ramp: float = 0.05, continues: bool = False
    ) -> None:
        half_lives = (half_life_images,) if isinstance(half_life_images, int) else tuple(half_life_images)
        if not half_lives or min(half_lives) < 1 or ramp < 0:
            raise ValueError(
                f"the average needs half_life_images >= 1 and ramp >= 0, got {half_life_images} and {ramp}"
            )
        if len(set(half_lives)) < len(half_lives):
            raise ValueError(f"half_life_images must differ from each other, got {list(half_lives)}")
        super().__init__(use_buffers=False, multi_avg_fn=self._update)
        self.half_lives = half_lives
        self.ramp = 0.0 if continues else ramp
        self.continues = continues
        self._images_seen = 0
        self._images_per_step = 0
        self._swapped = False
        self._others: dict[int, Denoiser] = {}

    def decay(self, images_seen: int, images_per_step: int, half_life: int | None = None) -> float:
        """Share of the average that one optimiser step of `images_per_step` images keeps; None is the first average."""
        images = float(half_life or self.half_lives[0])
        if self.ramp:
            images = min(images, self.ramp * images_seen)
        return 0.5 ** (images_per_step / max(images, 1e-8))

    def setup(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, stage: str) -> None:
        super().setup(trainer, pl_module, stage)
        if self._average_model is not None:
            # Asked for its value at every update: on the CPU, that waits for no device.
            self._average_model.n_averaged = self._average_model.n_averaged.cpu()
            if self.continues:
                self._average_model.n_averaged += 1
            denoiser = cast(ScoreModule, pl_module).denoiser
            self._others = {
                half_life: deepcopy(denoiser).to(pl_module.device).requires_grad_(False).eval()
                for half_life in self.half_lives[1:]
            }
            cast(ScoreModule, pl_module).averages = self._others

    def on_fit_start(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        # Lightning makes the average before the module has its precision.
        if self._average_model is not None:
            self._average_model.module.to(pl_module.dtype)
        for denoiser in self._others.values():
            denoiser.to(pl_module.dtype)

    def on_train_batch_end(
        self,
        trainer: lightning.Trainer,
        pl_module: lightning.LightningModule,
        outputs: Any,
        batch: Tensor,
        batch_idx: int,
    ) -> None:
        self._images_per_step = batch.shape[0] * trainer.world_size * trainer.accumulate_grad_batches
        self._images_seen = images_seen(trainer)
        before = self._latest_update_step
        super().on_train_batch_end(trainer, pl_module, outputs, batch, batch_idx)
        if self._latest_update_step != before:
            self._update_others(cast(ScoreModule, pl_module).denoiser)

    def averages(self, pl_module: ScoreModule) -> dict[int, Denoiser]:
        """The denoiser of each average at the moment, by its half-life, the first one first; not to be changed."""
        return {self.half_lives[0]: self.averaged(pl_module), **self._others}

    def averaged(self, pl_module: ScoreModule) -> Denoiser:
        """The denoiser that holds the averaged weights at the moment; not to be changed."""
        if self._average_model is None or self._swapped:
            return pl_module.denoiser
        return cast(ScoreModule, self._average_model.module).denoiser

    def _swap_models(self, pl_module: lightning.LightningModule) -> None:
        super()._swap_models(pl_module)
        self._swapped = not self._swapped

    def on_save_checkpoint(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        super().on_save_checkpoint(trainer, pl_module, checkpoint)
        if self._others:
            checkpoint[OTHERS] = {half_life: other.network.state_dict() for half_life, other in self._others.items()}

    def on_load_checkpoint(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        super().on_load_checkpoint(trainer, pl_module, checkpoint)
        kept = checkpoint.get(OTHERS, {})
        for half_life, other in self._others.items():
            if half_life not in kept:
                logger.info("the average of half-life %d begins as that of %d", half_life, self.half_lives[0])
            weights = kept.get(half_life, self.averaged(cast(ScoreModule, pl_module)).network.state_dict())
            other.network.load_state_dict(weights)

    def on_exception(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, exception: BaseException
    ) -> None:
        # A failure or an interrupt in validation leaves the two sets of weights exchanged.
        if self._swapped:
            self._swap_models(pl_module)

    def _update(self, average: Any, current: Any, count: Any) -> None:
        weight = 1 - self.decay(self._images_seen, self._images_per_step)
        torch._foreach_lerp_(list(average), list(current), weight)  # pyright: ignore[reportPrivateImportUsage]

    @torch.no_grad()
    def _update_others(self, denoiser: Denoiser) -> None:
        assert self._average_model is not None
        current: list[Tensor] = list(denoiser.parameters())
        # The first average that there is are the weights themselves.
        first = int(self._average_model.n_averaged) == 1
        for half_life, other in self._others.items():
            weight = 1.0 if first else 1 - self.decay(self._images_seen, self._images_per_step, half_life)
            averages: list[Tensor] = list(other.parameters())
            torch._foreach_lerp_(averages, current, weight)  # pyright: ignore[reportPrivateImportUsage]


def images_seen(trainer: lightning.Trainer) -> int:
    """Training images in the weights so far, over all devices and over the runs that this one resumes."""
    data: Any = trainer.datamodule  # pyright: ignore[reportAttributeAccessIssue]
    return data.consumed_samples
