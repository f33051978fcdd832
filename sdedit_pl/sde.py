"""Forward stochastic differential equations that turn images into noise.

Every equation here is linear and isotropic,

    dx = f(t) x dt + g(t) dw,    x_t | x_0 ~ N(alpha(t) x_0, sigma(t)^2 I),    t in (0, 1],

so that an SDE is two functions of time, alpha and sigma, and everything else follows from them: f = (log alpha)',
g^2 = (sigma^2)' - 2 f sigma^2, and the signal-to-noise ratio alpha^2 / sigma^2, which falls monotonically and therefore
maps a noise level of one SDE to the time of another. An SDE is a frozen dataclass of floats: comparable, free of
devices, rebuilt from a checkpoint's own configuration. Times are tensors of any shape, on any device; results have
their shape, device and dtype.

Source: Song et al., "Score-Based Generative Modeling through Stochastic Differential Equations", ICLR 2021 (VE, VP,
sub-VP: section 3.4 and appendix B); Ho et al., "Denoising Diffusion Probabilistic Models", NeurIPS 2020 (beta table).
"""

from __future__ import annotations

import abc
import math
from dataclasses import dataclass
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from sdedit_pl.typing import Images, over_images


class ForwardStep(NamedTuple):
    """A step of a forward chain, x_t = scale x_s + deviation z, and what its posterior needs; each of t's shape.

    `retained` is the part of the noise's variance at t that was there at s already,
    (scale sigma(s))^2 / sigma(t)^2 = 1 - deviation^2 / sigma(t)^2.
    """

    scale: Tensor
    deviation: Tensor
    retained: Tensor


@dataclass(frozen=True)
class SDE(abc.ABC):
    """A linear SDE on t in (0, 1]; see the module's docstring for the equation."""

    @abc.abstractmethod
    def log_alpha(self, t: Float[Tensor, "*times"]) -> Float[Tensor, "*times"]:
        """Natural logarithm of the factor alpha(t) that the clean image is scaled by."""

    @abc.abstractmethod
    def sigma(self, t: Float[Tensor, "*times"]) -> Float[Tensor, "*times"]:
        """Standard deviation sigma(t) of the noise in x_t, in units of the image range."""

    @abc.abstractmethod
    def drift_coefficient(self, t: Float[Tensor, "*times"]) -> Float[Tensor, "*times"]:
        """The factor f(t) of the drift f(t) x."""

    @abc.abstractmethod
    def diffusion(self, t: Float[Tensor, "*times"]) -> Float[Tensor, "*times"]:
        """The diffusion coefficient g(t)."""

    @abc.abstractmethod
    def time_at_log_snr(self, log_snr: Float[Tensor, "*times"]) -> Float[Tensor, "*times"]:
        """The time at which `log_snr` is reached, not clamped to (0, 1]: the inverse of `log_snr`."""

    def alpha(self, t: Float[Tensor, "*times"]) -> Float[Tensor, "*times"]:
        """The factor alpha(t) that the clean image is scaled by."""
        return self.log_alpha(t).exp()

    def log_snr(self, t: Float[Tensor, "*times"]) -> Float[Tensor, "*times"]:
        """Logarithm of the signal-to-noise ratio, ln(alpha(t)^2 / sigma(t)^2); falls with t."""
        return 2 * (self.log_alpha(t) - self.sigma(t).log())

    def noise_level(self, t: Float[Tensor, "*times"]) -> Float[Tensor, "*times"]:
        """Noise relative to the signal, sigma(t) / alpha(t): the same for every SDE at the same difficulty."""
        return self.sigma(t) / self.alpha(t)

    def time_at_noise_level(self, noise_level: Float[Tensor, "*times"]) -> Float[Tensor, "*times"]:
        """The time at which sigma / alpha equals `noise_level`, not clamped to (0, 1]."""
        return self.time_at_log_snr(-2 * noise_level.log())

    def discretize(
        self, t: Float[Tensor, "*times"], steps: int | Float[Tensor, "*times"]
    ) -> tuple[Float[Tensor, "*times"], Float[Tensor, "*times"]]:
        """One forward step of the chain of `steps` levels that the published samplers reverse.

        Returns (f, G) of x_{i+1} = x_i + f x_i + G z. Here Euler-Maruyama's, with dt = 1 / steps; an SDE that was
        published as a discrete chain returns that chain's numbers.

        Source: Song et al. 2021, appendix E (reverse diffusion sampling).
        """
        return self.drift_coefficient(t) / steps, self.diffusion(t) / steps**0.5

    def transition(self, t: Float[Tensor, "*times"], s: Float[Tensor, "*times"]) -> ForwardStep:
        """The SDE's own transition from `s` to a later `t`, for steps of any length; `s` may be 0."""
        gained = self.log_snr(t) - self.log_snr(s)
        return ForwardStep(
            scale=(self.log_alpha(t) - self.log_alpha(s)).exp(),
            deviation=self.sigma(t) * (-torch.expm1(gained)).clamp(min=0).sqrt(),
            retained=gained.exp(),
        )

    def paper_transition(self, t: Float[Tensor, "*times"], s: Float[Tensor, "*times"]) -> ForwardStep:
        """The transition that SDEdit's Algorithms 2 to 5 reverse; the exact one where they have none for this SDE."""
        return self.transition(t, s)

    def table_transition(self, t: Float[Tensor, "*times"], s: Float[Tensor, "*times"]) -> ForwardStep:
        """The step to `t` of the chain of `discretize` whose steps are as long as that from `s` to `t`."""
        drift, deviation = self.discretize(t, (1 / (t - s)).round())
        return ForwardStep(1 + drift, deviation, (1 - (deviation / self.sigma(t)).square()).clamp(min=0))

    def perturb(self, x_0: Images, t: Float[Tensor, "B"], noise: Images) -> Images:
        """A sample of x_t given x_0: alpha(t) x_0 + sigma(t) noise, with standard normal `noise`."""
        return over_images(self.alpha(t)) * x_0 + over_images(self.sigma(t)) * noise

    @property
    def prior_deviation(self) -> float:
        """Standard deviation of the prior N(0, deviation^2 I) that stands for x_1."""
        return 1.0

    def prior_sample(self, noise: Images) -> Images:
        """A sample of the prior, made of standard normal `noise`."""
        return noise * self.prior_deviation

    def prior_log_density(self, x: Images) -> Float[Tensor, "B"]:
        """Log density of `x` under the prior, summed over pixels and channels, in nats."""
        dimensions = x[0].numel()
        variance = self.prior_deviation**2
        energy = x.square().flatten(1).sum(1) / (2 * variance)
        return -energy - dimensions / 2 * math.log(2 * math.pi * variance)


