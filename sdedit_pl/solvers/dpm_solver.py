"""DPM-Solver++ (2M): the probability-flow ODE, with the x_0 estimate extrapolated from two evaluations.

    y_s = r_s / r_t y_t + (1 - r_s / r_t) D,    D = D_t + h / (2 h_before) (D_t - D_before)

in y = x / alpha, the noise level r = sigma / alpha and steps h in ln r.

Source: Lu et al., "DPM-Solver++: Fast Solver for Guided Sampling of Diffusion Probabilistic Models", 2022, Algorithm 2.
"""

from __future__ import annotations

from dataclasses import dataclass

from sdedit_pl.denoiser import Denoiser
from sdedit_pl.noise import StepNoise
from sdedit_pl.solvers.base import Solver, State
from sdedit_pl.solvers.exponential import Evaluation, midpoint
from sdedit_pl.typing import Images, Times, over_images


@dataclass(frozen=True)
class DPMSolver2M(Solver):
    """DPM-Solver++ (2M), of second order for one evaluation a step; the first step is DDIM's."""

    order = 2.0
    stochastic = False

    def step(
        self, denoiser: Denoiser, x_t: Images, t: Times, s: Times, state: State, noise: StepNoise
    ) -> tuple[Images, State]:
        sde = denoiser.sde
        here, level_s = Evaluation(sde.noise_level(t), denoiser(x_t, t)), sde.noise_level(s)
        kept = over_images(level_s / here.level)
        y_s = kept * (x_t / over_images(sde.alpha(t))) + (1 - kept) * midpoint(here, state, level_s)
        return over_images(sde.alpha(s)) * y_s, here
