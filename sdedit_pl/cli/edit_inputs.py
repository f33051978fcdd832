"""What an edit reads: guides, and what of them may change."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from sdedit_pl.checkpoints import Description
from sdedit_pl.cli.edit_arguments import Arguments
from sdedit_pl.cli.edit_model import window_size
from sdedit_pl.configuration import ConfigError
from sdedit_pl.editing.many_guides import Area
from sdedit_pl.guides.composite import Paste, compose
from sdedit_pl.guides.guide_files import Guide, find_guides, read_guide, read_large_guide
from sdedit_pl.guides.mask_files import read_mask, read_strength

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Inputs:
    """What is edited.

    Args:
        guides: the guides.
        areas: the mask or strength map of each, or None.
        files: all files that went in.
    """

    guides: Sequence[Guide]
    areas: Sequence[Area | None]
    files: Sequence[Path]


def image_shape(description: Description) -> tuple[int, int]:
    """(channels, size) of the images of a checkpoint's domain."""
    return description.model.image.channels, description.model.image.size


def read_inputs(arguments: Arguments, shape: tuple[int, int]) -> Inputs:
    """Reads what the arguments name.

    Args:
        arguments: the verb's arguments.
        shape: (channels, size) of the model's images.

    Raises:
        ConfigError: files that are not there or do not fit together.
    """
    guides = read_guides(arguments.guide, shape, window_size(arguments, shape[1]), arguments.side)
    if arguments.paste is not None:
        return read_paste(arguments, guides)
    kind, area = ("mask", arguments.mask) if arguments.strength is None else ("strength", arguments.strength)
    areas = read_areas(kind, area, guides)
    found = [path for path in find_areas(kind, area, guides) if path is not None]
    return Inputs(guides, areas, [*(guide.path for guide in guides), *found])


def read_paste(arguments: Arguments, guides: Sequence[Guide]) -> Inputs:
    """The guide that a paste makes, with its mask, or its strength map where it fades."""
    if len(guides) > 1:
        raise ConfigError(f"paste has one guide, the background, got {len(guides)} in {arguments.guide}")
    mask = None if arguments.paste_mask is None else Path(arguments.paste_mask)
    assert arguments.paste is not None and arguments.at is not None
    x, y = arguments.at
    paste = Paste(Path(arguments.paste), (x, y), arguments.scale, mask, arguments.grow, arguments.feather)
    composite = compose(guides[0], paste)
    files = [guides[0].path, paste.path, *([] if mask is None else [mask])]
    return Inputs([composite.guide], [composite.strength if paste.feather else composite.guide.mask], files)


def read_guides(guide: str, shape: tuple[int, int], window: int | None = None, side: int | None = None) -> list[Guide]:
    """The guides of a path, folder or glob, with a notice for each that was resized.

    Args:
        guide: the path, folder or glob.
        shape: (channels, size) of the model's images.
        window: the size of the windows that guides are edited in at their own proportions; None for the model's size.
        side: see `read_large_guide`.
    """
    channels, size = shape
    if window is None:
        guides = [read_guide(path, size, channels) for path in find_guides(guide)]
    else:
        guides = [read_large_guide(path, window, channels, side) for path in find_guides(guide)]
    for item in guides:
        if item.resized:
            width, height = item.original_size
            cropped = " cropped to its central square and" if width != height and not item.whole else ""
            now = "x".join(str(length) for length in reversed(item.image.shape[-2:]))
            whose = "" if item.whole else "the model's "
            logger.info("%s is %dx%d,%s resized to %s%s", item.path, width, height, cropped, whose, now)
    names = [item.path.stem for item in guides]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise ConfigError(f"guides need names of their own, got several called {', '.join(twice)}")
    return guides


READERS: dict[str, Callable[[Path, Guide], Area]] = {"mask": read_mask, "strength": read_strength}


def read_areas(kind: str, area: str | None, guides: Sequence[Guide]) -> list[Area | None]:
    """The mask or strength map of each guide, its own where none is given, with a notice of those that have none.

    Args:
        kind: "mask" or "strength".
        area: a file or folder, see `find_areas`.
        guides: the guides.
    """
    pairs = list(zip(guides, find_areas(kind, area, guides), strict=True))
    own = [guide.mask if kind == "mask" or guide.mask is None else guide.mask.float() for guide in guides]
    areas = [its if file is None else READERS[kind](file, guide) for its, (guide, file) in zip(own, pairs, strict=True)]
    free = [guide.path.stem for guide, found in zip(guides, areas, strict=True) if found is None]
    if free and area is not None:
        logger.info("no %s for %s: edited everywhere", kind, ", ".join(free))
    return areas


def find_areas(kind: str, area: str | None, guides: Sequence[Guide]) -> list[Path | None]:
    """The file for each guide: one for all, or a folder's file of the guide's name, where there is one.

    Args:
        kind: what messages call it.
        area: a file, a folder, or None.
        guides: the guides.

    Raises:
        ConfigError: if there is no such file, or none for any guide.
    """
    if area is None:
        return [None] * len(guides)
    path = Path(area)
    if not path.is_dir():
        if not path.exists():
            raise ConfigError(f"there is no {kind} at {area}; give an image or a folder, white marks what may change")
        return [path] * len(guides)
    named = {file.stem: file for file in find_guides(area)}
    files = [named.get(guide.path.stem) for guide in guides]
    if all(file is None for file in files):
        raise ConfigError(f"no {kind} in {area} is named like a guide; {guides[0].path.stem}.png would be")
    return files
