"""Exponential moving averages of the weights, with half-lives counted in images."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from copy import deepcopy
from typing import Any, cast

import lightning
import torch
from lightning.pytorch.callbacks import WeightAveraging
from torch import Tensor, nn

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
        super().__init__(use_buffers=False)
        self.half_lives = half_lives
        self.ramp = 0.0 if continues else ramp
        self.continues = continues
        self._swapped = False
        self._others: dict[int, Denoiser] = {}
        self._weights: list[tuple[list[Tensor], list[Tensor]]] = []

    def decay(self, images_seen: int, images_per_step: int, half_life: int | None = None) -> float:
        """Share of the average that one optimiser step of `images_per_step` images keeps; None is the first average."""
        images = float(half_life or self.half_lives[0])
        if self.ramp:
            images = min(images, self.ramp * images_seen)
        return 0.5 ** (images_per_step / max(images, 1e-8))

    def setup(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, stage: str) -> None:
        super().setup(trainer, pl_module, stage)
        if self._average_model is not None:
            # Read at every update, which on the CPU waits for no device.
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
        if trainer.global_step > self._latest_update_step:
            images_per_step = batch.shape[0] * trainer.world_size * trainer.accumulate_grad_batches
            self._update(pl_module, images_seen(trainer), images_per_step)
            self._latest_update_step = trainer.global_step

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

    @torch.no_grad()
    def _update(self, pl_module: lightning.LightningModule, images_seen: int, images_per_step: int) -> None:
        """One update of every average: a kernel for each, and nothing that waits for the device.

        Lightning's own would copy its counter to the device at every step, which waits for all that is queued there.
        """
        assert self._average_model is not None
        if not self._weights:
            pairs: list[tuple[nn.Module, nn.Module]] = [(self._average_model.module, pl_module)]
            pairs += [(other, cast(ScoreModule, pl_module).denoiser) for other in self._others.values()]
            self._weights = [(list(average.parameters()), list(current.parameters())) for average, current in pairs]
        first = int(self._average_model.n_averaged) == 0
        for half_life, (average, current) in zip(self.half_lives, self._weights, strict=True):
            weight = 1.0 if first else 1 - self.decay(images_seen, images_per_step, half_life)
            torch._foreach_lerp_(average, current, weight)  # pyright: ignore[reportPrivateImportUsage, reportArgumentType]
        self._average_model.n_averaged += 1


def images_seen(trainer: lightning.Trainer) -> int:
    """Training images in the weights so far, over all devices and over the runs that this one resumes."""
    data: Any = trainer.datamodule  # pyright: ignore[reportAttributeAccessIssue]
    return data.consumed_samples
