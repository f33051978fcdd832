"""Decodes image files to square uint8 tensors, in the same way for every source, and maps uint8 to [-1, 1] and back.

An image is turned upright (EXIF), composited on a background where it is transparent, converted to RGB or grey with 8
bits per channel, cropped to its central square and resampled to `size` with a Lanczos filter, which averages over the
removed pixels. An image of the right size keeps its pixels exactly. Colour profiles are ignored: values count as sRGB.

Decoded images have the memory layout of files, channels last; float images on the device are contiguous. Transposing is
free on a GPU, while on the CPU it would cost a tenth of the time that decoding a small image takes.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, TypeAlias

import numpy as np
import torch
from jaxtyping import Float, UInt8
from PIL import Image, ImageColor
from torch import Tensor
from torch.utils.data import get_worker_info

from sdedit_pl.data.image_files import DECODING_ERRORS, UnreadableImage, open_image, upright
from sdedit_pl.typing import Images

# Pillow's names of the metadata that may hold an orientation.
_TURNING = {"exif", "xmp", "Raw profile type exif", "XML:com.adobe.xmp"}

# JPEG can be decoded at 1/2, 1/4 or 1/8, and any image can first be shrunk by a whole factor: fast, but coarse. Both
# stay this many times above the target size, and the Lanczos filter does the rest.
_REDUCING_GAP = 3

Fit: TypeAlias = Literal["crop", "resize", "pad"]


@dataclass(frozen=True)
class ImageFormat:
    """Size, channels and background that every image of a data set is brought to.

    Args:
        size: Height and width in pixels.
        channels: 3 for RGB, 1 for grey.
        background: Colour under transparent pixels, a name or #rrggbb.
        margin: Pixels by which images are decoded higher and wider than `size`; training cuts random parts of `size`
            out of them, validation the central part.
        fit: How an image becomes a square: "crop" takes its central square, "resize" changes its proportions, "pad"
            keeps all of it and continues it by its mirror image.

    Raises:
        ValueError: `size` < 1, `margin` < 0, `channels` neither 1 nor 3, or a background that is not a colour.
    """

    size: int
    channels: int = 3
    background: str = "white"
    margin: int = 0
    fit: Fit = "crop"

    def __post_init__(self) -> None:
        if self.size < 1:
            raise ValueError(f"size must be at least 1 pixel, got {self.size}")
        if self.margin < 0:
            raise ValueError(f"random_crop is a margin in pixels, at least 0, got {self.margin}")
        if self.channels not in (1, 3):
            raise ValueError(f"channels must be 3 (RGB) or 1 (grey), got {self.channels}")
        try:
            ImageColor.getrgb(self.background)
        except ValueError:
            raise ValueError(
                f"background must be a colour name or #rrggbb, got {self.background!r}; for example white or #808080"
            ) from None

    @property
    def decoded_size(self) -> int:
        """Height and width of a decoded image, before a part is cut out."""
        return self.size + self.margin

    def before_cutting(self) -> ImageFormat:
        """The format of decoded images: of `decoded_size`, without a margin."""
        return replace(self, size=self.decoded_size, margin=0)

    def empty(self, count: int = 0) -> UInt8[Tensor, "N C H W"]:
        """An uninitialised batch; in a worker process in shared memory, where it would be copied otherwise."""
        shape = (count, self.size, self.size, self.channels)
        if get_worker_info() is None:
            batch = torch.empty(shape, dtype=torch.uint8)
        else:
            shared = torch.UntypedStorage._new_shared(math.prod(shape))
            batch = torch.empty(0, dtype=torch.uint8).set_(shared).view(shape)
        return batch.permute(0, 3, 1, 2)

    def part(self, image: UInt8[Tensor, "C _ _"], corner: tuple[int, int] | None) -> UInt8[Tensor, "C H W"]:
        """The part of a decoded image whose first row and column are `corner`; the central part for None."""
        if not self.margin:
            return image
        top, left = (self.margin // 2, self.margin // 2) if corner is None else corner
        return image[:, top : top + self.size, left : left + self.size]


def decode_image(file: bytes | Path, name: str, image_format: ImageFormat) -> UInt8[Tensor, "C H W"]:
    """Decodes an image file to height and width `decoded_size`; messages call it `name`.

    Raises:
        UnreadableImage: The file is not an image, or is truncated, empty or damaged.
    """
    with open_image(file, name) as image:
        side = _REDUCING_GAP * image_format.decoded_size
        if min(image.size) >= 2 * side:
            image.draft(None, (side, side))
        image.load()  # a PNG file may have its EXIF data at the end
        # Looking for an orientation takes a tenth of a small image's time.
        return _to_tensor(image if _TURNING.isdisjoint(image.info) else upright(image), image_format)


def decode_whole(
    file: bytes | Path, name: str, shape: tuple[int, int], channels: int = 3, background: str = "white"
) -> UInt8[Tensor, "C H W"]:
    """Decodes an image file and resamples all of it, uncropped, to `shape` = (height, width).

    Raises:
        UnreadableImage: The file is not an image, or is truncated, empty or damaged.
    """
    with open_image(file, name) as image:
        image.load()
        picture = _to_eight_bits(upright(image), ImageFormat(1, channels, background))
        height, width = shape
        if picture.size != (width, height):
            picture = picture.resize((width, height), Image.Resampling.LANCZOS, reducing_gap=_REDUCING_GAP)
        return _channels_first(picture)


def image_to_tensor(image: Image.Image, name: str, image_format: ImageFormat) -> UInt8[Tensor, "C H W"]:
    """Brings an image of any mode and size, opened by Pillow, to height and width `decoded_size`.

    Raises:
        UnreadableImage: The image's data cannot be decoded.
    """
    try:
        image.load()
        return _to_tensor(upright(image), image_format)
    except DECODING_ERRORS as error:
        raise UnreadableImage(f"cannot read image {name}: {error}") from None


def padded_box(shape: tuple[int, int], size: int) -> tuple[int, int, int, int]:
    """Left, top, width and height, within a padded square of `size`, of an image whose (width, height) is `shape`."""
    width, height = (max(1, round(length * size / max(shape))) for length in shape)
    return (size - width) // 2, (size - height) // 2, width, height


def images_from_bytes(images: UInt8[Tensor, "B C H W"]) -> Images:
    """Maps uint8 0..255 to float32 [-1, 1], on the images' device."""
    return images.to(torch.float32, memory_format=torch.contiguous_format) / 127.5 - 1.0


