"""Simulated strokes: few flat colours, no detail, deterministic."""

from __future__ import annotations

import pytest
import torch

from sdedit_pl.guides.strokes import scaled_kernel, stroke_painting


def photograph(side: int = 64) -> torch.Tensor:
    """A smooth gradient with noise."""
    ramp = torch.linspace(-1, 1, side)
    picture = torch.stack([ramp.expand(side, side), ramp[:, None].expand(side, side), -ramp.expand(side, side)])
    noise = torch.randn(3, side, side, generator=torch.Generator().manual_seed(0))
    return (picture * 0.8 + 0.1 * noise).clamp(-1, 1)[None]


def colours_of(image: torch.Tensor) -> int:
    return len(image.flatten(1).unique(dim=1).T)


@pytest.mark.parametrize("colours", [3, 6, 16])
def test_a_painting_has_the_requested_number_of_colours(colours: int) -> None:
    painting = stroke_painting(photograph(), colours=colours)[0]
    assert colours_of(photograph()[0]) > 1000
    assert colours - 1 <= colours_of(painting) <= colours


def test_a_painting_resembles_its_image() -> None:
    image = photograph()
    assert (stroke_painting(image) - image).abs().mean() < 0.35
    assert stroke_painting(image).abs().max() <= 1


def test_details_thinner_than_half_the_brush_vanish() -> None:
    image = torch.full((1, 3, 64, 64), -1.0)
    image[..., 30:32, :] = 1.0  # a line of 2 pixels under a brush of 5
    image[..., :20, :20] = 1.0
    painting = stroke_painting(image)
    assert (painting[..., 25:, :] == -1).all()
    assert (painting[..., 2:15, 2:15] == 1).all()


def test_a_flat_image_is_unchanged() -> None:
    image = torch.full((1, 3, 16, 16), 51 / 127.5 - 1)
    torch.testing.assert_close(stroke_painting(image), image)


def test_the_same_image_gives_the_same_painting_in_any_batch() -> None:
    batch = torch.cat([photograph(), -photograph(), photograph().flip(3)])
    paintings = stroke_painting(batch)
    assert torch.equal(stroke_painting(batch[1:2])[0], paintings[1])
    assert torch.equal(stroke_painting(batch), paintings)


@pytest.mark.parametrize(("side", "kernel"), [(256, 23), (512, 45), (128, 11), (64, 5), (32, 3), (8, 3)])
def test_the_kernel_scales_with_the_image(side: int, kernel: int) -> None:
    assert scaled_kernel(side) == kernel
    assert abs(scaled_kernel(side) - max(3, side * 23 / 256)) <= 1


def test_grey_images_are_painted_like_their_rgb_copies() -> None:
    grey = photograph().mean(1, keepdim=True)
    painted = stroke_painting(grey)
    assert painted.shape == grey.shape and len(painted.unique()) <= 6
    assert torch.equal(painted.expand(-1, 3, -1, -1), stroke_painting(grey.expand(-1, 3, -1, -1)))


def test_other_bands_are_painted_as_grey_and_a_single_colour_is_refused() -> None:
    with pytest.raises(ValueError, match="2 to 256 colours, got 1; the paper's have 6"):
        stroke_painting(photograph(), colours=1)
    bands = torch.cat([photograph(), photograph()[:, :1]], dim=1)
    assert torch.equal(stroke_painting(bands)[:, 3:], stroke_painting(bands[:, 3:]))
