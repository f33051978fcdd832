"""Composites as guides: an object cut out of one picture, pasted roughly on another one.

The paste is made in the background file's own pixels, of which `at` speaks, and then brought to the model's like any
guide. What may change is the object and a border around it, so that an edit gives the object the background's lighting
and hides the cut. Widths of this border are in the model's pixels, in which an edit works:

    edit mask     True up to `grow` pixels away from the object
    strength map  1 there, then falling evenly to 0 over `feather` pixels more

An object's edge is as soft as its alpha; pixels are mixed as files hold them, in sRGB.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import reduce
from pathlib import Path
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, UInt8
from PIL import Image, ImageChops
from torch import Tensor
from torch.nn.functional import pad
from torchvision.transforms.functional import pil_to_tensor

from sdedit_pl.data.image_files import UnreadableImage, open_image, upright
from sdedit_pl.data.images import ImageFormat, decode_whole, image_to_tensor, images_from_bytes
from sdedit_pl.guides.guide_files import Guide
from sdedit_pl.picture_grid import to_picture

_COVERED = 128
"""From this alpha of 255 on, a pixel is the object's."""


@dataclass(frozen=True)
class Paste:
    """What is pasted, and where.

    Args:
        path: the object's picture. Transparent pixels are not part of the object; without any, and without a mask, it
            is the whole rectangle.
        at: (x, y) of the picture's upper left corner, in pixels of the background's file; what lies outside of that is
            cut off.
        scale: the size at which it is pasted, 1 for its own.
        mask: a picture of the object picture's size, white where the object is, grey where it is in part.
        grow: how far around the object pixels may change, in pixels of the model.
        feather: over how many pixels more the strength falls to 0.

    Raises:
        ValueError: a scale that is not above 0, or a width below 0.
    """

    path: Path
    at: tuple[int, int]
    scale: float = 1.0
    mask: Path | None = None
    grow: int = 3
    feather: int = 0

    def __post_init__(self) -> None:
        if not 0 < self.scale < math.inf:
            raise ValueError(f"scale must be above 0, got {self.scale}; 1 pastes the object in its own size")
        if self.grow < 0 or self.feather < 0:
            raise ValueError(
                f"grow and feather are widths in pixels, at least 0, got grow={self.grow}, feather={self.feather}"
            )


class Composite(NamedTuple):
    """A guide with a pasted object.

    Args:
        guide: the guide, named like its background, with the edit mask as its own.
        strength: the soft mask, in [0, 1]: 1 where the edit mask is True.
    """

    guide: Guide
    strength: Float[Tensor, "1 1 H W"]


def compose(background: Guide, paste: Paste) -> Composite:
    """Pastes an object on a guide, whose file is read again for its own pixels.

    Raises:
        UnreadableImage: a file is not a whole image.
        ValueError: there is no such file, an object that is transparent everywhere or covers no pixel of the guide, or
            a mask of another size than its picture.
    """
    width, height = background.original_size
    channels = background.image.shape[1]
    pixels = decode_whole(background.path.read_bytes(), str(background.path), (height, width), channels)
    picture, coverage = to_picture(pixels), Image.new("L", (width, height))
    cutout = _cutout(paste)
    size = (max(1, round(cutout.width * paste.scale)), max(1, round(cutout.height * paste.scale)))
    shown, corner = _visible(cutout, size, paste.at, picture.size)
    if shown is not None:
        alpha = shown.getchannel("A")
        picture.paste(shown.convert(picture.mode), corner, alpha)
        coverage.paste(alpha, corner)
    image, covered = _as_guide(picture, background), _as_guide(coverage, background)[0] >= _COVERED
    if not bool(covered.any()):
        raise ValueError(_covers_nothing(background, paste, size))
    distance = distance_to(covered, paste.grow + paste.feather)
    mask, strength = distance <= paste.grow, _strength(distance, paste)
    guide = background._replace(image=images_from_bytes(image[None]), mask=mask[None, None])
    return Composite(guide, strength[None, None])


