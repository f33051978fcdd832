"""Which files count as images, and files whose EXIF data is damaged."""

from __future__ import annotations

import io
import os
import shutil
import tarfile
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from sdedit_pl.data.archives import open_archive
from sdedit_pl.data.image_decoding import decode_image, decode_whole, image_to_tensor
from sdedit_pl.data.image_files import UnreadableImage, is_image_name, list_images, open_image, orientation
from sdedit_pl.data.image_format import ImageFormat
from sdedit_pl.data.webdataset_source import WebDatasetSource
from sdedit_pl.guides.guide_files import read_guide

# As left by phones, editors and download tools: bytes written as their literal, no TIFF header, cut short.
DAMAGED_EXIF = {
    "literal.jpg": b"Exif\x00\x00b'Exif\\x00\\x00II",
    "literal.webp": b"b'Exif\\x00\\x00II",
    "no_tiff_header.png": b"Exif\x00\x00\x00\x08\x00\x02\x01\x12\x00\x03\x00\x00",
    "short.jpg": b"Exif\x00\x00II*\x00",
}


def test_names() -> None:
    assert all(map(is_image_name, ["a/b.JPEG", "./b.webp", "c.jfif", "c.JPE", "d.png", "../e.jpg"]))
    assert not any(map(is_image_name, ["a.txt", "._a.png", "x/.thumbs/a.png", "__MACOSX/a.png", "a/", ".DS_Store"]))


def test_one_folder_or_all_below_it(tmp_path: Path) -> None:
    for name in ("b.png", "a.jfif", "c/e/d.jpe", "._a.png", ".DS_Store", ".git/e.png", "t.txt", "folder.png/x.png"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    (tmp_path / "loop.png").symlink_to("loop.png")
    assert list_images(tmp_path) == ["a.jfif", "b.png"]
    (tmp_path / "loop.png").unlink()
    assert list_images(tmp_path, recursive=True) == ["a.jfif", "b.png", "c/e/d.jpe", "folder.png/x.png"]


@pytest.mark.parametrize("name", DAMAGED_EXIF)
def test_an_image_with_damaged_exif_data_is_used_unturned(name: str) -> None:
    picture = Image.fromarray(np.random.default_rng(0).integers(0, 256, (8, 8, 3), dtype=np.uint8))
    files = []
    for options in ({}, {"exif": DAMAGED_EXIF[name]}):
        stream = io.BytesIO()
        picture.save(stream, Image.registered_extensions()[Path(name).suffix], **options)
        files.append(stream.getvalue())
    plain, damaged = files
    assert damaged != plain
    expected = decode_image(plain, "a", ImageFormat(8))
    assert torch.equal(decode_image(damaged, "a", ImageFormat(8)), expected)
    assert torch.equal(decode_whole(damaged, "a", ImageFormat(8)), expected)
    with open_image(damaged, "a") as image:
        assert orientation(image) == 1
        assert torch.equal(image_to_tensor(image, "a", ImageFormat(8)), expected)


@pytest.mark.parametrize("device", [None, "/dev/zero"])
def test_a_guide_that_is_a_pipe_or_device_is_refused(device: str | None, tmp_path: Path) -> None:
    file = tmp_path / "a.png"
    os.mkfifo(file) if device is None else file.symlink_to(device)
    with pytest.raises(UnreadableImage, match=r"a\.png: it is not a regular file"):
        read_guide(file, ImageFormat(8))


def test_decoders_that_are_not_needed_do_not_run() -> None:
    stream = io.BytesIO()
    Image.new("RGB", (8, 8)).save(stream, "EPS")
    with pytest.raises(UnreadableImage, match=r"a\.png: it is not an image"), open_image(stream.getvalue(), "a.png"):
        pass


def test_images_that_are_left_out_are_counted_by_suffix_and_said_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    names = ["a.png", "b.HEIC", "c.heic", "d.tga", "._e.tga", "notes.txt", "below/f.ppm"]
    (tmp_path / "folder/below").mkdir(parents=True)
    for name in names:
        (tmp_path / "folder" / name).touch()
    with tarfile.open(tmp_path / "a.tar", "w") as tar, zipfile.ZipFile(tmp_path / "a.zip", "w") as packed:
        for name in names:
            tar.add(tmp_path / "folder" / name, name)
            packed.write(tmp_path / "folder" / name, name)
    shutil.copy(tmp_path / "a.tar", tmp_path / "b.tar")
    for _ in range(2):
        list_images(tmp_path / "folder", recursive=True)
        for archive in ("a.tar", "a.zip"):
            open_archive(tmp_path / archive, ImageFormat(8), tmp_path)
        WebDatasetSource([str(tmp_path / "a.tar"), str(tmp_path / "b.tar")], 8).images("train")
    said = [record.getMessage().partition(", which are left out: convert them")[0] for record in caplog.records]
    found = "2 .heic, 1 .ppm, 1 .tga"
    places = [f"{tmp_path}/{name} holds {found}" for name in ("folder", "a.tar", "a.zip")]
    assert said == [*places, f"{tmp_path}/a.tar and 1 more holds 4 .heic, 2 .ppm, 2 .tga"]
