"""A replay of the noise that a published implementation drew."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from sdedit_pl.typing import Images


@dataclass(frozen=True)
class RecordedNoise:
    """Recorded noise: one tensor for each step, in order, from step 0 on.

    Args:
        tensors: the recorded tensors, each in the shape of the batch.
    """

    tensors: Sequence[Tensor]

    def __call__(self, step: int, draw: int, like: Images) -> Images:
        recorded = self.tensors[step]
        assert draw == 0 and recorded.shape == like.shape, f"step {step} has no draw {draw} of shape {like.shape}"
        return recorded.to(device=like.device, dtype=like.dtype)
