"""Ancestral sampling: each step samples the posterior of one step of a forward chain.

The forward step x_t = a x_s + b z is reversed by

    x_s = (x_t + b^2 score(x_t, t)) / a + c z.

The large variance, c^2 = b^2, is exact for data of unit variance. The small one, c^2 = (b sigma_s / sigma_t)^2, that of
the posterior given x_0, is exact for data that consist of a single image and is better with few steps. The true
variance lies between them. A learned variance is a position between the two, on a logarithmic scale, for each pixel.

Source: Ho et al. 2020, Algorithm 2 and section 3.2; Meng et al., "SDEdit", ICLR 2022, Algorithms 2 (VE) and 4 (VP);
Nichol and Dhariwal 2021, equation 15 (learned variance), and section 4 (steps of any length, with their own bounds).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from sdedit_pl.denoiser import Denoiser
from sdedit_pl.noise import StepNoise
from sdedit_pl.sde import SDE
from sdedit_pl.solvers.base import Solver, State
from sdedit_pl.solvers.published_chains import chain_named, require_possible_steps
from sdedit_pl.typing import Images, Times, over_images

VARIANCES = ("auto", "small", "large", "learned")


@dataclass(frozen=True)
class Ancestral(Solver):
    """The ancestral sampler, for any SDE.

    Args:
        variance: variance of a step's noise: "small" (better with few steps), "large" (exact for data of unit
            variance), "learned" (predicted by the network, between the two), or "auto" (learned if there is one, else
            small). SDEdit's algorithms use large, its reference code small; score_sde uses small for VE, large for VP.
        chain: the reversed forward chain: "exact" (the SDE's own transition, for steps of any length), "paper" (that of
            SDEdit's algorithms) or "table" (that of score_sde).
    """

    variance: str = "auto"
    chain: str = "exact"

    def __post_init__(self) -> None:
        if self.variance not in VARIANCES:
            raise ValueError(
                f"the variance of an ancestral step is one of {', '.join(VARIANCES)}, got {self.variance!r}"
            )
        chain_named(self.chain)

    def initial_state(self, sde: SDE, times: Float[Tensor, "levels"]) -> State:
        require_possible_steps(self.chain, sde, times)

    def step(
        self, denoiser: Denoiser, x_t: Images, t: Times, s: Times, state: State, noise: StepNoise
    ) -> tuple[Images, State]:
        forward = chain_named(self.chain)(denoiser.sde, t, s)
        largest = forward.deviation
        smallest = largest * forward.retained.sqrt() / forward.scale
        learned = self.variance == "auto" and denoiser.parameterisation.learned_variance
        if learned or self.variance == "learned":
            _, score, weight = denoiser.estimates(x_t, t)
            if weight is None:
                raise ValueError(
                    f"variance=learned requires a model with a learned variance, got the parameterisation "
                    f"{type(denoiser.parameterisation).__name__}; use variance=auto, small or large"
                )
            deviation = _between(over_images(smallest), over_images(largest), weight)
        else:
            score = denoiser.score(x_t, t)
            deviation = over_images(largest if self.variance == "large" else smallest)
        drift = over_images(largest.square()) * score
        return (x_t + drift) / over_images(forward.scale) + deviation * noise.shared, state


def _between(
    smallest: Float[Tensor, "B 1 1 1"], largest: Float[Tensor, "B 1 1 1"], weight: Images
) -> Float[Tensor, "B C H W"]:
    """Logarithmic interpolation of the standard deviation; 0 where the smallest is 0, as in a step to t = 0."""
    deviation = largest * (smallest / largest) ** (1 - weight)
    return torch.where(smallest > 0, deviation, torch.zeros_like(deviation))
