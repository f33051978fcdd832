"""Converts image tensors to pictures, and arranges pictures in grids with titles."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import Any

from jaxtyping import Float, UInt8
from PIL import Image, ImageDraw, ImageFont, ImageOps
from torch import Tensor

from sdedit_pl.data.image_format import PixelFormat, bytes_from_images, shown_bands

MARGIN = 6
SMALLEST_CELL, LARGEST_CELL = 256, 512


def to_picture(
    image: Float[Tensor, "C H W"] | UInt8[Tensor, "C H W"], format: PixelFormat | None = None
) -> Image.Image:
    """An 8-bit RGB or grey picture of a uint8 image, or of a float image, which is clamped to [-1, 1].

    Of an image with other bands, it shows those that `shown_bands` chooses. Raises ValueError if a value is not finite.
    """
    if image.is_floating_point() and not image.isfinite().all():
        raise ValueError("an image has values that are not finite; try precision=float32, or another checkpoint")
    image = shown_bands(image, format)
    pixels = (bytes_from_images(image) if image.is_floating_point() else image).permute(1, 2, 0).cpu().numpy()
    return Image.fromarray(pixels[..., 0] if pixels.shape[-1] == 1 else pixels)


def png_bytes(picture: Image.Image, **options: Any) -> bytes:
    """The picture as a PNG file without metadata; `options` are Pillow's."""
    file = io.BytesIO()
    picture.save(file, "PNG", **options)
    return file.getvalue()


def cell_side(picture: Image.Image) -> int:
    longer = max(picture.size)
    return min(longer * max(1, -(-SMALLEST_CELL // longer)), LARGEST_CELL)


def title_height(cell: int) -> int:
    return _text_size(cell) + 10


def picture_grid(
    rows: Sequence[Sequence[Image.Image | None]],
    titles: Sequence[str],
    cell: int,
    columns: int = 1,
    *,
    row_titles: Sequence[str] = (),
    heading: str = "",
) -> Image.Image:
    """Arranges pictures in rows under titles.

    Args:
        rows: the pictures of each row; None leaves a cell empty.
        cell: side, in pixels, of the square cell that each picture is fitted into.
        row_titles: titles on the left of the rows, one for each row or none.
    """
    font = ImageFont.load_default(_text_size(cell))
    gutter = max((round(font.getlength(title)) + 2 * MARGIN for title in row_titles), default=0)
    step = cell + MARGIN
    block = gutter + step * len(titles) + 3 * MARGIN
    lines = -(-len(rows) // columns)
    headed = title_height(cell) if heading else 0
    begin = headed + (title_height(cell) if any(titles) else MARGIN)
    sheet = Image.new("RGB", (block * columns - 2 * MARGIN, begin + step * lines + MARGIN), "white")
    draw = ImageDraw.Draw(sheet)
    draw.text((MARGIN + 2, 4), heading, fill="black", font=font)
    for index, row in enumerate(rows):
        left, top = block * (index // lines) + MARGIN, begin + step * (index % lines)
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
                draw.text((left + step * column + 2, headed + 4), title, fill="black", font=font)
    return sheet


def captioned(picture: Image.Image, caption: str, cell: int) -> Image.Image:
    side = cell - title_height(cell)
    filled = Image.new("RGB", (cell, cell), "white")
    filled.paste(ImageOps.contain(picture.convert("RGB"), (cell, side), Image.Resampling.BICUBIC))
    draw = ImageDraw.Draw(filled)
    draw.text((2, side + 4), caption, fill="black", font=ImageFont.load_default(_text_size(cell)))
    return filled


def _text_size(cell: int) -> int:
    return min(max(10, cell // 11), 32) if cell >= SMALLEST_CELL else 10
