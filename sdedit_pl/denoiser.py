"""A denoiser: a raw network, the arithmetic around it, and the SDE whose noise it removes.

The network F takes c_in x_t and a label of the noise level. A parameterisation defines the meaning of F's output by two
affine maps with coefficients that depend only on t:

    x_0 estimate = x_0.skip x_t + x_0.out F(c_in x_t, label)
    score        = score.skip x_t + score.out F(c_in x_t, label)

and by F's training target, target.x_0 x_0 + target.noise z for x_t = alpha x_0 + sigma z. The three agree (Tweedie:
x_0 = (x_t + sigma^2 score) / alpha) but are written out separately, because deriving one from another cancels
catastrophically at small sigma. All formulas hold for any SDE, with the noise level s = sigma / alpha.

A network may have twice as many output channels. F is then the first half; the second half is the learned variance of a
reverse step, which only `Denoiser.estimates` returns.

Source: Karras et al., "Elucidating the Design Space of Diffusion-Based Generative Models", NeurIPS 2022, table 1;
Salimans and Ho, "Progressive Distillation", ICLR 2022 (v); Nichol and Dhariwal, "Improved Denoising Diffusion
Probabilistic Models", ICML 2021, equation 15 (variance).
"""

from __future__ import annotations

import abc
import math
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from copy import copy
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeAlias

import torch
from jaxtyping import Float
from torch import Tensor, nn

from sdedit_pl.conditions import ClassCondition, Condition
from sdedit_pl.machine import tensor_float32
from sdedit_pl.noise import Distribution, Gaussian
from sdedit_pl.sde import SDE
from sdedit_pl.typing import Images, Times, over_images


class Affine(NamedTuple):
    """skip x_t + out F."""

    skip: Times
    out: Times


class Target(NamedTuple):
    """x_0 x_0 + noise z, the training target of the network."""

    x_0: Times
    noise: Times


class Coefficients(NamedTuple):
    """Coefficients of a parameterisation at given times, each with their shape."""

    c_in: Times
    x_0: Affine
    score: Affine
    target: Target


class Estimates(NamedTuple):
    """Estimates from one evaluation of the network.

    `variance_weight` interpolates the variance of a reverse step on a logarithmic scale, from the smallest (0) to the
    largest (1); None without a learned variance.
    """

    x_0: Images
    score: Images
    variance_weight: Images | None


@dataclass(frozen=True)
class Parameterisation(abc.ABC):
    """The meaning of a network's input and output.

    The network embeds the label `label_scale * quantity + label_offset`.

    Args:
        label: the quantity, "time" (t itself) or "log_noise_level" (ln(sigma / alpha)).
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
        """Whether the network depends on x_t / alpha and the noise level alone, so that its weights fit every SDE."""
        return False

    @property
    def learned_variance(self) -> bool:
        """Whether the second half of the output channels is the variance of a reverse step."""
        return False

    def without_variance(self) -> Parameterisation:
        """The parameterisation of the first half of the output channels."""
        return self

    def output_channels(self, image_channels: int) -> int:
        """Number of output channels of the network."""
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
    """F estimates the noise z. With the default label, 999 t, the convention of published VP models.

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
    """F estimates the noise z, and v in [-1, 1], the second half of the channels, the variance of a reverse step.

    (v + 1) / 2 interpolates between the logarithms of the smallest and the largest variance, for each pixel. Training
    fits F alone and refuses models with v, so that v always comes from the training that produced its network.

    Source: Nichol and Dhariwal 2021, equation 15.
    """

    @property
    def learned_variance(self) -> bool:
        return True

    def without_variance(self) -> Parameterisation:
        return Epsilon(self.label, self.label_scale, self.label_offset)


@dataclass(frozen=True)
class Score(Parameterisation):
    """F estimates sigma times the score, that is -z.

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
    """F estimates v = (alpha z - sigma x_0) / n with n^2 = alpha^2 + sigma^2, which is 1 for a VP SDE."""

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
    """F estimates the clean image x_0 itself."""

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
    """The preconditioning of EDM on x_t / alpha, whose noise level is s: F's input and target have unit variance.

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


