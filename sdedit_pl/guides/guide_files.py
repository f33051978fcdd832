"""Guides read from image files, or from the files of SDEdit's reference runner."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float, UInt8
from PIL import Image
from torch import Tensor

from sdedit_pl.data.array_formats import ARRAY_SUFFIXES, stem_of, suffixes_of
from sdedit_pl.data.image_decoding import decode_image, decode_whole, eight_bits, image_to_tensor
from sdedit_pl.data.image_files import IMAGE_SUFFIXES, UnreadableImage, list_images, open_image, orientation, upright
from sdedit_pl.data.image_format import (
    Fit,
    ImageFormat,
    ImageShape,
    PixelFormat,
    images_from_bytes,
    padded_box,
    taken_box,
)
from sdedit_pl.data.value_decoding import clipped_share, fitted_values, read_values, with_window
from sdedit_pl.files import matching_files
from sdedit_pl.guides.reference_runner_files import RUNNER_SUFFIX, read_mask_and_image
from sdedit_pl.picture_grid import to_picture
from sdedit_pl.typing import Pixels

logger = logging.getLogger(__name__)


class Part(NamedTuple):
    """The part of a picture that a guide shows.

    Args:
        corner: (left, top) in pixels of the file.
        alpha: the weight of the edit against the picture, 0..255, at the file's resolution.
        number: 1 for the picture's first part.
    """

    corner: tuple[int, int]
    alpha: UInt8[Tensor, "h w"]
    number: int
    last: bool


class Guide(NamedTuple):
    """A guide at the size that the model edits.

    Args:
        image: float32 in [-1, 1].
        original_size: (width, height) of the image in the file.
        mask: the edit mask stored in the same file, if any; True where pixels may change.
        whole: whether `image` has the proportions of the file; otherwise it is a part, or made by `fit`.
        format: that of the file's values; None for a photograph.
    """

    path: Path
    image: Float[Tensor, "1 C H W"]
    original_size: tuple[int, int]
    mask: Bool[Tensor, "1 1 H W"] | None = None
    whole: bool = False
    part: Part | None = None
    fit: Fit = "crop"
    format: PixelFormat | None = None

    @property
    def shape(self) -> ImageShape:
        _, channels, height, width = self.image.shape
        return ImageShape((height, width), channels, format=self.format)

    def shown(self, images: Tensor) -> Tensor:
        """The part of images or masks, (..., H, W), that shows the file, without padding."""
        if self.fit != "pad":
            return images
        left, top, width, height = padded_box(self.original_size, (images.shape[-2], images.shape[-1]))
        return images[..., top : top + height, left : left + width]

    @property
    def resized(self) -> bool:
        return self.original_size != (self.image.shape[-1], self.image.shape[-2])


def find_guides(guide: str, suffixes: tuple[str, ...] = IMAGE_SUFFIXES) -> list[Path]:
    """The files of a path, folder (its images) or glob, sorted by name; raises ValueError if there are none."""
    path = Path(guide)
    if path.is_dir():
        found = [path / name for name in list_images(path, suffixes=suffixes)]
        if not found:
            advice = ""
            if inner := list_images(path, recursive=True, suffixes=suffixes):
                advice = f"; give a folder that does, {path / inner[0].partition('/')[0]}, or the glob {guide}/**/*.*"
            raise ValueError(f"the folder {guide} holds no images ({', '.join(suffixes)}){advice}")
        return found
    if path.exists():
        return [path]
    found = [Path(match) for match in matching_files(guide)]
    if not found:
        raise ValueError(f"there is no file or folder at {guide}; give an image file, a folder or a glob")
    return found


def read_guide(path: Path, shape: ImageShape, fit: Fit = "crop") -> Guide:
    """Reads a guide; `fit` gives an image the proportions of `shape`, to which it is then resampled.

    A `.pth` file belongs to SDEdit's reference runner and must have the model's size. Raises ValueError for other
    contents or another size, or if the image is not intact (UnreadableImage).
    """
    if path.suffix == RUNNER_SUFFIX:
        mask, image = read_mask_and_image(path, shape)
        return Guide(path, image, (shape.width, shape.height), mask)
    values = read_pixels(path, ImageFormat.of(shape, fit=fit))
    _warn_of_clipping(path, values, shape)
    return Guide(path, shape.images(values[None]), image_size(path), fit=fit, format=_shown_format(path, shape))


def read_large_guide(path: Path, window: ImageShape, side: int | None = None) -> Guide:
    """Reads a guide for editing in windows: the whole image, at its own proportions.

    Raises ValueError if it is not intact (UnreadableImage) or a `.pth` file, or `side` is too small.

    Args:
        window: shape of the windows; images with a shorter side are enlarged to it.
        side: length to which the shorter side is resampled; None keeps the image's own.
    """
    if path.suffix == RUNNER_SUFFIX:
        raise ValueError(f"{path} has the model's size and needs neither windows nor focus; omit them")
    if side is not None and side < min(window.sides):
        raise ValueError(f"side must be at least the window size, {min(window.sides)} pixels, got {side}")
    width, height = image_size(path)
    scale = max(1.0 if side is None else side / min(width, height), window.height / height, window.width / width)
    sides = max(round(height * scale), window.height), max(round(width * scale), window.width)
    values = read_pixels(path, replace(ImageFormat.of(window), size=sides), whole=True)
    _warn_of_clipping(path, values, window)
    return Guide(path, window.images(values[None]), (width, height), whole=True, format=_shown_format(path, window))


def read_whole(path: Path, shape: ImageShape) -> Float[Tensor, "C H W"]:
    """An image of a model's channels and format at its own size, in [-1, 1]; raises UnreadableImage."""
    width, height = image_size(path)
    image_format = replace(ImageFormat.of(shape), size=(height, width))
    return image_format.images(read_pixels(path, image_format, whole=True)[None])[0]


