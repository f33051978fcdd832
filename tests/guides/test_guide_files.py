"""Guides and masks from files of every kind."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from sdedit_pl.data.image_files import UnreadableImage
from sdedit_pl.guides.guide_files import (
    Guide,
    find_guides,
    image_size,
    read_guide,
    read_large_guide,
    read_mask,
    read_strength,
)

PIXELS = np.random.default_rng(0).integers(0, 256, (16, 16, 3), dtype=np.uint8)
FREE = np.zeros((16, 16), dtype=bool)
FREE[3:9, 5:14] = True
GREY = FREE.astype(np.uint8) * 255


def palette(index_of_white: int) -> Image.Image:
    """The mask as indices of a palette in which white is not the largest."""
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
    "16 bit": Image.fromarray(FREE.astype(np.uint16) * 65535),
    "16 bit at the threshold": Image.fromarray(np.where(FREE, 32896, 32639).astype(np.uint16)),
}


@pytest.fixture
def guide(tmp_path: Path) -> Guide:
    Image.fromarray(PIXELS).save(tmp_path / "guide.png")
    return read_guide(tmp_path / "guide.png", 16)


def test_a_guide_of_the_models_size_keeps_its_pixels(guide: Guide) -> None:
    assert guide.image.shape == (1, 3, 16, 16) and guide.image.dtype == torch.float32
    assert not guide.resized and guide.original_size == (16, 16)
    pixels = ((guide.image[0] + 1) * 127.5).round().byte().permute(1, 2, 0).numpy()
    assert np.array_equal(pixels, PIXELS)


@pytest.mark.parametrize(("width", "height"), [(32, 32), (8, 8), (40, 16), (16, 17)])
def test_another_size_is_cropped_to_its_centre_and_resampled(tmp_path: Path, width: int, height: int) -> None:
    image = Image.new("RGB", (width, height), "blue")
    image.paste("red", ((width - min(width, height)) // 2, (height - min(width, height)) // 2, width, height))
    image.save(tmp_path / "a.png")
    guide = read_guide(tmp_path / "a.png", 16)
    assert guide.resized and guide.original_size == (width, height)
    assert guide.image.shape == (1, 3, 16, 16)
    assert torch.allclose(guide.image[0, :, 8, 0], torch.tensor([1.0, -1.0, -1.0]), atol=0.02)


def test_a_grey_model_gets_a_grey_guide(tmp_path: Path) -> None:
    Image.fromarray(PIXELS).save(tmp_path / "a.png")
    assert read_guide(tmp_path / "a.png", 16, channels=1).image.shape == (1, 1, 16, 16)


def test_transparent_pixels_of_a_guide_are_white(tmp_path: Path) -> None:
    Image.new("RGBA", (16, 16), (255, 0, 0, 0)).save(tmp_path / "a.png")
    assert torch.equal(read_guide(tmp_path / "a.png", 16).image, torch.ones(1, 3, 16, 16))


def test_a_photograph_taken_sideways_is_upright(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (20, 12)).save(tmp_path / "a.jpg", exif=exif)
    assert image_size(tmp_path / "a.jpg") == (12, 20)


@pytest.mark.parametrize("name", MASKS)
def test_a_mask_of_any_mode_is_white_where_pixels_may_change(name: str, guide: Guide, tmp_path: Path) -> None:
    MASKS[name].save(tmp_path / "mask.png")
    mask = read_mask(tmp_path / "mask.png", guide)
    assert mask.shape == (1, 1, 16, 16) and mask.dtype == torch.bool
    assert np.array_equal(mask[0, 0].numpy(), FREE)


def test_a_mask_follows_its_guide_to_the_models_size(tmp_path: Path) -> None:
    Image.new("RGB", (64, 32)).save(tmp_path / "guide.png")
    wide = np.zeros((32, 64), dtype=np.uint8)
    wide[8:24, 24:40] = 255  # the middle of the central square
    wide[:, :16] = 255  # cropped away
    Image.fromarray(wide).save(tmp_path / "mask.png")
    mask = read_mask(tmp_path / "mask.png", read_guide(tmp_path / "guide.png", 16))
    expected = torch.zeros(16, 16, dtype=torch.bool)
    expected[4:12, 4:12] = True
    assert torch.equal(mask[0, 0], expected)


def test_a_mask_of_another_size_or_all_black_is_refused(guide: Guide, tmp_path: Path) -> None:
    Image.new("L", (20, 12), "white").save(tmp_path / "wide.png")
    with pytest.raises(ValueError, match=r"guide's size: .*guide.png is 16x16, .*wide.png is 20x12"):
        read_mask(tmp_path / "wide.png", guide)
    Image.new("L", (16, 16), 127).save(tmp_path / "dark.png")
    with pytest.raises(ValueError, match=r"dark.png is all black, so nothing may change; white marks what may"):
        read_mask(tmp_path / "dark.png", guide)


@pytest.mark.parametrize(
    ("content", "reason"), [(b"", "it is empty"), (b"GIF89 or so", "it is not an image"), (None, "truncated")]
)
def test_a_file_that_is_no_whole_image_is_refused(
    content: bytes | None, reason: str, guide: Guide, tmp_path: Path
) -> None:
    path = tmp_path / "bad.png"
    path.write_bytes(guide.path.read_bytes()[:200] if content is None else content)
    for read in (lambda: read_guide(path, 16), lambda: read_mask(path, guide)):
        with pytest.raises(UnreadableImage, match=rf"bad.png: .*{reason}.*; give a whole image file \(.png"):
            read()


def test_a_file_a_folder_and_a_glob_name_guides(tmp_path: Path) -> None:
    for name in ("b.png", "a.JPG", "c.webp", "notes.txt", "._a.png", ".DS_Store", "deep/d.png"):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.touch()
    (tmp_path / "folder.png").mkdir()

    def found(guide: str) -> list[str]:
        return [str(path.relative_to(tmp_path)) for path in find_guides(str(tmp_path / guide))]

    assert found(".") == ["a.JPG", "b.png", "c.webp"]
    assert found("b.png") == ["b.png"] and found("notes.txt") == ["notes.txt"]
    assert found("*.[pw]*") == ["b.png", "c.webp"]
    assert found("**/*.png") == ["b.png", "deep/d.png"]


def test_a_name_with_the_signs_of_a_glob_is_a_name_first(tmp_path: Path) -> None:
    for name in ("a[1].png", "a1.png"):
        (tmp_path / name).touch()
    assert find_guides(str(tmp_path / "a[1].png")) == [tmp_path / "a[1].png"]


def test_no_guides_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"holds no images \(.png, "):
        find_guides(str(tmp_path))
    for guide in ("none.png", "*.png"):
        with pytest.raises(ValueError, match=r"there is no guide at .*; give an image file, a folder or a glob"):
            find_guides(str(tmp_path / guide))


def test_a_large_guide_keeps_its_size_and_proportions(tmp_path: Path) -> None:
    pixels = np.random.default_rng(1).integers(0, 256, (20, 50, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "wide.png")
    guide = read_large_guide(tmp_path / "wide.png", 16)
    assert guide.whole and not guide.resized and guide.original_size == (50, 20)
    assert np.array_equal(((guide.image[0] + 1) * 127.5).round().byte().permute(1, 2, 0).numpy(), pixels)
    assert read_large_guide(tmp_path / "wide.png", 16, side=40).image.shape == (1, 3, 40, 100)
    # ... but is never smaller than a window
    assert read_large_guide(tmp_path / "wide.png", 32).image.shape == (1, 3, 32, 80)
    assert read_large_guide(tmp_path / "wide.png", 16, channels=1).image.shape == (1, 1, 20, 50)


def test_what_may_change_of_a_large_guide_is_not_cropped(tmp_path: Path) -> None:
    free = np.zeros((20, 50), dtype=np.uint8)
    free[:, 45:] = 255
    Image.fromarray(np.zeros((20, 50, 3), dtype=np.uint8)).save(tmp_path / "wide.png")
    Image.fromarray(free).save(tmp_path / "free.png")
    guide = read_large_guide(tmp_path / "wide.png", 16)
    assert np.array_equal(read_mask(tmp_path / "free.png", guide)[0, 0].numpy(), free > 0)
    doubled = read_large_guide(tmp_path / "wide.png", 16, side=40)
    strength = read_strength(tmp_path / "free.png", doubled)
    assert strength.shape == (1, 1, 40, 100)
    assert strength[..., :85].max() == 0 and strength[..., 95:].min() == 1


def test_a_large_guide_of_the_runner_or_smaller_than_a_window_is_refused(tmp_path: Path) -> None:
    Image.fromarray(PIXELS).save(tmp_path / "guide.png")
    with pytest.raises(ValueError, match="at least a window's 16 pixels, got 12"):
        read_large_guide(tmp_path / "guide.png", 16, side=12)
    with pytest.raises(ValueError, match="has the model's size, which needs no windows"):
        read_large_guide(tmp_path / "guide.pth", 16)


def test_a_large_guide_of_more_pixels_than_pillow_opens_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Image.new("RGB", (40, 40)).save(tmp_path / "huge.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    with pytest.raises(UnreadableImage, match=r"cannot read image .*huge\.png: .* exceeds limit"):
        read_large_guide(tmp_path / "huge.png", 16)


def test_a_strength_map_holds_its_grey_values(guide: Guide, tmp_path: Path) -> None:
    grey = np.arange(256, dtype=np.uint8).reshape(16, 16)
    Image.fromarray(grey).save(tmp_path / "map.png")
    assert torch.equal(read_strength(tmp_path / "map.png", guide)[0, 0], torch.from_numpy(grey).float() / 255)
    Image.fromarray(0 * grey).save(tmp_path / "black.png")
    with pytest.raises(ValueError, match="all black, so nothing may change; white is edited from t0 on"):
        read_strength(tmp_path / "black.png", guide)
