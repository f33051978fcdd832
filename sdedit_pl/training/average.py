"""Exponential moving average of the weights, with a half-life counted in images."""

from __future__ import annotations

from typing import Any, cast

import lightning
import torch
from lightning.pytorch.callbacks import WeightAveraging
from torch import Tensor

from sdedit_pl.denoiser import Denoiser
from sdedit_pl.training.module import ScoreModule


class ImageHalfLifeAveraging(WeightAveraging):
    """Averages the weights so that an image's influence halves every `half_life_images` images.

    Counting in images makes the average independent of the batch size and of the number of devices. Early in training
    the half-life is the share `ramp` of the images seen, so that the first weights are soon forgotten.

    Args:
        half_life_images: images after which an update's weight in the average has halved.
        ramp: largest half-life as a share of the images seen so far; 0 switches the ramp off.
        continues: whether the first weights are an average already, as those of an editing checkpoint are: then they
            are not forgotten by a ramp.

    Source: Karras et al. 2022, appendix F.3.
    """

    def __init__(self, half_life_images: int = 500_000, ramp: float = 0.05, continues: bool = False) -> None:
        if half_life_images < 1 or ramp < 0:
            raise ValueError(
                f"the average needs half_life_images >= 1 and ramp >= 0, got {half_life_images} and {ramp}"
            )
        super().__init__(use_buffers=False, multi_avg_fn=self._update)
        self.half_life_images = half_life_images
        self.ramp = 0.0 if continues else ramp
        self.continues = continues
        self._images_seen = 0
        self._images_per_step = 0
        self._swapped = False

    def decay(self, images_seen: int, images_per_step: int) -> float:
        """Share of the average that one optimiser step of `images_per_step` images keeps."""
        half_life = float(self.half_life_images)
        if self.ramp:
            half_life = min(half_life, self.ramp * images_seen)
        return 0.5 ** (images_per_step / max(half_life, 1e-8))

    def setup(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, stage: str) -> None:
        super().setup(trainer, pl_module, stage)
        if self._average_model is not None:
            # Asked for its value at every update: on the CPU, that waits for no device.
            self._average_model.n_averaged = self._average_model.n_averaged.cpu()
            if self.continues:
                self._average_model.n_averaged += 1

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
        super().on_train_batch_end(trainer, pl_module, outputs, batch, batch_idx)

    def averaged(self, pl_module: ScoreModule) -> Denoiser:
        """The denoiser that holds the averaged weights at the moment; not to be changed."""
        if self._average_model is None or self._swapped:
            return pl_module.denoiser
        return cast(ScoreModule, self._average_model.module).denoiser

    def _swap_models(self, pl_module: lightning.LightningModule) -> None:
        super()._swap_models(pl_module)
        self._swapped = not self._swapped

    def on_exception(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, exception: BaseException
    ) -> None:
        # A failure or an interrupt in validation leaves the two sets of weights exchanged.
        if self._swapped:
            self._swap_models(pl_module)

    def _update(self, average: Any, current: Any, count: Any) -> None:
        weight = 1 - self.decay(self._images_seen, self._images_per_step)
        torch._foreach_lerp_(list(average), list(current), weight)  # pyright: ignore[reportPrivateImportUsage]


def images_seen(trainer: lightning.Trainer) -> int:
    """Training images in the weights so far, over all devices and over the runs that this one resumes."""
    data: Any = trainer.datamodule  # pyright: ignore[reportAttributeAccessIssue]
    return data.consumed_samples
