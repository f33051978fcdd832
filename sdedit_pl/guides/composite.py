"""Composites as guides: an object cut out of one picture and pasted on another, by its alpha, in sRGB.

If the model has a data.format, object and background are files of that format, and their values are blended:

    result = weight * object + (1 - weight * opacity) * background

where weight is the mask's value, and opacity the alpha band of the object, by which its other bands are premultiplied.

The object is pasted in the pixels of the background file; the result is then cropped and resampled like any guide. The
object and a border around it may change, so that an edit adapts the lighting and hides the cut:

    edit mask     True up to `grow` pixels of the model from the object
    strength map  1 there, then falling linearly to 0 over `feather` more pixels
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float
from PIL import Image, ImageChops
from torch import Tensor

from sdedit_pl.data.image_format import central_box, images_from_bytes
from sdedit_pl.guides.guide_files import Guide, fitted, image_size, read_rgba, read_whole, resampled
from sdedit_pl.picture_grid import to_picture

_COVERED = 128
"""Alpha, out of 255, at or above which a pixel belongs to the object."""


@dataclass(frozen=True)
class Paste:
    """An object and its place on the background; the module describes `grow` and `feather`.

    Args:
        path: the object's picture, or a file of the model's format. Transparent pixels are not part of the object; a
            picture without any is one rectangular object, unless `mask` is given.
        at: (x, y) of the picture's upper left corner in pixels of the background file; parts outside are cut off.
        scale: factor by which the picture is resized.
        mask: a picture of the same size, white inside the object, grey where the object covers a pixel partly.
    """

    path: Path
    at: tuple[int, int]
    scale: float = 1.0
    mask: Path | None = None
    grow: int = 3
    feather: int = 0

    def __post_init__(self) -> None:
        if not 0 < self.scale < math.inf:
            raise ValueError(f"scale must be positive, got {self.scale}; 1 keeps the object's size")
        if self.grow < 0 or self.feather < 0:
            raise ValueError(
                f"grow and feather are widths in pixels, at least 0, got grow={self.grow}, feather={self.feather}"
            )


class Composite(NamedTuple):
    """A guide with the edit mask of a pasted object, and the strength map in [0, 1], 1 where the mask is True."""

    guide: Guide
    strength: Float[Tensor, "1 1 H W"]


def compose(background: Guide, paste: Paste) -> Composite:
    """Pastes an object on a guide, whose file is read again at full resolution.

    Raises ValueError if a file is missing or not an intact image (UnreadableImage), the object is fully transparent or
    covers no pixel of the guide, or mask and picture differ in size.
    """
    for path in filter(None, (paste.path, paste.mask)):
        if not path.is_file():
            raise ValueError(f"there is no picture at {path}; give an image file")
    image, coverage = (_with_picture if background.format is None else _with_values)(background, paste)
    covered = fitted(coverage, background)[0] >= _COVERED
    if not bool(covered.any()):
        raise ValueError(_covers_nothing(background, paste))
    distance = distance_to(covered, paste.grow + paste.feather)
    mask, strength = distance <= paste.grow, _strength(distance, paste)
    return Composite(background._replace(image=image[None], mask=mask[None, None]), strength[None, None])


def _with_picture(background: Guide, paste: Paste) -> tuple[Float[Tensor, "C H W"], Image.Image]:
    """The guide with an object that is a picture, and how far it covers each pixel of the background's file."""
    picture = to_picture(read_whole(background.path, background.shape))
    coverage, cutout = Image.new("L", picture.size), _cutout(paste)
    shown, corner = _visible(cutout, _size(cutout.size, paste), paste.at, picture.size)
    if shown is not None:
        alpha = shown.getchannel("A")
        picture.paste(shown.convert(picture.mode), corner, alpha)
        coverage.paste(alpha, corner)
    return images_from_bytes(fitted(picture, background)[None])[0], coverage


def _with_values(background: Guide, paste: Paste) -> tuple[Float[Tensor, "C H W"], Image.Image]:
    whole, cutout = ((read_whole(path, background.shape) + 1) / 2 for path in (background.path, paste.path))
    canvas, size = (whole.shape[2], whole.shape[1]), (cutout.shape[2], cutout.shape[1])
    levels = Image.new("L", size, 255) if paste.mask is None else _object_mask(paste, size)
    weight = torch.from_numpy(np.array(levels))[None].float() / 255
    opaque = cutout[-1:] if background.format is not None and background.format.alpha else torch.ones_like(weight)
    placed = torch.zeros(len(cutout) + 1, *whole.shape[1:])
    for band, values in zip(placed, weight * torch.cat([cutout, opaque]), strict=True):
        shown, (left, top) = _visible(Image.fromarray(values.numpy()), _size(size, paste), paste.at, canvas)
        if shown is not None:
            band[top : top + shown.height, left : left + shown.width] = torch.from_numpy(np.array(shown))
    values, coverage = placed[:-1], placed[-1].clamp(0, 1)
    if not bool(weight.mul(opaque).any()):
        raise ValueError(_transparent(paste))
    image = 2 * (values + (1 - coverage) * whole) - 1
    fit = "resize" if background.whole else background.fit
    return (
        resampled(image.clamp(-1, 1), background.shape, background.shape.sides, fit),
        Image.fromarray((coverage * 255).round().to(torch.uint8).numpy()),
    )