Labels: TypeAlias = str | Sequence[str] | Float[Tensor, "N size"]
"""A label of all images, labels of each image of a batch, or their vectors as `Condition.vectors` makes them."""


class Denoiser(nn.Module):
    """A network that removes the noise of an SDE.

    Args:
        network: maps (B, C, H, W) inputs and (B,) labels to (B, C, H, W), or to (B, 2 C, H, W) where the
            parameterisation has a learned variance.
        parameterisation: the meaning of the network's input and output.
        sde: the SDE of the training noise.
        t_max: the largest training time; estimates at later times are meaningless.
        labels: the labels that the network knows; None for none.
        noise: distribution of the noise that it removes; None for Gaussian.
        at_once: number of images in a call of the network; None passes whole batches, as training does. Libraries
            choose kernels, which round differently, by the size of the batch. Only with a number is an image's result
            bit-identical in every batch.

    Raises:
        ValueError: `at_once` below 1, or `t_max` out of (0, 1].
    """

    def __init__(
        self,
        network: nn.Module,
        parameterisation: Parameterisation,
        sde: SDE,
        *,
        t_max: float = 1.0,
        labels: Condition | None = None,
        noise: Distribution | None = None,
        at_once: int | None = None,
    ) -> None:
        super().__init__()
        if not 0 < t_max <= 1:
            raise ValueError(f"t_max, the largest time trained on, must lie in (0, 1], got {t_max}")
        if at_once is not None and at_once < 1:
            raise ValueError(f"at_once must be at least 1, or None for whole batches, got {at_once}")
        self.network = network
        self.parameterisation = parameterisation
        self.sde = sde
        self.t_max = t_max
        self.labels = labels or ClassCondition()
        self.noise = noise or Gaussian()
        self.at_once = at_once
        self.condition: Tensor | None
        self.register_buffer("condition", None, persistent=False)

    @property
    def evaluations(self) -> int:
        """The largest number of networks that an estimate evaluates."""
        return getattr(self.network, "evaluations", 1)

    def changed(self, **attributes: Any) -> Denoiser:
        """A copy that shares everything but the given attributes."""
        other = copy(self)
        other._modules, other._buffers = dict(self._modules), dict(self._buffers)
        for name, value in attributes.items():
            setattr(other, name, value)
        return other

    def labelled(self, labels: Labels) -> Denoiser:
        """A copy for images of a label; see `Labels`.

        Raises:
            ValueError: a label that the model does not know, or vectors of another length than `labels` makes.
        """
        if not isinstance(labels, Tensor):
            labels = self.labels.vectors([labels] if isinstance(labels, str) else labels)
        if labels.shape[1] != self.labels.size or not self.labels.size:
            raise ValueError(f"this model takes vectors of {self.labels.size} numbers as labels, got {labels.shape[1]}")
        return self.changed(condition=labels.to(next(self.parameters()).device))

    def forward(self, x_t: Images, t: Times) -> Images:
        """The estimate of x_0, that is E[x_0 | x_t], for images noised to the times `t` in (0, 1]."""
        coefficients = self.parameterisation.coefficients(self.sde, t)
        return self._affine(coefficients, coefficients.x_0, x_t, t)

    def score(self, x_t: Images, t: Times) -> Images:
        """The estimate of the gradient of log p_t at `x_t`, per unit of the image range."""
        coefficients = self.parameterisation.coefficients(self.sde, t)
        return self._affine(coefficients, coefficients.score, x_t, t)

    def raw(
        self,
        x_t: Images,
        t: Times,
        conditions: Float[Tensor, "B conditions"] | None = None,
        *,
        coefficients: Coefficients | None = None,
    ) -> Images:
        """The raw output of the network, without the learned variance.

        `conditions` holds the labels of the clean images' augmentation and the images' own labels, for a network
        conditioned on them; None stands for those of `labelled`. `coefficients` are those at `t`, if already computed.
        """
        coefficients = coefficients or self.parameterisation.coefficients(self.sde, t)
        return self._outputs(coefficients, x_t, t, conditions)[:, : x_t.shape[1]]

    def estimates(self, x_t: Images, t: Times) -> Estimates:
        """The estimates of x_0, score and learned variance from one evaluation of the network."""
        coefficients = self.parameterisation.coefficients(self.sde, t)
        output, variance = self._outputs(coefficients, x_t, t).tensor_split([x_t.shape[1]], dim=1)
        x_0, score = (
            over_images(affine.skip) * x_t + over_images(affine.out) * output
            for affine in (coefficients.x_0, coefficients.score)
        )
        return Estimates(x_0, score, (variance + 1) / 2 if self.parameterisation.learned_variance else None)

    def _outputs(
        self, coefficients: Coefficients, x_t: Images, t: Times, conditions: Float[Tensor, "B conditions"] | None = None
    ) -> Float[Tensor, "B outputs H W"]:
        dtype = next(self.network.parameters()).dtype
        label = self.parameterisation.network_label(self.sde, t).to(torch.promote_types(dtype, torch.float32))
        if not label.dim():
            label = label.to(x_t.device, non_blocking=True).repeat(len(x_t))
        scaled = (over_images(coefficients.c_in) * x_t).to(dtype)
        inputs = [scaled, label]
        if conditions is None and self.condition is not None:
            conditions = self.condition.expand(len(x_t), -1)
        if conditions is not None:
            inputs.append(conditions)
        output = self.network(*inputs) if self.at_once is None else self._grouped(inputs, self.at_once)
        return output.to(x_t.dtype)

    def _grouped(self, inputs: Sequence[Tensor], size: int) -> Float[Tensor, "B outputs H W"]:
        """The network's output in groups of exactly `size` images; copies of the last image fill the last group."""
        count = len(inputs[0])
        missing = -count % size
        filled = [torch.cat([part, part[-1:].expand(missing, *part.shape[1:])]).split(size) for part in inputs]
        # Cloned, because a network under CUDA graphs returns the same memory at every call.
        return torch.cat([self.network(*group).clone() for group in zip(*filled, strict=True)])[:count]

    def _affine(self, coefficients: Coefficients, affine: Affine, x_t: Images, t: Times) -> Images:
        output = self._outputs(coefficients, x_t, t)[:, : x_t.shape[1]]
        return over_images(affine.skip) * x_t + over_images(affine.out) * output