def distance_to(region: Bool[Tensor, "H W"], reach: int) -> Float[Tensor, "H W"]:
    """The distance of each pixel to the nearest one of a region, in pixels; infinite where it is more than `reach`.

    A squared distance is the sum of those along both axes, so that its minimum is taken along one after the other.
    """
    reach = min(reach, sum(region.shape))  # further than that no two pixels are apart
    squared = torch.zeros(region.shape).masked_fill(~region, math.inf)
    for axis, sides in ((0, (0, 0, reach, reach)), (1, (reach, reach))):
        padded, length = pad(squared, sides, value=math.inf), region.shape[axis]
        shifts = range(-reach, reach + 1)
        squared = reduce(torch.minimum, (padded.narrow(axis, reach + shift, length) + shift**2 for shift in shifts))
    return squared.sqrt().masked_fill(squared > reach**2, math.inf)


def _strength(distance: Float[Tensor, "H W"], paste: Paste) -> Float[Tensor, "H W"]:
    """The strength of pixels at a distance from the object."""
    if paste.feather == 0:
        return (distance <= paste.grow).float()
    return ((paste.grow + paste.feather - distance) / paste.feather).clamp(0, 1)


def _visible(
    cutout: Image.Image, size: tuple[int, int], at: tuple[int, int], canvas: tuple[int, int]
) -> tuple[Image.Image | None, tuple[int, int]]:
    """What can be seen on a canvas of a cutout at a size and place, and the place of its corner; None for nothing.

    Only that part is resampled, whatever the size. Pillow multiplies by alpha first, so that no colour of transparent
    pixels comes in.
    """
    left, top = max(0, at[0]), max(0, at[1])
    right, bottom = min(canvas[0], at[0] + size[0]), min(canvas[1], at[1] + size[1])
    if right <= left or bottom <= top:
        return None, (left, top)
    across, down = cutout.width / size[0], cutout.height / size[1]
    box = ((left - at[0]) * across, (top - at[1]) * down, (right - at[0]) * across, (bottom - at[1]) * down)
    # Rounding must not lead out of the cutout, which Pillow refuses.
    box = (box[0], box[1], min(box[2], cutout.width), min(box[3], cutout.height))
    return cutout.resize((right - left, bottom - top), Image.Resampling.LANCZOS, box=box), (left, top)


def _as_guide(picture: Image.Image, guide: Guide) -> UInt8[Tensor, "C H W"]:
    """A picture of the size of the guide's file, brought to the guide's pixels as the guide was."""
    height, width = guide.image.shape[2:]
    if not guide.whole:
        channels = len(picture.getbands())
        return image_to_tensor(picture, str(guide.path), ImageFormat(width, channels))
    if picture.size != (width, height):
        picture = picture.resize((width, height), Image.Resampling.LANCZOS)
    return pil_to_tensor(picture)


def _covers_nothing(background: Guide, paste: Paste, size: tuple[int, int]) -> str:
    width, height = background.original_size
    side = min(width, height)
    square = "" if background.whole or width == height else f", of which the central {side}x{side} are edited"
    return (
        f"{paste.path} covers no pixel of the guide: pasted at {paste.at[0]},{paste.at[1]} (its upper left corner) as "
        f"{size[0]}x{size[1]}, on {background.path}, which is {width}x{height}{square}; give another at or scale"
    )


def _cutout(paste: Paste) -> Image.Image:
    """The object in its own pixels, RGBA."""
    cutout, within = _upright(paste.path), ""
    if paste.mask is not None:
        mask, within = _upright(paste.mask), f" within the mask {paste.mask}"
        if mask.size != cutout.size:
            sizes = (
                f"{path} is {part.width}x{part.height}" for path, part in ((paste.path, cutout), (paste.mask, mask))
            )
            raise ValueError(f"an object's mask must have its picture's size: {', '.join(sizes)}")
        white = ImageChops.multiply(mask.convert("L"), mask.getchannel("A"))
        cutout.putalpha(ImageChops.multiply(cutout.getchannel("A"), white))
    if cutout.getchannel("A").getbbox() is None:
        raise ValueError(f"{paste.path} is transparent everywhere{within}, so there is no object to paste")
    return cutout


def _upright(path: Path) -> Image.Image:
    """An image file's picture, upright, as RGBA."""
    if not path.is_file():
        raise ValueError(f"there is no picture at {path}; give an image file")
    try:
        with open_image(path, str(path)) as image:
            image.load()
            picture = upright(image)
    except UnreadableImage as error:
        raise UnreadableImage(f"{error}; give a whole image file") from None
    if picture.mode.startswith(("I", "F")):
        raise UnreadableImage(f"{path} has more than 8 bits a channel; save it with 8")
    return picture.convert("RGBA")
