"""Comparisons over resampled groups: the same KID as elsewhere, intervals of the right width, differences that are."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from sdedit_pl.metrics import kernel_distance
from sdedit_pl.metrics.paired import GroupSums, Interval, Resampling, members

GROUPS = torch.tensor([5, 5, 2, 2, 2, 9, 1, 1, 4, 4])


def features(seed: int, count: int = len(GROUPS), shift: float = 0.0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(count, 6, generator=generator) + shift


def sums_of(edits: Tensor, originals: Tensor, groups: Tensor) -> GroupSums:
    return GroupSums.of(edits, originals, edits.square().sum(1), groups)


def once(groups: Tensor) -> Resampling:
    """A single draw that has every group once."""
    sizes = members(groups).sum(0)
    return Resampling(torch.ones(1, len(sizes), dtype=torch.float64), sizes)


def test_a_draw_of_every_group_once_has_the_usual_kid_and_mean() -> None:
    edits, originals = features(0, shift=0.2), features(1)
    sums = sums_of(edits, originals, GROUPS)
    expected = kernel_distance(edits, originals, GROUPS, GROUPS).value
    assert once(GROUPS).kid(sums.discrepancy).item() == pytest.approx(expected, rel=1e-9)
    assert once(GROUPS).l2(sums.l2).item() == pytest.approx(edits.square().sum(1).mean().item(), rel=1e-6)


def test_a_group_drawn_twice_counts_twice_but_not_against_itself() -> None:
    edits, originals = features(0, shift=0.2), features(1)
    sums = sums_of(edits, originals, GROUPS)
    counts = torch.tensor([[2.0, 1.0, 0.0, 1.0, 0.0]], dtype=torch.float64)  # of the groups 1, 2, 4, 5, 9
    drawn = Resampling(counts, members(GROUPS).sum(0))
    chosen = torch.cat([(group == GROUPS).nonzero().flatten() for group in (1, 1, 2, 5)])
    expected = kernel_distance(edits[chosen], originals[chosen], GROUPS[chosen], GROUPS[chosen]).value
    assert drawn.kid(sums.discrepancy).item() == pytest.approx(expected, rel=1e-9)
    expected = edits[chosen].square().sum(1).mean().item()
    assert drawn.l2(sums.l2).item() == pytest.approx(expected, rel=1e-6)


def test_intervals_are_as_wide_as_the_jackknife_error_says() -> None:
    groups = torch.arange(60).repeat_interleave(2)
    edits, originals = features(2, 120, shift=0.3), features(3, 120)
    draws = Resampling.of(groups).kid(sums_of(edits, originals, groups).discrepancy)
    found = kernel_distance(edits, originals, groups, groups)
    low, high = Interval.of(draws)
    assert low < found.value < high
    assert (high - low) / (2 * 1.96 * found.error) == pytest.approx(1, abs=0.25)


def test_a_difference_has_a_narrower_interval_than_its_terms() -> None:
    groups = torch.arange(60)
    originals = features(4, 60)
    edits = features(5, 60, shift=0.3)
    other = edits + 0.01 * features(6, 60)
    resampling = Resampling.of(groups)
    one, two = (sums_of(images, originals, groups).discrepancy for images in (edits, other))
    difference = resampling.kid(two - one)
    torch.testing.assert_close(difference, resampling.kid(two) - resampling.kid(one))
    low, high = Interval.of(difference)
    alone = Interval.of(resampling.kid(one))
    assert low > 0 and high - low < 0.2 * (alone.high - alone.low)


def test_draws_are_the_same_for_every_set_and_have_pairs() -> None:
    few = torch.tensor([0, 1, 2])
    first, second = Resampling.of(few, draws=500), Resampling.of(few, draws=500)
    assert torch.equal(first.counts, second.counts)
    assert 400 < len(first.counts) < 500  # a ninth of all draws is of one group alone
    assert (first.counts.sum(1) == 3).all() and ((first.counts > 0).sum(1) > 1).all()
