"""Confidence intervals of preference rates, and agreement between raters."""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Iterable, Sequence
from typing import NamedTuple

CONFIDENCE = 0.95


def wilson_interval(successes: int, trials: int) -> tuple[float, float]:
    """Lower and upper bound of Wilson's score interval of a rate, at confidence `CONFIDENCE`.

    Trials count as independent. Answers by one rater or about one item are not, so the interval is too narrow.

    Source: Wilson, "Probable inference, the law of succession, and statistical inference", JASA 1927.
    """
    from scipy.stats import binomtest  # takes a second to import, which `study build` and `study serve` do not need

    interval = binomtest(successes, trials).proportion_ci(CONFIDENCE, method="wilson")
    return float(interval.low), float(interval.high)


class RaterAgreement(NamedTuple):
    """Agreement between raters of the same units.

    Args:
        alpha: Krippendorff's alpha: 1 for full agreement, 0 for agreement by chance; None if undefined.
        share: fraction of equal pairs among the pairs of ratings of one unit; None if there is no pair.
        units: number of units with at least two ratings.
    """

    alpha: float | None
    share: float | None
    units: int


def rater_agreement(units: Iterable[Sequence[Hashable]]) -> RaterAgreement:
    """Krippendorff's alpha for nominal ratings of units by any number of raters, with missing ratings.

    alpha = 1 - D_o / D_e, where D_o is the fraction of unequal pairs among the pairs of ratings of one unit, averaged
    over units weighted by their numbers of ratings, and D_e is that fraction among all pairs of ratings. Units with one
    rating do not count. If all ratings are equal, alpha is undefined.

    Source: Krippendorff, "Content Analysis", 2nd edition, 2004, chapter 11; "Computing Krippendorff's
    alpha-reliability", 2011, section C.
    """
    rated = [Counter(ratings) for ratings in units if len(ratings) > 1]
    if not rated:
        return RaterAgreement(None, None, 0)
    sizes = [sum(counts.values()) for counts in rated]
    total = sum(sizes)
    unequal = [_unequal_pairs(counts) for counts in rated]
    observed = sum(pairs / (size - 1) for pairs, size in zip(unequal, sizes, strict=True)) / total
    expected = _unequal_pairs(sum(rated, Counter())) / (total * (total - 1))
    share = 1 - sum(unequal) / sum(size * (size - 1) for size in sizes)
    return RaterAgreement(1 - observed / expected if expected else None, share, len(rated))


def _unequal_pairs(counts: Counter[Hashable]) -> int:
    """Number of ordered pairs of ratings that differ."""
    return sum(counts.values()) ** 2 - sum(count**2 for count in counts.values())
