"""Predictor-corrector sampling: Langevin steps at time t, then a predictor's step to s.

A Langevin step x <- x + e score + sqrt(2 e) z preserves the density p_t if e is small. The step size follows from the
requested ratio between the contributions of score and noise,

    e = 2 a (snr |z| / |score|)^2,    a = alpha_t^2 / alpha_s^2.

The ratio does not change when the grid is refined, and causes a bias of the order of snr^2 in the variance. The order
of the predictor is the order of convergence up to this bias.

Source: Song et al. 2021, Algorithms 4 and 5.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from jaxtyping import Float
from torch import Tensor

from sdedit_pl.denoiser import Denoiser
from sdedit_pl.noise import StepNoise
from sdedit_pl.sde import SDE
from sdedit_pl.solvers.base import Solver, State
from sdedit_pl.solvers.reverse_diffusion import ReverseDiffusion
from sdedit_pl.typing import Images, Times, over_images


@dataclass(frozen=True)
class PredictorCorrector(Solver):
    """The predictor-corrector sampler.

    Unlike in the published code, norms are not averaged over the batch, on which a sample must not depend.

    Args:
        predictor: the solver that steps from t to s.
        corrector_steps: Langevin steps before each step of the predictor.
        snr: ratio between score and noise; the published values for VE are 0.16 at 32 px and 0.075 at 256 px.
    """

    predictor: Solver = field(default_factory=ReverseDiffusion)
    corrector_steps: int = 1
    snr: float = 0.16

    def __post_init__(self) -> None:
        if self.corrector_steps < 1 or not self.snr > 0:
            raise ValueError(
                f"a corrector needs at least one step and a positive snr, got corrector_steps={self.corrector_steps}, "
                f"snr={self.snr}; to omit the corrector, use the predictor alone"
            )

    @property
    def order(self) -> float:
        return self.predictor.order

    @property
    def evaluations_per_step(self) -> int:
        return self.predictor.evaluations_per_step + self.corrector_steps

    def initial_state(self, sde: SDE, times: Float[Tensor, "levels"]) -> State:
        return self.predictor.initial_state(sde, times)

    def step(
        self, denoiser: Denoiser, x_t: Images, t: Times, s: Times, state: State, noise: StepNoise
    ) -> tuple[Images, State]:
        shrinkage = denoiser.sde.transition(t, s).scale.square()
        for _ in range(self.corrector_steps):
            score, z = denoiser.score(x_t, t), noise.fresh()
            size = over_images(2 * shrinkage * (self.snr * norms(z) / norms(score)).square())
            x_t = x_t + size * score + (2 * size).sqrt() * z
        return self.predictor.step(denoiser, x_t, t, s, state, noise)


def norms(images: Images) -> Float[Tensor, "B"]:
    """The Euclidean norm of each image, reduced one by one: a joint reduction's rounding depends on the batch."""
    return torch.stack([torch.linalg.vector_norm(image) for image in images])
