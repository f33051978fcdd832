"""Pictures of edits: single images, and sheets of them with titles, such as a row for each guide."""

from __future__ import annotations

from collections.abc import Sequence

from jaxtyping import Float, UInt8
from PIL import Image, ImageDraw, ImageFont, ImageOps
from torch import Tensor

from sdedit_pl.data.images import bytes_from_images
from sdedit_pl.editing.runs import Edited

MARGIN = 6
TITLE_HEIGHT = 20
SMALLEST_CELL, LARGEST_CELL = 128, 512


def to_picture(image: Float[Tensor, "C H W"] | UInt8[Tensor, "C H W"]) -> Image.Image:
    """An image in [-1, 1], clamped, or in 0..255, as 8-bit RGB or grey."""
    pixels = (bytes_from_images(image) if image.is_floating_point() else image).permute(1, 2, 0).cpu().numpy()
    return Image.fromarray(pixels[..., 0] if pixels.shape[-1] == 1 else pixels)


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


def cell_side(picture: Image.Image) -> int:
    """The side of the square to show pictures like this one in: enlarged by a whole factor where they are small."""
    longer = max(picture.size)
    return min(longer * max(1, -(-SMALLEST_CELL // longer)), LARGEST_CELL)


def grid(
    rows: Sequence[Sequence[Image.Image | None]],
    titles: Sequence[str],
    cell: int,
    columns: int = 1,
    *,
    row_titles: Sequence[str] = (),
) -> Image.Image:
    """Pictures in rows under titles.

    Args:
        rows: the pictures of each row; None leaves a place free.
        titles: one for each place of a row.
        cell: the side, in pixels, of the square that each picture is fitted into.
        columns: how many rows stand beside each other.
        row_titles: one for each row, on its left, if any.
    """
    font = ImageFont.load_default()
    gutter = _width(row_titles, font)
    step = cell + MARGIN
    block = gutter + step * len(titles) + 3 * MARGIN
    lines = -(-len(rows) // columns)
    sheet = Image.new("RGB", (block * columns - 2 * MARGIN, TITLE_HEIGHT + step * lines + MARGIN), "white")
    draw = ImageDraw.Draw(sheet)
    for index, row in enumerate(rows):
        left, top = block * (index // lines) + MARGIN, TITLE_HEIGHT + step * (index % lines)
        if row_titles:
            draw.text((left, top + cell // 2), row_titles[index], fill="black", font=font, anchor="lm")
            left += gutter
        for column, picture in enumerate(row):
            if picture is not None:
                scaled = ImageOps.contain(picture.convert("RGB"), (cell, cell), Image.Resampling.BICUBIC)
                centred = ((cell - scaled.width) // 2, (cell - scaled.height) // 2)
                sheet.paste(scaled, (left + step * column + centred[0], top + centred[1]))
        if index % lines == 0:
            for column, title in enumerate(titles):
                draw.text((left + step * column + 2, 4), title, fill="black", font=font)
    return sheet


def _width(titles: Sequence[str], font: ImageFont.FreeTypeFont | ImageFont.ImageFont) -> int:
    """The room that the titles of rows take with their margin; none for no titles."""
    return max((round(font.getlength(title)) + 2 * MARGIN for title in titles), default=0)


def _marked(edit: Edited) -> Image.Image:
    """The guide, pixels faded towards grey as far as they are kept."""
    if edit.area is None:
        return to_picture(edit.guide.image[0])
    return to_picture((edit.guide.image * (1 + edit.area.cpu()) / 2)[0])
