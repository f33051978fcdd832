"""The trade-off between realism and faithfulness in a sweep, and its knee.

Each level of a sweep is a point (L2, KID). The knee is the level furthest below the line from the paintings (L2 = 0, at
their KID) to unrelated images of the domain (at their L2 to the paintings, KID = 0), with each axis scaled to the ends
of that line. Both ends are known without a model, so the knee does not depend on where the sweep ends.

Source: Satopaa et al., "Finding a 'Kneedle' in a Haystack", ICDCS workshops 2011 (whose line joins the curve's ends).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from sdedit_pl.calibration.sweep import Sweep
from sdedit_pl.metrics.intervals import Estimate, bootstrap_weights, percentile_interval
from sdedit_pl.metrics.kid import distance_and_draws

_BELOW = 1e-6
"""Minimum distance of the knee below the line, relative to the line's ends."""


@dataclass(frozen=True)
class TradeOff:
    """Realism and faithfulness of each level of a sweep; KID is to the originals, L2 to the paintings.

    Args:
        unrelated_l2: mean squared L2 distance between paintings and originals of other images.
        knee_shares: share of the bootstrap draws in which each level is the knee; draws without a knee count for none.
    """

    kid: list[Estimate]
    l2: list[Estimate]
    unrelated_l2: float
    knee: int | None
    knee_shares: list[float]


def trade_off(sweep: Sweep, draws: int = 2000) -> TradeOff:
    """KID, L2 and knee of a sweep of three or more images, with intervals over `draws` bootstrap draws of them."""
    groups = torch.arange(len(sweep))
    weights = bootstrap_weights(len(sweep), draws, seed=0)  # the same draws as for KID
    kid, l2, kid_draws, l2_draws = [], [], [], []
    for edits, distances in zip(sweep.edits.unbind(1), sweep.squared_l2.unbind(1), strict=True):
        found, drawn = distance_and_draws(edits, sweep.originals, groups, groups, draws)
        kid.append(found)
        kid_draws.append(drawn)
        l2_draws.append(distances.double() @ weights / weights.sum(0))
        low, high = percentile_interval(l2_draws[-1])
        l2.append(Estimate(distances.mean().item(), low=low, high=high))
    unrelated = sweep.unrelated_l2()
    knee = int(knees(_values(l2), _values(kid), unrelated))
    drawn = knees(torch.stack(l2_draws, 1), torch.stack(kid_draws, 1), unrelated)
    shares = [(drawn == level).double().mean().item() for level in range(len(kid))]
    return TradeOff(kid, l2, unrelated, None if knee < 0 else knee, shares)


def knees(
    l2: Float[Tensor, "*curves levels"], kid: Float[Tensor, "*curves levels"], unrelated_l2: float
) -> Int[Tensor, "*curves"]:
    """Index of each curve's knee, level 0 being the paintings; -1 if there is none, or the paintings' KID is <= 0."""
    paintings = kid[..., :1]
    height, level = (l2 / unrelated_l2 + kid / paintings).min(-1)
    return torch.where((paintings[..., 0] > 0) & (height < 1 - _BELOW), level, -1)


def _values(levels: Sequence[Estimate]) -> Float[Tensor, "levels"]:
    return torch.tensor([level.value for level in levels], dtype=torch.float64)
