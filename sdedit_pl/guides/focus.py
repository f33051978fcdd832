"""Parts of a large picture that are edited at the model's size and put back at the picture's own.

    result = alpha * enlarged edit + (1 - alpha) * picture

A part is a connected region of the mask. The model sees it with half its length as context on each side, at the model's
proportions. alpha is 1 in the region and falls to 0 over `FEATHER` model pixels; beyond, all is kept bit for bit.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import TypeAlias

import numpy as np
import torch
from jaxtyping import Bool, Float, Shaped, UInt8
from PIL import ImageChops, ImageFilter
from torch import Tensor
from torch.nn.functional import max_pool2d

from sdedit_pl.data.image_decoding import image_to_tensor
from sdedit_pl.data.image_format import ImageFormat, bytes_from_images, images_from_bytes
from sdedit_pl.guides.guide_files import Guide, Part, resampled
from sdedit_pl.guides.mask_files import Area
from sdedit_pl.picture_grid import to_picture

FEATHER = 2
"""Width of the border in which the edit is blended into the picture, in pixels of the model."""
CONTEXT = 0.5
CELLS = 64
"""Cells along the longer side of the grid on which regions are found; regions in touching cells count as one."""
SMALLEST_BOX = 8

Allowed: TypeAlias = Bool[Tensor, "1 1 height width"] | Float[Tensor, "1 1 height width"]

Box: TypeAlias = tuple[int, int, int, int]
"""x, y, width and height in pixels of the picture's file."""


def parts_of(
    whole: Guide, area: Allowed | None, sides: tuple[int, int], box: Box | None = None
) -> list[tuple[Guide, Area]]:
    """The parts of a picture as guides of the model's height and width with their areas.

    Raises ValueError without area and box, if nothing may change in the box, or if a part is too large.

    Args:
        area: its edit mask or strength map at the same size.
        box: the part to edit, all of it or where `area` allows; None for the regions of `area`.
    """
    height, width = whole.image.shape[2:]
    if box is None:
        if area is None:
            raise ValueError(f"focus=true needs a mask, and {whole.path} has none; give one, or focus=x,y,width,height")
        regions = regions_of(area[0, 0] > 0)
        found = [(region, _seen(_bounds(region), width, height, sides, CONTEXT)) for region in regions]
    else:
        found = [_boxed(whole, area, sides, box)]
    return [
        _part(whole, region, region if area is None else area[0, 0] * region, seen, sides, number, len(found))
        for number, (region, seen) in enumerate(found, 1)
    ]


def put_back(picture: Float[Tensor, "C H W"], guide: Guide, sample: Float[Tensor, "C h w"]) -> None:
    """Blends the edit of a guide's part into the whole picture, in place; a photograph is rounded to 8 bits."""
    assert guide.part is not None
    place, alpha = cut_out(picture, guide.part), guide.part.alpha.float() / 255
    edit = resampled(sample, guide.shape, (place.shape[1], place.shape[2]))
    if guide.format is None:
        edit, before = bytes_from_images(edit).float(), bytes_from_images(place)
        place.copy_(images_from_bytes((alpha * edit + (1 - alpha) * before).round().to(torch.uint8)[None])[0])
    else:
        place.copy_(alpha * edit + (1 - alpha) * place)


def cut_out(picture: Shaped[Tensor, "*C H W"], part: Part) -> Shaped[Tensor, "*C h w"]:
    (left, top), (height, width) = part.corner, part.alpha.shape
    return picture[..., top : top + height, left : left + width]


def _part(
    whole: Guide,
    region: Bool[Tensor, "height width"],
    strength: Bool[Tensor, "height width"] | Float[Tensor, "height width"],
    seen: Box,
    sides: tuple[int, int],
    number: int,
    count: int,
) -> tuple[Guide, Area]:
    left, top, width, height = seen
    window = slice(top, top + height), slice(left, left + width)
    grey = (strength[window].float() * 255).round().to(torch.uint8)[None]
    small = image_to_tensor(to_picture(grey), "mask", ImageFormat(sides, 1, fit="resize"))[None]
    # A thin line may cover less than half of each pixel of the model.
    area = small.float() / 255 if strength.is_floating_point() else small >= min(128, max(1, int(small.max())))
    part = Part((left, top), _alpha(region[window], _feather(width, sides)), number, number == count)
    image = resampled(cut_out(whole.image[0], part), whole.shape, sides)[None]
    guide = whole._replace(image=image, original_size=(width, height), whole=False, part=part)
    return guide, area


