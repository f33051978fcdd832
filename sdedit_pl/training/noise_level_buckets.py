"""Ranges of noise levels on which a model is compared, with others and with itself in the course of training.

A validation loss over the training's own distribution of noise levels hides where a model gets better or worse:
overfitting begins at some levels while others still improve. And it cannot be compared between runs that draw or weigh
levels differently. So each validation image is denoised once in each bucket, at a level and with noise that never
change, and errors have EDM's weight, whatever the run is trained with: then a bucket's loss is of order one.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
from jaxtyping import Float
from torch import Tensor

from sdedit_pl.denoiser import Denoiser
from sdedit_pl.losses import EDMWeighting, denoising_loss
from sdedit_pl.typing import Images

BUCKETS_MEAN = "sigma_mean"
"""What the mean over the buckets is called in logs."""


@dataclass(frozen=True)
class NoiseBucket:
    """The noise levels sigma / alpha from `low` to `high`."""

    low: float
    high: float

    @property
    def name(self) -> str:
        """What logs call it: sigma_0.05-0.2."""
        return f"sigma_{self.low:g}-{self.high:g}"

    def losses(
        self, denoiser: Denoiser, images: Images, uniform: Float[Tensor, "B"], noise: Images
    ) -> Float[Tensor, "B"]:
        """The loss of each image at the quantile `uniform` of the bucket, whose levels are log-uniform."""
        level = self.low * (uniform * math.log(self.high / self.low)).exp()
        t = denoiser.sde.time_at_noise_level(level).clamp(max=denoiser.t_max)
        return denoising_loss(denoiser, images, t, noise, EDMWeighting())


def noise_buckets(edges: Sequence[float], denoiser: Denoiser) -> tuple[NoiseBucket, ...]:
    """The buckets between `edges`, but for those that reach beyond what the denoiser is trained on."""
    highest = denoiser.sde.noise_level(torch.tensor(denoiser.t_max, dtype=torch.float64)).item()
    return tuple(NoiseBucket(low, high) for low, high in pairwise(edges) if high <= highest)
