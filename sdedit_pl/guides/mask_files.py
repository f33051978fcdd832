"""Edit masks and strength maps of guides, read from image files."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Literal, TypeAlias

import torch
from jaxtyping import Bool, Float, UInt8
from torch import Tensor

from sdedit_pl.guides.guide_files import Guide, find_guides, image_size, read_pixels

logger = logging.getLogger(__name__)

Area: TypeAlias = Bool[Tensor, "1 1 H W"] | Float[Tensor, "1 1 H W"]
"""The editable part of a guide: an edit mask, or a strength map in [0, 1]."""
AreaKind: TypeAlias = Literal["mask", "strength"]


def read_areas(kind: AreaKind, files: Sequence[Path | None], guides: Sequence[Guide]) -> list[Area | None]:
    """The mask or strength map of each guide: from its file, else from the guide itself, else None.

    Guides that have none, although others have a file, are logged.
    """
    read = _READERS[kind]
    own = [guide.mask if kind == "mask" or guide.mask is None else guide.mask.float() for guide in guides]
    areas = [
        default if file is None else read(file, guide) for default, file, guide in zip(own, files, guides, strict=True)
    ]
    free = [guide.path.stem for guide, area in zip(guides, areas, strict=True) if area is None]
    if free and any(file is not None for file in files):
        logger.info("no %s for %s: edited everywhere", kind, ", ".join(free))
    return areas


def find_areas(kind: AreaKind, place: str | None, guides: Sequence[Guide]) -> list[Path | None]:
    """The mask or map file of each guide; `place` is a file for all of them or a folder of files named like them.

    Raises:
        ValueError: there is no such file, or no guide has one.
    """
    if place is None:
        return [None] * len(guides)
    path = Path(place)
    if not path.is_dir():
        if not path.exists():
            raise ValueError(f"there is no {kind} at {place}; give an image or a folder, white where pixels may change")
        return [path] * len(guides)
    named = {file.stem: file for file in find_guides(place)}
    files = [named.get(guide.path.stem) for guide in guides]
    if all(file is None for file in files):
        raise ValueError(f"no {kind} in {place} is named like a guide; {guides[0].path.stem}.png would be")
    return files


def read_mask(path: Path, guide: Guide) -> Bool[Tensor, "1 1 H W"]:
    """Reads the edit mask of a guide: pixels of grey level 128 and above may change, transparent ones may not.

    Raises:
        ValueError: the image is not intact (UnreadableImage), has another size than the guide, or is all black.
    """
    mask = _grey("mask", path, guide) >= 128
    if not torch.any(mask):
        raise ValueError(f"the mask {path} is all black, so nothing may change; paint editable pixels white")
    return mask


def read_strength(path: Path, guide: Guide) -> Float[Tensor, "1 1 H W"]:
    """Reads the strength map of a guide, in [0, 1]: white pixels are edited from t0, black and transparent ones kept.

    Raises:
        ValueError: the image is not intact (UnreadableImage), has another size than the guide, or is all black.
    """
    strength = _grey("strength map", path, guide).float() / 255
    if not torch.any(strength):
        raise ValueError(
            f"the strength map {path} is all black, so nothing may change; white pixels are edited from t0"
        )
    return strength


def _grey(kind: str, path: Path, guide: Guide) -> UInt8[Tensor, "1 1 H W"]:
    """The grey levels of an image that belongs to a guide, cropped and resampled like the guide."""
    height, width = guide.image.shape[-2:]
    pixels = read_pixels(path, (height, width), channels=1, background="black", whole=guide.whole)
    size = image_size(path)
    if size != guide.original_size:
        expected = "x".join(map(str, guide.original_size))
        raise ValueError(
            f"a {kind} must have the size of its guide: {guide.path} is {expected}, {path} is {size[0]}x{size[1]}"
        )
    return pixels[None]


_READERS: dict[AreaKind, Callable[[Path, Guide], Area]] = {"mask": read_mask, "strength": read_strength}