def read_guides(guide: str, shape: ImageShape) -> list[Guide]:
    """Reads the guides of a path, folder or glob at a model's shape, and logs each resized one; raises ValueError."""
    guides = [read_guide(path, shape) for path in find_guides(guide, suffixes_of(shape))]
    for item in guides:
        if item.resized:
            logger.info("%s", description_of_resizing(item))
    refuse_repeated([item.path for item in guides])
    return guides


def refuse_repeated(paths: Sequence[Path]) -> None:
    repeated = sorted(name for name, count in Counter(stem_of(path) for path in paths).items() if count > 1)
    if repeated:
        raise ValueError(f"guides need different names, got several called {', '.join(repeated[:3])}")


def image_size(path: Path) -> tuple[int, int]:
    """(width, height) of an image file, upright; raises UnreadableImage."""
    try:
        with open_image(path, str(path)) as image:
            width, height = image.size
            sideways = orientation(image) in (5, 6, 7, 8)
    except UnreadableImage:
        if not path.name.lower().endswith(ARRAY_SUFFIXES):
            raise
        height, width = read_values(path, str(path)).values.shape[:2]
        sideways = False
    return (height, width) if sideways else (width, height)


def read_pixels(path: Path, image_format: ImageFormat, *, whole: bool = False) -> Pixels:
    """Reads an image file at the size of the format: the whole image, or by its `fit`; raises UnreadableImage."""
    with _advice() if image_format.format is None else nullcontext():
        return (decode_whole if whole else decode_image)(path, str(path), image_format)


def read_rgba(path: Path) -> Image.Image:
    """An image file's picture at its own size, upright, as RGBA; raises UnreadableImage."""
    with _advice(), open_image(path, str(path)) as image:
        image.load()
        return eight_bits(upright(image)).convert("RGBA")


def fitted(picture: Image.Image, guide: Guide) -> UInt8[Tensor, "C H W"]:
    """A picture of the guide's original size, cropped and resampled like the guide."""
    height, width = guide.image.shape[2:]
    if not guide.whole:
        image_format = ImageFormat((height, width), len(picture.getbands()), fit=guide.fit)
        return image_to_tensor(picture, str(guide.path), image_format)
    if picture.size != (width, height):
        picture = picture.resize((width, height), Image.Resampling.LANCZOS)
    return torch.from_numpy(np.array(picture)).reshape(height, width, -1).permute(2, 0, 1)


def resampled(
    image: Float[Tensor, "C H W"], shape: ImageShape, sides: tuple[int, int], fit: Fit = "resize"
) -> Float[Tensor, "C h w"]:
    """An image in [-1, 1] at height and width `sides`; photographs are rounded to 8 bits, other data are not."""
    image_format = replace(ImageFormat.of(shape, fit=fit), size=sides)
    if shape.format is None:
        return images_from_bytes(image_to_tensor(to_picture(image), "part", image_format)[None])[0]
    values = fitted_values(image.permute(1, 2, 0).numpy(), image_format)
    return torch.from_numpy(values).permute(2, 0, 1).clamp(-1, 1)


def _shown_format(path: Path, shape: ImageShape) -> PixelFormat | None:
    return shape.format and with_window(path, shape.format)


def _warn_of_clipping(path: Path, values: Pixels, shape: ImageShape) -> None:
    if shape.format is None or clipped_share(values[: shape.channels], shape.format) <= 0.01:
        return
    stored = torch.from_numpy(read_values(path, str(path)).values.astype(np.float32))  # resampling overshoots at edges
    share = clipped_share(stored, shape.format)
    if share > 0.01:
        logger.warning(
            "%s: %.1f %% of its values, from %g to %g, lie outside of the model's range, %g to %g, and are clipped",
            *(path, 100 * share, stored.nan_to_num().min(), stored.nan_to_num().max(), *shape.format.limits),
        )


@contextmanager
def _advice() -> Iterator[None]:
    try:
        yield
    except UnreadableImage as error:
        if "; " in str(error):  # it has advice
            raise
        raise UnreadableImage(f"{error}; give a whole image file ({', '.join(IMAGE_SUFFIXES)})") from None


def description_of_resizing(guide: Guide) -> str:
    width, height = guide.original_size
    change = ""
    down, across = guide.image.shape[-2:]
    box = taken_box((width, height), (down, across), guide.fit)
    wider, higher = width - box[2] + box[0], height - box[3] + box[1]
    if max(wider, higher) > 0 and guide.fit == "pad":
        change = " continued by its mirror image,"
    elif max(wider, higher) > 0 and not guide.whole:
        cut, sides = max(wider, higher), "left and right" if wider > 0 else "top and bottom"
        change = f" without {cut // 2} + {cut - cut // 2} pixels at its {sides} (fit=pad keeps them),"
    model = "" if guide.whole else "the model's "
    size = "x".join(str(length) for length in reversed(guide.image.shape[-2:]))
    part = "a part of " if guide.part else ""
    return f"{part}{guide.path} is {width}x{height},{change} resized to {model}{size}"
