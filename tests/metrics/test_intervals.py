"""Bootstrap weights and percentile intervals."""

from __future__ import annotations

import math

import pytest
import torch

from sdedit_pl.metrics.intervals import Estimate, bootstrap_weights, percentile_interval


def test_the_interval_holds_the_middle_95_percent() -> None:
    assert percentile_interval(torch.arange(1001, dtype=torch.float64)) == pytest.approx((25, 975))


def test_weights_depend_on_the_seed_and_give_the_standard_error_of_a_mean() -> None:
    weights = bootstrap_weights(50, 4000, seed=1)
    assert torch.equal(weights, bootstrap_weights(50, 4000, seed=1))
    assert not torch.equal(weights, bootstrap_weights(50, 4000, seed=2))
    values = torch.randn(50, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    means = values @ weights / weights.sum(0)
    assert means.std().item() == pytest.approx(values.std().item() / math.sqrt(50), rel=0.05)


def test_an_estimate_without_an_interval_has_nan_for_it() -> None:
    assert math.isnan(Estimate(1.0).low) and math.isnan(Estimate(1.0).error)
    assert Estimate(1.0, low=0.5, high=2.0).with_interval == (1.0, 0.5, 2.0)