@dataclass(frozen=True)
class VPSDE(SDE):
    """Variance-preserving SDE with linear beta(t): dx = -beta(t)/2 x dt + sqrt(beta(t)) dw.

    Args:
        beta_min: beta at t = 0.
        beta_max: beta at t = 1.

    Source: Song et al. 2021, equation 11 and appendix B.
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
        """The noise rate beta(t)."""
        return self.beta_min + (self.beta_max - self.beta_min) * t

    def log_alpha(self, t: Float[Tensor, "*times"]) -> Float[Tensor, "*times"]:
        return -t * (self.beta_min / 2 + (self.beta_max - self.beta_min) / 4 * t)

    def sigma(self, t: Float[Tensor, "*times"]) -> Float[Tensor, "*times"]:
        return (-torch.expm1(2 * self.log_alpha(t))).sqrt()

    def drift_coefficient(self, t: Float[Tensor, "*times"]) -> Float[Tensor, "*times"]:
        return -self.beta(t) / 2

    def diffusion(self, t: Float[Tensor, "*times"]) -> Float[Tensor, "*times"]:
        return self.beta(t).sqrt()

    def time_at_log_snr(self, log_snr: Float[Tensor, "*times"]) -> Float[Tensor, "*times"]:
        return self._time_at_log_alpha(-torch.nn.functional.softplus(-log_snr) / 2)

    def discretize(
        self, t: Float[Tensor, "*times"], steps: int | Float[Tensor, "*times"]
    ) -> tuple[Float[Tensor, "*times"], Float[Tensor, "*times"]]:
        """The DDPM chain whose `steps` betas run linearly from beta_min / steps to beta_max / steps."""
        beta = self.beta(level_index(t, steps) / last_index(steps)) / steps
        return (1 - beta).sqrt() - 1, beta.sqrt()

    def paper_transition(self, t: Float[Tensor, "*times"], s: Float[Tensor, "*times"]) -> ForwardStep:
        """x_t = sqrt(1 - beta(t) (t - s)) x_s + sqrt(beta(t) (t - s)) z.

        Source: Meng et al., "SDEdit", ICLR 2022, Algorithm 4.
        """
        beta = self.beta(t) * (t - s)
        retained = (1 - beta / -torch.expm1(2 * self.log_alpha(t))).clamp(min=0)
        return ForwardStep((1 - beta).sqrt(), beta.sqrt(), retained)

    def _time_at_log_alpha(self, log_alpha: Float[Tensor, "*times"]) -> Float[Tensor, "*times"]:
        slope = self.beta_max - self.beta_min
        return -2 * log_alpha / (self.beta_min / 2 + (self.beta_min**2 / 4 - slope * log_alpha).sqrt())


@dataclass(frozen=True)
class SubVPSDE(VPSDE):
    """Sub-VP SDE: the drift of the VP SDE with less diffusion, so that sigma(t) = 1 - alpha(t)^2.

    Source: Song et al. 2021, equation 12 and appendix B.
    """

    def sigma(self, t: Float[Tensor, "*times"]) -> Float[Tensor, "*times"]:
        return -torch.expm1(2 * self.log_alpha(t))

    def diffusion(self, t: Float[Tensor, "*times"]) -> Float[Tensor, "*times"]:
        return (self.beta(t) * -torch.expm1(4 * self.log_alpha(t))).sqrt()

    def time_at_log_snr(self, log_snr: Float[Tensor, "*times"]) -> Float[Tensor, "*times"]:
        # alpha / (1 - alpha^2) = 1 / (2 sinh(-log alpha))
        return self._time_at_log_alpha(-torch.asinh((-log_snr / 2).exp() / 2))

    def discretize(
        self, t: Float[Tensor, "*times"], steps: int | Float[Tensor, "*times"]
    ) -> tuple[Float[Tensor, "*times"], Float[Tensor, "*times"]]:
        return SDE.discretize(self, t, steps)

    def paper_transition(self, t: Float[Tensor, "*times"], s: Float[Tensor, "*times"]) -> ForwardStep:
        return SDE.transition(self, t, s)


@dataclass(frozen=True)
class VESDE(SDE):
    """Variance-exploding SDE: alpha = 1 and sigma(t) = sigma_min (sigma_max / sigma_min)^t.

    The deviations are in the units of the images. A published model that noises images in [0, 1] with sigma_max 50 is
    VESDE(0.02, 100) on this package's images in [-1, 1].

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
        """ln(sigma_max / sigma_min): how fast the logarithm of sigma grows."""
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

    def discretize(
        self, t: Float[Tensor, "*times"], steps: int | Float[Tensor, "*times"]
    ) -> tuple[Float[Tensor, "*times"], Float[Tensor, "*times"]]:
        """The chain of `steps` geometrically spaced sigmas, whose level below the lowest one is noise-free."""
        sigma, retained = self._table(t, steps)
        return torch.zeros_like(t), sigma * (1 - retained).sqrt()

    def table_transition(self, t: Float[Tensor, "*times"], s: Float[Tensor, "*times"]) -> ForwardStep:
        sigma, retained = self._table(t, (1 / (t - s)).round())
        return ForwardStep(torch.ones_like(t), sigma * (1 - retained).sqrt(), retained)

    def _table(
        self, t: Float[Tensor, "*times"], steps: int | Float[Tensor, "*times"]
    ) -> tuple[Float[Tensor, "*times"], Float[Tensor, "*times"]]:
        """The chain's sigma at its level below `t`, and the part of its square that the level before has already."""
        index = level_index(t, steps)
        ratio = (torch.full_like(t, -2 * self.log_ratio) / last_index(steps)).exp()
        return self.sigma(index / last_index(steps)), torch.where(index == 0, 0.0, ratio)

    @property
    def prior_deviation(self) -> float:
        return self.sigma_max


