"""Contact sheets of edits: guides beside their samples."""

from __future__ import annotations

from collections.abc import Sequence

from PIL import Image

from sdedit_pl.editing.many_guides import Edited
from sdedit_pl.picture_grid import cell_side, grid, to_picture


def contact_sheet(edits: Sequence[Edited], *, columns: int = 1) -> Image.Image:
    """Guide, noised guide and samples of each edit in a row; in the guide, pixels that are kept are faded.

    Args:
        edits: one row each.
        columns: how many edits stand beside each other.
    """
    titles = ["guide", f"guide at t0, seed {edits[0].seeds[0]}", *(f"seed {seed}" for seed in edits[0].seeds)]
    rows = [[_marked(edit), to_picture(edit.noised[0]), *map(to_picture, edit.samples)] for edit in edits]
    return grid(rows, titles, cell_side(rows[0][0]), columns)


def variation_sheet(edits: Sequence[Sequence[Edited]], t0s: Sequence[float | str]) -> Image.Image:
    """Samples of guides at several t0: a row for each t0, a column for each seed, and the guide once beside them.

    Args:
        edits: for each guide its edits with the same seeds, one for each t0.
        t0s: the rows' t0, as `SDEdit` takes it.

    Raises:
        ValueError: a guide that has not one edit for each t0.
    """
    rows: list[list[Image.Image | None]] = []
    for variations in edits:
        if len(variations) != len(t0s):
            raise ValueError(f"{len(t0s)} t0 make {len(t0s)} edits of a guide, got {len(variations)}")
        for index, edit in enumerate(variations):
            rows.append([None if index else _marked(edit), *map(to_picture, edit.samples)])
    titles = ["guide", *(f"seed {seed}" for seed in edits[0][0].seeds)]
    row_titles = [f"t0 = {t0}" for t0 in t0s] * len(edits)
    return grid(rows, titles, cell_side(_marked(edits[0][0])), row_titles=row_titles)


def _marked(edit: Edited) -> Image.Image:
    """The guide, pixels faded towards grey as far as they are kept."""
    if edit.area is None:
        return to_picture(edit.guide.image[0])
    return to_picture((edit.guide.image * (1 + edit.area.cpu()) / 2)[0])
