"""Confidence intervals and rater agreement, against published examples."""

from __future__ import annotations

import pytest

from sdedit_pl.study.rater_statistics import rater_agreement, wilson_interval


def test_wilsons_interval_of_a_published_example() -> None:
    """81 of 263: (0.2553, 0.3662) in Newcombe, "Two-sided confidence intervals for the single proportion", 1998."""
    assert wilson_interval(81, 263) == pytest.approx((0.2553, 0.3662), abs=5e-5)


@pytest.mark.parametrize("successes", [0, 1])
def test_a_single_answer_has_an_interval_within_zero_and_one(successes: int) -> None:
    low, high = wilson_interval(successes, 1)
    assert 0 <= low < high <= 1


def test_alpha_of_krippendorffs_example() -> None:
    """Four observers, twelve units, nominal: 0.743 in "Computing Krippendorff's alpha-reliability", section C."""
    observers = ("123321412...", "1233224125.3", ".3332342251.", "12332441251.")
    units = [[value for value in unit if value != "."] for unit in zip(*observers, strict=True)]
    found = rater_agreement(units)
    assert found.alpha == pytest.approx(0.743, abs=5e-4)
    assert found.units == 11
    assert found.share == pytest.approx(1 - (6 + 12 + 6) / (2 * 6 + 8 * 12 + 2))


def test_alpha_is_one_for_full_agreement_zero_on_average_for_guesses_and_negative_for_contradiction() -> None:
    contradiction = rater_agreement([["a", "b"]] * 10)
    assert contradiction.alpha is not None and contradiction.alpha < 0 and contradiction.share == 0
    assert rater_agreement([["a", "a"], ["b", "b", "b"], ["a"]]) == (1.0, 1.0, 2)
    # every combination of three ratings once: the ratings are independent
    guesses = [[a, b, c] for a in "xy" for b in "xy" for c in "xy"]
    found = rater_agreement(guesses * 50)
    assert found.alpha == pytest.approx(0, abs=2e-3) and found.share == pytest.approx(0.5)


@pytest.mark.parametrize(
    ("units", "share", "count"), [([], None, 0), ([["a"], ["b"]], None, 0), ([["a", "a"]], 1.0, 1)]
)
def test_alpha_is_undefined_without_two_ratings_of_a_unit_or_with_one_value_only(
    units: list[list[str]], share: float | None, count: int
) -> None:
    assert rater_agreement(units) == (None, share, count)
