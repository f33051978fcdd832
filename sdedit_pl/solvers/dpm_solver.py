"""DPM-Solver++ (2M) for the probability-flow ODE and for the reverse SDE.

    ODE    y_s = q y_t + (1 - q) D,                          q = r_s / r_t
    SDE    y_s = q y_t + (1 - q) D + r_s sqrt(1 - q) z,      q = (r_s / r_t)^2

in y = x / alpha, the noise level r = sigma / alpha and steps h in ln r. D is the x_0 estimate, extrapolated from two
evaluations: D = D_t + h / (2 h_before) (D_t - D_before). With D = D_t, the first is DDIM and the second ancestral
sampling with the small variance.

Source: Lu et al., "DPM-Solver++", 2022, Algorithm 2 and equation 19.
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
    """DPM-Solver++ (2M), of second order with one evaluation per step; the first step is DDIM's."""

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


@dataclass(frozen=True)
class SDEDPMSolver2M(Solver):
    """SDE-DPM-Solver++ (2M), of second weak order with one evaluation per step; the first step is ancestral."""

    order = 2.0

    def step(
        self, denoiser: Denoiser, x_t: Images, t: Times, s: Times, state: State, noise: StepNoise
    ) -> tuple[Images, State]:
        sde = denoiser.sde
        here, level_s = Evaluation(sde.noise_level(t), denoiser(x_t, t)), sde.noise_level(s)
        kept = (level_s / here.level).square()
        added = over_images(level_s * (1 - kept).sqrt()) * noise.shared
        kept = over_images(kept)
        y_s = kept * (x_t / over_images(sde.alpha(t))) + (1 - kept) * midpoint(here, state, level_s) + added
        return over_images(sde.alpha(s)) * y_s, here
