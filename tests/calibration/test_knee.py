"""The knee of known curves, and the trade-off against the definitions of its numbers."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from sdedit_pl.calibration.knee import knees, trade_off
from sdedit_pl.calibration.sweep import Sweep
from sdedit_pl.metrics.kid import kernel_distance


def sweep_of(count: int, kid_shift: list[float], l2: list[float]) -> Sweep:
    """A sweep of edits with shifted features and a known L2; the L2 of unrelated images is 100."""
    generator = torch.Generator().manual_seed(1)
    features = torch.randn(count, 8, generator=generator)
    levels = len(kid_shift)
    noise = 0.1 * torch.randn(count, 1, 8, generator=generator)
    edits = features[:, None] + noise + torch.tensor(kid_shift)[None, :, None]
    distances = torch.tensor(l2).expand(count, -1) * (1 + 0.1 * torch.rand(count, 1, generator=generator))
    energies = torch.tensor([400.0, 400.0], dtype=torch.float64).expand(count, -1)  # images at right angles
    sums = torch.zeros(2, 3, 4, 4, dtype=torch.float64)
    return Sweep(features, edits, distances, energies, sums, torch.zeros(levels, 3, 4, 4))


class TestKnee:
    across = torch.linspace(0, 1, 11, dtype=torch.float64)

    def test_the_slope_at_the_knee_is_that_of_the_line(self) -> None:
        # d/dx (1 - x)^p = -1 at x = 1 - p^(-1 / (p - 1)): 0.5 for p = 2 and 0.37 for p = 4, on a grid of 0.1.
        curves = torch.stack([(1 - self.across) ** 2, (1 - self.across) ** 4])
        assert knees(self.across.expand(2, -1), curves, 1.0).tolist() == [5, 4]

    def test_it_does_not_depend_on_units(self) -> None:
        curve = (1 - self.across) ** 3
        assert knees(700 * self.across, 0.3 * curve, 700.0) == knees(self.across, curve, 1.0) == 4

    def test_it_does_not_depend_on_where_the_sweep_ends(self) -> None:
        curve = (1 - self.across) ** 2
        assert all(knees(self.across[:end], curve[:end], 1.0) == 5 for end in range(6, 12))
        assert knees(self.across[:4], curve[:4], 1.0) == 3

    @pytest.mark.parametrize(
        "curve", [1 - across, 1 + across, 1 + 0 * across, 1 - across**2, 0 * across, across - 1],
        ids=["line", "rising", "level", "bent outwards", "real strokes", "negative"],
    )  # fmt: skip
    def test_a_curve_without_one_has_none(self, curve: Tensor) -> None:
        assert knees(self.across, curve, 1.0) == -1


class TestTradeOff:
    def test_numbers_are_those_of_the_metrics_and_lie_in_their_intervals(self) -> None:
        sweep = sweep_of(40, [1.0, 0.4, 0.2, 0.1], [0.0, 10.0, 40.0, 100.0])
        found = trade_off(sweep, draws=400)
        groups = torch.arange(40)
        for level, (kid, l2) in enumerate(zip(found.kid, found.l2, strict=True)):
            expected = kernel_distance(sweep.edits[:, level], sweep.originals, groups, groups)
            assert kid.value == expected.value and kid.low < kid.value < kid.high
            assert kid.high - kid.low == pytest.approx(4 * expected.error, rel=0.6)
            assert l2.value == pytest.approx(sweep.squared_l2[:, level].mean().item()) and l2.low <= l2.value <= l2.high
        assert found.knee == 1 and found.knee_shares[1] > 0.9 and sum(found.knee_shares) <= 1 + 1e-9

    def test_an_uncertain_knee_has_a_low_share(self) -> None:
        sure = trade_off(sweep_of(40, [1.0, 0.1, 0.05], [0.0, 10.0, 100.0]), draws=100)
        unsure = trade_off(sweep_of(4, [0.06, 0.05, 0.04, 0.03, 0.0], [0.0, 25.0, 50.0, 75.0, 100.0]), draws=100)
        assert max(sure.knee_shares) == 1 and max(unsure.knee_shares) < 0.9