PARAMETERISATIONS: dict[str, type[Parameterisation]] = {
    "epsilon": Epsilon,
    "epsilon_and_variance": EpsilonAndVariance,
    "score": Score,
    "v": Velocity,
    "x_0": CleanImage,
    "edm": EDM,
}


def in_precision(denoiser: Denoiser, precision: str) -> AbstractContextManager[object]:
    """Permanently converts a denoiser's network for inference in `precision`; the state stays in float32.

    The label's embedding stays in float32, because 16 bits are too few for its large phases. Weights are
    converted once and not at every call, as autocast would.

    Args:
        denoiser: the model; its network has `label_embedding`, as those of this package have, or is converted whole.
        precision: float32, tf32, bfloat16 or float16.

    Returns:
        A context in which a GPU computes float32 as IEEE defines it, or in TF32 if that is the precision.
    """
    if precision in ("bfloat16", "float16"):
        _convert_all_but_labels(denoiser.network, getattr(torch, precision))
    on_gpu = any(weight.is_cuda for weight in denoiser.parameters())
    return tensor_float32(precision == "tf32") if on_gpu else nullcontext()


def _convert_all_but_labels(network: nn.Module, dtype: torch.dtype) -> None:
    """Converts the parts of a network, or of one that another module wraps, except its label embedding."""
    for name, part in network.named_children():
        if name != "label_embedding":
            if any(inner.endswith("label_embedding") for inner, _ in part.named_modules()):
                _convert_all_but_labels(part, dtype)
            else:
                part.to(dtype)
