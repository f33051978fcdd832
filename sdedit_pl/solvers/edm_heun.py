"""EDM's stochastic sampler: raises the noise to a higher level, then takes a step of Heun's method from there.

    y_hat = y_t + sqrt(r_hat^2 - r_t^2) z,    r_hat = (1 + gamma) r_t

in y = x / alpha and the noise level r = sigma / alpha. The noise corrects errors of earlier steps. Unlike that of a
discretised SDE it costs no accuracy, because both parts of a step preserve the marginals.

Source: Karras et al., "Elucidating the Design Space of Diffusion-Based Generative Models", 2022, Algorithm 2.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from sdedit_pl.denoiser import Denoiser
from sdedit_pl.noise import StepNoise
from sdedit_pl.sde import SDE
from sdedit_pl.solvers.base import Solver, State
from sdedit_pl.solvers.probability_flow import ProbabilityFlowHeun
from sdedit_pl.typing import Images, Times, over_images


class Churn(NamedTuple):
    """The noise added in a run: r_hat = (1 + gamma) r_t, at most `ceiling`, the level at the start of the run."""

    gamma: float
    ceiling: float


@dataclass(frozen=True)
class EDMHeun(Solver):
    """Heun's method with churn, of second order.

    Unlike in the source, noise never exceeds the level at the start of a run: a model may not be trained above t0.

    Args:
        churn: S_churn, the sum of all gamma of a run; 0 adds no noise. The logarithm of the ratio of the highest
            level to the lowest, 3 to 5 from an edit's t0, corresponds to the reverse SDE. A far larger value undoes the
            steps. Published: 30 (CIFAR-10) and 40 (ImageNet 64 px), from pure noise in hundreds of steps.
        lowest: S_tmin, the lowest noise level at which noise is added.
        highest: S_tmax, the highest such level.
        inflation: S_noise, the deviation of the added noise; published: 1.003 to 1.007, which compensates for detail
            that a trained network loses. 1 is right for an exact network.
    """

    churn: float = 3.0
    lowest: float = 0.05
    highest: float = 50.0
    inflation: float = 1.0

    order = 2.0
    evaluations_per_step = 2

    def __post_init__(self) -> None:
        if not self.churn >= 0 or not 0 < self.inflation <= 2 or not 0 <= self.lowest < self.highest:
            raise ValueError(
                "edm_heun needs churn >= 0, 0 < inflation <= 2 and 0 <= lowest < highest, got "
                f"churn={self.churn}, inflation={self.inflation}, lowest={self.lowest}, highest={self.highest}"
            )

    @property
    def stochastic(self) -> bool:
        return self.churn > 0

    def initial_state(self, sde: SDE, times: Float[Tensor, "levels"]) -> State:
        gamma = min(self.churn / (len(times) - 1), math.sqrt(2) - 1)
        return Churn(gamma, sde.noise_level(times[0]).item())

    def step(
        self, denoiser: Denoiser, x_t: Images, t: Times, s: Times, state: State, noise: StepNoise
    ) -> tuple[Images, State]:
        if self.stochastic:
            x_t, t = self._churned(denoiser.sde, x_t, t, state, noise)
        x_s, _ = ProbabilityFlowHeun().step(denoiser, x_t, t, s, None, noise)
        return x_s, state

    def _churned(self, sde: SDE, x_t: Images, t: Times, state: Churn, noise: StepNoise) -> tuple[Images, Times]:
        level = sde.noise_level(t)
        within = (level >= self.lowest) & (level <= self.highest)
        raised = (level * (1 + state.gamma)).clamp(max=state.ceiling)
        t_hat = torch.where(within & (raised > level), sde.time_at_noise_level(raised), t)
        added = (sde.noise_level(t_hat).square() - level.square()).clamp(min=0).sqrt() * self.inflation
        y_hat = x_t / over_images(sde.alpha(t)) + over_images(added) * noise.fresh()
        return over_images(sde.alpha(t_hat)) * y_hat, t_hat
