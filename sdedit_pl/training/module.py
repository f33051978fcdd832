"""The LightningModule: one training step of denoising score matching, on random numbers that can be replayed.

Every random number of a step is a function of (seed, rank, batch number): a resumed run draws what the
uninterrupted one would have drawn, and no two ranks draw the same noise.
"""

from __future__ import annotations

from typing import Any

import lightning
import torch
from jaxtyping import Float
from torch import Tensor

from sdedit_pl.denoiser import Denoiser
from sdedit_pl.losses import TimeSampler, Weighting, denoising_loss
from sdedit_pl.noise import SeededNoise, mixed
from sdedit_pl.training.optimizers import Adam, Schedule
from sdedit_pl.typing import Images

TRAINING, VALIDATION = 0, 1
"""Domains of the random streams, so that a validation batch never repeats a training batch's noise."""
GOLDEN_RATIO = (5**0.5 - 1) / 2
"""Multiples of it, without their whole part, fill [0, 1) evenly, however many are taken."""


class ScoreModule(lightning.LightningModule):
    """Fits a denoiser to images.

    Args:
        denoiser: the model.
        weighting: cost of an error at each time.
        times: distribution of training times.
        optimizer: optimiser settings.
        schedule: learning-rate schedule.
        reduction: of the squared error over an image's pixels, "mean" or "sum".
        seed: of every random number of training.
        config: the resolved configuration as plain data, written into every checkpoint.
    """

    def __init__(
        self,
        denoiser: Denoiser,
        weighting: Weighting,
        times: TimeSampler,
        optimizer: Adam,
        schedule: Schedule,
        *,
        reduction: str = "mean",
        seed: int = 0,
        config: dict[str, Any] | None = None,
    ) -> None:
        super().__init__()
        self.denoiser = denoiser
        self.weighting = weighting
        self.times = times
        self.optimizer = optimizer
        self.schedule = schedule
        self.reduction = reduction
        self.seed = seed
        self.config = config or {}
        self.batches_done = 0

    def training_step(self, batch: Float[Tensor, "B C H W"], batch_idx: int) -> Tensor:
        """Mean loss of a batch of clean images in [-1, 1]."""
        # Dropout draws from the default generator only, whose state no checkpoint keeps: each batch starts it afresh.
        torch.manual_seed(mixed(self.seed, self.global_rank, self.batches_done, TRAINING))
        uniform = torch.rand(batch.shape[0], device=batch.device, dtype=torch.float32)
        noise = torch.randn(batch.shape, device=batch.device, dtype=torch.float32)
        loss = self.losses(batch, uniform, noise).mean()
        self.log("train/loss", loss.detach(), prog_bar=True, batch_size=batch.shape[0])
        # Counted here and not in on_train_batch_end, which comes after the checkpoint of this batch is written.
        self.batches_done += 1
        return loss

    def on_validation_start(self) -> None:
        # A compiled network would be compiled anew for evaluation and for each size of a last batch or a preview.
        torch.compiler.set_stance("force_eager")

    def on_validation_end(self) -> None:
        torch.compiler.set_stance("default")

    def validation_step(self, batch: Float[Tensor, "B C H W"], batch_idx: int) -> None:
        """Loss at times spread evenly over the training distribution, on noise that never changes.

        An image has its own noise and time, so that the loss depends neither on the batch size nor on the devices.
        """
        data: Any = self.trainer.datamodule  # pyright: ignore[reportAttributeAccessIssue]
        indices = data.val_indices(batch_idx)
        noise = SeededNoise([mixed(self.seed, index, VALIDATION) for index in indices])(0, 0, batch)
        uniform = torch.tensor([(index + 0.5) * GOLDEN_RATIO % 1 for index in indices], device=batch.device)
        losses = self.losses(batch, uniform, noise)
        self.log("val/loss", losses.mean(), prog_bar=True, batch_size=len(batch), sync_dist=True)

    def losses(self, images: Images, uniform: Float[Tensor, "B"], noise: Images) -> Float[Tensor, "B"]:
        """The loss of each image at the quantile `uniform` of the training times."""
        t = self.times.times(self.denoiser.sde, uniform)
        return denoising_loss(self.denoiser, images, t, noise, self.weighting, reduction=self.reduction)

    def configure_optimizers(self) -> Any:
        """The optimiser and its schedule, stepped after every optimiser step."""
        trained = [parameter for parameter in self.parameters() if parameter.requires_grad]
        optimizer = self.optimizer.build(trained)
        steps = self.trainer.max_steps
        scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: self.schedule.factor(step, steps))
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}

    def on_train_start(self) -> None:
        # A checkpoint brings the rate and schedule that it was written under; the configuration's hold from here on.
        factor = self.schedule.factor(self.global_step, self.trainer.max_steps)
        scheduler: Any = self.lr_schedulers()
        scheduler.base_lrs = [self.optimizer.rate] * len(scheduler.base_lrs)
        for group in scheduler.optimizer.param_groups:
            group["lr"] = self.optimizer.rate * factor

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Adds the configuration, as plain data, so that a checkpoint says by itself what it is."""
        checkpoint["sdedit_config"] = self.config
        checkpoint["sdedit_batches_done"] = self.batches_done

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Takes up the count of batches, which numbers the random streams."""
        self.batches_done = checkpoint["sdedit_batches_done"]
