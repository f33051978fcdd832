"""Parts of a large picture that are edited at the model's size and put back at the picture's own.

    result = alpha * enlarged edit + (1 - alpha) * picture

A part is a connected region of the mask. The model sees a square of the picture around it, with half of the region's
length as context on each side. alpha is 1 in the region and falls to 0 over `FEATHER` pixels of the model; farther out
the picture keeps its bits.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import TypeAlias

import torch
from jaxtyping import Bool, Float, UInt8
from PIL import Image, ImageChops, ImageFilter
from torch import Tensor
from torch.nn.functional import max_pool2d

from sdedit_pl.data.image_decoding import image_to_tensor
from sdedit_pl.data.image_format import ImageFormat, images_from_bytes
from sdedit_pl.guides.guide_files import Guide, Part
from sdedit_pl.guides.mask_files import Area
from sdedit_pl.picture_grid import to_picture

FEATHER = 2
"""Width of the border in which the edit is blended into the picture, in pixels of the model."""
CONTEXT = 0.5
CELLS = 64
"""Cells along the longer side of the grid on which regions are found; regions in touching cells count as one."""
SMALLEST_BOX = 8

Allowed: TypeAlias = Bool[Tensor, "1 1 height width"] | Float[Tensor, "1 1 height width"]
"""The edit mask or strength map of a whole picture."""
Box: TypeAlias = tuple[int, int, int, int]
"""x, y, width and height in pixels of the picture's file."""


def parts_of(whole: Guide, area: Allowed | None, size: int, box: Box | None = None) -> list[tuple[Guide, Area]]:
    """The parts of a picture as guides of the model's `size` with their areas.

    Args:
        whole: the picture, at its own size.
        area: its edit mask or strength map at the same size.
        box: the part to edit, all of it or where `area` allows; None for the regions of `area`.

    Raises:
        ValueError: there is neither area nor box, nothing may change, or a part exceeds the largest square within the
            picture.
    """
    height, width = whole.image.shape[2:]
    if box is None:
        if area is None:
            raise ValueError(f"focus=true needs a mask, and {whole.path} has none; give one, or focus=x,y,width,height")
        regions = regions_of(area[0, 0] > 0)
        found = [(region, _square(_bounds(region), width, height, size, CONTEXT)) for region in regions]
    else:
        found = [_boxed(whole, area, size, box)]
    return [
        _part(whole, region, region if area is None else area[0, 0] * region, square, size, number, len(found))
        for number, (region, square) in enumerate(found, 1)
    ]


def put_back(picture: UInt8[Tensor, "C H W"], part: Part, sample: Float[Tensor, "C h w"]) -> None:
    """Blends the edit of a part, in [-1, 1], into the whole picture, in place."""
    (left, top), side = part.corner, part.alpha.shape[0]
    enlarged = to_picture(sample).resize((side, side), Image.Resampling.LANCZOS)
    edit = image_to_tensor(enlarged, "edit", ImageFormat(side, len(sample))).float()
    place = picture[:, top : top + side, left : left + side]
    alpha = part.alpha.float() / 255
    place.copy_((alpha * edit + (1 - alpha) * place).round().to(torch.uint8))


def cut_out(
    picture: Float[Tensor, "C H W"] | UInt8[Tensor, "C H W"], square: tuple[int, int, int], size: int
) -> UInt8[Tensor, "C size size"]:
    """A square of a picture, (left, top, side), resampled to `size`."""
    left, top, side = square
    part = to_picture(picture[:, top : top + side, left : left + side])
    return image_to_tensor(part, "part", ImageFormat(size, len(picture)))


