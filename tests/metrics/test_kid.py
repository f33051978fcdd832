"""KID: the published formula, no bias, and groups that only count across."""

from __future__ import annotations

import pytest
import torch
from torchmetrics.image.kid import KernelInceptionDistance

from sdedit_pl.metrics import kernel_distance
from sdedit_pl.metrics.kid import polynomial_kernel


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
    x = torch.randint(0, 10, (40, 3, 1, 1), generator=generator, dtype=torch.uint8)
    y = torch.randint(3, 12, (40, 3, 1, 1), generator=generator, dtype=torch.uint8)
    other = KernelInceptionDistance(feature=Flat(), subsets=1, subset_size=40).set_dtype(torch.float64)
    other.update(x, real=True)
    other.update(y, real=False)
    expected = other.compute()[0].item()
    assert expected > 1
    assert kernel_distance(x.flatten(1).float(), y.flatten(1).float()).value == pytest.approx(expected, rel=1e-6)


def test_is_symmetric_and_takes_sets_of_unlike_sizes() -> None:
    x, y = features(30, 0), features(50, 1, shift=0.5)
    assert kernel_distance(x, y).value == pytest.approx(kernel_distance(y, x).value)
    assert kernel_distance(x, y).value > 3 * kernel_distance(x, y).error > 0


def test_is_unbiased_between_samples_of_one_distribution() -> None:
    values = torch.tensor([kernel_distance(features(20, 2 * k), features(20, 2 * k + 1)).value for k in range(300)])
    assert values.min() < 0 < values.max()
    assert values.mean().abs() < 3 * values.std() / 300**0.5


def test_the_error_is_what_repetitions_scatter_by() -> None:
    found = [kernel_distance(features(40, 2 * k), features(40, 2 * k + 1, shift=0.6)) for k in range(200)]
    scatter = torch.tensor([estimate.value for estimate in found]).std().item()
    errors = torch.tensor([estimate.error for estimate in found]).mean().item()
    assert errors == pytest.approx(scatter, rel=0.25)


def test_groups_remove_the_bias_of_variations_of_one_design() -> None:
    """Sets of few designs with many variations each, and one set made of the other: only groups see no distance."""
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
