"""Bootstrap intervals: between which two numbers the middle 95 % of what came out of the draws lies."""

from __future__ import annotations

from typing import NamedTuple

from jaxtyping import Float
from torch import Tensor

COVERAGE = 0.95


class Interval(NamedTuple):
    """A bootstrap interval."""

    low: float
    high: float

    @classmethod
    def of(cls, draws: Float[Tensor, "draws"]) -> Interval:
        """The percentile interval of what came out of the draws, of `COVERAGE`."""
        tail = (1 - COVERAGE) / 2
        low, high = draws.quantile(draws.new_tensor([tail, 1 - tail])).tolist()
        return cls(low, high)
