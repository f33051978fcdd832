"""Forward stochastic differential equations that turn images into noise.

Every equation here is linear and isotropic,

    dx = f(t) x dt + g(t) dw,    x_t | x_0 ~ N(alpha(t) x_0, sigma(t)^2 I),    t in (0, 1],

so alpha(t) and sigma(t) define an SDE: f = (log alpha)' and g^2 = (sigma^2)' - 2 f sigma^2. The signal-to-noise ratio
alpha^2 / sigma^2 decreases monotonically; its inverse maps a noise level of one SDE to the time of another. Results
have the shape, device and dtype of the times.

Source: Song et al., "Score-Based Generative Modeling through Stochastic Differential Equations", ICLR 2021 (VE, VP,
sub-VP: section 3.4 and appendix B); Ho et al., "Denoising Diffusion Probabilistic Models", NeurIPS 2020 (beta table).
"""

from __future__ import annotations

import abc
import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor
from torch.utils._python_dispatch import is_in_torch_dispatch_mode

from sdedit_pl.typing import Images, Times, over_images


class ForwardStep(NamedTuple):
    """One step of a forward chain, x_t = scale x_s + deviation z; all fields have the shape of t.

    `retained` is the share of the noise variance at t that was already present at s,
    (scale sigma(s))^2 / sigma(t)^2 = 1 - deviation^2 / sigma(t)^2.
    """

    scale: Tensor
    deviation: Tensor
    retained: Tensor


@dataclass(frozen=True)
class SDE(abc.ABC):
    """A linear SDE on t in (0, 1]. Autograd computes drift and diffusion unless a subclass overrides them."""

    @abc.abstractmethod
    def log_alpha(self, t: Float[Tensor, "*times"]) -> Float[Tensor, "*times"]:
        """Natural logarithm of alpha(t), the factor of the clean image."""

    @abc.abstractmethod
    def sigma(self, t: Float[Tensor, "*times"]) -> Float[Tensor, "*times"]:
        """Standard deviation sigma(t) of the noise in x_t, in units of the image range."""

    @abc.abstractmethod
    def time_at_log_snr(self, log_snr: Float[Tensor, "*times"]) -> Float[Tensor, "*times"]:
        """Inverse of `log_snr`, not clamped to (0, 1]."""

    def drift_coefficient(self, t: Float[Tensor, "*times"]) -> Float[Tensor, "*times"]:
        """The factor f(t) of the drift f(t) x."""
        return _derivative(self.log_alpha, t)

    def diffusion(self, t: Float[Tensor, "*times"]) -> Float[Tensor, "*times"]:
        """The diffusion coefficient g(t)."""
        variance_growth = _derivative(lambda time: self.sigma(time).square(), t)
        return (variance_growth - 2 * self.drift_coefficient(t) * self.sigma(t).square()).clamp(min=0).sqrt()

    def alpha(self, t: Float[Tensor, "*times"]) -> Float[Tensor, "*times"]:
        return self.log_alpha(t).exp()

    def log_snr(self, t: Float[Tensor, "*times"]) -> Float[Tensor, "*times"]:
        """Logarithm of the signal-to-noise ratio, ln(alpha(t)^2 / sigma(t)^2); decreases with t."""
        return 2 * (self.log_alpha(t) - self.sigma(t).log())

    def noise_level(self, t: Float[Tensor, "*times"]) -> Float[Tensor, "*times"]:
        """Noise relative to the signal, sigma(t) / alpha(t); comparable across SDEs."""
        return self.sigma(t) / self.alpha(t)

    def time_at_noise_level(self, noise_level: Float[Tensor, "*times"]) -> Float[Tensor, "*times"]:
        """The time at which sigma / alpha equals `noise_level`, not clamped to (0, 1]."""
        return self.time_at_log_snr(-2 * noise_level.log())

    def transition(self, t: Float[Tensor, "*times"], s: Float[Tensor, "*times"]) -> ForwardStep:
        """The exact transition from `s`, which may be 0, to a later `t`."""
        gained = self.log_snr(t) - self.log_snr(s)
        return ForwardStep(
            scale=(self.log_alpha(t) - self.log_alpha(s)).exp(),
            deviation=self.sigma(t) * (-torch.expm1(gained)).clamp(min=0).sqrt(),
            retained=gained.exp(),
        )

    def perturb(self, x_0: Images, t: Times, noise: Images) -> Images:
        """A sample of x_t given x_0: alpha(t) x_0 + sigma(t) noise, with standard normal `noise`."""
        return over_images(self.alpha(t)) * x_0 + over_images(self.sigma(t)) * noise

    @property
    def prior_deviation(self) -> float:
        """Standard deviation of the prior N(0, deviation^2 I), which approximates the distribution of x_1."""
        return 1.0

    def prior_sample(self, noise: Images) -> Images:
        """A sample of the prior, from standard normal `noise`."""
        return noise * self.prior_deviation


