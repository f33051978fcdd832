"""Parameterisations: the meaning of a network's input and output.

The network F takes c_in x_t and a label of the noise level. A parameterisation gives F's output its meaning by two
affine maps with coefficients that depend only on t:

    x_0 estimate = x_0.skip x_t + x_0.out F(c_in x_t, label)
    score        = score.skip x_t + score.out F(c_in x_t, label)

and by F's training target, target.x_0 x_0 + target.noise z for x_t = alpha x_0 + sigma z. The three agree (Tweedie:
x_0 = (x_t + sigma^2 score) / alpha) but are written out separately, because deriving one from another cancels
catastrophically at small sigma. All formulas hold for any SDE, with the noise level s = sigma / alpha.

If a network has twice as many output channels, F is the first half; the second is a reverse step's learned variance.

Source: Karras et al., "Elucidating the Design Space of Diffusion-Based Generative Models", NeurIPS 2022, table 1;
Salimans and Ho, "Progressive Distillation", ICLR 2022 (v); Nichol and Dhariwal, "Improved Denoising Diffusion
Probabilistic Models", ICML 2021, equation 15 (variance).
"""

from __future__ import annotations

import abc
import math
from dataclasses import dataclass
from typing import NamedTuple

import torch

from sdedit_pl.sde import SDE
from sdedit_pl.typing import Times


class Affine(NamedTuple):
    """skip x_t + out F."""

    skip: Times
    out: Times


class Target(NamedTuple):
    """x_0 x_0 + noise z, the training target of the network."""

    x_0: Times
    noise: Times


class Coefficients(NamedTuple):
    """Coefficients of a parameterisation, each in the shape of the times."""

    c_in: Times
    x_0: Affine
    score: Affine
    target: Target


@dataclass(frozen=True)
class Parameterisation(abc.ABC):
    """The meaning of a network's input and output; the network embeds `label_scale * quantity + label_offset`.

    Args:
        label: quantity that is embedded, "time" (t itself) or "log_noise_level" (ln(sigma / alpha)).
        label_scale: factor of the label.
        label_offset: offset of the label.
    """

    label: str = "time"
    label_scale: float = 999.0
    label_offset: float = 0.0

    def __post_init__(self) -> None:
        if self.label not in ("time", "log_noise_level"):
            raise ValueError(f"a network's label is time or log_noise_level, got {self.label!r}")

    @property
    def knows_noise_level_alone(self) -> bool:
        """Whether the network depends only on x_t / alpha and the noise level, so that its weights fit every SDE."""
        return False

    @property
    def learned_variance(self) -> bool:
        """Whether the second half of the output channels is the variance of a reverse step."""
        return False

    def without_variance(self) -> Parameterisation:
        """The parameterisation of F alone, without a learned variance."""
        return self

    def output_channels(self, image_channels: int) -> int:
        return image_channels * (2 if self.learned_variance else 1)

    @abc.abstractmethod
    def coefficients(self, sde: SDE, t: Times) -> Coefficients:
        """The affine maps at the times `t`."""

    def network_label(self, sde: SDE, t: Times) -> Times:
        """The number that the network embeds, in the shape of `t`."""
        quantity = t if self.label == "time" else -sde.log_snr(t) / 2
        return self.label_scale * quantity + self.label_offset


@dataclass(frozen=True)
class Epsilon(Parameterisation):
    """The network estimates the noise z. The default label, 999 t, is that of published VP models.

    label_scale=1000, label_offset=-1 gives DDPM's table index i = N t - 1.
    """

    def coefficients(self, sde: SDE, t: Times) -> Coefficients:
        alpha, sigma = sde.alpha(t), sde.sigma(t)
        zero, one = torch.zeros_like(t), torch.ones_like(t)
        return Coefficients(
            c_in=one,
            x_0=Affine(1 / alpha, -sigma / alpha),
            score=Affine(zero, -1 / sigma),
            target=Target(zero, one),
        )


