"""A denoiser: a network, a parameterisation (`sdedit_pl.parameterisations`), and the SDE whose noise it removes."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from copy import copy
from typing import Any, NamedTuple, TypeAlias

import torch
from jaxtyping import Float
from torch import Tensor, nn

from sdedit_pl.conditions import ClassCondition, Condition
from sdedit_pl.machine import tensor_float32
from sdedit_pl.noise import Distribution, Gaussian
from sdedit_pl.parameterisations import Affine, Coefficients, Parameterisation
from sdedit_pl.sde import SDE
from sdedit_pl.typing import Images, Times, over_images


class Estimates(NamedTuple):
    """`variance_weight`, if learned, places a reverse step's log variance between its smallest (0) and largest (1)."""

    x_0: Images
    score: Images
    variance_weight: Images | None


Labels: TypeAlias = str | Sequence[str] | Float[Tensor, "N size"]
"""One label for all images, a label for each image of a batch, or vectors from `Condition.vectors`."""


class Denoiser(nn.Module):
    """A network that removes the noise of an SDE.

    Args:
        network: maps (B, C, H, W) inputs, (B,) noise labels and, if there are any, conditions (B, conditions) to
            (B, C, H, W), or to (B, 2 C, H, W) with a learned variance.
        sde: the SDE of the training noise.
        t_max: the largest training time, in (0, 1]; estimates at later times are meaningless.
        labels: the labels that the network knows; None for none.
        noise: distribution of the noise that it removes; None for Gaussian.
        at_once: batch size of one network call; None passes whole batches, as training does. Libraries choose kernels
            by the batch size, and kernels round differently: only a fixed size gives the same bits in every batch.
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
        """The largest number of network evaluations for one estimate."""
        return getattr(self.network, "evaluations", 1)

    @property
    def highest_noise_level(self) -> float:
        """sigma / alpha at the largest training time."""
        return self.sde.noise_level(torch.tensor(self.t_max, dtype=torch.float64)).item()

    def evaluations_at(self, t: Float[Tensor, ""]) -> int:
        label = self.parameterisation.network_label(self.sde, t).item()
        return getattr(at_label(self.network, label), "evaluations", 1)

    def changed(self, **attributes: Any) -> Denoiser:
        """A shallow copy with the given attributes."""
        other = copy(self)
        other._modules, other._buffers = dict(self._modules), dict(self._buffers)
        for name, value in attributes.items():
            setattr(other, name, value)
        return other

    def labelled(self, labels: Labels) -> Denoiser:
        """A copy for images with these labels; raises ValueError for an unknown label, or vectors of another length."""
        if not isinstance(labels, Tensor):
            labels = self.labels.vectors([labels] if isinstance(labels, str) else labels)
        if labels.shape[1] != self.labels.size or not self.labels.size:
            raise ValueError(f"this model takes vectors of {self.labels.size} numbers as labels, got {labels.shape[1]}")
        return self.changed(condition=labels.to(next(self.parameters()).device))

    def forward(self, x_t: Images, t: Times) -> Images:
        """The estimate of x_0, E[x_0 | x_t], at times `t` in (0, 1]."""
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

        `conditions` holds the labels of the clean images' augmentation and the images' own labels; None takes the
        label vectors that `labelled` set, if any. `coefficients` are those at `t`, if already computed.
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
        network = self.network
        if not label.dim():
            network = at_label(network, label.item())
            label = label.to(x_t.device, non_blocking=True).repeat(len(x_t))
        scaled = (over_images(coefficients.c_in) * x_t).to(dtype)
        inputs = [scaled, label]
        if conditions is None and self.condition is not None:
            conditions = self.condition.expand(len(x_t), -1)
        if conditions is not None:
            inputs.append(conditions)
        output = network(*inputs) if self.at_once is None else _grouped(network, inputs, self.at_once)
        return output.to(x_t.dtype)

    def _affine(self, coefficients: Coefficients, affine: Affine, x_t: Images, t: Times) -> Images:
        output = self._outputs(coefficients, x_t, t)[:, : x_t.shape[1]]
        return over_images(affine.skip) * x_t + over_images(affine.out) * output


def at_label(network: nn.Module, label: float) -> nn.Module:
    """The part of a network to evaluate if all images have the same noise label, chosen by `network.at_label`."""
    return getattr(network, "at_label", lambda _: network)(label)


def _grouped(network: nn.Module, inputs: Sequence[Tensor], size: int) -> Float[Tensor, "B outputs H W"]:
    """The network's output in groups of exactly `size` images; copies of the last image fill the last group."""
    count = len(inputs[0])
    missing = -count % size
    filled = [torch.cat([part, part[-1:].expand(missing, *part.shape[1:])]).split(size) for part in inputs]
    # Cloned, because a network under CUDA graphs returns the same memory at every call.
    return torch.cat([network(*group).clone() for group in zip(*filled, strict=True)])[:count]


def in_precision(denoiser: Denoiser, precision: str) -> AbstractContextManager[object]:
    """Permanently converts a denoiser's network for inference in float32, tf32, bfloat16 or float16.

    The solver's state and the noise label's embedding stay in float32: 16 bits are too few for the embedding's phases.
    Weights are converted once, not at every call as autocast would. Returns a context in which a GPU computes float32
    as IEEE defines it, or in TF32 if that is the precision.
    """
    if precision in ("bfloat16", "float16"):
        _convert_all_but_labels(denoiser.network, getattr(torch, precision))
    on_gpu = any(weight.is_cuda for weight in denoiser.parameters())
    return tensor_float32(precision == "tf32") if on_gpu else nullcontext()


def _convert_all_but_labels(network: nn.Module, dtype: torch.dtype) -> None:
    for name, part in network.named_children():
        if name != "label_embedding":
            if any(inner.endswith("label_embedding") for inner, _ in part.named_modules()):
                _convert_all_but_labels(part, dtype)
            else:
                part.to(dtype)