def _part(
    whole: Guide,
    region: Bool[Tensor, "height width"],
    strength: Bool[Tensor, "height width"] | Float[Tensor, "height width"],
    square: tuple[int, int, int],
    size: int,
    number: int,
    count: int,
) -> tuple[Guide, Area]:
    left, top, side = square
    window = slice(top, top + side), slice(left, left + side)
    crop = cut_out(whole.image[0], square, size)
    grey = (strength[window].float() * 255).round().to(torch.uint8)[None]
    small = image_to_tensor(to_picture(grey), "mask", ImageFormat(size, 1))[None]
    # A thin line may cover less than half of each pixel of the model.
    area = small.float() / 255 if strength.is_floating_point() else small >= min(128, max(1, int(small.max())))
    part = Part((left, top), _alpha(region[window], max(1, round(FEATHER * side / size))), number, number == count)
    guide = whole._replace(image=images_from_bytes(crop[None]), original_size=(side, side), whole=False, part=part)
    return guide, area


def _alpha(region: Bool[Tensor, "side side"], feather: int) -> UInt8[Tensor, "side side"]:
    """255 in the region, falling to 0 at a distance of more than `feather` pixels."""
    inside = to_picture(region.to(torch.uint8)[None] * 255)
    border = inside.filter(ImageFilter.BoxBlur(feather)).point([min(255, 2 * value) for value in range(256)])
    return image_to_tensor(ImageChops.lighter(inside, border), "mask", ImageFormat(len(region), 1))[0]


def regions_of(allowed: Bool[Tensor, "H W"]) -> Iterator[Bool[Tensor, "H W"]]:
    """The connected regions of a mask, from top to bottom."""
    height, width = allowed.shape
    cell = math.ceil(max(height, width) / CELLS)
    grid = max_pool2d(allowed[None, None].float(), cell, ceil_mode=True)[0, 0] > 0
    unseen = set(map(tuple, grid.nonzero().tolist()))
    while unseen:
        queue, cells = [min(unseen)], torch.zeros_like(grid)
        unseen.discard(queue[0])
        while queue:
            row, column = queue.pop()
            cells[row, column] = True
            near = {(row + down, column + across) for down in (-1, 0, 1) for across in (-1, 0, 1)} & unseen
            queue += near
            unseen -= near
        yield cells.repeat_interleave(cell, 0).repeat_interleave(cell, 1)[:height, :width] & allowed


def _bounds(region: Bool[Tensor, "H W"]) -> Box:
    rows, columns = region.any(1).nonzero(), region.any(0).nonzero()
    top, left = int(rows[0]), int(columns[0])
    return left, top, int(columns[-1]) + 1 - left, int(rows[-1]) + 1 - top


def _square(box: Box, width: int, height: int, size: int, context: float) -> tuple[int, int, int]:
    """Left, top and side of the square around a box, no smaller than the model's size if the picture allows it."""
    x, y, across, down = box
    longer, most = max(across, down), min(width, height)
    if longer > most:
        raise ValueError(
            f"a part of {across}x{down} pixels exceeds the largest square within a picture of {width}x{height}; mask a "
            "smaller part, or use windows=true"
        )
    side = min(max(math.ceil(longer * (1 + 2 * context)), size), most)
    left, top = (round(start + length / 2 - side / 2) for start, length in ((x, across), (y, down)))
    return min(max(left, 0), width - side), min(max(top, 0), height - side), side


def _boxed(
    whole: Guide, area: Allowed | None, size: int, box: Box
) -> tuple[Bool[Tensor, "height width"], tuple[int, int, int]]:
    """The region in a box, without the border that the feather takes, and the square around the box."""
    height, width = whole.image.shape[2:]
    x, y, across, down = box
    if min(x, y) < 0 or min(across, down) < SMALLEST_BOX or x + across > width or y + down > height:
        raise ValueError(
            f"focus is a box x,y,width,height of at least {SMALLEST_BOX} pixels within {whole.path}, which is "
            f"{width}x{height}, got {','.join(map(str, box))}"
        )
    square = _square(box, width, height, size, 0.0)
    border = min(max(1, round(FEATHER * square[2] / size)), (min(across, down) - 1) // 2)
    region = torch.zeros(height, width, dtype=torch.bool)
    region[y + border : y + down - border, x + border : x + across - border] = True
    if area is not None:
        region &= area[0, 0] > 0
        if not bool(region.any()):
            raise ValueError(f"the mask of {whole.path} allows no change in the box focus={','.join(map(str, box))}")
    return region, square
