"""The inputs of an edit: guides with their masks or strength maps, or one guide with a pasted object."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from sdedit_pl.data.image_format import Fit, ImageShape, Size
from sdedit_pl.guides.composite import Paste, compose
from sdedit_pl.guides.focus import Box, parts_of
from sdedit_pl.guides.guide_files import Guide, find_guides, read_guides, read_large_guide, refuse_repeated
from sdedit_pl.guides.mask_files import Area, AreaKind, find_areas, read_areas


@dataclass(frozen=True)
class EditInputs:
    """Guides, the mask or strength map of each (or None), and all files that were read."""

    guides: Sequence[Guide]
    areas: Sequence[Area | None]
    files: Sequence[Path]


def read_edit_inputs(
    guide: str,
    shape: ImageShape,
    *,
    mask: str | None = None,
    strength: str | None = None,
    paste: Paste | None = None,
    window: Size | None = None,
    side: int | None = None,
    fit: Fit = "crop",
    focus: bool | Box = False,
) -> EditInputs:
    """Reads the files of an edit: one guide with a pasted object, or guides with masks or strength maps, or neither.

    Args:
        guide: a path, folder or glob.
        shape: that of the model's images.
        mask: a mask file or a folder of them.
        strength: the same of strength maps.
        window: window size for guides at their own proportions; None for the model's size.
        side: with windows, length to which the shorter side is resampled.
        fit: without windows, how guides get the model's proportions.
        focus: edit the parts that a mask or map allows to change, or the one in a box, see `sdedit_pl.guides.focus`.

    Raises:
        ValueError: files are missing or do not fit together.
    """
    kind, place = ("mask", mask) if strength is None else ("strength", strength)
    if focus:
        return _with_focus(guide, shape, kind, place, None if focus is True else focus)
    guides = read_guides(guide, shape, window, side, fit)
    if paste is not None:
        return _with_paste(paste, guides, guide)
    area_files = find_areas(kind, place, guides)
    files = [*(guide.path for guide in guides), *(file for file in area_files if file is not None)]
    return EditInputs(guides, read_areas(kind, area_files, guides), files)


def _with_focus(guide: str, shape: ImageShape, kind: AreaKind, place: str | None, box: Box | None) -> EditInputs:
    """The parts of each guide; only one whole picture at a time is in memory."""
    if not isinstance(shape.size, int) or shape.format is not None:
        raise ValueError(f"focus needs a model of square photographs, and this one has {shape}; use windows=true")
    paths = find_guides(guide)
    refuse_repeated(paths)
    parts: list[tuple[Guide, Area]] = []
    files = []
    for path in paths:
        whole = read_large_guide(path, replace(shape, size=1))
        area_files = find_areas(kind, place, [whole])
        parts += parts_of(whole, read_areas(kind, area_files, [whole])[0], shape.size, box)
        files += [path, *(file for file in area_files if file is not None)]
    return EditInputs([part for part, _ in parts], [area for _, area in parts], files)


def _with_paste(paste: Paste, guides: Sequence[Guide], place: str) -> EditInputs:
    if len(guides) > 1:
        raise ValueError(f"paste needs exactly one guide, the background, got {len(guides)} in {place}")
    composite = compose(guides[0], paste)
    area = composite.strength if paste.feather else composite.guide.mask
    files = [guides[0].path, paste.path, *([] if paste.mask is None else [paste.mask])]
    return EditInputs([composite.guide], [area], files)