@dataclass(frozen=True)
class DiscreteVPSDE(SDE):
    """The table of DDPM, read as a VP SDE: index i of `steps` betas is time t = (i + 1) / steps.

    At those times alpha^2 is the table's running product of 1 - beta; between them log alpha is interpolated linearly,
    which is the VP SDE with a piecewise constant beta(t).

    Args:
        beta_start: first beta (not used by `schedule="cosine"`).
        beta_end: last beta (not used by `schedule="cosine"`).
        steps: length N of the table.
        schedule: "linear" in beta, "scaled_linear" (linear in its square root) or "cosine" (the squared-cosine alpha
            with betas capped at 0.999).

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

    def betas(self, like: Float[Tensor, "..."]) -> Float[Tensor, "steps"]:
        """The table in float64, on the device of `like`."""
        fraction = torch.linspace(0, 1, self.steps, dtype=torch.float64, device=like.device)
        if self.schedule == "linear":
            return self.beta_start + (self.beta_end - self.beta_start) * fraction
        if self.schedule == "scaled_linear":
            first, last = math.sqrt(self.beta_start), math.sqrt(self.beta_end)
            return (first + (last - first) * fraction).square()
        edges = torch.arange(self.steps + 1, dtype=torch.float64, device=like.device) / self.steps
        cosine = ((edges + 0.008) / 1.008 * math.pi / 2).cos().square()
        return (1 - cosine[1:] / cosine[:-1]).clamp(max=0.999)

    def log_alpha(self, t: Float[Tensor, "*times"]) -> Float[Tensor, "*times"]:
        return self._log_alpha_double(t).to(t.dtype)

    def sigma(self, t: Float[Tensor, "*times"]) -> Float[Tensor, "*times"]:
        return (-torch.expm1(2 * self._log_alpha_double(t))).sqrt().to(t.dtype)

    def drift_coefficient(self, t: Float[Tensor, "*times"]) -> Float[Tensor, "*times"]:
        """N/2 log(1 - beta_i) on the interval (i/N, (i+1)/N]."""
        # the guard keeps a time that a float rounds just above a knot in the interval below it
        index = (t.double() * self.steps - 5e-4).ceil().long().sub(1).clamp(0, self.steps - 1)
        return (torch.log1p(-self.betas(t))[index] * (self.steps / 2)).to(t.dtype)

    def diffusion(self, t: Float[Tensor, "*times"]) -> Float[Tensor, "*times"]:
        return (-2 * self.drift_coefficient(t)).sqrt()

    def time_at_log_snr(self, log_snr: Float[Tensor, "*times"]) -> Float[Tensor, "*times"]:
        log_alpha = -torch.nn.functional.softplus(-log_snr.double()) / 2
        knots = self._knots(log_snr)
        index = torch.searchsorted(-knots, -log_alpha).sub(1).clamp(0, self.steps - 1)
        fraction = (log_alpha - knots[index]) / (knots[index + 1] - knots[index])
        return ((index + fraction) / self.steps).to(log_snr.dtype)

    def discretize(
        self, t: Float[Tensor, "*times"], steps: int | Float[Tensor, "*times"]
    ) -> tuple[Float[Tensor, "*times"], Float[Tensor, "*times"]]:
        """The step of a chain of `steps` levels that ends at `t`: the table's own beta where steps = N."""
        retained = self._log_alpha_double(t) - self._log_alpha_double((t - 1 / steps).clamp(min=0))
        return torch.expm1(retained).to(t.dtype), (-torch.expm1(2 * retained)).sqrt().to(t.dtype)

    def _knots(self, like: Float[Tensor, "..."]) -> Float[Tensor, "knots"]:
        """log alpha at t = 0, 1/N, ..., 1, in float64."""
        steps = torch.log1p(-self.betas(like)) / 2
        return torch.nn.functional.pad(steps.cumsum(0), (1, 0))

    def _log_alpha_double(self, t: Float[Tensor, "*times"]) -> Float[Tensor, "*times"]:
        knots = self._knots(t)
        position = t.double() * self.steps
        index = position.floor().long().clamp(0, self.steps - 1)
        return torch.lerp(knots[index], knots[index + 1], position - index)


def level_index(t: Float[Tensor, "*times"], steps: int | Float[Tensor, "*times"]) -> Float[Tensor, "*times"]:
    """Index of the level of a chain of `steps` levels on [0, 1] at or below `t`, as a float.

    The half of a thousandth keeps a time that a float rounds just below its level on that level.
    """
    return (t * (steps - 1) + 5e-4).floor()


def last_index(steps: int | Float[Tensor, "*times"]) -> int | Float[Tensor, "*times"]:
    """Index of the last of `steps` levels, as a divisor: 1 for a single level, whose own index is 0."""
    return steps - 1 + (steps == 1)


SDES: dict[str, type[SDE]] = {"vp": VPSDE, "subvp": SubVPSDE, "ve": VESDE, "ddpm": DiscreteVPSDE}
