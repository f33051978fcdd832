"""Folders of numbered PNG files."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from PIL import Image

from sdedit_pl.data.image_format import ImageFormat, PixelFormat
from sdedit_pl.evaluation.numbered_images import NumberedImages, is_own


def test_images_are_read_as_written_and_missing_ones_are_listed(tmp_path: Path) -> None:
    pictures = NumberedImages(tmp_path / "a", 4, ImageFormat(5))
    images = torch.randint(0, 256, (4, 3, 5, 5), generator=torch.Generator().manual_seed(0)) / 127.5 - 1
    assert pictures.missing() == [0, 1, 2, 3]
    for number in (2, 0):
        pictures.write(number, images[number])
    assert pictures.missing() == [1, 3]
    assert torch.equal(pictures.read([2, 0]), images[[2, 0]])
    assert sorted(file.name for file in (tmp_path / "a").iterdir()) == ["000000.png", "000002.png"]


def test_masks_are_white_where_pixels_may_change(tmp_path: Path) -> None:
    mask = torch.rand(1, 6, 6, generator=torch.Generator().manual_seed(0)) > 0.5
    pictures = NumberedImages(tmp_path, 1, ImageFormat(6, channels=1))
    pictures.write(0, mask.float() * 2 - 1)
    assert torch.equal(pictures.read_masks([0])[0], mask)
    assert Image.open(pictures.file(0)).mode == "L"


def test_batches_hold_every_image_once_in_each_iteration(tmp_path: Path) -> None:
    pictures = NumberedImages(tmp_path, 5, ImageFormat(2))
    for number in range(5):
        pictures.write(number, torch.full((3, 2, 2), number / 127.5 - 1))
    batches = pictures.batches(2)
    for _ in range(2):
        values = [((batch[:, 0, 0, 0] + 1) * 127.5).round().int().tolist() for batch in batches]
        assert values == [[0, 1], [2, 3], [4]]
    assert [list(numbers) for numbers in batches.numbers()] == [[0, 1], [2, 3], [4]]


def test_the_digest_is_of_the_pixels(tmp_path: Path) -> None:
    one, two = (NumberedImages(tmp_path / name, 1, ImageFormat(2)) for name in ("one", "two"))
    one.write(0, torch.zeros(3, 2, 2))
    (tmp_path / "two").mkdir()
    Image.open(one.file(0)).save(two.file(0), compress_level=0)
    assert one.file(0).read_bytes() != two.file(0).read_bytes() and one.digest() == two.digest()
    two.write(0, torch.full((3, 2, 2), 0.1))
    assert one.digest() != two.digest()


def test_an_image_of_another_size_is_named(tmp_path: Path) -> None:
    Image.new("RGB", (6, 4)).save(tmp_path / "000000.png")
    with pytest.raises(ValueError, match=r"000000.png is 6x4, expected 4x4 .* resize"):
        NumberedImages(tmp_path, 1, ImageFormat(4)).check_sizes()


def test_images_of_16_bits_keep_their_values(tmp_path: Path) -> None:
    image_format = ImageFormat((4, 6), 2, format=PixelFormat("uint16", range=(0.0, 5000.0)))
    image = torch.rand(2, 4, 6) * 2 - 1
    pictures = NumberedImages(tmp_path, 1, image_format)
    pictures.write(0, image)
    assert (pictures.read([0])[0] - image).abs().max() <= 1 / 5000 and is_own(pictures.file(0))
    pictures.check_sizes()
