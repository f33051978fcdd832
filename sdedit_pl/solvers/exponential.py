"""What exponential-integrator solvers share.

In y = x / alpha and the noise level r = sigma / alpha every SDE here is the same one, and what drives it is the x_0
estimate D alone. The reverse SDE with a free function phi that says how much noise steps add is solved by

    y_s = phi_s / phi_t y_t + phi_s int_{r_s}^{r_t} phi' / phi^2 D dr + sqrt(r_s^2 - (phi_s / phi_t)^2 r_t^2) z.

phi = r is the probability-flow ODE, phi = r^2 the reverse SDE. The linear part is exact, so that only the change of D
along the path limits a step; a multistep solver extrapolates D from the evaluations before, for no further cost. A
step to no noise has an infinite length in ln r; there D is held constant, and the step returns it.

A constraint that rewrites a region between steps does not disturb a history: updates are linear in y and the remembered
estimates, pixel by pixel, and every estimate was made of the rewritten state, so that free pixels never see what the
solver would have made of kept ones. How far extrapolation helps depends on whether the kept region's path is smooth.

Source: Cui et al., "Elucidating the Solution Space of Extended Reverse-Time SDE for Diffusion Models", 2023, section 3;
Lu et al., "DPM-Solver++", 2022, equation 8.
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
    """What a multistep solver remembers of a point of its path.

    Args:
        level: its noise level sigma / alpha, (B,).
        x_0: the denoiser's estimate there, (B, C, H, W).
    """

    level: Times
    x_0: Images


def log_step(start: Times, end: Times) -> Times:
    """The length of a step in ln(alpha / sigma), from one noise level to a lower one; infinite where that is 0."""
    return (start / end).log()


def midpoint(here: Evaluation, before: Evaluation | None, level_s: Times) -> Images:
    """The estimate in the middle of the step to `level_s`, in ln r, on the line through the last two evaluations.

    Without an evaluation before, and for a step to no noise, that of the start.
    """
    if before is None:
        return here.x_0
    ratio = log_step(here.level, level_s) / (2 * log_step(before.level, here.level))
    ratio = torch.where(level_s > 0, ratio, 0.0)
    return here.x_0 + over_images(ratio) * (here.x_0 - before.x_0)


def mean_over_unit_interval(integrand: Callable[[float], Times]) -> Times:
    """The integral of a smooth function over [0, 1].

    By quadrature, because the closed forms of the integrals in these solvers cancel catastrophically on short steps,
    and ER-SDE's have none; no number is moved to the device for it.
    """
    parts = [weight * integrand(node) for node, weight in _gauss_legendre()]
    return sum(parts[1:], parts[0])  # in this order for every image, whatever its batch


@cache
def _gauss_legendre() -> tuple[tuple[float, float], ...]:
    """Nodes and weights of the Gauss-Legendre rule on [0, 1]: exact to 2e-7 for exp(-h u) and steps of h up to 10."""
    nodes, weights = np.polynomial.legendre.leggauss(_NODES)
    return tuple(zip(((nodes + 1) / 2).tolist(), (weights / 2).tolist(), strict=True))
