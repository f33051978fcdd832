"""The LightningModule: a training step of denoising score matching with reproducible random numbers.

Every random number of a step is a function of (seed, rank, number of the batch). A resumed run draws the same numbers
as an uninterrupted one, and no two ranks draw the same noise.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import lightning
import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import one_hot

from sdedit_pl.denoiser import Denoiser
from sdedit_pl.losses import EDMWeighting, LogNormalNoise, TimeSampler, Weighting, denoising_loss
from sdedit_pl.noise import SeededNoise, hash64
from sdedit_pl.training.augmentation import Augmentation
from sdedit_pl.training.learned_uncertainty import LogUncertainty
from sdedit_pl.training.noise_level_buckets import BUCKETS_MEAN, NoiseBucket, noise_buckets
from sdedit_pl.training.optimizers import Adam, Constant, Schedule
from sdedit_pl.typing import Examples, Images, Mask, Times, described

logger = logging.getLogger(__name__)

TRAINING, VALIDATION = 0, 1
"""Domains of the random streams, so that validation never repeats the noise of training."""
GOLDEN_RATIO = (5**0.5 - 1) / 2
"""The fractional parts of its multiples fill [0, 1) evenly, whatever their number."""


class ScoreModule(lightning.LightningModule):
    """Fits a denoiser to images, in any Trainer and from any loader of float images in [-1, 1].

    A batch is a tensor (B, C, H, W), or a tuple or list whose first entry is one. If the denoiser has labels, the
    second entry holds their vectors (B, size), or class indices (B,); otherwise it is ignored. Validation repeats each
    image's noise if the loader keeps the order of the images.

    Args:
        denoiser: from `load_denoiser(..., train=True)` or `build_denoiser`.
        weighting: weight of the loss at each noise level; None for EDM's.
        times: training times; None for EDM's log-normal noise levels, up to the denoiser's t_max.
        optimizer: None for Adam with its default rate.
        schedule: factor on the learning rate; None keeps the rate constant.
        reduction: over the pixels of an image, "mean" or "sum".
        uncertainty: learned weighting of the noise levels; None minimises the weighted loss itself.
        sigma_edges: edges of the ranges of noise levels that validation reports separately.
        seed: seed of all random numbers of training.
        config: the resolved configuration, written into every checkpoint.

    Raises:
        ValueError: the denoiser has a learned variance, or all its weights are frozen.
    """

    def __init__(
        self,
        denoiser: Denoiser,
        weighting: Weighting | None = None,
        times: TimeSampler | None = None,
        optimizer: Adam | None = None,
        schedule: Schedule | None = None,
        *,
        reduction: str = "mean",
        augmentation: Augmentation | None = None,
        uncertainty: LogUncertainty | None = None,
        sigma_edges: Sequence[float] = (),
        seed: int = 0,
        config: dict[str, Any] | None = None,
    ) -> None:
        super().__init__()
        if denoiser.parameterisation.learned_variance:
            raise ValueError(
                "training fits the estimate only and cannot train a learned variance; use a parameterisation without "
                "one, such as epsilon instead of epsilon_and_variance; ckpt= may have a learned variance, "
                "which is left out"
            )
        if not any(weight.requires_grad for weight in denoiser.parameters()):
            raise ValueError("all weights of the denoiser are frozen; load it with load_denoiser(..., train=True)")
        self.denoiser = denoiser
        self.weighting = weighting or EDMWeighting()
        self.times = times or LogNormalNoise(t_max=denoiser.t_max)
        self.optimizer = optimizer or Adam()
        self.schedule = schedule or Constant()
        self.reduction = reduction
        self.augmentation = augmentation or Augmentation()
        self.uncertainty = uncertainty
        self.sigma_edges = tuple(sigma_edges)
        self.averages: Mapping[int, Denoiser] = {}
        self.seed = seed
        self.config = config or {}
        self.batches_done = 0
        self.batch_loss = torch.zeros(())
        self._validated = 0

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
        if self.batches_done == 0 and not self._numbers_images and images_of(batch).min() >= 0:
            logger.warning(
                "images must lie in [-1, 1], and the first batch has no value below 0; convert [0, 1] with 2 x - 1"
            )

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        """Mean loss of clean images in [-1, 1]."""
        batch, vectors, valid = images_of(batch), self.vectors_of(batch), valid_of(batch)
        with seeded(hash64(self.seed, self.global_rank, self.batches_done, TRAINING), batch.device):
            uniform = torch.rand(batch.shape[0], device=batch.device, dtype=torch.float32)
            noise = self.denoiser.noise.fill(torch.empty(batch.shape, device=batch.device, dtype=torch.float32))
            images, conditions, valid = self.augmentation(batch, valid)
            if vectors is not None:
                kept = torch.rand(len(vectors), 1, device=batch.device) >= self.denoiser.labels.drop
                conditions = torch.cat([*([] if conditions is None else [conditions]), vectors * kept], dim=1)
            t = self.times.times(self.denoiser.sde, uniform)
            losses = self.losses(self.denoiser, images, t, noise, conditions, valid)
        self.batch_loss = losses.detach().mean()  # not logged here, which would wait for the accelerator
        if self.uncertainty is not None:
            losses = self.uncertainty.objective(losses, self.denoiser.sde, t)
        # Not counted in on_train_batch_end, which Lightning calls after the checkpoint of this batch is written.
        self.batches_done += 1
        return losses.mean()

    def compile_losses(self) -> None:
        """Compiles the whole loss into one graph: noising, preconditioning, network and weighting."""
        self.losses = torch.compile(self.losses, dynamic=False)

    def on_validation_start(self) -> None:
        self._validated = 0
        # A compiled network would be recompiled for evaluation and for every new batch size.
        torch.compiler.set_stance("force_eager")

    def on_validation_end(self) -> None:
        torch.compiler.set_stance("default")

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        """Logs the loss at times spread evenly over the training distribution and over each bucket.

        An image always has the same noise and times, so that the loss depends neither on the batch size nor on the
        devices. For further averages of the weights only their `criterion` is logged.
        """
        batch, vectors, valid = images_of(batch), self.vectors_of(batch), valid_of(batch)
        own, *others = (
            denoiser if vectors is None else denoiser.labelled(vectors)
            for denoiser in (self.denoiser, *self.averages.values())
        )
        indices = self._numbers(batch_idx, len(batch))
        seeds = [hash64(self.seed, index, VALIDATION) for index in indices]
        noise = SeededNoise(seeds, self.denoiser.noise)(0, 0, batch)
        uniform = torch.tensor([(index + 0.5) * GOLDEN_RATIO % 1 for index in indices], device=batch.device)
        t = self.times.times(self.denoiser.sde, uniform)
        losses = {"val/loss": self.losses(own, batch, t, noise, None, valid)}
        losses |= self._bucket_losses(own, batch, uniform, noise, valid)
        for half_life, denoiser in zip(self.averages, others, strict=True):
            found = self._bucket_losses(denoiser, batch, uniform, noise, valid)
            losses[self.criterion(half_life)] = (
                found[self.criterion()] if found else self.losses(denoiser, batch, t, noise, None, valid)
            )
        for name, values in losses.items():
            self.log(name, values.mean(), prog_bar=name == "val/loss", batch_size=len(batch), sync_dist=True)

    def vectors_of(self, batch: Any) -> Float[Tensor, "B size"] | None:
        """The vectors of a batch's labels; None for a model without labels. Raises ValueError if a batch lacks them."""
        size = self.denoiser.labels.size
        if not size:
            return None
        found = batch[1] if isinstance(batch, tuple | list) and len(batch) > 1 else None
        if isinstance(found, Tensor) and found.dtype == torch.int64 and found.dim() == 1:
            found = one_hot(found, size).float()
        if not isinstance(found, Tensor) or found.shape[1:] != (size,):
            raise ValueError(
                f"batches of a model with labels are (images, labels) with vectors of {size} numbers or class indices, "
                f"got {described(found)} for the labels"
            )
        return found

    @property
    def _numbers_images(self) -> bool:
        """Whether the data module is `ImageDataModule`, which numbers its images and has them in [-1, 1]."""
        return hasattr(getattr(self.trainer, "datamodule", None), "val_indices")

    def _numbers(self, batch_idx: int, count: int) -> range:
        """Numbers of the validation images in this device's batch; without them, images count as dealt out in turn."""
        if self._numbers_images:
            return self.trainer.datamodule.val_indices(batch_idx)  # pyright: ignore[reportAttributeAccessIssue]
        first, devices = self._validated * self.trainer.world_size + self.global_rank, self.trainer.world_size
        self._validated += count
        return range(first, first + count * devices, devices)

    @property
    def total_steps(self) -> int:
        """Optimiser steps of the run, also if the Trainer counts epochs."""
        steps = self.trainer.max_steps
        return steps if steps > 0 else int(min(self.trainer.estimated_stepping_batches, sys.maxsize))

    @property
    def buckets(self) -> tuple[NoiseBucket, ...]:
        """The ranges of noise levels between `sigma_edges`, without those that are not trained."""
        return noise_buckets(self.sigma_edges, self.denoiser)

    def criterion(self, half_life: int | None = None) -> str:
        """Name of the logged loss by which weights are chosen; None for the average that Lightning validates."""
        name = f"val/loss/{BUCKETS_MEAN}" if self.buckets else "val/loss"
        return name if half_life is None else f"{name}/average_{half_life}"

    def losses(
        self,
        denoiser: Denoiser,
        images: Images,
        t: Times,
        noise: Images,
        conditions: Float[Tensor, "B conditions"] | None = None,
        valid: Mask | None = None,
    ) -> Float[Tensor, "B"]:
        keys = {"reduction": self.reduction, "conditions": conditions, "valid": valid}
        return denoising_loss(denoiser, images, t, noise, self.weighting, **keys)

    def _bucket_losses(
        self, denoiser: Denoiser, images: Images, uniform: Float[Tensor, "B"], noise: Images, valid: Mask | None
    ) -> dict[str, Tensor]:
        """Loss of each image in each bucket and their mean over the buckets, by name in logs."""
        found = {
            f"val/loss/{bucket.name}": bucket.losses(denoiser, images, uniform, noise, valid) for bucket in self.buckets
        }
        return found | {self.criterion(): torch.stack(list(found.values())).mean(0)} if found else {}

    def configure_optimizers(self) -> Any:
        trained = [parameter for parameter in self.parameters() if parameter.requires_grad]
        # Under 16-mixed, a fused optimiser would unscale the gradients itself, after clipping.
        fused = self.device.type in ("cpu", "cuda") and self.trainer.precision != "16-mixed"
        optimizer = self.optimizer.build(trained, fused=fused)
        steps = self.total_steps
        scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: self.schedule.factor(step, steps))
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}

    def configure_gradient_clipping(
        self,
        optimizer: torch.optim.Optimizer,
        gradient_clip_val: float | None = None,
        gradient_clip_algorithm: str | None = None,
    ) -> None:
        # Lightning refuses to clip for fused optimisers, whose gradients may be scaled; here they never are.
        if gradient_clip_val:
            torch.nn.utils.clip_grad_norm_(
                [parameter for group in optimizer.param_groups for parameter in group["params"]], gradient_clip_val
            )

    def on_train_start(self) -> None:
        # Lightning restores the settings in the checkpoint; from here on those of the configuration apply.
        factor = self.schedule.factor(self.global_step, self.total_steps)
        scheduler: Any = self.lr_schedulers()
        scheduler.base_lrs = [self.optimizer.rate] * len(scheduler.base_lrs)
        optimizer = scheduler.optimizer
        for group in optimizer.param_groups:
            group |= optimizer.defaults | {"lr": self.optimizer.rate * factor}
            if group["fused"]:  # needs its step count on the accelerator, but a CPU's checkpoint has it on the CPU
                for parameter in group["params"]:
                    if "step" in (state := optimizer.state.get(parameter, {})):
                        state["step"] = state["step"].to(parameter.device)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint["sdedit_config"] = self.config
        checkpoint["sdedit_batches_done"] = self.batches_done

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        self.batches_done = checkpoint["sdedit_batches_done"]


def images_of(batch: Any) -> Images:
    """The images of a batch; raises ValueError unless they are floating-point numbers."""
    images = batch[0] if isinstance(batch, tuple | list) else batch
    if not isinstance(images, Tensor) or not images.is_floating_point():
        got = described(images)
        raise ValueError(f"a batch must be float images in [-1, 1], got {got}; convert uint8 x with x / 127.5 - 1")
    return images


def valid_of(batch: Any) -> Mask | None:
    return batch.valid if isinstance(batch, Examples) else None


@contextmanager
def seeded(seed: int, device: torch.device) -> Iterator[None]:
    """Seeds the CPU's and `device`'s default generators in the block, since dropout takes no other; restores them."""
    devices = [] if device.type == "cpu" else [device]
    with torch.random.fork_rng(devices, device_type="cuda" if device.type == "cpu" else device.type):
        torch.manual_seed(seed)
        yield
