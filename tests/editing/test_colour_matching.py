"""Colours matched to a guide: Oklab, the moments that come out, and edits with it."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from support.oracles import GaussianDenoiser

from sdedit_pl.editing import SDEdit
from sdedit_pl.editing.colour_matching import from_oklab, oklab, with_colours_of
from sdedit_pl.sde import VPSDE


def images(seed: int, mean: float = 0.0, spread: float = 0.2) -> torch.Tensor:
    noise = torch.randn(2, 3, 12, 12, generator=torch.Generator().manual_seed(seed))
    mixing = torch.tensor([[1.0, 0.5, 0.0], [0.0, 1.0, 0.3], [0.2, 0.0, 1.0]])
    return mean + spread * torch.einsum("cd,bdhw->bchw", mixing, noise)


def moments(image: torch.Tensor, where: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    colours = oklab(image.double())[:, where]
    return colours.mean(1), torch.cov(colours)


def test_oklab_has_the_published_values_and_an_inverse() -> None:
    colours = torch.tensor([[1.0, 1.0, -1.0], [1.0, -1.0, -1.0], [1.0, -1.0, 1.0]])[:, None]  # white, red, blue
    published = torch.tensor([[1.0, 0.62796, 0.45201], [0.0, 0.22486, -0.03246], [0.0, 0.12585, -0.31153]])[:, None]
    torch.testing.assert_close(oklab(colours), published, atol=1e-4, rtol=0)
    image = images(0)[0].clamp(-1, 1)
    torch.testing.assert_close(from_oklab(oklab(image)), image, atol=2e-5, rtol=0)


def test_mean_and_covariance_become_the_guides_where_pixels_may_change() -> None:
    guide, edit, area = images(1, 0.1, 0.1), images(2, -0.2, 0.15), torch.zeros(1, 1, 12, 12, dtype=torch.bool)
    area[..., 3:9, 2:10] = True
    matched = with_colours_of(guide, edit, area)
    assert torch.equal(matched[:, :, ~area[0, 0]], edit[:, :, ~area[0, 0]])
    for image, original in zip(matched, guide, strict=True):
        for found, wanted in zip(moments(image, area[0, 0]), moments(original, area[0, 0]), strict=True):
            torch.testing.assert_close(found, wanted, atol=3e-4, rtol=0)
    assert torch.equal(with_colours_of(guide[:1], edit[:1], area), matched[:1])


@pytest.mark.parametrize("channels", [1, 3])
def test_flat_colours_are_taken_over(channels: int) -> None:
    guide, edit = torch.full((1, channels, 4, 4), 0.5), images(3)[:1, :channels, :4, :4]
    assert (with_colours_of(guide, edit, None) - guide).abs().max() < 0.02
    assert (with_colours_of(guide, guide * 0, None) - guide).abs().max() < 0.02


def test_edits_hold_the_colours_over_repeats_and_keep_the_rest() -> None:
    denoiser = GaussianDenoiser(VPSDE(), mean=-0.3)
    guide, mask = images(4, 0.3, 0.1)[:1], torch.zeros(1, 1, 12, 12, dtype=torch.bool)
    mask[..., :8] = True
    edit = SDEdit(t0=0.6, steps=5, repeats=3)
    for settings, drifts in ((edit, True), (replace(edit, match_colours=True), False)):
        result = settings(denoiser, guide, edit_mask=mask, seeds=[3])
        moved = (moments(result[0], mask[0, 0])[0] - moments(guide[0], mask[0, 0])[0]).norm()
        assert (moved > 0.02) == drifts and (moved < 0.002) != drifts
        assert torch.equal(result[..., 8:], guide[..., 8:])
    with pytest.raises(ValueError, match="has no anneal, resample, lowpass or match_colours"):
        SDEdit(variant="paper", match_colours=True)
