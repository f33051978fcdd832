"""Edit masks and strength maps from image files; for black ones and those of another size see tests/cli."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from sdedit_pl.data.image_format import ImageFormat
from sdedit_pl.guides.guide_files import Guide, read_guide, read_large_guide
from sdedit_pl.guides.mask_files import read_mask, read_strength

PIXELS = np.random.default_rng(0).integers(0, 256, (16, 16, 3), dtype=np.uint8)
FREE = np.zeros((16, 16), dtype=bool)
FREE[3:9, 5:14] = True
GREY = FREE.astype(np.uint8) * 255


def palette(index_of_white: int) -> Image.Image:
    """The mask as a palette image in which white does not have the largest index."""
    image = Image.fromarray(np.where(FREE, index_of_white, 5).astype(np.uint8))
    image.putpalette(
        [channel for index in range(256) for channel in ([255] * 3 if index == index_of_white else [0] * 3)]
    )
    return image


MASKS = {
    "1": Image.fromarray(GREY).convert("1"),
    "L": Image.fromarray(GREY),
    "L at the threshold": Image.fromarray(np.where(FREE, 128, 127).astype(np.uint8)),
    "P": palette(1),
    "P reversed": palette(200),
    "RGB": Image.fromarray(GREY).convert("RGB"),
    "LA": Image.fromarray(GREY).convert("LA"),
    "RGBA": Image.fromarray(GREY).convert("RGBA"),
    "RGBA transparent": Image.fromarray(np.stack([*[np.full_like(GREY, 255)] * 3, GREY], axis=-1)),
    "0 and 1": Image.fromarray(FREE.astype(np.uint8)),
    "red on black": Image.fromarray(np.stack([GREY, 0 * GREY, 0 * GREY], axis=-1)),
    "dark red of a segmentation": Image.fromarray(np.stack([GREY // 255 * 128, 0 * GREY, 0 * GREY], axis=-1)),
    "blue on transparent": Image.fromarray(np.stack([0 * GREY, 0 * GREY, GREY, GREY], axis=-1)),
    "16 bit": Image.fromarray(FREE.astype(np.uint16) * 65535),
    "16 bit at the threshold": Image.fromarray(np.where(FREE, 32896, 32639).astype(np.uint16)),
}


@pytest.fixture
def guide(tmp_path: Path) -> Guide:
    Image.fromarray(PIXELS).save(tmp_path / "guide.png")
    return read_guide(tmp_path / "guide.png", ImageFormat(16))


@pytest.mark.parametrize("name", MASKS)
def test_masks_of_any_mode_are_true_where_white(name: str, guide: Guide, tmp_path: Path) -> None:
    MASKS[name].save(tmp_path / "mask.png")
    mask = read_mask(tmp_path / "mask.png", guide)
    assert mask.shape == (1, 1, 16, 16) and mask.dtype == torch.bool
    assert np.array_equal(mask[0, 0].numpy(), FREE)


DOUBTFUL = {
    "grey 0, grey 127": Image.fromarray(GREY // 255 * 127),
    "grey 0, grey 2, grey 1": Image.fromarray(FREE.astype(np.uint8) * 2 - np.eye(16, dtype=np.uint8) * FREE),
    "grey 0, grey 128, grey 255": Image.fromarray(GREY // 255 * 128 + np.eye(16, dtype=np.uint8) * 127 * FREE),
    "transparent pixels, grey 0": Image.fromarray(np.stack([0 * GREY, 0 * GREY, 0 * GREY, GREY], axis=-1)),
    "#00ff00, #ff0000": Image.fromarray(np.stack([GREY, 255 - GREY, 0 * GREY], axis=-1)),
    "other values": Image.fromarray(PIXELS),
}


@pytest.mark.parametrize("values", DOUBTFUL)
def test_masks_of_unclear_meaning_are_refused_with_their_values(values: str, guide: Guide, tmp_path: Path) -> None:
    DOUBTFUL[values].save(tmp_path / "mask.png")
    with pytest.raises(ValueError, match=rf"mask.png holds .*{values}, which do not say .* white .*strength=FILE"):
        read_mask(tmp_path / "mask.png", guide)


def test_a_white_mask_with_an_erased_hole_is_used_with_a_notice(
    guide: Guide, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "sdedit_pl")
    Image.fromarray(np.stack([*[np.full_like(GREY, 255)] * 3, 255 - GREY], axis=-1)).save(tmp_path / "mask.png")
    assert np.array_equal(read_mask(tmp_path / "mask.png", guide)[0, 0].numpy(), ~FREE)
    assert "mask.png: the white pixels (79 %) may change, the transparent ones are kept" in caplog.text


def test_dark_grey_beside_white_does_not_become_editable_through_resampling(tmp_path: Path) -> None:
    levels = np.zeros((64, 64), dtype=np.uint8)
    levels[16:20], levels[20:] = 127, 255
    Image.fromarray(levels).convert("RGB").save(tmp_path / "guide.png")
    Image.fromarray(levels).save(tmp_path / "mask.png")
    mask = read_mask(tmp_path / "mask.png", read_guide(tmp_path / "guide.png", ImageFormat(16)))
    assert not mask[..., :5, :].any() and mask[..., 5:, :].all()


def test_a_mask_follows_its_guide_to_the_models_size(tmp_path: Path) -> None:
    Image.new("RGB", (64, 32)).save(tmp_path / "guide.png")
    wide = np.zeros((32, 64), dtype=np.uint8)
    wide[8:24, 24:40] = 255  # the middle of the central square
    wide[:, :16] = 255  # cropped away
    Image.fromarray(wide).save(tmp_path / "mask.png")
    mask = read_mask(tmp_path / "mask.png", read_guide(tmp_path / "guide.png", ImageFormat(16)))
    expected = torch.zeros(16, 16, dtype=torch.bool)
    expected[4:12, 4:12] = True
    assert torch.equal(mask[0, 0], expected)


def test_a_mask_that_marks_only_what_is_cropped_is_refused(tmp_path: Path) -> None:
    for name, colours in (("guide.png", ("black", "black")), ("mask.png", ("black", "white"))):
        picture = Image.new("RGB", (64, 16), colours[0])
        picture.paste(colours[1], (0, 0, 8, 16))
        picture.save(tmp_path / name)
    with pytest.raises(ValueError, match=r"mask.png is black in the central part of .*guide.png"):
        read_mask(tmp_path / "mask.png", read_guide(tmp_path / "guide.png", ImageFormat(16)))


def test_masks_and_maps_of_large_guides_are_not_cropped(tmp_path: Path) -> None:
    free = np.zeros((20, 50), dtype=np.uint8)
    free[:, 45:] = 255
    Image.fromarray(np.zeros((20, 50, 3), dtype=np.uint8)).save(tmp_path / "wide.png")
    Image.fromarray(free).save(tmp_path / "free.png")
    guide = read_large_guide(tmp_path / "wide.png", ImageFormat(16))
    assert np.array_equal(read_mask(tmp_path / "free.png", guide)[0, 0].numpy(), free > 0)
    doubled = read_large_guide(tmp_path / "wide.png", ImageFormat(16), side=40)
    strength = read_strength(tmp_path / "free.png", doubled)
    assert strength.shape == (1, 1, 40, 100)
    assert strength[..., :85].max() == 0 and strength[..., 95:].min() == 1


def test_a_strength_map_holds_its_grey_values(guide: Guide, tmp_path: Path) -> None:
    grey = np.arange(256, dtype=np.uint8).reshape(16, 16)
    Image.fromarray(grey).save(tmp_path / "map.png")
    assert torch.equal(read_strength(tmp_path / "map.png", guide)[0, 0], torch.from_numpy(grey).float() / 255)
    Image.fromarray(grey // 128).save(tmp_path / "labels.png")
    assert torch.equal(read_strength(tmp_path / "labels.png", guide)[0, 0], torch.from_numpy(grey // 128).float())
