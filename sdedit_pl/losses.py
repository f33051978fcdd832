"""Denoising score matching: distributions of training times, and weights of the error at each time.

The loss of one image is weight(t) ||D(x_t, t) - x_0||^2, summed or averaged over its pixels. Every published
objective is one weight and one distribution of t. The error is computed on the network's raw output to avoid
cancellation: ||D - x_0||^2 = c_out^2 ||F - target||^2.

Source: Song et al. 2021, equation 7; Ho et al. 2020, equation 14; Karras et al. 2022, section 5 and table 1.
"""

from __future__ import annotations

import abc
import math
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from sdedit_pl.denoiser import Denoiser
from sdedit_pl.sde import SDE
from sdedit_pl.typing import Images, Mask, Times, over_images


class Weighting(abc.ABC):
    @abc.abstractmethod
    def weight(self, sde: SDE, t: Times) -> Times:
        """Weight of ||D(x_t, t) - x_0||^2 at the times `t`."""


@dataclass(frozen=True)
class NoiseWeighting(Weighting):
    """The squared error of the noise, as in score_sde and DDPM: lambda(t) = sigma^2 on the score."""

    def weight(self, sde: SDE, t: Times) -> Times:
        return sde.log_snr(t).exp()


@dataclass(frozen=True)
class LikelihoodWeighting(Weighting):
    """lambda(t) = g^2 on the score, which makes the loss an upper bound on the negative log-likelihood.

    Source: Song et al., "Maximum Likelihood Training of Score-Based Diffusion Models", NeurIPS 2021, theorem 1.
    """

    def weight(self, sde: SDE, t: Times) -> Times:
        return (sde.diffusion(t) / sde.sigma(t)).square() * sde.log_snr(t).exp()


@dataclass(frozen=True)
class EDMWeighting(Weighting):
    """(s^2 + sd^2) / (s sd)^2 at the noise level s: unit weight on the raw output of an EDM-preconditioned network.

    Args:
        data_deviation: standard deviation sd of the clean images' pixels.
    """

    data_deviation: float = 0.5

    def __post_init__(self) -> None:
        if not self.data_deviation > 0:
            raise ValueError(f"data_deviation must be positive, got {self.data_deviation}; EDM uses 0.5")

    def weight(self, sde: SDE, t: Times) -> Times:
        return sde.log_snr(t).exp() + 1 / self.data_deviation**2


@dataclass(frozen=True)
class MinSNRWeighting(Weighting):
    """min(SNR, limit) with SNR = 1 / s^2: the squared error of the noise, limited at low noise levels.

    Args:
        limit: largest weight; the paper's gamma.

    Source: Hang et al., "Efficient Diffusion Training via Min-SNR Weighting Strategy", ICCV 2023, equation 7.
    """

    limit: float = 5.0

    def __post_init__(self) -> None:
        if not self.limit > 0:
            raise ValueError(f"the limit of the min-SNR weight must be positive, got {self.limit}; the paper's is 5")

    def weight(self, sde: SDE, t: Times) -> Times:
        return sde.log_snr(t).clamp(max=math.log(self.limit)).exp()


@dataclass(frozen=True)
class SoftMinSNRWeighting(Weighting):
    """1 / (s^2 + sd^2) = SNR gamma / (SNR + gamma) with gamma = 1 / sd^2, a smooth min-SNR.

    Args:
        data_deviation: standard deviation sd of the clean images' pixels.

    Source: Crowson et al., "Hourglass Diffusion Transformers", ICML 2024 (gamma = 4).
    """

    data_deviation: float = 0.5

    def __post_init__(self) -> None:
        if not self.data_deviation > 0:
            raise ValueError(f"data_deviation must be positive, got {self.data_deviation}; EDM uses 0.5")

    def weight(self, sde: SDE, t: Times) -> Times:
        return 1 / (sde.noise_level(t).square() + self.data_deviation**2)


@dataclass(frozen=True)
class DataWeighting(Weighting):
    """Weight one: the plain squared error of the x_0 estimate."""

    def weight(self, sde: SDE, t: Times) -> Times:
        return torch.ones_like(t)


@dataclass(frozen=True)
class TimeSampler(abc.ABC):
    """A distribution of training times on [t_min, t_max], given by its inverse distribution function.

    Args:
        t_min: smallest time, above 0, because the score diverges there.
        t_max: largest time; a model that only edits needs no time above its largest t0.
    """

    t_min: float = 1e-4
    t_max: float = 1.0

    def __post_init__(self) -> None:
        if not 0 < self.t_min < self.t_max <= 1:
            raise ValueError(f"training times need 0 < t_min < t_max <= 1, got t_min={self.t_min}, t_max={self.t_max}")

    @abc.abstractmethod
    def times(self, sde: SDE, uniform: Float[Tensor, "B"]) -> Times:
        """The quantiles of the distribution at `uniform`, in [0, 1)."""

    def log_noise_range(self, sde: SDE, like: Float[Tensor, "B"]) -> tuple[Tensor, Tensor]:
        """ln(sigma / alpha) at t_min and t_max, scalars on the CPU in the dtype of `like`."""
        edges = torch.tensor([self.t_min, self.t_max], dtype=torch.float64)
        low, high = (-sde.log_snr(edges) / 2).to(like.dtype).unbind()
        return low, high


