"""The sweep: its measurements against their definitions, and its default times."""

from __future__ import annotations

import pytest
import torch
from support.oracles import GaussianDenoiser
from torch import Tensor

from sdedit_pl.calibration.sweep import Sweep, default_times, measure_batch
from sdedit_pl.editing import SDEdit
from sdedit_pl.guides.strokes import stroke_painting
from sdedit_pl.metrics.image_distances import squared_l2
from sdedit_pl.sde import VESDE, VPSDE, DiscreteVPSDE


def colour(images: Tensor) -> Tensor:
    """Cheap features: mean and standard deviation of each channel."""
    return torch.cat([images.mean((2, 3)), images.std((2, 3))], 1)


def originals(count: int = 6, size: int = 12) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    coarse = torch.rand(count, 3, 3, 3, generator=generator) * 2 - 1
    return torch.nn.functional.interpolate(coarse, size=size, mode="bilinear")


class TestSweep:
    edits = tuple(SDEdit(t0, steps=6) for t0 in (0.1, 0.25, 0.4))

    def measured(self, images: Tensor, first: int = 0) -> Sweep:
        seeds = range(first, first + len(images))
        return measure_batch(GaussianDenoiser(VPSDE(), 0.0, 3.0), self.edits, images, seeds, colour)

    def test_the_first_level_is_the_painting_and_higher_levels_are_further_from_it(self) -> None:
        images = originals()
        sweep = self.measured(images)
        assert len(sweep) == 6 and sweep.edits.shape == (6, 4, 6) and sweep.shown.shape == (4, 3, 12, 12)
        assert torch.equal(sweep.shown[0], stroke_painting(images)[0])
        assert torch.equal(sweep.originals, colour(images)) and (sweep.squared_l2[:, 0] == 0).all()
        assert (sweep.squared_l2.diff(dim=1) > 0).all()

    def test_images_are_rounded_to_8_bits_before_they_are_measured(self) -> None:
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

    def test_unrelated_l2_averages_over_all_pairs_of_different_images(self) -> None:
        images = originals()
        paintings = stroke_painting(images)
        sweep = measure_batch(GaussianDenoiser(VPSDE()), [SDEdit(0.5, steps=1)], images, range(6), colour)
        pairs = [(i, j) for i in range(6) for j in range(6) if i != j]
        rows, columns = map(list, zip(*pairs, strict=True))
        expected = squared_l2(paintings[rows], images[columns]).mean().item()
        assert sweep.unrelated_l2() == pytest.approx(expected, rel=1e-5)


class TestUsualTimes:
    def test_they_have_the_same_noise_levels_for_every_sde(self) -> None:
        assert default_times(GaussianDenoiser(VPSDE())) == [0.2, 0.3, 0.4, 0.5, 0.6, 0.8, 1.0]
        assert default_times(GaussianDenoiser(DiscreteVPSDE())) == [0.2, 0.3, 0.4, 0.5, 0.6, 0.8, 1.0]
        sde = VESDE(0.02, 200.0)
        levels = sde.noise_level(torch.tensor(default_times(GaussianDenoiser(sde)), dtype=torch.float64))
        expected = VPSDE().noise_level(torch.tensor([0.2, 0.3, 0.4, 0.5, 0.6, 0.8, 1.0], dtype=torch.float64))
        assert torch.allclose(levels, expected, rtol=0.05)

    def test_they_end_at_the_largest_time_of_the_model(self) -> None:
        denoiser = GaussianDenoiser(VPSDE())
        denoiser.t_max = 0.45
        assert default_times(denoiser) == [0.2, 0.3, 0.4, 0.45]