def distance_to(region: Bool[Tensor, "H W"], reach: int) -> Float[Tensor, "H W"]:
    """The Euclidean distance of each pixel to a region that is not empty, in pixels; infinite beyond `reach`."""
    from scipy.ndimage import distance_transform_edt  # most edits do not need it

    distance = torch.from_numpy(distance_transform_edt(~region.numpy()))  # pyright: ignore[reportArgumentType]
    return distance.masked_fill(distance > reach, math.inf).float()


def _strength(distance: Float[Tensor, "H W"], paste: Paste) -> Float[Tensor, "H W"]:
    if paste.feather == 0:
        return (distance <= paste.grow).float()
    return ((paste.grow + paste.feather - distance) / paste.feather).clamp(0, 1)


def _visible(
    cutout: Image.Image, size: tuple[int, int], at: tuple[int, int], canvas: tuple[int, int]
) -> tuple[Image.Image | None, tuple[int, int]]:
    """The part of a cutout of `size` that is visible at a place on a canvas, or None, and the position of its corner.

    Only that part is resampled, to limit memory. Pillow premultiplies by alpha, so that no transparent colour shows.
    """
    left, top = max(0, at[0]), max(0, at[1])
    right, bottom = min(canvas[0], at[0] + size[0]), min(canvas[1], at[1] + size[1])
    if right <= left or bottom <= top:
        return None, (left, top)
    across, down = cutout.width / size[0], cutout.height / size[1]
    box = ((left - at[0]) * across, (top - at[1]) * down, (right - at[0]) * across, (bottom - at[1]) * down)
    # Pillow refuses a box that rounding has moved out of the cutout.
    box = (box[0], box[1], min(box[2], cutout.width), min(box[3], cutout.height))
    return cutout.resize((right - left, bottom - top), Image.Resampling.LANCZOS, box=box), (left, top)


def _size(size: tuple[int, int], paste: Paste) -> tuple[int, int]:
    return max(1, round(size[0] * paste.scale)), max(1, round(size[1] * paste.scale))


def _covers_nothing(background: Guide, paste: Paste) -> str:
    width, height = background.original_size
    size = _size(image_size(paste.path), paste)
    down, across = background.image.shape[-2:]
    left, top, right, bottom = central_box((width, height), (down, across))
    part = f", of which the central {right - left}x{bottom - top} are edited"
    if background.whole or background.fit != "crop" or (left, top) == (0, 0):
        part = ""
    return (
        f"{paste.path} covers no pixel of the guide: pasted at {paste.at[0]},{paste.at[1]} (its upper left corner) as "
        f"{size[0]}x{size[1]}, on {background.path}, which is {width}x{height}{part}; change at or scale"
    )


def _cutout(paste: Paste) -> Image.Image:
    cutout = read_rgba(paste.path)
    if paste.mask is not None:
        cutout.putalpha(ImageChops.multiply(cutout.getchannel("A"), _object_mask(paste, cutout.size)))
    if cutout.getchannel("A").getbbox() is None:
        raise ValueError(_transparent(paste))
    return cutout


def _object_mask(paste: Paste, size: tuple[int, int]) -> Image.Image:
    """How far the mask's pixels belong to an object of `size`, 0..255."""
    assert paste.mask is not None
    mask = read_rgba(paste.mask)
    if mask.size != size:
        sizes = f"{paste.path} is {size[0]}x{size[1]}, {paste.mask} is {mask.width}x{mask.height}"
        raise ValueError(f"the mask of an object must have the size of its picture: {sizes}")
    levels = mask.convert("L")
    if levels.getextrema()[1] == 1:  # 0 and 1 of a label image
        levels = levels.point(lambda level: 255 * level)
    return ImageChops.multiply(levels, mask.getchannel("A"))


def _transparent(paste: Paste) -> str:
    within = "" if paste.mask is None else f" within the mask {paste.mask}"
    return f"{paste.path} is fully transparent{within}: there is no object to paste"
