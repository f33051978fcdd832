"""KID: the published formula, no bias, pairs of different groups only, standard errors and intervals."""

from __future__ import annotations

import pytest
import torch
from torchmetrics.image.kid import KernelInceptionDistance

from sdedit_pl.metrics import kid
from sdedit_pl.metrics.intervals import percentile_interval
from sdedit_pl.metrics.kid import distance_and_draws, kernel_distance, polynomial_kernel, subset_distances


def features(count: int, seed: int, shift: float = 0.0, dimension: int = 16) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(count, dimension, generator=generator) + shift


class Flat(torch.nn.Module):
    """Takes images of 1x1 pixels as their own features."""

    num_features = 3

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return images.flatten(1).float()


def test_a_kernel_is_the_published_polynomial() -> None:
    x, y = torch.tensor([[1.0, 2.0]]), torch.tensor([[3.0, 4.0], [0.0, 0.0]])
    torch.testing.assert_close(polynomial_kernel(x, y), torch.tensor([[(11 / 2 + 1) ** 3, 1.0]], dtype=torch.float64))


@pytest.mark.filterwarnings("ignore:Metric .* will save all extracted features")
def test_agrees_with_torchmetrics_on_the_same_features() -> None:
    generator = torch.Generator().manual_seed(0)
    real = torch.randint(0, 10, (50, 3, 1, 1), generator=generator, dtype=torch.uint8)
    generated = torch.randint(3, 12, (40, 3, 1, 1), generator=generator, dtype=torch.uint8)
    x, y = (images.flatten(1).float() for images in (generated, real))

    def theirs(real: torch.Tensor, subsets: int, size: int) -> tuple[float, float]:
        other = KernelInceptionDistance(feature=Flat(), subsets=subsets, subset_size=size).set_dtype(torch.float64)
        other.update(real, real=True)
        other.update(generated, real=False)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(5)
            mean, deviation = other.compute()
        return mean.item(), deviation.item()

    whole, subsets = theirs(real[:40], 1, 40), theirs(real, 7, 30)
    assert whole[0] > 1 and subsets[1] > 0.01
    assert kernel_distance(x, y[:40]).value == pytest.approx(whole[0], rel=1e-6)
    assert subset_distances(x, y, subsets=7, size=30, seed=5) == pytest.approx(subsets, rel=1e-5)


def test_it_is_symmetric_for_sets_of_different_sizes_and_a_set_beside_itself_is_two_sets() -> None:
    x, y = features(30, 0), features(50, 1, shift=0.5)
    assert kernel_distance(x, y).value == pytest.approx(kernel_distance(y, x).value)
    assert kernel_distance(x, y).value > 3 * kernel_distance(x, y).error > 0
    assert subset_distances(x, x, 3, 10) == subset_distances(x, x.clone(), 3, 10)
    assert kernel_distance(x, x) == kernel_distance(x, x.clone())


def test_is_unbiased_between_samples_of_one_distribution() -> None:
    values = torch.tensor([kernel_distance(features(20, 2 * k), features(20, 2 * k + 1)).value for k in range(300)])
    assert values.min() < 0 < values.max()
    assert values.mean().abs() < 3 * values.std() / 300**0.5


def test_the_error_is_the_scatter_of_repetitions_and_the_interval_covers_the_distance() -> None:
    found = [kernel_distance(features(40, 2 * k), features(40, 2 * k + 1, shift=0.6), draws=400) for k in range(200)]
    values, errors, low, high = torch.tensor(found).unbind(1)
    assert errors.mean().item() == pytest.approx(values.std().item(), rel=0.25)
    assert 0.88 <= ((low <= values.mean()) & (values.mean() <= high)).double().mean() <= 0.99


def test_groups_remove_the_bias_of_variations_of_one_design() -> None:
    """Few designs with many variations each, or one set made from the other: only groups give distance 0."""
    plain, grouped, paired, paired_in_groups = [], [], [], []
    groups = torch.arange(10).repeat_interleave(6)
    for k in range(100):
        x = features(10, 2 * k).repeat_interleave(6, 0) + 0.1 * features(60, 1000 + k)
        y = features(10, 2 * k + 1).repeat_interleave(6, 0) + 0.1 * features(60, 2000 + k)
        plain.append(kernel_distance(x, y).value)
        grouped.append(kernel_distance(x, y, groups, groups + 10).value)
        paired.append(kernel_distance(x, x + 0.01 * y).value)
        paired_in_groups.append(kernel_distance(x, x + 0.01 * y, groups, groups).value)

    def deviations_from_zero(values: list[float]) -> float:
        found = torch.tensor(values)
        return (found.mean() / (found.std() / len(found) ** 0.5)).item()

    assert deviations_from_zero(plain) > 10
    assert abs(deviations_from_zero(grouped)) < 3
    assert deviations_from_zero(paired) < -10
    assert abs(deviations_from_zero(paired_in_groups)) < 3