@dataclass(frozen=True)
class LinearBetaSDE(SDE):
    """An SDE whose drift is -beta(t)/2 x with linear beta(t).

    Args:
        beta_min: beta at t = 0.
        beta_max: beta at t = 1.
    """

    beta_min: float = 0.1
    beta_max: float = 20.0

    def __post_init__(self) -> None:
        if not 0 < self.beta_min <= self.beta_max:
            raise ValueError(
                f"a VP schedule needs 0 < beta_min <= beta_max, got beta_min={self.beta_min}, "
                f"beta_max={self.beta_max}; the published values are 0.1 and 20"
            )

    def beta(self, t: Float[Tensor, "*times"]) -> Float[Tensor, "*times"]:
        return self.beta_min + (self.beta_max - self.beta_min) * t

    def log_alpha(self, t: Float[Tensor, "*times"]) -> Float[Tensor, "*times"]:
        return -t * (self.beta_min / 2 + (self.beta_max - self.beta_min) / 4 * t)

    def drift_coefficient(self, t: Float[Tensor, "*times"]) -> Float[Tensor, "*times"]:
        return -self.beta(t) / 2

    def time_at_log_alpha(self, log_alpha: Float[Tensor, "*times"]) -> Float[Tensor, "*times"]:
        slope = self.beta_max - self.beta_min
        return -2 * log_alpha / (self.beta_min / 2 + (self.beta_min**2 / 4 - slope * log_alpha).sqrt())


@dataclass(frozen=True)
class VPSDE(LinearBetaSDE):
    """Variance-preserving SDE: dx = -beta(t)/2 x dt + sqrt(beta(t)) dw, so that alpha^2 + sigma^2 = 1.

    Source: Song et al. 2021, equation 11 and appendix B.
    """

    def sigma(self, t: Float[Tensor, "*times"]) -> Float[Tensor, "*times"]:
        return (-torch.expm1(2 * self.log_alpha(t))).sqrt()

    def diffusion(self, t: Float[Tensor, "*times"]) -> Float[Tensor, "*times"]:
        return self.beta(t).sqrt()

    def time_at_log_snr(self, log_snr: Float[Tensor, "*times"]) -> Float[Tensor, "*times"]:
        return self.time_at_log_alpha(-torch.nn.functional.softplus(-log_snr) / 2)


@dataclass(frozen=True)
class SubVPSDE(LinearBetaSDE):
    """Sub-VP SDE: the drift of the VP SDE with less diffusion, so that sigma(t) = 1 - alpha(t)^2.

    Source: Song et al. 2021, equation 12 and appendix B.
    """

    def sigma(self, t: Float[Tensor, "*times"]) -> Float[Tensor, "*times"]:
        return -torch.expm1(2 * self.log_alpha(t))

    def diffusion(self, t: Float[Tensor, "*times"]) -> Float[Tensor, "*times"]:
        return (self.beta(t) * -torch.expm1(4 * self.log_alpha(t))).sqrt()

    def time_at_log_snr(self, log_snr: Float[Tensor, "*times"]) -> Float[Tensor, "*times"]:
        # alpha / (1 - alpha^2) = 1 / (2 sinh(-log alpha))
        return self.time_at_log_alpha(-torch.asinh((-log_snr / 2).exp() / 2))


