"""How sure a rate is, and how far raters agree."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Hashable, Iterable, Sequence
from statistics import NormalDist
from typing import NamedTuple

CONFIDENCE = 0.95


class Interval(NamedTuple):
    """Where a rate lies with the confidence CONFIDENCE."""

    low: float
    high: float


def wilson(successes: int, trials: int, confidence: float = CONFIDENCE) -> Interval:
    """Wilson's score interval of a rate, which stays in [0, 1] and is sound for few trials and rates near 0 and 1.

    It takes the trials to be independent. Answers of one rater, or about one item, are not quite, so that the true
    uncertainty is somewhat larger.

    Source: Wilson, "Probable inference, the law of succession, and statistical inference", JASA 1927; Brown, Cai and
    DasGupta, "Interval estimation for a binomial proportion", Statistical Science 2001, equation 4.

    Args:
        successes: how many of them.
        trials: at least 1.
        confidence: in (0, 1).
    """
    z = NormalDist().inv_cdf((1 + confidence) / 2)
    rate, weight = successes / trials, 1 + z**2 / trials
    centre = (rate + z**2 / (2 * trials)) / weight
    half = z / weight * math.sqrt(rate * (1 - rate) / trials + z**2 / (4 * trials**2))
    return Interval(max(0.0, centre - half), min(1.0, centre + half))


class Agreement(NamedTuple):
    """How far the raters of the same things agree.

    Args:
        alpha: Krippendorff's: 1 where all agree, 0 where they agree as by chance, None where it is not defined.
        share: the part of the pairs of ratings of one thing that are equal, None without any pair.
        units: how many things have two ratings or more.
    """

    alpha: float | None
    share: float | None
    units: int


def agreement(units: Iterable[Sequence[Hashable]]) -> Agreement:
    """Krippendorff's alpha for nominal ratings by any number of raters, with any of them missing.

    alpha = 1 - D_o / D_e, with D_o the part of unequal pairs among the pairs of ratings of one unit, averaged over the
    units with their numbers of ratings as weights, and D_e that part among all pairs of ratings. Units with one rating
    do not count. Where all ratings are the same there is nothing to agree on: alpha is None.

    Source: Krippendorff, "Content Analysis", 2nd edition, 2004, chapter 11; "Computing Krippendorff's
    alpha-reliability", 2011, section C.

    Args:
        units: for each thing that was rated, its ratings.
    """
    rated = [Counter(ratings) for ratings in units if len(ratings) > 1]
    if not rated:
        return Agreement(None, None, 0)
    total = sum(map(_size, rated))
    observed = sum(_unequal_pairs(counts) / (_size(counts) - 1) for counts in rated) / total
    expected = _unequal_pairs(sum(rated, Counter())) / (total * (total - 1))
    unequal = sum(map(_unequal_pairs, rated)) / sum(_size(counts) * (_size(counts) - 1) for counts in rated)
    return Agreement(1 - observed / expected if expected else None, 1 - unequal, len(rated))


def _size(counts: Counter[Hashable]) -> int:
    return sum(counts.values())


def _unequal_pairs(counts: Counter[Hashable]) -> int:
    """Ordered pairs of ratings that differ."""
    return _size(counts) ** 2 - sum(count**2 for count in counts.values())
