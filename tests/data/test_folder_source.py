"""The files of a folder source, their order and their division into splits."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from sdedit_pl.data.folder_source import FolderSource, image_paths
from sdedit_pl.data.image_files import UnreadableImage
from sdedit_pl.data.source import ImageSet

NumberedFolder = Callable[..., Path]


def numbers(images: ImageSet) -> list[int]:
    return [int(images.read(index)[0, 0, 0]) for index in range(len(images))]


def test_links_are_followed_and_circles_end(tmp_path: Path, numbered_folder: NumberedFolder) -> None:
    folder, elsewhere = numbered_folder([1]), numbered_folder([2], "elsewhere")
    (folder / "linked").symlink_to(elsewhere, target_is_directory=True)
    (folder / "circle").symlink_to(folder, target_is_directory=True)
    assert image_paths(folder) == ["001.png", "linked/002.png"]


def test_a_held_out_share_does_not_overlap_training(numbered_folder: NumberedFolder) -> None:
    source = FolderSource(str(numbered_folder(range(60))), 8, val_fraction=0.2)
    train, val = (numbers(source.images(split)) for split in ("train", "val"))
    assert sorted(train + val) == list(range(60))
    assert 4 <= len(val) <= 20 and train == sorted(train) and val == sorted(val)
    assert len(FolderSource(source.path, 8, val_fraction=0.0).images("val")) == 0


def test_folders_named_train_and_val_are_the_splits(tmp_path: Path, numbered_folder: NumberedFolder) -> None:
    numbered_folder([1, 2], "set/train/cats"), numbered_folder([3], "set/val")
    source = FolderSource(str(tmp_path / "set"), 8)
    assert numbers(source.images("train")) == [1, 2] and numbers(source.images("val")) == [3]
    train_alone = FolderSource(str(numbered_folder([1, 2, 3], "other/train").parent), 8)
    assert len(train_alone.images("train")) + len(train_alone.images("val")) == 3


def test_val_path_is_validation_and_not_training_even_inside_path(numbered_folder: NumberedFolder) -> None:
    outer, inner, other = numbered_folder([1, 2]), numbered_folder([3], "images/kept"), numbered_folder([4], "other")
    inside = FolderSource(str(outer), 8, val_path=str(inner))
    assert numbers(inside.images("train")) == [1, 2] and numbers(inside.images("val")) == [3]
    beside = FolderSource(str(outer), 8, val_path=str(other))
    assert numbers(beside.images("train")) == [1, 2, 3] and numbers(beside.images("val")) == [4]
    with pytest.raises(ValueError, match=r"all images under .*other lie in val_path"):
        FolderSource(str(other), 8, val_path=str(other)).images("train")


def test_a_file_that_vanished_is_an_unreadable_image(numbered_folder: NumberedFolder) -> None:
    folder = numbered_folder([1])
    images = FolderSource(str(folder), 8).images("train")
    (folder / "001.png").unlink()
    with pytest.raises(UnreadableImage, match=r"cannot read image .*001.png: No such file"):
        images.read(0)


def test_pipes_and_devices_are_unreadable_images(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.png")  # opening it would wait for a writer
    (tmp_path / "zero.png").symlink_to("/dev/zero")  # without end
    images = FolderSource(str(tmp_path), 8, val_fraction=0.0).images("train")
    for index in range(2):
        with pytest.raises(UnreadableImage, match=r"(pipe|zero)\.png: it is not a regular file"):
            images.read(index)


def test_places_without_images_are_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"data folder .*nowhere does not exist"):
        FolderSource(str(tmp_path / "nowhere"), 8).images("train")
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match=r"no images under .*empty; expected files that end in \.png, \.jpg, \.jpeg, "):
        FolderSource(str(tmp_path / "empty"), 8).images("train")
    (tmp_path / "a.tar").touch()
    with pytest.raises(ValueError, match=r"a\.tar is a file, .*webdataset"):
        FolderSource(str(tmp_path / "a.tar"), 8).images("train")


def test_an_unknown_split_and_a_negative_limit_are_refused(numbered_folder: NumberedFolder) -> None:
    with pytest.raises(ValueError, match="unknown split 'test'; a source has train and val"):
        FolderSource(str(numbered_folder([1])), 8).images("test")
    with pytest.raises(ValueError, match="broken_limit must be None or at least 0, got -1"):
        FolderSource("anywhere", 8, broken_limit=-1)
