"""Contact sheets of edits: guides beside their samples."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from PIL import Image

from sdedit_pl.data.image_format import shown_bands
from sdedit_pl.editing.many_guides import Edited
from sdedit_pl.picture_grid import captioned, cell_side, picture_grid, to_picture

MOST_COLUMNS = 4


def contact_sheet(edits: Sequence[Edited]) -> Image.Image:
    """A row for each edit: guide, noised guide and samples. Kept pixels are faded."""
    seeds = _seed_titles(edits)
    titles = ["guide", f"guide at t0, {seeds[0]}", *seeds]
    rows = [[_marked(edit), to_picture(edit.noised[0], edit.guide.format), *_pictures(edit)] for edit in edits]
    return picture_grid(rows, titles, cell_side(rows[0][0]))


def demo_sheet(edits: Sequence[Edited], t0: float | str, columns: int | None = None) -> Image.Image:
    """Guides and samples in `columns` (None: 2 to 4, for the fewest empty cells), then a guide, noised and edited."""
    cell, first = cell_side(_marked(edits[0])), edits[0]
    rows = [[_marked(edit), *_pictures(edit)] for edit in edits]
    example = (_marked(first), *(to_picture(images[0], first.guide.format) for images in (first.noised, first.samples)))
    captions = ("a guide", f"noised to t0 = {t0}", "and denoised")
    rows.append([captioned(*pair, cell) for pair in zip(example, captions, strict=True)])
    titles = ["guide", *(f"seed {seed}" for seed in first.seeds), *[""] * (2 - len(first.seeds))]
    columns = columns or min(range(2, MOST_COLUMNS + 1), key=lambda count: (-len(rows) % count, -count))
    return picture_grid(rows, titles, cell, columns)


def variation_sheet(edits: Sequence[Mapping[float | str, Edited]]) -> Image.Image:
    """A row for each guide and t0, a column for each seed; `edits` has, for each guide, its edits by t0."""
    rows = [
        [None if index else _marked(edit), *_pictures(edit)]
        for variations in edits
        for index, edit in enumerate(variations.values())
    ]
    titles = ["guide", *_seed_titles([edit for variations in edits for edit in variations.values()])]
    row_titles = [f"t0 = {t0}" for variations in edits for t0 in variations]
    first = next(iter(edits[0].values()))
    return picture_grid(rows, titles, cell_side(_marked(first)), row_titles=row_titles)


def _seed_titles(edits: Sequence[Edited]) -> list[str]:
    """The seeds of the columns, or numbers if the seeds of edits differ."""
    seeds = edits[0].seeds
    if any(edit.seeds != seeds for edit in edits):
        return [f"sample {number}" for number in range(1, len(seeds) + 1)]
    return [f"seed {seed}" for seed in seeds]


def _marked(edit: Edited) -> Image.Image:
    image = shown_bands(edit.guide.image, edit.guide.format)
    return to_picture((image if edit.area is None else image * (1 + edit.area.cpu()) / 2)[0])


def _pictures(edit: Edited) -> list[Image.Image]:
    return [to_picture(sample, edit.guide.format) for sample in edit.samples]
