"""Heun's method for the probability-flow ODE of y = x / alpha in the noise level r = sigma / alpha.

    dy/dr = (y - x_0(y, r)) / r

A step is DDIM's step to r_s, repeated with the mean of the slopes at both ends. In these variables the paths of the ODE
are nearly straight for every SDE.

Source: Karras et al., "Elucidating the Design Space of Diffusion-Based Generative Models", 2022, Algorithm 1.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from sdedit_pl.denoiser import Denoiser
from sdedit_pl.noise import StepNoise
from sdedit_pl.solvers.base import Solver, State
from sdedit_pl.typing import Images, Times, over_images


@dataclass(frozen=True)
class ProbabilityFlowHeun(Solver):
    """Heun's method, of second order; a step down to zero noise, where there is no slope, is Euler's."""

    order = 2.0
    evaluations_per_step = 2
    stochastic = False

    def step(
        self, denoiser: Denoiser, x_t: Images, t: Times, s: Times, state: State, noise: StepNoise
    ) -> tuple[Images, State]:
        level_t, level_s = (over_images(denoiser.sde.noise_level(time)) for time in (t, s))
        alpha_s = over_images(denoiser.sde.alpha(s))
        y = x_t / over_images(denoiser.sde.alpha(t))
        slope = (y - denoiser(x_t, t)) / level_t
        euler = y + (level_s - level_t) * slope
        slope_s = (euler - denoiser(alpha_s * euler, s)) / level_s
        heun = y + (level_s - level_t) * (slope + slope_s) / 2
        return alpha_s * torch.where(level_s > 0, heun, euler), state
