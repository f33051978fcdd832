"""Validation losses in ranges of noise levels, comparable between runs and over the course of one run.

A loss over the training distribution hides at which levels a model overfits, and depends on how a run samples and
weights them. Here each validation image is denoised once in each bucket, always at the same level and with the same
noise. EDM's weight brings every error to order one.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from jaxtyping import Float
from torch import Tensor

from sdedit_pl.denoiser import Denoiser
from sdedit_pl.losses import EDMWeighting, denoising_loss
from sdedit_pl.typing import Images, Mask

BUCKETS_MEAN = "sigma_mean"


@dataclass(frozen=True)
class NoiseBucket:
    """The range of noise levels sigma / alpha from `low` to `high`."""

    low: float
    high: float

    @property
    def name(self) -> str:
        """The name in logs, such as sigma_0.05-0.2."""
        return f"sigma_{self.low:g}-{self.high:g}"

    def losses(
        self,
        denoiser: Denoiser,
        images: Images,
        uniform: Float[Tensor, "B"],
        noise: Images,
        valid: Mask | None = None,
    ) -> Float[Tensor, "B"]:
        """Loss of each image at the quantile `uniform` of the log-uniform distribution over the bucket."""
        level = self.low * (uniform * math.log(self.high / self.low)).exp()
        t = denoiser.sde.time_at_noise_level(level).clamp(max=denoiser.t_max)
        return denoising_loss(denoiser, images, t, noise, EDMWeighting(), valid=valid)


def noise_buckets(edges: Sequence[float], denoiser: Denoiser) -> tuple[NoiseBucket, ...]:
    """Buckets between consecutive `edges`, up to the highest noise level the denoiser is trained on."""
    return tuple(NoiseBucket(low, high) for low, high in pairwise(edges) if high <= denoiser.highest_noise_level)