def test_the_error_leaves_groups_out_one_by_one() -> None:
    x, y = features(12, 0), features(12, 1, shift=0.3)
    groups = torch.arange(4).repeat_interleave(3)
    whole = kernel_distance(x, y, groups, groups).value
    without = [
        kernel_distance(x[groups != g], y[groups != g], groups[groups != g], groups[groups != g]).value
        for g in range(4)
    ]
    expected = (sum((value - whole) ** 2 for value in without) * 3 / 4) ** 0.5
    assert kernel_distance(x, y, groups, groups).error == pytest.approx(expected)


def test_refuses_groups_of_one_set_alone_and_too_few() -> None:
    x = features(6, 0)
    with pytest.raises(ValueError, match="for both sets or for none"):
        kernel_distance(x, x, torch.arange(6))
    with pytest.raises(ValueError, match="at least 3 groups in each set, got 2 in y"):
        kernel_distance(x, x, torch.arange(6), torch.arange(6) % 2)


def test_sets_larger_than_a_block_are_summed_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    x, y, groups = features(12, 0), features(9, 1, shift=0.3), torch.arange(12) // 2
    whole = kernel_distance(x, y, groups, groups[:9], draws=100)
    subsets = subset_distances(x, y, 3, 8)
    monkeypatch.setattr(kid, "_ROWS", 5)
    assert kernel_distance(x, y, groups, groups[:9], draws=100) == pytest.approx(whole)
    assert subset_distances(x, y, 3, 8) == pytest.approx(subsets)


def test_the_interval_is_as_wide_as_the_number_of_groups_makes_it() -> None:
    groups = torch.arange(20).repeat_interleave(5)
    x = features(20, 0, shift=0.6).repeat_interleave(5, 0) + 0.1 * features(100, 2)
    y = features(20, 1).repeat_interleave(5, 0) + 0.1 * features(100, 3)
    alone, grouped = (kernel_distance(x, y, *given, draws=1000) for given in ((None, None), (groups, groups + 20)))
    assert grouped.high - grouped.low > 1.5 * (alone.high - alone.low)


def test_a_group_of_weight_two_counts_twice_but_not_against_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    x, y, groups = features(10, 0, shift=0.2), features(10, 1), torch.tensor([5, 5, 2, 2, 2, 9, 1, 1, 4, 4])
    weights = torch.tensor([2.0, 1.0, 0.0, 1.0, 0.0]).double()[:, None]  # of the groups 1, 2, 4, 5, 9
    monkeypatch.setattr(kid, "bootstrap_weights", lambda *arguments: weights)
    _, drawn = distance_and_draws(x, y, groups, groups, draws=1)
    chosen = torch.cat([(group == groups).nonzero().flatten() for group in (1, 1, 2, 5)])
    expected = kernel_distance(x[chosen], y[chosen], groups[chosen], groups[chosen]).value
    assert drawn.item() == pytest.approx(expected, rel=1e-9)


def test_the_draws_of_two_sets_of_edits_are_paired() -> None:
    originals, edits, groups = features(60, 4), features(60, 5, shift=0.3), torch.arange(60)
    other = edits + 0.01 * features(60, 6, shift=0.5)
    (one, drawn), (_, drawn_of_other) = (
        distance_and_draws(images, originals, groups, groups, draws=2000) for images in (edits, other)
    )
    low, high = percentile_interval(drawn_of_other - drawn)
    assert low > 0 and high - low < 0.2 * (one.high - one.low)


def test_seeds_decide() -> None:
    x, y = features(20, 0), features(20, 1, shift=0.3)
    intervals = [kernel_distance(x, y, draws=50, seed=seed) for seed in (0, 0, 1)]
    assert intervals[0] == intervals[1] != intervals[2]
    subsets = [subset_distances(x, y, 5, 10, seed=seed) for seed in (0, 0, 1)]
    assert subsets[0] == subsets[1] != subsets[2]


def test_a_set_smaller_than_a_subset_is_refused() -> None:
    with pytest.raises(ValueError, match="at least 1000 in each set, got 6 generated"):
        subset_distances(features(6, 0), features(2000, 1))
    with pytest.raises(ValueError, match=r"got 5 real .* subset_size=5"):
        subset_distances(features(6, 0), features(5, 1), size=6)
    with pytest.raises(ValueError, match="at least 2 images, got subset_size=1"):
        subset_distances(features(6, 0), features(5, 1), size=1)
