"""Decodes image files to tensors of one shape, in the same way for every source.

An image is turned upright (EXIF), composited on a background where it is transparent, converted to 8-bit RGB or grey,
brought to the proportions of `size` and resampled with an antialiasing Lanczos filter. An image of the right size keeps
its pixels exactly. Colour profiles are ignored: values count as sRGB. Decoded images are channels last, like files:
transposing a small image on the CPU costs a tenth of its decoding.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from jaxtyping import UInt8
from PIL import Image, ImageColor
from torch import Tensor

from sdedit_pl.data.image_files import DECODING_ERRORS, UnreadableImage, open_image, upright
from sdedit_pl.data.image_format import Fit, ImageFormat, content_mask, padded_box, taken_box
from sdedit_pl.data.value_decoding import decode_values
from sdedit_pl.typing import Pixels

_ORIENTATION_KEYS = {"exif", "xmp", "Raw profile type exif", "XML:com.adobe.xmp"}

# JPEG can be decoded at 1/2, 1/4 or 1/8, and any image can first be shrunk by a whole factor: fast, but coarse. Both
# stay this many times above the target size, and the Lanczos filter does the rest.
_REDUCING_GAP = 3


def decode_image(file: bytes | Path, name: str, image_format: ImageFormat) -> Pixels:
    """Decodes an image file to `decoded_sides`; raises UnreadableImage if it is damaged or does not fit the format."""
    if image_format.format is not None:
        return decode_values(file, name, image_format)
    with open_image(file, name) as image:
        side = _REDUCING_GAP * max(image_format.decoded_sides)
        if min(image.size) >= 2 * side:
            image.draft(None, (side, side))
        image.load()  # a PNG file may have its EXIF data at the end
        # Looking for an orientation takes a tenth of a small image's time.
        return _to_tensor(image if _ORIENTATION_KEYS.isdisjoint(image.info) else upright(image), image_format)


def decode_whole(file: bytes | Path, name: str, image_format: ImageFormat) -> Pixels:
    """Decodes and resamples an image without cropping it; raises UnreadableImage."""
    if image_format.format is not None:
        return decode_values(file, name, replace(image_format, fit="resize"))
    with open_image(file, name) as image:
        image.load()
        return _to_tensor(upright(image), replace(image_format, fit="resize"))


def image_to_tensor(image: Image.Image, name: str, image_format: ImageFormat) -> UInt8[Tensor, "C H W"]:
    """Brings a Pillow image of any mode and size to `decoded_sides`; raises UnreadableImage if its data is damaged."""
    try:
        image.load()
        return _to_tensor(upright(image), image_format)
    except DECODING_ERRORS as error:
        raise UnreadableImage(f"cannot read image {name}: {error}") from None


def _to_tensor(image: Image.Image, image_format: ImageFormat) -> UInt8[Tensor, "C H W"]:
    sides = image_format.decoded_sides
    pixels = _channels_first(_fitted(_to_eight_bits(image, image_format), sides, image_format.fit))
    return torch.cat([pixels, content_mask(image.size, sides)[None]]) if image_format.marked else pixels


def _channels_first(image: Image.Image) -> UInt8[Tensor, "C H W"]:
    pixels = torch.from_numpy(np.array(image))
    return pixels.permute(2, 0, 1) if pixels.ndim == 3 else pixels[None]


def eight_bits(image: Image.Image) -> Image.Image:
    """Converts to 8 bits per channel, keeping 16-bit transparency; raises ValueError for floating-point pixels."""
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


def _fitted(image: Image.Image, sides: tuple[int, int], fit: Fit) -> Image.Image:
    height, width = sides
    if image.size == (width, height):
        return image
    if fit == "pad":
        left, top, across, down = padded_box(image.size, sides)
        scaled = image.resize((across, down), Image.Resampling.LANCZOS, reducing_gap=_REDUCING_GAP)
        margins = ((top, height - down - top), (left, width - across - left), (0, 0))
        return Image.fromarray(np.pad(np.asarray(scaled), margins[: 2 + (image.mode == "RGB")], mode="symmetric"))
    box = taken_box(image.size, sides, fit)
    if (box[2] - box[0], box[3] - box[1]) == (width, height):
        return image.crop(box)
    return image.resize((width, height), Image.Resampling.LANCZOS, box=box, reducing_gap=_REDUCING_GAP)
