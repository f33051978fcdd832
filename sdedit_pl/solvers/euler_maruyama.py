"""Euler-Maruyama for the reverse-time SDE dx = (f x - g^2 score) dt + g dw, run backwards.

Source: Song et al. 2021, equation 6; Kloeden and Platen, "Numerical Solution of Stochastic Differential Equations".
"""

from __future__ import annotations

from dataclasses import dataclass

from sdedit_pl.denoiser import Denoiser
from sdedit_pl.noise import StepNoise
from sdedit_pl.solvers.base import Solver, State
from sdedit_pl.typing import Images, Times, over_images


@dataclass(frozen=True)
class EulerMaruyama(Solver):
    """x_s = x_t - (f x_t - g^2 score) (t - s) + g sqrt(t - s) z; needs small steps in t."""

    def step(
        self, denoiser: Denoiser, x_t: Images, t: Times, s: Times, state: State, noise: StepNoise
    ) -> tuple[Images, State]:
        duration = t - s
        diffusion = denoiser.sde.diffusion(t)
        shrink = over_images(denoiser.sde.drift_coefficient(t) * duration) * x_t
        drift = over_images(diffusion.square() * duration) * denoiser.score(x_t, t)
        return x_t - shrink + drift + over_images(diffusion * duration.sqrt()) * noise.shared, state