def _feather(width: int, sides: tuple[int, int]) -> int:
    return max(1, round(FEATHER * width / sides[1]))


def _alpha(region: Bool[Tensor, "h w"], feather: int) -> UInt8[Tensor, "h w"]:
    """255 in the region, falling to 0 at a distance of more than `feather` pixels."""
    inside = to_picture(region.to(torch.uint8)[None] * 255)
    border = inside.filter(ImageFilter.BoxBlur(feather)).point([min(255, 2 * value) for value in range(256)])
    return torch.from_numpy(np.array(ImageChops.lighter(inside, border)))


def regions_of(allowed: Bool[Tensor, "H W"]) -> Iterator[Bool[Tensor, "H W"]]:
    """The connected regions of a mask, from top to bottom."""
    from scipy.ndimage import label  # most edits do not need it

    height, width = allowed.shape
    cell = math.ceil(max(height, width) / CELLS)
    grid = max_pool2d(allowed[None, None].float(), cell, ceil_mode=True)[0, 0] > 0
    labels, count = label(grid.numpy(), [[1, 1, 1]] * 3)  # pyright: ignore[reportGeneralTypeIssues]
    for number in range(1, count + 1):
        cells = torch.from_numpy(labels == number)
        yield cells.repeat_interleave(cell, 0).repeat_interleave(cell, 1)[:height, :width] & allowed


def _bounds(region: Bool[Tensor, "H W"]) -> Box:
    rows, columns = region.any(1).nonzero(), region.any(0).nonzero()
    top, left = int(rows[0]), int(columns[0])
    return left, top, int(columns[-1]) + 1 - left, int(rows[-1]) + 1 - top


def _seen(box: Box, width: int, height: int, sides: tuple[int, int], context: float) -> Box:
    """The box with the model's proportions around `box`, no smaller than the model's size if the picture allows it."""
    x, y, across, down = box
    high, wide = sides
    needed, most = max(across, down * wide / high), min(width, height * wide / high)
    if needed > most:
        kind = "square" if high == wide else f"part of {wide}:{high}"
        raise ValueError(
            f"a part of {across}x{down} pixels exceeds the largest {kind} within a picture of {width}x{height}; mask a "
            "smaller part, or use windows=true"
        )
    inner = min(max(math.ceil(needed * (1 + 2 * context)), wide), math.floor(most))
    found = inner, min(max(round(inner * high / wide), 1), height)
    left, top = (
        round(start + length / 2 - side / 2) for start, length, side in ((x, across, found[0]), (y, down, found[1]))
    )
    return min(max(left, 0), width - found[0]), min(max(top, 0), height - found[1]), *found


def _boxed(
    whole: Guide, area: Allowed | None, sides: tuple[int, int], box: Box
) -> tuple[Bool[Tensor, "height width"], Box]:
    """The region in a box, less a border in which the edit fades out, and the part of the picture around the box."""
    height, width = whole.image.shape[2:]
    x, y, across, down = box
    if min(x, y) < 0 or min(across, down) < SMALLEST_BOX or x + across > width or y + down > height:
        raise ValueError(
            f"focus is a box x,y,width,height of at least {SMALLEST_BOX} pixels within {whole.path}, which is "
            f"{width}x{height}, got {','.join(map(str, box))}"
        )
    seen = _seen(box, width, height, sides, 0.0)
    border = min(_feather(seen[2], sides), (min(across, down) - 1) // 2)
    region = torch.zeros(height, width, dtype=torch.bool)
    region[y + border : y + down - border, x + border : x + across - border] = True
    if area is not None:
        region &= area[0, 0] > 0
        if not bool(region.any()):
            raise ValueError(f"the mask of {whole.path} allows no change in the box focus={','.join(map(str, box))}")
    return region, seen
