"""Pictures of edits: single images, and contact sheets with a row for each guide."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from sdedit_pl.editing.runs import Edited

MARGIN = 6
TITLE_HEIGHT = 20
SMALLEST_CELL = 128


def to_picture(image: Float[Tensor, "C H W"]) -> Image.Image:
    """An image in [-1, 1], clamped, as 8-bit RGB or grey."""
    pixels = ((image.clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8).permute(1, 2, 0).cpu().numpy()
    return Image.fromarray(pixels[..., 0] if pixels.shape[-1] == 1 else pixels)


def contact_sheet(edits: Sequence[Edited], *, columns: int = 1) -> Image.Image:
    """Guide, noised guide and samples of each edit in a row; in the guide, pixels that are kept are faded.

    Args:
        edits: one row each.
        columns: how many edits stand beside each other.
    """
    titles = ["guide", f"guide at t0, seed {edits[0].seeds[0]}", *(f"seed {seed}" for seed in edits[0].seeds)]
    rows = [[_marked(edit), to_picture(edit.noised[0]), *map(to_picture, edit.samples)] for edit in edits]
    size = rows[0][0].width
    return grid(rows, titles, size * max(1, -(-SMALLEST_CELL // size)), columns)


def grid(rows: Sequence[Sequence[Image.Image]], titles: Sequence[str], cell: int, columns: int = 1) -> Image.Image:
    """Pictures in rows under titles, each `cell` pixels wide, `columns` rows beside each other."""
    step = cell + MARGIN
    block = step * len(titles) + 3 * MARGIN
    lines = -(-len(rows) // columns)
    sheet = Image.new("RGB", (block * columns - 2 * MARGIN, TITLE_HEIGHT + step * lines + MARGIN), "white")
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default()
    for index, row in enumerate(rows):
        left, top = block * (index // lines) + MARGIN, TITLE_HEIGHT + step * (index % lines)
        for column, picture in enumerate(row):
            scaled = picture.convert("RGB").resize((cell, cell), Image.Resampling.BICUBIC)
            sheet.paste(scaled, (left + step * column, top))
        if index % lines == 0:
            for column, title in enumerate(titles):
                draw.text((left + step * column + 2, 4), title, fill="black", font=font)
    return sheet


def _marked(edit: Edited) -> Image.Image:
    """The guide, pixels that are kept faded towards grey."""
    if edit.mask is None:
        return to_picture(edit.guide.image[0])
    faded = edit.guide.image * 0.5
    return to_picture(torch.where(edit.mask.cpu(), edit.guide.image, faded)[0])
