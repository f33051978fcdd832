"""DDIM: noises the estimated image to the next level with the estimated noise, or partly with new noise.

    x_s = alpha_s x_0 + sqrt(sigma_s^2 - c^2) epsilon + c z,    epsilon = (x_t - alpha_t x_0) / sigma_t

with c = eta times the standard deviation of the posterior. eta = 0 is Euler's method for the probability-flow ODE of
x / alpha in the variable sigma / alpha; eta = 1 is ancestral sampling with the small variance.

Source: Song, Meng and Ermon, "Denoising Diffusion Implicit Models", ICLR 2021, equations 12 and 16.
"""

from __future__ import annotations

from dataclasses import dataclass

from sdedit_pl.denoiser import Denoiser
from sdedit_pl.noise import StepNoise
from sdedit_pl.solvers.base import Solver, State
from sdedit_pl.typing import Images, Times, over_images


@dataclass(frozen=True)
class DDIM(Solver):
    """DDIM for any SDE and steps of any length.

    Args:
        eta: standard deviation of the new noise as a fraction of the posterior's, in [0, 1].
    """

    eta: float = 0.0

    def __post_init__(self) -> None:
        if not 0 <= self.eta <= 1:
            raise ValueError(f"eta of DDIM must lie in [0, 1], got {self.eta}; 0 is deterministic, 1 ancestral")

    @property
    def stochastic(self) -> bool:
        return self.eta > 0

    def step(
        self, denoiser: Denoiser, x_t: Images, t: Times, s: Times, state: State, noise: StepNoise
    ) -> tuple[Images, State]:
        sde = denoiser.sde
        sigma_s = sde.sigma(s)
        added = (1 - sde.transition(t, s).retained) * self.eta**2
        of_noise = sigma_s * (1 - added).sqrt() / sde.sigma(t)
        of_image = sde.alpha(s) - sde.alpha(t) * of_noise
        x_s = over_images(of_noise) * x_t + over_images(of_image) * denoiser(x_t, t)
        if self.stochastic:
            x_s = x_s + over_images(sigma_s * added.sqrt()) * noise.shared
        return x_s, state
