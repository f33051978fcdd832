"""Guides from image files of every kind; for files that are refused see tests/cli."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from sdedit_pl.cli.edit import COMMAND as EDIT
from sdedit_pl.data.image_files import UnreadableImage
from sdedit_pl.data.image_format import ImageFormat, bytes_from_images
from sdedit_pl.guides.guide_files import find_guides, image_size, read_guide, read_large_guide
from sdedit_pl.guides.mask_files import read_mask

PIXELS = np.random.default_rng(0).integers(0, 256, (16, 16, 3), dtype=np.uint8)


def test_a_guide_of_the_models_size_keeps_its_pixels(tmp_path: Path) -> None:
    Image.fromarray(PIXELS).save(tmp_path / "guide.png")
    guide = read_guide(tmp_path / "guide.png", ImageFormat(16))
    assert guide.image.shape == (1, 3, 16, 16) and guide.image.dtype == torch.float32
    assert not guide.resized and guide.original_size == (16, 16)
    pixels = ((guide.image[0] + 1) * 127.5).round().byte().permute(1, 2, 0).numpy()
    assert np.array_equal(pixels, PIXELS)


@pytest.mark.parametrize(("width", "height"), [(32, 32), (8, 8), (40, 16), (16, 17)])
def test_another_size_is_cropped_to_its_centre_and_resampled(tmp_path: Path, width: int, height: int) -> None:
    image = Image.new("RGB", (width, height), "blue")
    image.paste("red", ((width - min(width, height)) // 2, (height - min(width, height)) // 2, width, height))
    image.save(tmp_path / "a.png")
    guide = read_guide(tmp_path / "a.png", ImageFormat(16))
    assert guide.resized and guide.original_size == (width, height)
    assert guide.image.shape == (1, 3, 16, 16)
    assert torch.allclose(guide.image[0, :, 8, 0], torch.tensor([1.0, -1.0, -1.0]), atol=0.02)


def test_a_grey_model_gets_a_grey_guide(tmp_path: Path) -> None:
    Image.fromarray(PIXELS).save(tmp_path / "a.png")
    assert read_guide(tmp_path / "a.png", ImageFormat(16, 1)).image.shape == (1, 1, 16, 16)


def test_transparent_pixels_of_a_guide_are_white(tmp_path: Path) -> None:
    Image.new("RGBA", (16, 16), (255, 0, 0, 0)).save(tmp_path / "a.png")
    assert torch.equal(read_guide(tmp_path / "a.png", ImageFormat(16)).image, torch.ones(1, 3, 16, 16))


def test_a_padded_guide_continues_by_its_mirror_image_as_its_mask_does(tmp_path: Path) -> None:
    colours = np.arange(8 * 16 * 3, dtype=np.uint8).reshape(8, 16, 3)
    Image.fromarray(colours).save(tmp_path / "a.png")
    Image.fromarray((colours[..., 0] >= 128).astype(np.uint8) * 255).save(tmp_path / "mask.png")
    guide = read_guide(tmp_path / "a.png", ImageFormat(16), fit="pad")
    upper, shown, lower = bytes_from_images(guide.image[0]).permute(1, 2, 0).split([4, 8, 4])
    assert np.array_equal(shown.numpy(), colours)
    assert torch.equal(upper.flip(0), shown[:4]) and torch.equal(lower.flip(0), shown[4:])
    mask = read_mask(tmp_path / "mask.png", guide)
    assert torch.equal(guide.shown(mask)[0, 0], shown[..., 0] >= 128)
    assert torch.equal(mask[..., :4, :].flip(2), mask[..., 4:8, :])
    assert guide.shown(guide.image).shape == (1, 3, 8, 16)


def test_a_photograph_taken_sideways_is_upright(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (20, 12)).save(tmp_path / "a.jpg", exif=exif)
    assert image_size(tmp_path / "a.jpg") == (12, 20)


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
    (tmp_path / "deep").rename(tmp_path / "folder.png/deep")
    with pytest.raises(ValueError, match=r"holds no images .*; give .*, .*folder.png/deep, or the glob"):
        find_guides(str(tmp_path / "folder.png"))


def test_a_file_whose_name_looks_like_a_glob_is_found(tmp_path: Path) -> None:
    for name in ("a[1].png", "a1.png"):
        (tmp_path / name).touch()
    assert find_guides(str(tmp_path / "a[1].png")) == [tmp_path / "a[1].png"]


def test_a_large_guide_keeps_its_size_and_proportions(tmp_path: Path) -> None:
    pixels = np.random.default_rng(1).integers(0, 256, (20, 50, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "wide.png")
    guide = read_large_guide(tmp_path / "wide.png", ImageFormat(16))
    assert guide.whole and not guide.resized and guide.original_size == (50, 20)
    assert np.array_equal(((guide.image[0] + 1) * 127.5).round().byte().permute(1, 2, 0).numpy(), pixels)
    assert read_large_guide(tmp_path / "wide.png", ImageFormat(16), side=40).image.shape == (1, 3, 40, 100)
    # but never smaller than a window
    assert read_large_guide(tmp_path / "wide.png", ImageFormat(32)).image.shape == (1, 3, 32, 80)
    assert read_large_guide(tmp_path / "wide.png", ImageFormat(16, 1)).image.shape == (1, 1, 20, 50)


def test_runner_files_are_refused_as_large_guides(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="needs neither windows nor focus"):
        read_large_guide(tmp_path / "guide.pth", ImageFormat(16))


def test_a_large_guide_of_more_pixels_than_max_pixels_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Image.new("RGB", (40, 40)).save(tmp_path / "huge.png")
    monkeypatch.setenv("SDEDIT_MAX_PIXELS", "100")
    with pytest.raises(UnreadableImage, match=r"huge\.png: it has more than 100 pixels; raise max_pixels=, or save"):
        read_large_guide(tmp_path / "huge.png", ImageFormat(16))
    EDIT.parse(["ckpt=a", "guide=b", "max_pixels=1600"])
    assert read_large_guide(tmp_path / "huge.png", ImageFormat(16)).image.shape == (1, 3, 40, 40)
