"""UniPC: a multistep predictor, each step corrected with the evaluation that the next step needs anyway.

In y = x / alpha, the noise level r = sigma / alpha and steps of length h in ln r, a step holds D = D_t and adds a
correction from the x_0 estimates D_m at other points, whose places p_m are in units of h from the start:

    y_s = r_s / r_t y_t + (1 - r_s / r_t) D_t + sum_m c_m (D_m - D_t) / p_m,
    sum_m c_m p_m^{k-1} = M_k,    M_k = h int_0^1 exp(-h (1 - u)) u^k du.

The predictor's other points are before the start. When the end has been evaluated, the corrector repeats the step with
that evaluation as one more point; it does not evaluate the corrected end. With one point, c = M_0 / 2: the predictor of
second order is DPM-Solver++ (2M).

Source: Zhao et al., "UniPC: A Unified Predictor-Corrector Framework for Fast Sampling of Diffusion Models", NeurIPS
2023, Algorithms 1 and 2 with B_2(h) = e^h - 1; with more than one point, B cancels out of the weights.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import NamedTuple

import torch

from sdedit_pl.denoiser import Denoiser
from sdedit_pl.noise import StepNoise
from sdedit_pl.solvers.base import Solver, State
from sdedit_pl.solvers.exponential import Evaluation, log_step, mean_over_unit_interval
from sdedit_pl.typing import Images, Times, over_images


class History(NamedTuple):
    """UniPC's history at the last step's start: the corrected state `y` = x / alpha, and evaluations, newest first."""

    y: Images
    past: tuple[Evaluation, ...]


@dataclass(frozen=True)
class UniPC(Solver):
    """UniPC with predictor and corrector, with one evaluation per step.

    The published code lowers the predictor's order on the last steps; here only a step to no noise is of first order.

    Args:
        predictor_order: p, the order of the predictor, 2 or 3; lower on the first steps.
    """

    predictor_order: int = 2

    order = 3.0  # for both: with p = 3 the lower order of the first step limits it
    stochastic = False

    def __post_init__(self) -> None:
        if self.predictor_order not in (2, 3):
            raise ValueError(f"the predictor of UniPC has order 2 or 3, got {self.predictor_order}")

    def step(
        self, denoiser: Denoiser, x_t: Images, t: Times, s: Times, state: State, noise: StepNoise
    ) -> tuple[Images, State]:
        sde = denoiser.sde
        level_s = sde.noise_level(s)
        here = Evaluation(sde.noise_level(t), denoiser(x_t, t))
        y, past = x_t / over_images(sde.alpha(t)), ()
        if state is not None:
            start, *others = state.past
            y, past = advance(state.y, start, [*others, here], here.level), state.past
        used = (here, *past)[: self.predictor_order]
        y_s = advance(y, here, used[1:], level_s)
        y_s = torch.where(over_images(level_s) > 0, y_s, here.x_0)
        return over_images(sde.alpha(s)) * y_s, History(y, used)


def advance(y: Images, start: Evaluation, others: Sequence[Evaluation], level_s: Times) -> Images:
    """The state at `level_s`, from `y` at the level of `start` and evaluations at other points."""
    kept = over_images(level_s / start.level)
    y_s = kept * y + (1 - kept) * start.x_0
    length = log_step(start.level, level_s)
    places = [log_step(start.level, other.level) / length for other in others]
    for other, place, weight in zip(others, places, weights(places, length), strict=True):
        y_s = y_s + over_images(weight / place) * (other.x_0 - start.x_0)
    return y_s


def weights(places: Sequence[Times], length: Times) -> list[Times]:
    """The weights c_m of the points at `places`, for a step of `length` in ln r."""
    if len(places) == 1:
        return [-torch.expm1(-length) / 2]
    moments = [moment(power, length) for power in range(1, len(places) + 1)]
    found = []
    for own, place in enumerate(places):
        # ascending coefficients of this point's Lagrange polynomial; c_m is their sum weighted by M_1, M_2, ...
        polynomial = [torch.ones_like(place)]
        for other in (*places[:own], *places[own + 1 :]):
            scale = place - other
            padded = [torch.zeros_like(place), *polynomial, torch.zeros_like(place)]
            polynomial = [(lower - other * same) / scale for lower, same in pairwise(padded)]
        found.append(sum((c * m for c, m in zip(polynomial, moments, strict=True)), torch.zeros_like(place)))
    return found


def moment(power: int, length: Times) -> Times:
    return length * mean_over_unit_interval(lambda place: (length * (place - 1)).exp() * place**power)