@dataclass(frozen=True)
class VESDE(SDE):
    """Variance-exploding SDE: alpha = 1 and sigma(t) = sigma_min (sigma_max / sigma_min)^t.

    Sigma is in units of images in [-1, 1]: a model published for [0, 1] with sigma 0.01 to 50 is VESDE(0.02, 100).

    Args:
        sigma_min: noise at t = 0.
        sigma_max: noise at t = 1, about the largest distance between two images of the domain.

    Source: Song et al. 2021, equation 9 and appendix C.
    """

    sigma_min: float = 0.01
    sigma_max: float = 50.0

    def __post_init__(self) -> None:
        if not 0 < self.sigma_min < self.sigma_max:
            raise ValueError(
                f"a VE schedule needs 0 < sigma_min < sigma_max, got sigma_min={self.sigma_min}, "
                f"sigma_max={self.sigma_max}; the published values are, on images in [-1, 1], "
                f"0.02 and 100 (32 px) to 760 (256 px)"
            )

    @property
    def log_ratio(self) -> float:
        return math.log(self.sigma_max / self.sigma_min)

    def log_alpha(self, t: Float[Tensor, "*times"]) -> Float[Tensor, "*times"]:
        return torch.zeros_like(t)

    def sigma(self, t: Float[Tensor, "*times"]) -> Float[Tensor, "*times"]:
        return self.sigma_min * (self.log_ratio * t).exp()

    def drift_coefficient(self, t: Float[Tensor, "*times"]) -> Float[Tensor, "*times"]:
        return torch.zeros_like(t)

    def diffusion(self, t: Float[Tensor, "*times"]) -> Float[Tensor, "*times"]:
        return self.sigma(t) * math.sqrt(2 * self.log_ratio)

    def time_at_log_snr(self, log_snr: Float[Tensor, "*times"]) -> Float[Tensor, "*times"]:
        return (-log_snr / 2 - math.log(self.sigma_min)) / self.log_ratio

    @property
    def prior_deviation(self) -> float:
        return self.sigma_max


