"""Chosen images: their spread over a source, and reading them."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from support.tiny import write_images

from sdedit_pl.data.chosen_images import ChosenImages, choose_images
from sdedit_pl.data.folder_source import FolderSource
from sdedit_pl.data.image_files import UnreadableImage
from sdedit_pl.data.image_format import ImageFormat, images_from_bytes
from sdedit_pl.data.splits import SPLITS


def test_they_are_spread_evenly(tmp_path: Path) -> None:
    source = FolderSource(str(write_images(tmp_path, count=20)), 8, val_fraction=0.5)
    val = source.images("val")
    everything = [val.name(index) for index in range(len(val))]
    for count in (1, 3, len(val), 1000, None):
        names = ChosenImages(source, count=count).names
        wanted = len(val) if count is None else min(count, len(val))
        assert names == [everything[number * len(val) // wanted] for number in range(wanted)]
    both = ChosenImages(source, SPLITS)
    assert len(both) == 20 and both.names[-len(val) :] == everything


def test_batches_hold_them_in_order(tmp_path: Path) -> None:
    source = FolderSource(str(write_images(tmp_path, count=20)), 8, val_fraction=0.5)
    chosen = ChosenImages(source, count=5)
    together = torch.cat([chosen.batch(0, 2), chosen.batch(2, 2), chosen.batch(4, 2)])
    val = source.images("val")
    pixels = torch.stack([val.read(number * len(val) // 5) for number in range(5)])
    assert torch.equal(together, images_from_bytes(pixels)) and torch.equal(together, chosen.batch(0, 5))


def test_nothing_replaces_an_unreadable_image(tmp_path: Path) -> None:
    source = FolderSource(str(write_images(tmp_path, count=6)), 8, val_fraction=0.5, broken_limit=3)
    chosen = ChosenImages(source, SPLITS)
    (tmp_path / "003.png").write_text("text")
    number = next(number for number, name in enumerate(chosen.names) if name.endswith("003.png"))
    with pytest.raises(UnreadableImage, match=r"003\.png"):
        chosen.batch(number - number % 2, 2)


def test_training_images_that_are_streamed_cannot_be_chosen(tmp_path: Path) -> None:
    source = FolderSource(str(write_images(tmp_path)), 8)
    source.streams = True
    with pytest.raises(ValueError, match="stream; copy the shards here, or use split=val"):
        ChosenImages(source, SPLITS)
    assert len(ChosenImages(source)) > 0


def test_data_is_a_folder_or_shards(tmp_path: Path) -> None:
    folder = str(write_images(tmp_path / "photos", count=6))
    settings = {"split": "all", "val_fraction": 0.5, "count": 4}
    chosen = choose_images(folder, ImageFormat(8), **settings, least=3)
    assert len(chosen) == 4 and chosen.image(0).shape == (3, 8, 8)
    padded = choose_images(folder, ImageFormat((16, 8)), **settings, fit="pad").image(0)
    assert torch.equal(padded[:, 4:12], chosen.image(0)) and torch.equal(padded[:, :4], padded[:, 4:8].flip(1))
    with pytest.raises(ValueError, match=r"at least 5 images .* has 4; give more images"):
        choose_images(folder, ImageFormat(8), **settings, least=5)
    with pytest.raises(ValueError, match="lies within data="):
        choose_images(folder, ImageFormat(8), **settings, out=Path(folder, "report"))
    with pytest.raises(ValueError, match="no data=missing"):
        choose_images("missing", ImageFormat(8), **settings)
