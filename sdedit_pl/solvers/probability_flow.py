"""The probability-flow ODE, whose marginals are those of the SDE, by the methods of Euler and Heun.

    Euler    dx/dt = f x - g^2 / 2 score
    Heun     dy/dr = (y - x_0(y, r)) / r      in y = x / alpha and the noise level r = sigma / alpha

A step of Heun's method is DDIM's step to r_s, repeated with the mean of the slopes at both ends. In its variables the
paths of the ODE are nearly straight for every SDE.

Source: Song et al. 2021, equation 13; Karras et al. 2022, Algorithm 1.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from sdedit_pl.denoiser import Denoiser
from sdedit_pl.noise import StepNoise
from sdedit_pl.solvers.base import Solver, State
from sdedit_pl.typing import Images, Times, over_images


@dataclass(frozen=True)
class ProbabilityFlowEuler(Solver):
    """Euler steps in t, as published. The same method in sigma / alpha is DDIM, which needs fewer steps."""

    stochastic = False

    def step(
        self, denoiser: Denoiser, x_t: Images, t: Times, s: Times, state: State, noise: StepNoise
    ) -> tuple[Images, State]:
        duration = t - s
        shrink = over_images(denoiser.sde.drift_coefficient(t) * duration) * x_t
        drift = over_images(denoiser.sde.diffusion(t).square() * duration / 2) * denoiser.score(x_t, t)
        return x_t - shrink + drift, state


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
