"""Estimates with their standard errors and bootstrap intervals.

The bootstrap is Rubin's: in each draw every independent group of images gets an exponentially distributed weight, so
that every group stays in every draw and statistics over pairs of different groups are always defined.

Source: Rubin, "The Bayesian Bootstrap", 1981; Efron and Tibshirani, "An Introduction to the Bootstrap", 1993, sections
8.3 (groups) and 13.3 (percentiles).
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

COVERAGE = 0.95


class Estimate(NamedTuple):
    """A value, its standard error and the ends of its 95 % interval; nan for what was not computed."""

    value: float
    error: float = math.nan
    low: float = math.nan
    high: float = math.nan

    @property
    def with_interval(self) -> tuple[float, float, float]:
        return self.value, self.low, self.high


def bootstrap_weights(groups: int, draws: int, seed: int) -> Float[Tensor, "groups draws"]:
    """The weight of each group in each draw, float64, with mean 1."""
    weights = torch.empty(groups, draws, dtype=torch.float64)
    return weights.exponential_(generator=torch.Generator().manual_seed(seed))


def percentile_interval(drawn: Float[Tensor, "draws"]) -> tuple[float, float]:
    tail = (1 - COVERAGE) / 2
    low, high = drawn.quantile(drawn.new_tensor([tail, 1 - tail])).tolist()
    return low, high
