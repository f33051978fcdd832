"""Parts of the exponential-integrator solvers.

In y = x / alpha and the noise level r = sigma / alpha, all SDEs here become the same one, which depends on the model
only through the x_0 estimate D. With a free function phi, which sets a step's noise, the reverse SDE has the solution

    y_s = phi_s / phi_t y_t + phi_s int_{r_s}^{r_t} phi' / phi^2 D dr + sqrt(r_s^2 - (phi_s / phi_t)^2 r_t^2) z.

phi = r is the probability-flow ODE, phi = r^2 the reverse SDE. The linear part is exact, so that only the change of D
along the path limits the step size. A multistep solver extrapolates D from earlier evaluations at no further cost. A
step to no noise is infinitely long in ln r; there D is constant, and the step returns it.

A constraint may rewrite a region between steps without disturbing a history: updates are linear in y and the stored
estimates, pixel by pixel, and every estimate is that of a rewritten state.

Source: Cui et al. 2023, section 3 (see `er_sde`); Lu et al., "DPM-Solver++", 2022, equation 8.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import NamedTuple

import numpy as np
import torch

from sdedit_pl.typing import Images, Times, over_images

_NODES = 8


class Evaluation(NamedTuple):
    """A point of a multistep solver's path: its noise level sigma / alpha and the denoiser's estimate of x_0."""

    level: Times
    x_0: Images


def log_step(start: Times, end: Times) -> Times:
    """The length of a step in ln(alpha / sigma), from noise level `start` down to `end`; infinite for `end` = 0."""
    return (start / end).log()


def midpoint(here: Evaluation, before: Evaluation | None, level_s: Times) -> Images:
    """The estimate in the middle of the step to `level_s` in ln r, extrapolated linearly from the last two evaluations.

    For the first step, and for a step to no noise, it is the estimate at the start.
    """
    if before is None:
        return here.x_0
    ratio = log_step(here.level, level_s) / (2 * log_step(before.level, here.level))
    ratio = torch.where(level_s > 0, ratio, 0.0)
    return here.x_0 + over_images(ratio) * (here.x_0 - before.x_0)


def mean_over_unit_interval(integrand: Callable[[float], Times]) -> Times:
    """The integral of a smooth function over [0, 1] by quadrature.

    Closed forms of these solvers' integrals cancel catastrophically on short steps, and ER-SDE's have none.
    """
    parts = [weight * integrand(node) for node, weight in _gauss_legendre()]
    return sum(parts[1:], parts[0])  # in the same order in every batch


@cache
def _gauss_legendre() -> tuple[tuple[float, float], ...]:
    """Nodes and weights of the Gauss-Legendre rule on [0, 1]: exact to 2e-9 for exp(-h u) and steps of h up to 10."""
    nodes, weights = np.polynomial.legendre.leggauss(_NODES)
    return tuple(zip(((nodes + 1) / 2).tolist(), (weights / 2).tolist(), strict=True))
