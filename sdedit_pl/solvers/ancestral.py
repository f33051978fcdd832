"""Ancestral sampling: each step samples the posterior of one step of a forward chain.

The forward step x_t = a x_s + b z is reversed by

    x_s = (x_t + b^2 score(x_t, t)) / a + c z.

c^2 = b^2 (large variance) is exact for data of unit variance, the posterior's given x_0, c^2 = (b sigma_s / sigma_t)^2
(small variance), for data that is a single image; the small one does better on few steps.

Source: Ho et al. 2020, Algorithm 2 and section 3.2; Meng et al., "SDEdit", ICLR 2022, Algorithms 2 (VE) and 4 (VP).
"""

from __future__ import annotations

from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor

from sdedit_pl.denoiser import Denoiser
from sdedit_pl.noise import StepNoise
from sdedit_pl.sde import SDE
from sdedit_pl.solvers.base import Solver, State, forward_steps, require_chain
from sdedit_pl.typing import Images, Times, over_images


@dataclass(frozen=True)
class Ancestral(Solver):
    """The ancestral sampler, for any SDE.

    Args:
        variance: of a step's noise: "small" (better on few steps) or "large" (exact for data of unit variance).
            SDEdit's algorithms take the large one, its reference code and score_sde's for VE the small one,
            score_sde's for VP the large one.
        chain: the forward chain that is reversed: "exact" (the SDE's own, for steps of any length), "paper" (that of
            SDEdit's algorithms) or "table" (that of score_sde).
    """

    variance: str = "small"
    chain: str = "exact"

    def __post_init__(self) -> None:
        if self.variance not in ("small", "large"):
            raise ValueError(f"the variance of an ancestral step is small or large, got {self.variance!r}")
        forward_steps(self.chain)

    @property
    def stochastic(self) -> bool:
        return True

    def initial_state(self, sde: SDE, times: Float[Tensor, "levels"]) -> State:
        require_chain(self.chain, sde, times)

    def step(
        self, denoiser: Denoiser, x_t: Images, t: Times, s: Times, state: State, noise: StepNoise
    ) -> tuple[Images, State]:
        forward = forward_steps(self.chain)(denoiser.sde, t, s)
        deviation = forward.deviation
        if self.variance == "small":
            deviation = deviation * forward.retained.sqrt() / forward.scale
        drift = over_images(forward.deviation.square()) * denoiser.score(x_t, t)
        return (x_t + drift) / over_images(forward.scale) + over_images(deviation) * noise.shared, state