@dataclass(frozen=True)
class EpsilonAndVariance(Epsilon):
    """The network estimates the noise z, and in a second half of its channels v in [-1, 1], a reverse step's variance.

    (v + 1) / 2 interpolates between the logarithms of the smallest and the largest variance, for each pixel.
    `ScoreModule` fits F alone and refuses models with v, so that v always comes from a network's original training.

    Source: Nichol and Dhariwal 2021, equation 15.
    """

    @property
    def learned_variance(self) -> bool:
        return True

    def without_variance(self) -> Parameterisation:
        return Epsilon(self.label, self.label_scale, self.label_offset)


@dataclass(frozen=True)
class Score(Parameterisation):
    """The network estimates sigma times the score, that is -z.

    The default label, ln(s / 2), is that of published VE models. They noise images in [0, 1] and map them to [-1, 1]
    inside the network, so that their sigma is half of this package's.
    """

    label: str = "log_noise_level"
    label_scale: float = 1.0
    label_offset: float = -math.log(2.0)

    def coefficients(self, sde: SDE, t: Times) -> Coefficients:
        alpha, sigma = sde.alpha(t), sde.sigma(t)
        zero, one = torch.zeros_like(t), torch.ones_like(t)
        return Coefficients(
            c_in=one,
            x_0=Affine(1 / alpha, sigma / alpha),
            score=Affine(zero, 1 / sigma),
            target=Target(zero, -one),
        )


@dataclass(frozen=True)
class Velocity(Parameterisation):
    """The network estimates v = (alpha z - sigma x_0) / n, n^2 = alpha^2 + sigma^2, which is 1 for a VP SDE."""

    def coefficients(self, sde: SDE, t: Times) -> Coefficients:
        alpha, sigma = sde.alpha(t), sde.sigma(t)
        norm = (alpha.square() + sigma.square()).sqrt()
        return Coefficients(
            c_in=1 / norm,
            x_0=Affine(alpha / norm.square(), -sigma / norm),
            score=Affine(-1 / norm.square(), -alpha / (norm * sigma)),
            target=Target(-sigma / norm, alpha / norm),
        )


@dataclass(frozen=True)
class CleanImage(Parameterisation):
    """The network estimates the clean image x_0 itself."""

    def coefficients(self, sde: SDE, t: Times) -> Coefficients:
        alpha, variance = sde.alpha(t), sde.sigma(t).square()
        zero, one = torch.zeros_like(t), torch.ones_like(t)
        return Coefficients(
            c_in=one,
            x_0=Affine(zero, one),
            score=Affine(-1 / variance, alpha / variance),
            target=Target(one, zero),
        )


@dataclass(frozen=True)
class EDM(Parameterisation):
    """EDM's preconditioning of x_t / alpha, whose noise level is s: the network's input and target have unit variance.

    The default label is EDM's, ln(s) / 4.

    Args:
        data_deviation: standard deviation of the clean images' pixels, about 0.5 on [-1, 1].

    Source: Karras et al. 2022, equation 7 and table 1.
    """

    label: str = "log_noise_level"
    label_scale: float = 0.25
    label_offset: float = 0.0
    data_deviation: float = 0.5

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.data_deviation > 0:
            raise ValueError(f"data_deviation must be positive, got {self.data_deviation}; EDM uses 0.5")

    @property
    def knows_noise_level_alone(self) -> bool:
        return self.label == "log_noise_level"

    def coefficients(self, sde: SDE, t: Times) -> Coefficients:
        alpha, level = sde.alpha(t), sde.noise_level(t)
        deviation = self.data_deviation
        total = level.square() + deviation**2
        root = total.sqrt()
        return Coefficients(
            c_in=1 / (alpha * root),
            x_0=Affine(deviation**2 / (alpha * total), level * deviation / root),
            score=Affine(-1 / (alpha.square() * total), deviation / (alpha * level * root)),
            target=Target(level / (deviation * root), -deviation / root),
        )


PARAMETERISATIONS: dict[str, type[Parameterisation]] = {
    "epsilon": Epsilon,
    "epsilon_and_variance": EpsilonAndVariance,
    "score": Score,
    "v": Velocity,
    "x_0": CleanImage,
    "edm": EDM,
}
