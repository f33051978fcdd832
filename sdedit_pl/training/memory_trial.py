"""Finds the batch that fits into a device's memory by trial training steps."""

from __future__ import annotations

import gc
from collections.abc import Callable

import lightning
import torch

from sdedit_pl.training.module import ScoreModule


def largest_batch(step: Callable[[int], object], too_large: int) -> int | None:
    """The largest batch below `too_large` that fits into memory, by trial; None if not even one image does.

    Only divisors of `too_large` are tried, so that accumulated gradients of the smaller batch can replace it.
    """
    batch = too_large
    while batch > 1:
        batch = max(size for size in range(1, batch) if too_large % size == 0)
        gc.collect()
        torch.cuda.empty_cache()
        try:
            step(batch)
        except torch.OutOfMemoryError:
            continue
        return batch
    return None


def trial_step(module: ScoreModule, trainer: lightning.Trainer, shape: tuple[int, int, int], batch: int) -> None:
    """Forward and backward pass on zeros of `shape` (C, H, W), with memory reserved for the optimiser's two moments."""
    device = trainer.strategy.root_device
    module.to(device).train()
    kept = [torch.empty_like(weight) for weight in module.parameters() if weight.requires_grad for _ in range(2)]
    images, noise = (torch.zeros(batch, *shape, device=device) for _ in range(2))
    t = module.times.times(module.denoiser.sde, torch.full((batch,), 0.5, device=device))
    count = module.denoiser.labels.size + module.augmentation.labels
    conditions = torch.zeros(batch, count, device=device) if count else None
    try:
        with trainer.precision_plugin.forward_context():
            module.losses(module.denoiser, images, t, noise, conditions).mean().backward()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
    finally:
        module.zero_grad(set_to_none=True)
        kept.clear()
