"""Euler's method for the probability-flow ODE dx/dt = f x - g^2 / 2 score.

Source: Song et al. 2021, equation 13.
"""

from __future__ import annotations

from dataclasses import dataclass

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
