"""Counts of images, batches and steps that several callbacks need."""

from __future__ import annotations

from typing import Any

import lightning


def images_seen(trainer: lightning.Trainer) -> int:
    """Training images in the weights so far, over all devices and all former processes of the run."""
    data: Any = trainer.datamodule  # pyright: ignore[reportAttributeAccessIssue]
    return data.consumed_samples


def between_steps(trainer: lightning.Trainer, batch_idx: int) -> bool:
    """Whether more batches of the same optimiser step follow, because gradients are accumulated."""
    return (batch_idx + 1) % trainer.accumulate_grad_batches != 0
