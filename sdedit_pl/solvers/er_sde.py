"""ER-SDE: reverse SDEs whose noise is set by a function phi of the noise level, with a Taylor series of D.

    y_s = q y_t + (1 - q) D + sum_k a_k D^(k) + sqrt(r_s^2 - q^2 r_t^2) z,    q = phi_s / phi_t,
    a_k = -int_{r_s}^{r_t} (r - r_t)^{k-1} / (k-1)! (1 - phi_s / phi(r)) dr

in y = x / alpha and noise level r = sigma / alpha. Divided differences of earlier evaluations give the derivatives of
the x_0 estimate D in r. phi(r) = r (exp(r^0.3) + 10) adds little noise at low levels, where removal needs more steps.

Source: Cui et al., "Elucidating the Solution Space of Extended Reverse-Time SDE for Diffusion Models", 2023, Algorithms
1 to 3 and appendix A.8 (SDE_5).
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import torch

from sdedit_pl.denoiser import Denoiser
from sdedit_pl.noise import StepNoise
from sdedit_pl.solvers.base import Solver, State
from sdedit_pl.solvers.exponential import Evaluation, mean_over_unit_interval
from sdedit_pl.typing import Images, Times, over_images


@dataclass(frozen=True)
class ERSDE(Solver):
    """ER-SDE with one evaluation a step.

    Args:
        stages: terms of the Taylor series, 2 or 3; the first steps have fewer.
    """

    stages: int = 3

    order = 2.0  # for both: the first derivative is one-sided, and a third stage reduces only the size of the error

    def __post_init__(self) -> None:
        if self.stages not in (2, 3):
            raise ValueError(f"ER-SDE has 2 or 3 stages, got {self.stages}; for 1, use ancestral")

    def step(
        self, denoiser: Denoiser, x_t: Images, t: Times, s: Times, state: State, noise: StepNoise
    ) -> tuple[Images, State]:
        sde = denoiser.sde
        level_t, level_s = sde.noise_level(t), sde.noise_level(s)
        past = [Evaluation(level_t, denoiser(x_t, t)), *(state or ())][: self.stages]
        kept = noise_scale(level_s) / noise_scale(level_t)
        deviation = (level_s.square() - (kept * level_t).square()).clamp(min=0).sqrt()
        correction = torch.zeros_like(x_t)
        for order, derivative in enumerate(derivatives(past), start=1):
            correction = correction + over_images(taylor_weight(order, level_t, level_s)) * derivative
        y_s = past[0].x_0 + over_images(kept) * (x_t / over_images(sde.alpha(t)) - past[0].x_0) + correction
        return over_images(sde.alpha(s)) * (y_s + over_images(deviation) * noise.shared), past[: self.stages - 1]


def noise_scale(level: Times) -> Times:
    """phi, the paper's SDE_5, for noise levels on images in [-1, 1]."""
    return level * (level.pow(0.3).exp() + 10)


def derivatives(past: list[Evaluation]) -> list[Images]:
    """First and second derivative of x_0 with respect to the noise level, as far as `past` (newest first) allows."""
    slopes = [(after.x_0 - before.x_0) / over_images(after.level - before.level) for after, before in pairwise(past)]
    if len(slopes) < 2:
        return slopes
    return [slopes[0], 2 * (slopes[0] - slopes[1]) / over_images(past[0].level - past[2].level)]


def taylor_weight(order: int, level_t: Times, level_s: Times) -> Times:
    """a_k for k = `order`, 1 or 2; 0 for a step to no noise, which returns the estimate at its start."""
    ratio = (level_s / level_t).log()

    def integrand(position: float) -> Times:
        level = level_t * (position * ratio).exp()
        return (level - level_t) ** (order - 1) * (1 - noise_scale(level_s) / noise_scale(level)) * level

    # over ln r, in which the integrand is smooth even on long steps
    return torch.where(level_s > 0, ratio * mean_over_unit_interval(integrand), 0.0)
