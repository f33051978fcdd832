"""Small data sets on disk whose images differ in every pixel."""

from __future__ import annotations

import io
import tarfile
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

SIZE = 8


def numbered_image(number: int) -> Image.Image:
    """8x8 RGB: `number` in the left half, 255 in the right half, so that mirroring shows."""
    pixels = np.full((SIZE, SIZE, 3), number, dtype=np.uint8)
    pixels[:, SIZE // 2 :] = 255
    return Image.fromarray(pixels)


def png(image: Image.Image) -> bytes:
    stream = io.BytesIO()
    image.save(stream, "PNG")
    return stream.getvalue()


@pytest.fixture
def numbered_folder(tmp_path: Path) -> Callable[..., Path]:
    """Writes a folder of PNG files in which image number i has the value i."""

    def write(numbers: Iterable[int], name: str = "images") -> Path:
        folder = tmp_path / name
        folder.mkdir(parents=True)
        for number in numbers:
            numbered_image(number).save(folder / f"{number:03d}.png")
        return folder

    return write


@pytest.fixture
def write_shard(tmp_path: Path) -> Callable[..., Path]:
    """Writes a tar file of the given members."""

    def write(name: str, members: dict[str, bytes] | Iterable[int]) -> Path:
        if not isinstance(members, dict):
            members = {f"{number:03d}.png": png(numbered_image(number)) for number in members}
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        with tarfile.open(path, "w") as archive:
            for member, content in members.items():
                entry = tarfile.TarInfo(member)
                entry.size = len(content)
                archive.addfile(entry, io.BytesIO(content))
        return path

    return write


@pytest.fixture
def encoded() -> Callable[[int], bytes]:
    """The PNG file of image number i."""
    return lambda number: png(numbered_image(number))
