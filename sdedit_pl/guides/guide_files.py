"""Guides, masks and strength maps from image files, and from the files of SDEdit's reference runner."""

from __future__ import annotations

import glob
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, UInt8
from torch import Tensor

from sdedit_pl.data.image_files import IMAGE_SUFFIXES, UnreadableImage, list_images, open_image, orientation
from sdedit_pl.data.images import ImageFormat, decode_image, decode_whole, images_from_bytes
from sdedit_pl.guides.reference_runner import RUNNER_SUFFIX, read_mask_and_image


class Guide(NamedTuple):
    """A guide as the model takes it.

    Args:
        path: the file.
        image: float32 (1, C, H, W) in [-1, 1].
        original_size: (width, height) of the file's image.
        mask: the edit mask that the file brings besides, True where pixels may change.
        whole: whether it is the whole of the file's image, and not its central square.
    """

    path: Path
    image: Float[Tensor, "1 C H W"]
    original_size: tuple[int, int]
    mask: Bool[Tensor, "1 1 H W"] | None = None
    whole: bool = False

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
        found = [path / name for name in list_images(path)]
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
    image_format = ImageFormat(size, channels)
    pixels = _readable(path, lambda file: decode_image(file, str(path), image_format))
    return Guide(path, images_from_bytes(pixels[None]), image_size(path))


def read_large_guide(path: Path, smallest: int, channels: int = 3, side: int | None = None) -> Guide:
    """Reads a guide that is edited in windows, at its own proportions.

    Args:
        path: the file.
        smallest: the size of a window, which height and width have at least; a smaller image is enlarged to it.
        channels: 3 for RGB, 1 for grey.
        side: the shorter side that the image is resampled to; None for its own.

    Raises:
        UnreadableImage: the file is not a whole image.
        ValueError: a `.pth` file, or `side` below a window's size.
    """
    if path.suffix == RUNNER_SUFFIX:
        raise ValueError(f"{path} has the model's size, which needs no windows; leave windows out")
    if side is not None and side < smallest:
        raise ValueError(f"side must be at least a window's {smallest} pixels, got {side}")
    width, height = image_size(path)
    shorter = max(min(width, height) if side is None else side, smallest)
    scale = shorter / min(width, height)
    shape = max(round(height * scale), smallest), max(round(width * scale), smallest)
    pixels = _readable(path, lambda file: decode_whole(file, str(path), shape, channels))
    return Guide(path, images_from_bytes(pixels[None]), (width, height), whole=True)


def read_mask(path: Path, guide: Guide) -> Bool[Tensor, "1 1 H W"]:
    """Reads the edit mask of a guide: white (128 of 255 and above) may change; transparent pixels may not.

    Raises:
        UnreadableImage: the file is not a whole image.
        ValueError: the mask is of another size than the guide, or all black.
    """
    mask = _grey("mask", path, guide) >= 128
    if not torch.any(mask):
        raise ValueError(f"the mask {path} is all black, so nothing may change; white marks what may")
    return mask


def read_strength(path: Path, guide: Guide) -> Float[Tensor, "1 1 H W"]:
    """Reads the strength map of a guide: white is edited from t0 on, black and transparent pixels are kept.

    Raises:
        UnreadableImage: the file is not a whole image.
        ValueError: the map is of another size than the guide, or all black.
    """
    strength = _grey("strength map", path, guide).float() / 255
    if not torch.any(strength):
        raise ValueError(f"the strength map {path} is all black, so nothing may change; white is edited from t0 on")
    return strength


def _grey(kind: str, path: Path, guide: Guide) -> UInt8[Tensor, "1 1 H W"]:
    """The grey values of an image that goes with a guide."""
    height, width = guide.image.shape[-2:]
    square = ImageFormat(width, channels=1, background="black")

    def decode(file: bytes) -> UInt8[Tensor, "1 H W"]:
        if guide.whole:
            return decode_whole(file, str(path), (height, width), square.channels, square.background)
        return decode_image(file, str(path), square)

    pixels = _readable(path, decode)
    if image_size(path) != guide.original_size:
        width, height = guide.original_size
        given_width, given_height = image_size(path)
        raise ValueError(
            f"a {kind} must have its guide's size: {guide.path} is {width}x{height}, "
            f"{path} is {given_width}x{given_height}"
        )
    return pixels[None]


def image_size(path: Path) -> tuple[int, int]:
    """(width, height) of an image file, upright.

    Raises:
        UnreadableImage: the file is not an image.
    """
    with open_image(path, str(path)) as image:
        width, height = image.size
        sideways = orientation(image) in (5, 6, 7, 8)
    return (height, width) if sideways else (width, height)


def _readable(path: Path, decode: Callable[[bytes], UInt8[Tensor, "C H W"]]) -> UInt8[Tensor, "C H W"]:
    """What `decode` makes of a file, whose error says what to give."""
    try:
        return decode(path.read_bytes())
    except UnreadableImage as error:
        raise UnreadableImage(f"{error}; give a whole image file ({', '.join(IMAGE_SUFFIXES)})") from None