def bytes_from_images(images: Float[Tensor, "*shape"]) -> UInt8[Tensor, "*shape"]:
    """Maps [-1, 1] to uint8 0..255, rounded and clamped, on the images' device."""
    return ((images.clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8)


def as_saved(images: Images) -> Images:
    """Images in [-1, 1] with the precision of an 8-bit file: clamped and rounded, float32 in [-1, 1]."""
    return images_from_bytes(bytes_from_images(images))


def _to_tensor(image: Image.Image, image_format: ImageFormat) -> UInt8[Tensor, "C H W"]:
    return _channels_first(_square(_to_eight_bits(image, image_format), image_format.decoded_size, image_format.fit))


def _channels_first(image: Image.Image) -> UInt8[Tensor, "C H W"]:
    pixels = torch.from_numpy(np.array(image))
    return pixels.permute(2, 0, 1) if pixels.ndim == 3 else pixels[None]


def eight_bits(image: Image.Image) -> Image.Image:
    """An image with 8 bits per channel; transparent levels and colours of 16 bits are kept.

    Raises:
        ValueError: The pixels are floating-point numbers.
    """
    if image.mode == "F":
        raise ValueError("its pixels are floating-point numbers of unknown range; save it with 8 or 16 bits")
    hidden = image.info.get("transparency")  # a PNG file's transparent level or colour
    if image.mode.startswith("I"):  # rounded; Pillow's own conversion clips at 255
        levels = np.asarray(image).astype(np.int64)
        image = Image.fromarray(((levels + 128) // 257).clip(0, 255).astype(np.uint8))
        if hidden is not None:
            image.putalpha(Image.fromarray((levels != hidden).astype(np.uint8) * 255))
    elif isinstance(hidden, tuple) and max(hidden) > 255:  # Pillow keeps the upper 8 bits of each channel
        image.info["transparency"] = tuple(level >> 8 for level in hidden)
    return image


def _to_eight_bits(image: Image.Image, image_format: ImageFormat) -> Image.Image:
    target = "RGB" if image_format.channels == 3 else "L"
    image = eight_bits(image)
    if image.mode in ("RGBA", "LA", "PA", "RGBa", "La") or "transparency" in image.info:
        foreground = image.convert("RGBA")
        colour = ImageColor.getrgb(image_format.background)[:3]
        image = Image.alpha_composite(Image.new("RGBA", foreground.size, (*colour, 255)), foreground)
    return image if image.mode == target else image.convert(target)


def _square(image: Image.Image, size: int, fit: str) -> Image.Image:
    if image.size == (size, size):
        return image
    if fit == "pad":
        left, top, width, height = padded_box(image.size, size)
        scaled = image.resize((width, height), Image.Resampling.LANCZOS, reducing_gap=_REDUCING_GAP)
        sides = ((top, size - height - top), (left, size - width - left), (0, 0))
        return Image.fromarray(np.pad(np.asarray(scaled), sides[: 2 + (image.mode == "RGB")], mode="symmetric"))
    shorter = min(image.size)
    left, top = (image.width - shorter) // 2, (image.height - shorter) // 2
    taken = (left, top, left + shorter, top + shorter) if fit == "crop" else (0, 0, *image.size)
    if shorter == size and fit == "crop":
        return image.crop(taken)
    return image.resize((size, size), Image.Resampling.LANCZOS, box=taken, reducing_gap=_REDUCING_GAP)
