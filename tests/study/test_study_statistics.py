"""Intervals and agreement, against scipy and published examples."""

from __future__ import annotations

import pytest
from scipy.stats import binomtest

from sdedit_pl.study.statistics import agreement, wilson


@pytest.mark.parametrize(("successes", "trials"), [(0, 1), (1, 1), (0, 20), (7, 20), (49, 50), (500, 1000)])
@pytest.mark.parametrize("confidence", [0.8, 0.95, 0.99])
def test_wilsons_interval_is_scipys(successes: int, trials: int, confidence: float) -> None:
    expected = binomtest(successes, trials).proportion_ci(confidence, method="wilson")
    assert wilson(successes, trials, confidence) == pytest.approx((expected.low, expected.high), abs=1e-12)


def test_alpha_of_krippendorffs_example() -> None:
    """Four observers, twelve units, nominal: 0.743 in "Computing Krippendorff's alpha-reliability", section C."""
    observers = ("123321412...", "1233224125.3", ".3332342251.", "12332441251.")
    units = [[value for value in unit if value != "."] for unit in zip(*observers, strict=True)]
    found = agreement(units)
    assert found.alpha == pytest.approx(0.743, abs=5e-4)
    assert found.units == 11
    assert found.share == pytest.approx(1 - (6 + 12 + 6) / (2 * 6 + 8 * 12 + 2))


def test_alpha_is_one_where_all_agree_and_zero_on_average_where_they_guess() -> None:
    assert agreement([["a", "a"], ["b", "b", "b"], ["a"]]) == (1.0, 1.0, 2)
    # every combination of three ratings once: the ratings are independent
    guesses = [[a, b, c] for a in "xy" for b in "xy" for c in "xy"]
    found = agreement(guesses * 50)
    assert found.alpha == pytest.approx(0, abs=2e-3) and found.share == pytest.approx(0.5)


def test_alpha_is_negative_where_raters_contradict_each_other() -> None:
    found = agreement([["a", "b"]] * 10)
    assert found.alpha is not None and found.alpha < 0 and found.share == 0


@pytest.mark.parametrize(
    ("units", "share", "count"), [([], None, 0), ([["a"], ["b"]], None, 0), ([["a", "a"]], 1.0, 1)]
)
def test_alpha_is_not_defined_without_two_ratings_of_a_unit_or_without_two_values(
    units: list[list[str]], share: float | None, count: int
) -> None:
    assert agreement(units) == (None, share, count)
