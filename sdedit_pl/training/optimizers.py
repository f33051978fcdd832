"""Optimisers, and schedules that depend only on the step and the number of steps, which a resumed run may change."""

from __future__ import annotations

import abc
import math
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor


@dataclass(frozen=True)
class Schedule(abc.ABC):
    """A factor on the learning rate, after a linear warm-up.

    Args:
        warmup_steps: optimiser steps over which the rate rises linearly from 0.
    """

    warmup_steps: int = 0

    def __post_init__(self) -> None:
        if self.warmup_steps < 0:
            raise ValueError(f"warmup_steps must be 0 or more, got {self.warmup_steps}")

    def factor(self, step: int, steps: int) -> float:
        """The factor for optimiser step `step` (counted from 0) of `steps`."""
        warmup = min(1.0, (step + 1) / self.warmup_steps) if self.warmup_steps else 1.0
        return warmup * self.decay(step, steps)

    @abc.abstractmethod
    def decay(self, step: int, steps: int) -> float:
        """The factor without warm-up."""


@dataclass(frozen=True)
class Constant(Schedule):
    """A constant rate, as in score_sde and DDPM."""

    def decay(self, step: int, steps: int) -> float:
        return 1.0


@dataclass(frozen=True)
class Cosine(Schedule):
    """Half a cosine from 1 to 0 over the whole run."""

    def decay(self, step: int, steps: int) -> float:
        return (1 + math.cos(math.pi * min(1.0, step / max(1, steps)))) / 2


@dataclass(frozen=True)
class Trapezoid(Schedule):
    """Constant, then linear to 0 over the last steps; a run can be extended until the decay begins.

    Args:
        decay_steps: optimiser steps of the decay at the end.
    """

    decay_steps: int = 1000

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.decay_steps < 0:
            raise ValueError(f"decay_steps must be 0 or more, got {self.decay_steps}")

    def decay(self, step: int, steps: int) -> float:
        return max(0.0, min(1.0, (steps - step) / max(1, self.decay_steps)))


@dataclass(frozen=True)
class InverseSquareRoot(Schedule):
    """Constant up to `reference_steps`, then falling as 1 / sqrt(step).

    Args:
        reference_steps: optimiser step at which the decay begins.

    Source: Karras et al., "Analyzing and Improving the Training Dynamics of Diffusion Models", CVPR 2024, equation 67.
    """

    reference_steps: int = 10_000

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.reference_steps < 1:
            raise ValueError(f"reference_steps must be at least 1, got {self.reference_steps}")

    def decay(self, step: int, steps: int) -> float:
        return 1 / math.sqrt(max(1.0, step / self.reference_steps))


SCHEDULES: dict[str, type[Schedule]] = {
    "constant": Constant,
    "cosine": Cosine,
    "trapezoid": Trapezoid,
    "inverse_square_root": InverseSquareRoot,
}


@dataclass(frozen=True)
class Adam:
    """Adam.

    Args:
        rate: learning rate where the schedule's factor is 1.
        betas: decay rates of the two moments.
        eps: added to the root of the second moment.
        weight_decay: fraction of each weight that is added to its gradient (an L2 penalty).
    """

    rate: float = 2e-4
    betas: tuple[float, float] = (0.9, 0.999)
    eps: float = 1e-8
    weight_decay: float = 0.0

    torch_class = torch.optim.Adam

    def __post_init__(self) -> None:
        for key in ("rate", "eps", "weight_decay"):
            if getattr(self, key) < 0:
                raise ValueError(f"{key} must be 0 or more, got {getattr(self, key):g}")
        if not all(0 <= beta < 1 for beta in self.betas):
            raise ValueError(f"betas must lie in [0, 1), got {self.betas}")

    def build(self, parameters: list[torch.nn.Parameter], *, fused: bool = False) -> torch.optim.Optimizer:
        return self.torch_class(parameters, self.rate, self.betas, self.eps, self.weight_decay, fused=fused)


@dataclass(frozen=True)
class AdamW(Adam):
    """Adam with decoupled weight decay.

    Args:
        weight_decay: fraction of each weight, times the learning rate, that every step subtracts.
    """

    weight_decay: float = 0.01

    torch_class = torch.optim.AdamW


