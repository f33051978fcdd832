"""One bootstrap for several sets: the usual KID, intervals of the right width, narrow ones for differences."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from sdedit_pl.metrics.intervals import percentile_interval
from sdedit_pl.metrics.kid import kernel_distance
from sdedit_pl.metrics.paired_bootstrap import GroupSums, PairedBootstrap, members

GROUPS = torch.tensor([5, 5, 2, 2, 2, 9, 1, 1, 4, 4])


def features(seed: int, count: int = len(GROUPS), shift: float = 0.0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(count, 6, generator=generator) + shift


def sums_of(edits: Tensor, originals: Tensor, groups: Tensor) -> GroupSums:
    return GroupSums.of(edits, originals, edits.square().sum(1), groups)


def weighted(groups: Tensor, *weights: float) -> PairedBootstrap:
    """A single draw with these weights of the groups."""
    return PairedBootstrap(torch.tensor(weights, dtype=torch.float64)[:, None], members(groups).sum(0))


def test_equal_weights_give_the_usual_kid_and_mean() -> None:
    edits, originals = features(0, shift=0.2), features(1)
    sums, equal = sums_of(edits, originals, GROUPS), weighted(GROUPS, 1, 1, 1, 1, 1)
    expected = kernel_distance(edits, originals, GROUPS, GROUPS).value
    assert equal.kid(sums.discrepancy).item() == pytest.approx(expected, rel=1e-9)
    assert equal.l2(sums.l2).item() == pytest.approx(edits.square().sum(1).mean().item(), rel=1e-6)


def test_a_group_of_weight_two_counts_twice_but_not_against_itself() -> None:
    edits, originals = features(0, shift=0.2), features(1)
    sums = sums_of(edits, originals, GROUPS)
    drawn = weighted(GROUPS, 2, 1, 0, 1, 0)  # of the groups 1, 2, 4, 5, 9
    chosen = torch.cat([(group == GROUPS).nonzero().flatten() for group in (1, 1, 2, 5)])
    expected = kernel_distance(edits[chosen], originals[chosen], GROUPS[chosen], GROUPS[chosen]).value
    assert drawn.kid(sums.discrepancy).item() == pytest.approx(expected, rel=1e-9)
    expected = edits[chosen].square().sum(1).mean().item()
    assert drawn.l2(sums.l2).item() == pytest.approx(expected, rel=1e-6)


def test_the_interval_is_that_of_the_kid_alone() -> None:
    groups = torch.arange(12) // 2
    edits, originals = features(0, 12, shift=0.2), features(1, 12)
    drawn = PairedBootstrap.of(groups, draws=50, seed=3).kid(sums_of(edits, originals, groups).discrepancy)
    alone = kernel_distance(edits, originals, groups, groups, draws=50, seed=3)
    assert percentile_interval(drawn) == pytest.approx(alone[2:])


def test_a_difference_has_a_narrower_interval_than_its_terms() -> None:
    groups = torch.arange(60)
    originals = features(4, 60)
    edits = features(5, 60, shift=0.3)
    other = edits + 0.01 * features(6, 60)
    bootstrap = PairedBootstrap.of(groups)
    one, two = (sums_of(images, originals, groups).discrepancy for images in (edits, other))
    difference = bootstrap.kid(two - one)
    torch.testing.assert_close(difference, bootstrap.kid(two) - bootstrap.kid(one))
    low, high = percentile_interval(difference)
    alone = percentile_interval(bootstrap.kid(one))
    assert low > 0 and high - low < 0.2 * (alone[1] - alone[0])
