"""Edit masks and strength maps of guides, read from image files."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal, TypeAlias

import numpy as np
import torch
from jaxtyping import Bool, Float, UInt16
from PIL import Image
from torch import Tensor

from sdedit_pl.data.array_formats import ALL_SUFFIXES, stem_of
from sdedit_pl.data.image_format import ImageFormat
from sdedit_pl.files import in_both_unicode_forms
from sdedit_pl.guides.guide_files import Guide, find_guides, fitted, image_size, read_pixels, read_rgba
from sdedit_pl.guides.reference_runner_files import RUNNER_SUFFIX

logger = logging.getLogger(__name__)

Area: TypeAlias = Bool[Tensor, "1 1 H W"] | Float[Tensor, "1 1 H W"]
"""The editable part of a guide: an edit mask, or a strength map in [0, 1]."""
AreaKind: TypeAlias = Literal["mask", "strength"]


def read_area(kind: AreaKind, file: Path | None, guide: Guide) -> Area | None:
    """The mask or strength map of a guide: from its file, else from the guide itself, else None."""
    if file is not None:
        return _READERS[kind](file, guide)
    return guide.mask if kind == "mask" or guide.mask is None else guide.mask.float()


def find_areas(kind: AreaKind, place: str | None, guides: Sequence[Path]) -> list[Path | None]:
    """The mask or map file of each guide; `place` is a file for all of them or a folder of files named like them.

    Logs guides without one. Raises ValueError if there is no such file, or no guide has one.
    """
    if place is None:
        return [None] * len(guides)
    path = Path(place)
    if not path.is_dir():
        if not path.exists():
            raise ValueError(f"there is no {kind} at {place}; give an image or a folder, white where pixels may change")
        return [path] * len(guides)
    named = in_both_unicode_forms({stem_of(file): file for file in find_guides(place, ALL_SUFFIXES)})
    files = [named.get(stem_of(guide)) for guide in guides]
    if all(file is None for file in files):
        raise ValueError(f"no {kind} in {place} is named like a guide; {stem_of(guides[0])}.png would be")
    free = [
        stem_of(guide)
        for guide, file in zip(guides, files, strict=True)
        if file is None and guide.suffix != RUNNER_SUFFIX
    ]
    if free:
        more = f" and {len(free) - 3} others" if len(free) > 3 else ""
        logger.info("no %s for %s%s: edited everywhere", kind, ", ".join(free[:3]), more)
    return files


def read_mask(path: Path, guide: Guide) -> Bool[Tensor, "1 1 H W"]:
    """Reads the edit mask of a guide: bright pixels of one colour may change, dark and transparent ones may not.

    Raises ValueError if the image is not intact (UnreadableImage), differs in size from the guide, is all black, or
    has values that leave open which pixels may change.
    """
    picture = read_rgba(path)
    _check_size("mask", path, picture.size, guide)
    mask = fitted(Image.fromarray(_marked(path, picture).astype(np.uint8) * 255), guide) >= 128
    if not torch.any(mask):
        raise ValueError(f"the mask {path} is black in the central part of {guide.path}, which is edited")
    return mask[None]


def read_strength(path: Path, guide: Guide) -> Float[Tensor, "1 1 H W"]:
    """Reads the strength map of a guide, in [0, 1]: white pixels are edited from t0, black and transparent ones kept.

    Raises ValueError if it is not intact (UnreadableImage), differs in size from the guide, or is all black.
    """
    height, width = guide.image.shape[-2:]
    image_format = ImageFormat((height, width), channels=1, background="black", fit=guide.fit)
    levels = read_pixels(path, image_format, whole=guide.whole)
    _check_size("strength map", path, image_size(path), guide)
    strength = levels[None].float() / (255 if torch.any(levels > 1) else 1)  # 0 and 1 of a label image are 0 and 1
    if not torch.any(strength):
        raise ValueError(
            f"the strength map {path} is all black, so nothing may change; white pixels are edited from t0"
        )
    return strength


def _marked(path: Path, picture: Image.Image) -> Bool[np.ndarray, "H W"]:
    """The pixels that a mask, as an RGBA picture, marks as editable: those of at least half brightness over black.

    Brightness is the largest channel, so that red on black and the palettes of segmentations count as black and white.
    """
    rgba = np.asarray(picture)
    opaque = rgba[..., 3] >= 128
    colours = (rgba[..., :3].astype(np.uint16) * rgba[..., 3:] + 127) // 255
    levels = colours.max(-1)
    top = int(levels.max())
    if top == 0 and opaque.all():
        raise ValueError(f"the mask {path} is all black, so nothing may change; paint editable pixels white")
    if top == 1:  # 0 and 1 of a label image
        return levels == 1
    marked = levels >= 128
    if top < 128 or _share_between(levels, top) or _differ(colours[marked]):
        raise ValueError(
            f"the mask {path} holds {_values(picture)}, which do not say what may change: make those pixels white and "
            "all others black, or give levels of grey as a strength map, strength=FILE"
        )
    share = marked.mean()
    if share > 0.5 and (marked == opaque).all() and not opaque.all():
        logger.info("%s: the white pixels (%.0f %%) may change, the transparent ones are kept", path, 100 * share)
    return marked


def _share_between(levels: UInt16[np.ndarray, "H W"], top: int) -> bool:
    """Whether more pixels lie between black and the top level than the soft edges of a mask would explain."""
    counts = np.bincount(levels.ravel(), minlength=top + 1)[top // 8 + 1 : top - top // 8] / levels.size
    return bool(counts.sum() > 0.5 or counts.max(initial=0) > 0.1)


def _differ(colours: UInt16[np.ndarray, "N 3"]) -> bool:
    """Whether more than a tenth of the colours, none of them dark, differ in hue from the rest."""
    hues = colours / colours.max(-1, keepdims=True)
    return bool((np.abs(hues - np.median(hues, axis=0)).max(-1) > 0.25).mean() > 0.1)


def _values(picture: Image.Image) -> str:
    values: dict[str, None] = {}
    colours: list[Any] = sorted(picture.getcolors(picture.width * picture.height) or [], reverse=True)
    for _, (red, green, blue, alpha) in colours:
        name = f"grey {red}" if red == green == blue else f"#{red:02x}{green:02x}{blue:02x}"
        values["transparent pixels" if alpha == 0 else name] = None
    first, rest = list(values)[:4], len(values) - 4
    return ", ".join(first) + (f" and {rest} other values" if rest > 0 else "")


def _check_size(kind: str, path: Path, size: tuple[int, int], guide: Guide) -> None:
    if size != guide.original_size:
        expected = "x".join(map(str, guide.original_size))
        raise ValueError(
            f"a {kind} must have the size of its guide: {guide.path} is {expected}, {path} is {size[0]}x{size[1]}"
        )


_READERS: dict[AreaKind, Callable[[Path, Guide], Area]] = {"mask": read_mask, "strength": read_strength}
