"""Guides and masks from image files, and from the files of SDEdit's reference runner that hold both."""

from __future__ import annotations

import glob
from pathlib import Path
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, UInt8
from PIL import Image
from torch import Tensor

from sdedit_pl.data.images import IMAGE_SUFFIXES, ImageFormat, UnreadableImage, decode_image, images_from_bytes
from sdedit_pl.editing.runner_files import RUNNER_SUFFIX, read_mask_and_image


class Guide(NamedTuple):
    """A guide as the model takes it.

    Args:
        path: the file.
        image: float32 (1, C, size, size) in [-1, 1].
        original_size: (width, height) of the file's image.
        mask: the edit mask that the file brings besides, True where pixels may change.
    """

    path: Path
    image: Float[Tensor, "1 C S S"]
    original_size: tuple[int, int]
    mask: Bool[Tensor, "1 1 S S"] | None = None

    @property
    def resized(self) -> bool:
        """Whether the file's image was of another size."""
        return self.original_size != (self.image.shape[-1], self.image.shape[-2])


def find_guides(guide: str) -> list[Path]:
    """The files that a path, a folder or a glob stands for, in the order of their names.

    Raises:
        ValueError: if there are none.
    """
    path = Path(guide)
    if path.is_dir():
        found = sorted(file for file in path.iterdir() if file.suffix.lower() in IMAGE_SUFFIXES and file.is_file())
        if not found:
            raise ValueError(f"the folder {guide} holds no images ({', '.join(IMAGE_SUFFIXES)})")
        return found
    if path.exists():
        return [path]
    found = sorted(Path(match) for match in glob.glob(guide, recursive=True) if Path(match).is_file())
    if not found:
        raise ValueError(f"there is no guide at {guide}; give an image file, a folder or a glob")
    return found


def read_guide(path: Path, size: int, channels: int = 3) -> Guide:
    """Reads a guide; another size is cropped to its central square and resampled.

    A `.pth` file is one of SDEdit's reference runner, and has the model's size.

    Raises:
        UnreadableImage: the file is not a whole image.
        ValueError: the `.pth` file is none of the runner's, or of another size.
    """
    if path.suffix == RUNNER_SUFFIX:
        mask, image = read_mask_and_image(path, size, channels)
        return Guide(path, image, (size, size), mask)
    pixels = _decoded(path, ImageFormat(size, channels))
    return Guide(path, images_from_bytes(pixels[None]), image_size(path))


def read_mask(path: Path, guide: Guide) -> Bool[Tensor, "1 1 S S"]:
    """Reads the edit mask of a guide: white (128 of 255 and above) may change; transparent pixels may not.

    Raises:
        UnreadableImage: the file is not a whole image.
        ValueError: the mask is of another size than the guide, or all black.
    """
    size = guide.image.shape[-1]
    pixels = _decoded(path, ImageFormat(size, channels=1, background="black"))
    if image_size(path) != guide.original_size:
        width, height = guide.original_size
        given_width, given_height = image_size(path)
        raise ValueError(
            f"a mask must have its guide's size: {guide.path} is {width}x{height}, "
            f"{path} is {given_width}x{given_height}"
        )
    mask = pixels[None] >= 128
    if not torch.any(mask):
        raise ValueError(f"the mask {path} is all black, so nothing may change; white marks what may")
    return mask


def image_size(path: Path) -> tuple[int, int]:
    """(width, height) of an image file, upright.

    Raises:
        UnreadableImage: the file is not an image.
    """
    try:
        with Image.open(path) as image:
            width, height = image.size
            sideways = image.getexif().get(0x0112, 1) in (5, 6, 7, 8)
    except (OSError, SyntaxError) as error:
        raise UnreadableImage(f"cannot read image {path}: {error}") from None
    return (height, width) if sideways else (width, height)


def _decoded(path: Path, image_format: ImageFormat) -> UInt8[Tensor, "C S S"]:
    try:
        return decode_image(path.read_bytes(), str(path), image_format)
    except UnreadableImage as error:
        raise UnreadableImage(f"{error}; give a whole image file ({', '.join(IMAGE_SUFFIXES)})") from None
