"""The inputs of an edit: guides with their masks or strength maps, or one guide with a pasted object."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from sdedit_pl.data.image_format import Fit, ImageShape, Size
from sdedit_pl.guides.composite import Paste, compose
from sdedit_pl.guides.focus import Box, parts_of
from sdedit_pl.guides.guide_files import Guide, read_guide, read_large_guide
from sdedit_pl.guides.guide_lists import ListedGuide
from sdedit_pl.guides.mask_files import Area, AreaKind, read_area


@dataclass(frozen=True)
class EditInputs:
    """Guides, the mask or strength map of each (or None), and for each its entry in the list and the entry's number."""

    guides: list[Guide]
    areas: list[Area | None]
    listed: list[ListedGuide]
    numbers: list[int]


@dataclass(frozen=True)
class GuideReader:
    """The way in which guides are read.

    Args:
        scratch: folder for the images of shards, while they are needed.
        window: window size for guides at their own proportions; None for the model's size.
        side: with windows, length to which the shorter side is resampled.
        fit: without windows, how guides get the model's proportions.
        focus: edit the parts where a mask or map allows changes, or the one in a box; see `sdedit_pl.guides.focus`.
    """

    shape: ImageShape
    scratch: Path
    kind: AreaKind = "mask"
    paste: Paste | None = None
    window: Size | None = None
    side: int | None = None
    fit: Fit = "crop"
    focus: bool | Box = False

    def on_disk(self, listed: ListedGuide) -> ListedGuide:
        """Writes images of a shard to files; raises ValueError if the shard cannot be read."""
        if not listed.places:
            return listed
        self.scratch.mkdir(exist_ok=True)
        files = [self.scratch / file.name for file in listed.files[: len(listed.places)]]
        for file, content in zip(files, listed.contents(), strict=True):
            file.write_bytes(content)
        return listed._replace(guide=files[0], area=files[1] if len(files) == 2 else listed.area, places=())

    def files(self, listed: ListedGuide) -> list[Path]:
        pasted = () if self.paste is None else (self.paste.path, self.paste.mask)
        return [*listed.files, *(file for file in pasted if file is not None)]

    def read(self, listed: ListedGuide) -> list[tuple[Guide, Area | None]]:
        """A guide on disk and its area, or with `focus` its parts and their areas; raises ValueError for bad files."""
        if self.focus:
            whole = read_large_guide(listed.guide, replace(self.shape, size=1))
            area = read_area(self.kind, listed.area, whole)
            return [*parts_of(whole, area, self.shape.sides, None if self.focus is True else self.focus)]
        if self.window is None:
            guide = read_guide(listed.guide, self.shape, self.fit)
        else:
            guide = read_large_guide(listed.guide, replace(self.shape, size=self.window), self.side)
        if self.paste is None:
            return [(guide, read_area(self.kind, listed.area, guide))]
        composite = compose(guide, self.paste)
        return [(composite.guide, composite.strength if self.paste.feather else composite.guide.mask)]
