"""Composites: placement and colours of the object, and the editable area around it."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from sdedit_pl.data.image_files import UnreadableImage
from sdedit_pl.data.image_format import ImageFormat
from sdedit_pl.guides.composite import Composite, Paste, compose, distance_to
from sdedit_pl.guides.guide_files import Guide, read_guide, read_large_guide
from sdedit_pl.picture_grid import to_picture

BACK = np.random.default_rng(0).integers(0, 256, (32, 32, 3), dtype=np.uint8)
RED = (255, 0, 0)


@pytest.fixture
def background(tmp_path: Path) -> Guide:
    return saved(tmp_path, BACK)


def saved(folder: Path, pixels: np.ndarray, size: int | None = None) -> Guide:
    """The guide of a background; `size` defaults to the height of the file."""
    Image.fromarray(pixels).save(folder / "background.png")
    return read_guide(folder / "background.png", ImageFormat(size or pixels.shape[0]))


def pasted(folder: Path, background: Guide, cutout: Image.Image, at: tuple[int, int], **options: Any) -> Composite:
    cutout.save(folder / "object.png")
    return compose(background, Paste(folder / "object.png", at, **options))


def pixels_of(composite: Composite) -> np.ndarray:
    return np.asarray(to_picture(composite.guide.image[0]))


def disc(side: int, colour: tuple[int, int, int] = RED, around: tuple[int, int, int] = (0, 255, 0)) -> Image.Image:
    """A disc; the transparent pixels around it have another colour."""
    y, x = np.mgrid[:side, :side] - (side - 1) / 2
    inside = (x**2 + y**2 < (side / 2) ** 2)[..., None]
    return Image.fromarray(np.where(inside, (*colour, 255), (*around, 0)).astype(np.uint8))


def test_the_upper_left_corner_is_placed_at_at(tmp_path: Path, background: Guide) -> None:
    patch = np.random.default_rng(1).integers(0, 256, (5, 9, 3), dtype=np.uint8)
    composite = pasted(tmp_path, background, Image.fromarray(patch), (20, 3), grow=0)
    expected = BACK.copy()
    expected[3:8, 20:29] = patch
    assert np.array_equal(pixels_of(composite), expected)
    changed = torch.zeros(32, 32, dtype=torch.bool)
    changed[3:8, 20:29] = True
    assert composite.guide.mask is not None and torch.equal(composite.guide.mask[0, 0], changed)
    assert torch.equal(composite.strength[0, 0], changed.float())
    assert composite.guide.path == background.path and composite.guide.original_size == (32, 32)


@pytest.mark.parametrize("at", [(-4, -3), (26, 28), (-4, 28), (30, 5)])
@pytest.mark.parametrize("scale", [1.0, 1.7, 0.6])
def test_parts_outside_the_background_are_cut_off(
    tmp_path: Path, background: Guide, at: tuple[int, int], scale: float
) -> None:
    # Levels at which the filter does not overshoot the limits, where Pillow's order of clipping depends on the sizes.
    patch = Image.fromarray(np.random.default_rng(1).integers(100, 156, (12, 10, 4), dtype=np.uint8))
    cut = pixels_of(pasted(tmp_path, background, patch, at, scale=scale))
    wide = np.pad(BACK, ((20, 20), (20, 20), (0, 0)))
    whole = pixels_of(pasted(tmp_path, saved(tmp_path, wide), patch, (at[0] + 20, at[1] + 20), scale=scale))
    assert np.abs(cut.astype(int) - whole[20:52, 20:52]).max() <= 2  # of 255
    assert not np.array_equal(cut, BACK)


def test_the_colour_of_transparent_pixels_does_not_leak_in(tmp_path: Path) -> None:
    grey = saved(tmp_path, np.full((64, 64, 3), 100, dtype=np.uint8))
    for scale in (0.4, 1.0, 2.3):
        pixels = pixels_of(pasted(tmp_path, grey, disc(24), (4, 4), scale=scale)).astype(int)
        red, green, blue = np.moveaxis(pixels, -1, 0)
        assert green.max() <= 101 and np.abs(green - blue).max() <= 1, "the green around the disc must not show"
        assert red.max() == 255 and green.min() == 0
        area = (red > 177).sum() / (math.pi / 4 * (24 * scale) ** 2)
        assert area == pytest.approx(1, abs=0.15), "the disc has the scaled size"


def test_the_mask_grows_by_a_round_border_and_the_strength_falls_linearly(tmp_path: Path, background: Guide) -> None:
    dot = Image.new("RGB", (1, 1), RED)
    composite = pasted(tmp_path, background, dot, (16, 12), grow=3, feather=4)
    y, x = np.mgrid[:32, :32]
    distance = np.hypot(y - 12, x - 16)
    mask, strength = composite.guide.mask, composite.strength[0, 0]
    assert mask is not None and np.array_equal(mask[0, 0].numpy(), distance <= 3)
    assert mask.sum() == 29  # lattice points in a circle of radius 3
    np.testing.assert_allclose(strength.numpy(), np.clip((7 - distance) / 4, 0, 1), atol=1e-6)
    assert torch.equal(strength == 1, mask[0, 0])


@pytest.mark.parametrize("reach", [0, 1, 4, 40, 10**12])
def test_distances_are_euclidean(reach: int) -> None:
    region = torch.rand(11, 17, generator=torch.Generator().manual_seed(0)) > 0.97
    places = torch.stack(torch.meshgrid(torch.arange(11.0), torch.arange(17.0), indexing="ij"), dim=-1)
    exact = (places[:, :, None] - places[region]).norm(dim=-1).amin(-1)
    found = distance_to(region, reach)
    torch.testing.assert_close(found, torch.where(exact <= reach + 1e-4, exact, math.inf), atol=1e-4, rtol=0)


def test_widths_are_in_pixels_of_the_model_and_places_in_pixels_of_the_file(tmp_path: Path) -> None:
    large = saved(tmp_path, BACK.repeat(4, 0).repeat(4, 1), size=32)
    composite = pasted(tmp_path, large, Image.new("RGB", (4, 4), RED), (64, 48), grow=3)
    y, x = np.mgrid[:32, :32]
    assert composite.guide.mask is not None and composite.guide.image.shape == (1, 3, 32, 32)
    assert np.array_equal(composite.guide.mask[0, 0].numpy(), np.hypot(y - 12, x - 16) <= 3)


def test_a_wide_background_is_cropped_after_pasting(tmp_path: Path) -> None:
    wide = np.concatenate([BACK, BACK[:, ::-1]], axis=1)
    square = saved(tmp_path, wide, size=32)  # x from 16 to 47 of the file
    composite = pasted(tmp_path, square, Image.new("RGB", (4, 2), RED), (30, 5), grow=0)
    expected = wide.copy()
    expected[5:7, 30:34] = RED
    assert np.array_equal(pixels_of(composite), expected[:, 16:48])
    large = compose(read_large_guide(square.path, ImageFormat(16)), Paste(tmp_path / "object.png", (30, 5)))
    assert np.array_equal(pixels_of(large), expected) and large.strength.shape == (1, 1, 32, 64)


def test_a_large_composite_is_resampled_like_a_plain_guide(tmp_path: Path, background: Guide) -> None:
    guide = read_large_guide(background.path, ImageFormat(16), side=20)
    composite = pasted(tmp_path, guide, Image.new("RGB", (2, 2), RED), (0, 0))
    assert torch.equal(composite.guide.image[..., 8:, 8:], guide.image[..., 8:, 8:])


def test_a_mask_of_its_own_cuts_the_object_out(tmp_path: Path, background: Guide) -> None:
    levels = np.zeros((6, 6), dtype=np.uint8)
    levels[1:5, 2:4], levels[1:5, 4] = 255, 51
    Image.fromarray(levels).save(tmp_path / "mask.png")
    composite = pasted(
        tmp_path, background, Image.new("RGB", (6, 6), RED), (10, 10), mask=tmp_path / "mask.png", grow=0
    )
    expected = BACK.astype(float)
    share = levels[..., None] / 255
    expected[10:16, 10:16] = share * np.array(RED) + (1 - share) * expected[10:16, 10:16]
    np.testing.assert_allclose(pixels_of(composite), expected, atol=1)
    assert composite.guide.mask is not None and composite.guide.mask.sum() == 8, (
        "a pixel covered by a fifth is not part of the object"
    )


def test_photographs_taken_sideways_are_upright(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # rotate clockwise by 90 degrees
    wide = Image.fromarray(np.concatenate([BACK, BACK[::-1]], axis=1))
    wide.save(tmp_path / "background.png", exif=exif)
    stripe = np.zeros((2, 6, 3), dtype=np.uint8)
    stripe[:, 0] = RED
    Image.fromarray(stripe).save(tmp_path / "object.png", exif=exif)
    background = read_large_guide(tmp_path / "background.png", ImageFormat(16))
    assert background.original_size == (32, 64)
    upright = np.rot90(np.asarray(wide), -1).copy()
    upright[40:46, 7:9] = np.rot90(stripe, -1)
    composite = compose(background, Paste(tmp_path / "object.png", (7, 40)))
    assert np.array_equal(pixels_of(composite), upright)


def test_a_grey_model_gets_a_grey_composite(tmp_path: Path, background: Guide) -> None:
    grey = read_guide(background.path, ImageFormat(32, 1))
    composite = pasted(tmp_path, grey, disc(9, colour=(200, 200, 200)), (3, 3))
    assert composite.guide.image.shape == (1, 1, 32, 32)
    assert pixels_of(composite)[7, 7] == 200


@pytest.mark.parametrize("at", [(32, 0), (0, -5), (-5, 40)])
def test_an_object_outside_of_the_background_is_refused(at: tuple[int, int], tmp_path: Path, background: Guide) -> None:
    message = rf"object.png covers no pixel .* at {at[0]},{at[1]} .* 5x5, on .*background.png, .* 32x32; change at"
    with pytest.raises(ValueError, match=message):
        pasted(tmp_path, background, Image.new("RGB", (10, 10)), at, scale=0.5)


def test_an_object_outside_of_the_central_square_or_too_small_is_refused(tmp_path: Path) -> None:
    wide = saved(tmp_path, np.zeros((32, 64, 3), dtype=np.uint8), size=16)
    with pytest.raises(ValueError, match=r"64x32, of which the central 32x32 are edited; change at"):
        pasted(tmp_path, wide, Image.new("RGB", (10, 10)), (2, 2))
    with pytest.raises(ValueError, match=r"covers no pixel .* at 30,9 .* 1x1"):
        pasted(tmp_path, wide, Image.new("RGB", (10, 10)), (30, 9), scale=0.01)


def test_unusable_objects_and_backgrounds_are_refused(tmp_path: Path, background: Guide) -> None:
    with pytest.raises(ValueError, match=r"object.png is fully transparent: there is no object"):
        pasted(tmp_path, background, Image.new("RGBA", (4, 4), (9, 9, 9, 0)), (1, 1))
    Image.new("L", (4, 4)).save(tmp_path / "black.png")
    with pytest.raises(ValueError, match=r"transparent within the mask .*black.png: there is no object"):
        pasted(tmp_path, background, Image.new("RGB", (4, 4)), (1, 1), mask=tmp_path / "black.png")
    with pytest.raises(ValueError, match=r"size of its picture: .*object.png is 5x4, .*black.png is 4x4"):
        pasted(tmp_path, background, Image.new("RGB", (5, 4)), (1, 1), mask=tmp_path / "black.png")
    with pytest.raises(ValueError, match=r"no picture at .*none.png; give an image"):
        compose(background, Paste(tmp_path / "none.png", (0, 0)))
    (tmp_path / "text.png").write_bytes(b"not at all")
    with pytest.raises(UnreadableImage, match=r"text.png: .*; give a whole image"):
        compose(background, Paste(tmp_path / "text.png", (0, 0)))
    with pytest.raises(UnreadableImage, match=r"cannot read image .*text.png: it is not an image"):
        compose(background._replace(path=tmp_path / "text.png"), Paste(tmp_path / "object.png", (0, 0)))


def test_objects_of_16_bits_and_masks_of_0_and_1_are_pasted(tmp_path: Path, background: Guide) -> None:
    object_, inside = np.full((4, 4), 200, dtype=np.uint8), np.eye(4, dtype=np.uint8)
    composites = []
    for depth, one in ((1, 255), (257, 1)):
        Image.fromarray(inside * one).save(tmp_path / "inside.png")
        kind = np.uint8 if depth == 1 else np.uint16
        picture = Image.fromarray(object_.astype(kind) * kind(depth))
        composites.append(pasted(tmp_path, background, picture, (1, 1), mask=tmp_path / "inside.png"))
    assert torch.equal(composites[0].guide.image, composites[1].guide.image)


@pytest.mark.parametrize("options", [{"scale": 0.0}, {"scale": -1.0}, {"scale": math.inf}, {"scale": math.nan}])
def test_the_scale_must_be_positive(options: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=r"scale must be positive, got"):
        Paste(Path("object.png"), (0, 0), **options)


@pytest.mark.parametrize("options", [{"grow": -1}, {"feather": -2}])
def test_widths_must_not_be_negative(options: dict[str, int]) -> None:
    with pytest.raises(ValueError, match="widths in pixels, at least 0, got grow="):
        Paste(Path("object.png"), (0, 0), **options)
