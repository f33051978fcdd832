"""Calibration: the knee of known curves, the sweep's numbers against their definitions, and where it goes."""

from __future__ import annotations

import pytest
import torch
from support.oracles import GaussianDenoiser
from torch import Tensor

from sdedit_pl.calibration.sweep import (
    Sweep,
    knees,
    measure_batch,
    paper_noise_levels,
    trade_off,
    usual_times,
)
from sdedit_pl.editing import SDEdit
from sdedit_pl.guides.strokes import stroke_painting
from sdedit_pl.metrics.distances import squared_l2
from sdedit_pl.metrics.kid import kernel_distance
from sdedit_pl.sde import VESDE, VPSDE, DiscreteVPSDE


def colour(images: Tensor) -> Tensor:
    """Features that cost nothing: mean and deviation of each channel."""
    return torch.cat([images.mean((2, 3)), images.std((2, 3))], 1)


def originals(count: int = 6, size: int = 12) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    coarse = torch.rand(count, 3, 3, 3, generator=generator) * 2 - 1
    return torch.nn.functional.interpolate(coarse, size=size, mode="bilinear")


def sweep_of(count: int, kid_shift: list[float], l2: list[float]) -> Sweep:
    """A sweep whose edits have the originals' features but for a shift, and a known L2, 100 of unrelated images."""
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

    def test_it_is_where_the_slope_is_that_of_the_line(self) -> None:
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

    def test_an_uncertain_knee_is_said_to_be(self) -> None:
        sure = trade_off(sweep_of(40, [1.0, 0.1, 0.05], [0.0, 10.0, 100.0]), draws=100)
        unsure = trade_off(sweep_of(4, [0.06, 0.05, 0.04, 0.03, 0.0], [0.0, 25.0, 50.0, 75.0, 100.0]), draws=100)
        assert max(sure.knee_shares) == 1 and max(unsure.knee_shares) < 0.9

    def test_unrelated_images_are_all_pairs_but_an_images_own(self) -> None:
        images = originals()
        paintings = stroke_painting(images)
        sweep = measure_batch(GaussianDenoiser(VPSDE()), [SDEdit(0.5, steps=1)], images, range(6), colour)
        pairs = [(i, j) for i in range(6) for j in range(6) if i != j]
        rows, columns = map(list, zip(*pairs, strict=True))
        expected = squared_l2(paintings[rows], images[columns]).mean().item()
        assert sweep.unrelated_l2() == pytest.approx(expected, rel=1e-5)
        assert trade_off(sweep, draws=10).unrelated_l2 == sweep.unrelated_l2()

    def test_two_images_are_too_few(self) -> None:
        with pytest.raises(ValueError, match="at least 3 images, got 2"):
            trade_off(sweep_of(2, [1.0, 0.5, 0.0], [0.0, 1.0, 2.0]))


class TestSweep:
    edits = tuple(SDEdit(t0, steps=6) for t0 in (0.1, 0.25, 0.4))

    def measured(self, images: Tensor, first: int = 0) -> Sweep:
        seeds = range(first, first + len(images))
        return measure_batch(GaussianDenoiser(VPSDE(), 0.0, 3.0), self.edits, images, seeds, colour)

    def test_the_first_level_is_the_painting_and_the_others_move_away_from_it(self) -> None:
        images = originals()
        sweep = self.measured(images)
        assert len(sweep) == 6 and sweep.edits.shape == (6, 4, 6) and sweep.shown.shape == (4, 3, 12, 12)
        assert torch.equal(sweep.shown[0], stroke_painting(images)[0])
        assert torch.equal(sweep.originals, colour(images)) and (sweep.squared_l2[:, 0] == 0).all()
        assert (sweep.squared_l2.diff(dim=1) > 0).all()

    def test_images_are_measured_as_files_hold_them(self) -> None:
        shown = (self.measured(originals()).shown + 1) * 127.5
        assert (shown - shown.round()).abs().max() < 1e-3 and shown.min() >= 0 and shown.max() <= 255

    def test_it_does_not_depend_on_the_batch(self) -> None:
        images = originals()
        whole, parts = self.measured(images), self.measured(images[:2]).joined(self.measured(images[2:], 2))
        for name in ("originals", "edits", "squared_l2", "energies", "shown"):
            assert torch.equal(getattr(whole, name), getattr(parts, name)), name
        torch.testing.assert_close(whole.sums, parts.sums)

    def test_steps_are_reported(self) -> None:
        seen: list[int] = []
        measure_batch(
            GaussianDenoiser(VPSDE()), self.edits, originals(2), [0, 1], colour, lambda x, t: seen.append(len(x))
        )
        assert seen == [2] * 18


class TestRange:
    def test_the_usual_times_have_the_noise_levels_of_those_of_the_vp_sde(self) -> None:
        assert usual_times(GaussianDenoiser(VPSDE())) == [0.2, 0.3, 0.4, 0.5, 0.6, 0.8, 1.0]
        assert usual_times(GaussianDenoiser(DiscreteVPSDE())) == [0.2, 0.3, 0.4, 0.5, 0.6, 0.8, 1.0]
        sde = VESDE(0.02, 200.0)
        levels = sde.noise_level(torch.tensor(usual_times(GaussianDenoiser(sde)), dtype=torch.float64))
        expected = VPSDE().noise_level(torch.tensor([0.2, 0.3, 0.4, 0.5, 0.6, 0.8, 1.0], dtype=torch.float64))
        assert torch.allclose(levels, expected, rtol=0.05)

    def test_they_end_with_what_the_model_was_trained_on(self) -> None:
        denoiser = GaussianDenoiser(VPSDE())
        denoiser.t_max = 0.45
        assert usual_times(denoiser) == [0.2, 0.3, 0.4, 0.45]

    def test_the_papers_range_as_noise_levels(self) -> None:
        # sqrt(exp(0.5 * 19.9 t^2 + 0.1 t) - 1)
        assert paper_noise_levels() == pytest.approx((1.2341, 6.0974), abs=2e-3)
