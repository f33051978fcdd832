"""Reverse diffusion sampling: the reverse SDE discretised like the forward chain.

Where the forward chain steps x_t = x_s + f x_s + G z, the reverse one steps

    x_s = x_t - f x_t + G^2 score(x_t, t) + G z.

Source: Song et al. 2021, appendix E, equation 46.
"""

from __future__ import annotations

from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor

from sdedit_pl.denoiser import Denoiser
from sdedit_pl.noise import StepNoise
from sdedit_pl.sde import SDE
from sdedit_pl.solvers.base import Solver, State
from sdedit_pl.solvers.published_chains import chain_named, require_possible_steps
from sdedit_pl.typing import Images, Times, over_images


@dataclass(frozen=True)
class ReverseDiffusion(Solver):
    """The reverse diffusion sampler.

    Args:
        chain: the reversed forward chain, "exact", "paper" or "table". The default is that of score_sde with
            N = 1 / (t - s) levels on [0, 1]: t0 = 0.5 in 25 steps visits the lower half of a chain of 50 levels.
    """

    chain: str = "table"

    def __post_init__(self) -> None:
        chain_named(self.chain)

    def initial_state(self, sde: SDE, times: Float[Tensor, "levels"]) -> State:
        require_possible_steps(self.chain, sde, times)

    def step(
        self, denoiser: Denoiser, x_t: Images, t: Times, s: Times, state: State, noise: StepNoise
    ) -> tuple[Images, State]:
        forward = chain_named(self.chain)(denoiser.sde, t, s)
        drift = over_images(forward.deviation.square()) * denoiser.score(x_t, t)
        x_s = over_images(2 - forward.scale) * x_t + drift
        return x_s + over_images(forward.deviation) * noise.shared, state