@dataclass(frozen=True)
class Muon(Adam):
    """Orthogonalised momentum for the matrices of a network, Adam for its other weights.

    A convolution is a matrix with one row for each output channel. `rate` is Adam's; updates of matrices are scaled to
    the size of Adam's. `betas`, `eps` and `weight_decay` apply only to the weights that Adam updates.

    Args:
        momentum: decay rate of the matrices' momentum.
        weight_decay: fraction of each other weight that is added to its gradient; matrices do not decay.

    Source: Jordan et al., "Muon: An Optimizer for Hidden Layers in Neural Networks", 2024; for the size of the updates
    Liu et al., "Muon Is Scalable for LLM Training", 2025, equation 4.
    """

    momentum: float = 0.95

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.momentum < 1:
            raise ValueError(f"momentum must lie in [0, 1), got {self.momentum}")

    def build(self, parameters: list[torch.nn.Parameter], *, fused: bool = False) -> torch.optim.Optimizer:
        return MuonAndAdam(parameters, self, fused)


class MuonAndAdam(torch.optim.Adam):
    SMALLEST = 16
    """Minimum number of rows and of columns of a weight that counts as a matrix."""

    def __init__(self, parameters: list[torch.nn.Parameter], settings: Muon, fused: bool) -> None:
        def is_matrix(weight: torch.nn.Parameter) -> bool:
            return weight.dim() > 1 and min(len(weight), weight[0].numel()) >= self.SMALLEST

        groups = [
            {"params": [weight for weight in parameters if is_matrix(weight) is wanted]} for wanted in (False, True)
        ]
        super().__init__(groups, settings.rate, settings.betas, settings.eps, settings.weight_decay, fused=fused)
        self.momentum = settings.momentum

    def __setstate__(self, state: dict[str, Any]) -> None:
        for of_weight in state["state"].values():
            of_weight.setdefault("step", torch.zeros(()))  # matrices have none, and Adam expects one
        super().__setstate__(state)

    @torch.no_grad()
    def step(self, closure: Any = None) -> Any:
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        matrices = [weight for weight in self.param_groups[1]["params"] if weight.grad is not None]
        gradients = [weight.grad for weight in matrices]
        for weight in matrices:
            weight.grad = None  # Adam passes over it
        super().step()
        self._step_matrices(matrices, gradients)
        return loss

    def _step_matrices(self, matrices: list[torch.nn.Parameter], gradients: list[Tensor]) -> None:
        alike: dict[torch.Size, list[Tensor]] = {}
        for weight, gradient in zip(matrices, gradients, strict=True):
            weight.grad = gradient
            mean = self.state[weight].setdefault("momentum", torch.zeros_like(weight))
            mean.lerp_(gradient, 1 - self.momentum)
            alike.setdefault(weight.flatten(1).shape, []).append(weight)
        for shape, weights in alike.items():
            directions = [weight.grad.lerp(self.state[weight]["momentum"], self.momentum) for weight in weights]  # pyright: ignore[reportOptionalMemberAccess]
            updates = orthogonalised(torch.stack([direction.flatten(1) for direction in directions]))
            for weight, update in zip(weights, updates, strict=True):
                weight.sub_(update.view_as(weight), alpha=0.2 * self.param_groups[1]["lr"] * max(shape) ** 0.5)


_LINEAR = 3.4445


def orthogonalised(matrices: Float[Tensor, "N rows columns"]) -> Float[Tensor, "N rows columns"]:
    """Brings the singular values of matrices to about 1 by five Newton-Schulz steps.

    Each step multiplies x by a polynomial of x x^T. In float32 the five polynomials are multiplied first, because x x^T
    is the smaller matrix; bfloat16 is too coarse for that.

    Source: Jordan et al. (2024), with their coefficients of the quintic.
    """
    wide = matrices.shape[1] <= matrices.shape[2]
    x = matrices if wide else matrices.mT
    x = x.bfloat16() if x.is_cuda else x
    x = x / (torch.linalg.matrix_norm(x, keepdim=True) + 1e-7)
    if x.element_size() < 4:
        for _ in range(5):
            x = _LINEAR * x + _higher_orders(x @ x.mT) @ x
    else:
        square = x @ x.mT
        product = torch.eye(x.shape[1], dtype=x.dtype, device=x.device)
        linear = _LINEAR * product
        for _ in range(5):
            factor = linear + _higher_orders(square)
            square = factor @ square @ factor
            product = factor @ product
        x = product @ x
    return (x if wide else x.mT).to(matrices.dtype)


def _higher_orders(square: Float[Tensor, "N side side"]) -> Float[Tensor, "N side side"]:
    return torch.baddbmm(square, square, square, beta=-4.7750, alpha=2.0315)


OPTIMIZERS: dict[str, type[Adam]] = {"adam": Adam, "adamw": AdamW, "muon": Muon}
