"""SDE-DPM-Solver++ (2M): the reverse SDE, with the x_0 estimate extrapolated from two evaluations.

    y_s = q y_t + (1 - q) D + r_s sqrt(1 - q) z,    q = (r_s / r_t)^2,    D as in DPM-Solver++ (2M)

in y = x / alpha and the noise level r = sigma / alpha. With D = D_t this is ancestral sampling with the small variance.

Source: Lu et al., "DPM-Solver++: Fast Solver for Guided Sampling of Diffusion Probabilistic Models", 2022, equation 19.
"""

from __future__ import annotations

from dataclasses import dataclass

from sdedit_pl.denoiser import Denoiser
from sdedit_pl.noise import StepNoise
from sdedit_pl.solvers.base import Solver, State
from sdedit_pl.solvers.exponential import Evaluation, midpoint
from sdedit_pl.typing import Images, Times, over_images


@dataclass(frozen=True)
class SDEDPMSolver2M(Solver):
    """SDE-DPM-Solver++ (2M), of second weak order for one evaluation a step; the first step is ancestral."""

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
