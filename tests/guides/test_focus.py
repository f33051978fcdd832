"""Parts of a large picture: which squares the model sees, and what is put back."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from jaxtyping import Bool, UInt8
from torch import Tensor

from sdedit_pl.data.image_format import PixelFormat, bytes_from_images, images_from_bytes
from sdedit_pl.guides.focus import FEATHER, parts_of, put_back
from sdedit_pl.guides.guide_files import Guide

SIZE = 16
SIDES = (SIZE, SIZE)


def picture(height: int = 90, width: int = 120) -> UInt8[Tensor, "3 H W"]:
    return torch.randint(0, 256, (3, height, width), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


def whole(pixels: UInt8[Tensor, "3 H W"]) -> Guide:
    image = images_from_bytes(pixels[None])
    return Guide(Path("photo.png"), image, (pixels.shape[2], pixels.shape[1]), whole=True)


def mask(*boxes: tuple[int, int, int, int], height: int = 90, width: int = 120) -> Bool[Tensor, "1 1 H W"]:
    """True in boxes x, y, width, height."""
    allowed = torch.zeros(1, 1, height, width, dtype=torch.bool)
    for x, y, across, down in boxes:
        allowed[..., y : y + down, x : x + across] = True
    return allowed


def edited(before: UInt8[Tensor, "C H W"], guide: Guide, sample: Tensor) -> UInt8[Tensor, "C H W"]:
    picture = images_from_bytes(before[None])[0]
    put_back(picture, guide, sample)
    return bytes_from_images(picture)


def test_a_region_is_seen_with_half_its_length_around_it():
    ((guide, area),) = parts_of(whole(picture()), mask((40, 30, 20, 10)), SIDES)
    assert guide.part is not None and guide.part.last
    assert (guide.part.corner, guide.part.alpha.shape) == ((30, 15), (40, 40))
    assert guide.image.shape == (1, 3, SIZE, SIZE) and guide.original_size == (40, 40)
    assert area.dtype == torch.bool and area.float().mean().item() == pytest.approx(1 / 8, abs=0.03)


def test_a_square_stays_within_the_picture_and_is_no_smaller_than_the_model():
    parts = parts_of(whole(picture()), mask((0, 0, 4, 4), (110, 50, 10, 40)), SIDES)
    squares = [(guide.part.corner, len(guide.part.alpha)) for guide, _ in parts if guide.part]
    assert squares == [((0, 0), SIZE), ((40, 10), 80)]


def test_regions_that_touch_are_one_part_and_others_their_own():
    boxes = (10, 10, 10, 10), (20, 20, 10, 10), (80, 60, 10, 10)
    parts = parts_of(whole(picture()), mask(*boxes), SIDES)
    assert [(guide.part.number, guide.part.last) for guide, _ in parts if guide.part] == [(1, False), (2, True)]


def test_outside_the_feather_the_picture_keeps_its_bits_and_inside_is_the_edit():
    before, allowed = picture(), mask((40, 30, 20, 10))
    ((guide, _),) = parts_of(whole(before), allowed, SIDES)
    after = edited(before, guide, torch.ones(3, SIZE, SIZE))
    feather = round(FEATHER * 40 / SIZE)
    near = mask((40 - feather, 30 - feather, 20 + 2 * feather, 10 + 2 * feather))[0, 0]
    assert torch.equal(after[:, ~near], before[:, ~near])
    assert bool((after[:, allowed[0, 0]] == 255).all())
    between = (after.float() - before)[:, near & ~allowed[0, 0]]
    assert bool((between >= 0).all()) and bool((between > 0).any())


def test_an_unchanged_part_of_the_models_size_changes_nothing():
    before = picture()
    ((guide, _),) = parts_of(whole(before), mask((40, 30, 5, 5)), SIDES)
    assert torch.equal(edited(before, guide, guide.image[0]), before)


def test_a_box_without_a_mask_is_edited_within_its_bounds():
    before, box = picture(), (20, 10, 40, 40)
    ((guide, area),) = parts_of(whole(before), None, SIDES, box)
    after = edited(before, guide, torch.ones(3, SIZE, SIZE))
    assert guide.part is not None and guide.part.corner == (20, 10) and not area.all()
    inside = mask(box)[0, 0]
    assert torch.equal(after[:, ~inside], before[:, ~inside])
    assert bool((after[:, 20:40, 30:50] == 255).all())


def test_a_box_limits_a_strength_map():
    strength = mask((0, 0, 120, 90)).float() * 0.5
    ((guide, area),) = parts_of(whole(picture()), strength, SIDES, (20, 10, 32, 32))
    assert guide.part is not None and guide.part.corner == (20, 10)
    assert area.is_floating_point() and area.max().item() == pytest.approx(0.5, abs=0.05)


def test_a_line_thinner_than_a_pixel_of_the_model_is_edited():
    ((_, area),) = parts_of(whole(picture()), mask((20, 30, 40, 1)), SIDES)
    assert bool(area.any())


def test_grey_pictures():
    before = picture()[:1]
    ((guide, _),) = parts_of(whole(before), mask((40, 30, 20, 10)), SIDES)
    assert guide.part is not None and guide.image.shape == (1, 1, SIZE, SIZE)
    assert int(edited(before, guide, torch.ones(1, SIZE, SIZE))[0, 35, 50]) == 255


def test_other_values_are_seen_at_the_models_proportions_and_keep_their_precision():
    before = torch.rand(5, 90, 120) * 2 - 1
    picture = Guide(Path("a.npy"), before[None], (120, 90), whole=True, format=PixelFormat("float32", range=(0.0, 1.0)))
    ((guide, _),) = parts_of(picture, mask((40, 30, 30, 10)), (24, 16))
    assert guide.part is not None and guide.part.alpha.shape == (90, 60) and guide.image.shape == (1, 5, 24, 16)
    ((guide, _),) = parts_of(picture, mask((40, 30, 5, 5)), (24, 16))
    after = before.clone()
    put_back(after, guide, guide.image[0])
    assert torch.allclose(after, before, atol=1e-6)


@pytest.mark.parametrize(
    ("area", "box", "message"),
    [
        (None, None, "focus=true needs a mask, and photo.png has none; give one, or focus=x,y,width,height"),
        (mask((0, 40, 110, 5)), None, "a part of 110x5 pixels exceeds the largest square within a picture of 120x90"),
        (
            None,
            (100, 0, 30, 30),
            "of at least 8 pixels within photo.png, which is 120x90, got 100,0,30,30",
        ),
        (None, (0, 0, 7, 30), "of at least 8 pixels"),
        (mask((0, 0, 9, 9)), (50, 50, 20, 20), "the mask of photo.png allows no change in the box focus=50,50,20,20"),
    ],
)
def test_what_cannot_be_edited_is_refused(area: Tensor | None, box: tuple[int, int, int, int] | None, message: str):
    with pytest.raises(ValueError, match=message):
        parts_of(whole(picture()), area, SIDES, box)
