"""The inputs of an edit: guides with their masks or strength maps, or one guide with a pasted object."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

from sdedit_pl.data.image_format import Fit, ImageShape, Size
from sdedit_pl.guides.composite import Paste, compose
from sdedit_pl.guides.focus import Box, parts_of
from sdedit_pl.guides.guide_files import Guide, find_guides, read_guide, read_large_guide, refuse_repeated
from sdedit_pl.guides.mask_files import Area, AreaKind, find_areas, read_area


class ListedGuide(NamedTuple):
    """The files of a guide; `area` has its mask or strength map."""

    guide: Path
    area: Path | None = None


@dataclass(frozen=True)
class EditInputs:
    """Guides, the mask or strength map of each (or None), and the number of each in the list of guides."""

    guides: list[Guide]
    areas: list[Area | None]
    numbers: list[int]


@dataclass(frozen=True)
class GuideReader:
    """The way in which guides are read.

    Args:
        shape: that of the model's images.
        kind: of the areas.
        paste: an object to paste on each guide.
        window: window size for guides at their own proportions; None for the model's size.
        side: with windows, length to which the shorter side is resampled.
        fit: without windows, how guides get the model's proportions.
        focus: edit the parts that a mask or map allows to change, or the one in a box, see `sdedit_pl.guides.focus`.
    """

    shape: ImageShape
    kind: AreaKind = "mask"
    paste: Paste | None = None
    window: Size | None = None
    side: int | None = None
    fit: Fit = "crop"
    focus: bool | Box = False

    def files(self, listed: ListedGuide) -> list[Path]:
        """The files that `read` reads."""
        pasted = (None, None) if self.paste is None else (self.paste.path, self.paste.mask)
        return [file for file in (*listed, *pasted) if file is not None]

    def read(self, listed: ListedGuide) -> list[tuple[Guide, Area | None]]:
        """A guide and its area, or with `focus` its parts and theirs.

        Raises:
            ValueError: a file cannot be read, or the files do not fit together.
        """
        if self.focus:
            size = self.shape.size
            if not isinstance(size, int) or self.shape.format is not None:
                raise ValueError(
                    f"focus needs a model of square photographs, got one of {self.shape}; use windows=true"
                )
            whole = read_large_guide(listed.guide, replace(self.shape, size=1))
            area = read_area(self.kind, listed.area, whole)
            return [*parts_of(whole, area, size, None if self.focus is True else self.focus)]
        if self.window is None:
            guide = read_guide(listed.guide, self.shape, self.fit)
        else:
            guide = read_large_guide(listed.guide, replace(self.shape, size=self.window), self.side)
        if self.paste is None:
            return [(guide, read_area(self.kind, listed.area, guide))]
        composite = compose(guide, self.paste)
        return [(composite.guide, composite.strength if self.paste.feather else composite.guide.mask)]


def list_guides(guide: str, kind: AreaKind = "mask", place: str | None = None) -> list[ListedGuide]:
    """The guides of a path, folder or glob, with their areas in `place`, a file or a folder.

    Raises:
        ValueError: there are none, or two with the same name.
    """
    paths = find_guides(guide)
    refuse_repeated(paths)
    return [ListedGuide(*pair) for pair in zip(paths, find_areas(kind, place, paths), strict=True)]