@dataclass(frozen=True)
class DiscreteVPSDE(SDE):
    """DDPM's table of betas, read as a VP SDE: index i of `steps` betas is time t = (i + 1) / steps.

    At those times alpha^2 is the cumulative product of 1 - beta; between them log alpha is linear and beta(t) constant.

    Args:
        beta_start: first beta (not used by `schedule="cosine"`).
        beta_end: last beta (not used by `schedule="cosine"`).
        steps: length N of the table.
        schedule: "linear", "scaled_linear" (linear in sqrt(beta)), "cosine" (squared-cosine alpha, betas up to 0.999).

    Source: Ho et al. 2020, section 4; cosine: Nichol and Dhariwal 2021, equation 17.
    """

    beta_start: float = 1e-4
    beta_end: float = 0.02
    steps: int = 1000
    schedule: str = "linear"

    def __post_init__(self) -> None:
        if self.schedule not in ("linear", "scaled_linear", "cosine"):
            raise ValueError(f"the schedule of a beta table is linear, scaled_linear or cosine, got {self.schedule!r}")
        if not 0 < self.beta_start <= self.beta_end < 1 or self.steps < 2:
            raise ValueError(
                f"a beta table needs 0 < beta_start <= beta_end < 1 and at least 2 steps, got "
                f"beta_start={self.beta_start}, beta_end={self.beta_end}, steps={self.steps}; "
                f"the published table has 1e-4, 0.02 and 1000"
            )

    @property
    def betas(self) -> Float[Tensor, "steps"]:
        """The table, float64 on the CPU."""
        return self.betas_on(torch.device("cpu"))

    def betas_on(self, device: torch.device) -> Float[Tensor, "steps"]:
        """The table in float64, computed on `device`."""
        fraction = torch.linspace(0, 1, self.steps, dtype=torch.float64, device=device)
        if self.schedule == "linear":
            return self.beta_start + (self.beta_end - self.beta_start) * fraction
        if self.schedule == "scaled_linear":
            first, last = math.sqrt(self.beta_start), math.sqrt(self.beta_end)
            return (first + (last - first) * fraction).square()
        edges = torch.arange(self.steps + 1, dtype=torch.float64, device=device) / self.steps
        cosine = ((edges + 0.008) / 1.008 * math.pi / 2).cos().square()
        return (1 - cosine[1:] / cosine[:-1]).clamp(max=0.999)

    def log_alpha(self, t: Float[Tensor, "*times"]) -> Float[Tensor, "*times"]:
        return self._log_alpha_double(t).to(t.dtype)

    def sigma(self, t: Float[Tensor, "*times"]) -> Float[Tensor, "*times"]:
        return (-torch.expm1(2 * self._log_alpha_double(t))).sqrt().to(t.dtype)

    def drift_coefficient(self, t: Float[Tensor, "*times"]) -> Float[Tensor, "*times"]:
        """N/2 log(1 - beta_i) on the interval (i/N, (i+1)/N]."""
        # the margin keeps a time that float32 rounds to just above a knot in the interval below it
        index = (t.double() * self.steps - 5e-4).ceil().long().sub(1).clamp(0, self.steps - 1)
        return _beta_table(self, t.device).drift[index].to(t.dtype)

    def diffusion(self, t: Float[Tensor, "*times"]) -> Float[Tensor, "*times"]:
        return (-2 * self.drift_coefficient(t)).sqrt()

    def time_at_log_snr(self, log_snr: Float[Tensor, "*times"]) -> Float[Tensor, "*times"]:
        log_alpha = -torch.nn.functional.softplus(-log_snr.double()) / 2
        knots = _beta_table(self, log_snr.device).log_alpha
        index = torch.searchsorted(-knots, -log_alpha).sub(1).clamp(0, self.steps - 1)
        fraction = (log_alpha - knots[index]) / (knots[index + 1] - knots[index])
        return ((index + fraction) / self.steps).to(log_snr.dtype)

    def _log_alpha_double(self, t: Float[Tensor, "*times"]) -> Float[Tensor, "*times"]:
        knots = _beta_table(self, t.device).log_alpha
        position = t.double() * self.steps
        index = position.floor().long().clamp(0, self.steps - 1)
        return torch.lerp(knots[index], knots[index + 1], position - index)


class _BetaTable(NamedTuple):
    """Functions of a beta table at its knots, float64: log alpha at 0, 1/N, ..., 1, and the drift between them."""

    log_alpha: Float[Tensor, "knots"]
    drift: Float[Tensor, "steps"]


def _new_beta_table(sde: DiscreteVPSDE, device: torch.device) -> _BetaTable:
    with torch.inference_mode(False), torch.no_grad():
        logarithms = torch.log1p(-sde.betas_on(device))
        log_alpha = torch.nn.functional.pad((logarithms / 2).cumsum(0), (1, 0))
        return _BetaTable(log_alpha, logarithms * (sde.steps / 2))


_kept_beta_table = lru_cache(maxsize=64)(_new_beta_table)


def _beta_table(sde: DiscreteVPSDE, device: torch.device) -> _BetaTable:
    """The cached table on a device; recomputed during tracing, so that no traced tensor enters the cache."""
    traced = torch.compiler.is_compiling() or is_in_torch_dispatch_mode()
    return (_new_beta_table if traced else _kept_beta_table)(sde, device)


def _derivative(
    function: Callable[[Float[Tensor, "*times"]], Float[Tensor, "*times"]], t: Float[Tensor, "*times"]
) -> Float[Tensor, "*times"]:
    with torch.inference_mode(False), torch.enable_grad():
        t = t.detach().clone().requires_grad_()
        (slope,) = torch.autograd.grad((function(t) + 0 * t).sum(), t)  # + 0 t: VE's log alpha does not depend on t
    return slope


SDES: dict[str, type[SDE]] = {"vp": VPSDE, "subvp": SubVPSDE, "ve": VESDE, "ddpm": DiscreteVPSDE}