@dataclass(frozen=True)
class UniformTimes(TimeSampler):
    """Uniform in t, as in score_sde, whose t_min is 1e-5."""

    def times(self, sde: SDE, uniform: Float[Tensor, "B"]) -> Times:
        return self.t_min + (self.t_max - self.t_min) * uniform


@dataclass(frozen=True)
class TableTimes(TimeSampler):
    """Uniform over the times i/N, i = 1..N, within [t_min, t_max], as in DDPM.

    Args:
        steps: length N of the table.
    """

    steps: int = 1000

    def __post_init__(self) -> None:
        super().__post_init__()
        first, last = self._levels()
        if first > last:
            raise ValueError(
                f"a table of steps={self.steps} has no level i/{self.steps} with i >= 1 between t_min={self.t_min} and "
                f"t_max={self.t_max}; DDPM's has 1000"
            )

    def _levels(self) -> tuple[int, int]:
        # the millionth keeps levels that rounding would lose: 0.29 x 100 is less than 29 in floats
        return max(1, math.ceil(self.t_min * self.steps - 1e-6)), math.floor(self.t_max * self.steps + 1e-6)

    def times(self, sde: SDE, uniform: Float[Tensor, "B"]) -> Times:
        first, last = self._levels()
        return ((uniform * (last - first + 1)).floor() + first).clamp(max=last) / self.steps


@dataclass(frozen=True)
class LogUniformNoise(TimeSampler):
    """Uniform in the logarithm of the noise level sigma / alpha."""

    def times(self, sde: SDE, uniform: Float[Tensor, "B"]) -> Times:
        low, high = self.log_noise_range(sde, uniform)
        return sde.time_at_log_snr(-2 * (low + (high - low) * uniform)).clamp(self.t_min, self.t_max)


@dataclass(frozen=True)
class LogNormalNoise(TimeSampler):
    """ln(sigma / alpha) ~ N(mean, deviation^2), truncated to [t_min, t_max], as in EDM.

    Args:
        mean: mean of ln(sigma / alpha); EDM's -1.2 is a noise level of 0.3.
        deviation: standard deviation of ln(sigma / alpha).
    """

    mean: float = -1.2
    deviation: float = 1.2

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.deviation > 0:
            raise ValueError(f"the deviation of log-normal noise must be positive, got {self.deviation}")

    def times(self, sde: SDE, uniform: Float[Tensor, "B"]) -> Times:
        low, high = (
            torch.special.ndtr((edge - self.mean) / self.deviation) for edge in self.log_noise_range(sde, uniform)
        )
        normal = torch.special.ndtri((low + (high - low) * uniform).clamp(1e-6, 1 - 1e-6))
        level = self.mean + self.deviation * normal
        return sde.time_at_log_snr(-2 * level).clamp(self.t_min, self.t_max)


def denoising_loss(
    denoiser: Denoiser,
    x_0: Images,
    t: Times,
    noise: Images,
    weighting: Weighting,
    *,
    reduction: str = "mean",
    conditions: Float[Tensor, "B conditions"] | None = None,
    valid: Mask | None = None,
) -> Float[Tensor, "B"]:
    """Weighted squared error of each image.

    Args:
        x_0: clean images in [-1, 1].
        t: times in (0, 1].
        reduction: over an image's pixels, "mean" (VP, DDPM, EDM) or "sum" (score_sde's VE).
        conditions: see `Denoiser.raw`.
        valid: the pixels that count; None for all.

    Source: Song et al. 2021, equation 7.
    """
    if reduction not in ("mean", "sum"):
        raise ValueError(f"reduction must be mean or sum, got {reduction!r}")
    coefficients = denoiser.parameterisation.coefficients(denoiser.sde, t)
    target = over_images(coefficients.target.x_0) * x_0 + over_images(coefficients.target.noise) * noise
    x_t = denoiser.sde.perturb(x_0, t, noise)
    output = denoiser.raw(x_t, t, conditions, coefficients=coefficients)
    error = (output - target).square()
    if valid is not None:
        error = error * valid
    total = error.flatten(1).mean(1) if reduction == "mean" else error.flatten(1).sum(1)
    if valid is not None and reduction == "mean":
        total = total / valid.flatten(1).float().mean(1).clamp(min=1e-6)
    return weighting.weight(denoiser.sde, t) * coefficients.x_0.out.square() * total


@torch.no_grad()
def denoising_error(denoiser: Denoiser, images: Images, level: float) -> float:
    """Mean squared error divided by `level`^2, at noise level sigma / alpha = `level`; the noise is always the same."""
    generator, errors = torch.Generator().manual_seed(0), []
    for batch in images.split(32):
        t = denoiser.sde.time_at_noise_level(batch.new_full((len(batch),), level))
        noise = denoiser.noise.fill(torch.empty(batch.shape), generator).to(batch)
        errors.append(denoising_loss(denoiser, batch, t, noise, NoiseWeighting()))
    return torch.cat(errors).mean().item()


WEIGHTINGS: dict[str, type[Weighting]] = {
    "noise": NoiseWeighting,
    "likelihood": LikelihoodWeighting,
    "edm": EDMWeighting,
    "min_snr": MinSNRWeighting,
    "soft_min_snr": SoftMinSNRWeighting,
    "data": DataWeighting,
}
TIME_SAMPLERS: dict[str, type[TimeSampler]] = {
    "uniform": UniformTimes,
    "table": TableTimes,
    "log_uniform": LogUniformNoise,
    "log_normal": LogNormalNoise,
}
