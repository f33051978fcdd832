"""Pictures of edits: pixels and the places of contact sheets."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from sdedit_pl.editing.files import Guide
from sdedit_pl.editing.runs import Edited
from sdedit_pl.editing.sheets import MARGIN, SMALLEST_CELL, TITLE_HEIGHT, contact_sheet, grid, to_picture

COLOURS = {"red": (255, 0, 0), "green": (0, 128, 0), "blue": (0, 0, 255)}
STEP = SMALLEST_CELL + MARGIN


def flat(value: float) -> torch.Tensor:
    return torch.full((1, 3, 16, 16), value)


def edited(mask: torch.Tensor | None = None, guide: float = 0.5) -> Edited:
    """An edit whose pictures are flat: guide 0.5, noised guide -1, samples 0 and 1."""
    return Edited(
        Guide(Path("g.png"), flat(guide), (16, 16)), mask, flat(-1.0), torch.cat([flat(0.0), flat(1.0)]), (4, 5)
    )


def cell(sheet: Image.Image, row: int, column: int, left: int = 0) -> np.ndarray:
    """The pixels of a picture of a sheet."""
    x, y = left + MARGIN + STEP * column, TITLE_HEIGHT + STEP * row
    return np.array(sheet.crop((x, y, x + SMALLEST_CELL, y + SMALLEST_CELL)))


def test_pixels_are_rounded_and_clamped() -> None:
    values = torch.tensor([-3.0, -1.0, -0.5, 0.0, 1 / 255, 1.0, 3.0])
    pixels = np.array(to_picture(values.expand(3, 1, -1)))
    assert pixels.tolist() == [[[level] * 3 for level in (0, 0, 64, 128, 128, 255, 255)]]


def test_bytes_come_back() -> None:
    levels = torch.arange(256).expand(3, 1, -1)
    assert np.array_equal(np.array(to_picture(levels / 127.5 - 1))[0, :, 0], np.arange(256))


def test_one_channel_is_a_grey_picture() -> None:
    picture = to_picture(torch.zeros(1, 4, 5))
    assert picture.mode == "L" and picture.size == (5, 4)


def test_a_contact_sheet_is_a_row_of_guide_noised_guide_and_samples() -> None:
    sheet = contact_sheet([edited(), edited(guide=-0.5)])
    assert sheet.size == (MARGIN + 4 * STEP, TITLE_HEIGHT + 2 * STEP + MARGIN)
    for row, guide in enumerate((191, 64)):
        for column, level in enumerate((guide, 0, 128, 255)):
            assert (cell(sheet, row, column) == level).all(), (row, column)
    gap = np.array(sheet)[TITLE_HEIGHT:, MARGIN + SMALLEST_CELL : MARGIN + STEP]
    assert (gap == 255).all(), "pictures must not touch"
    titles = np.array(sheet)[:TITLE_HEIGHT]
    for column in range(4):
        assert (titles[:, MARGIN + STEP * column : MARGIN + STEP * column + SMALLEST_CELL] < 128).any(), "no title"


def test_columns_stand_beside_each_other_from_top_to_bottom() -> None:
    sheet = contact_sheet([edited(guide=value) for value in (-1.0, 0.0, 1.0)], columns=2)
    block = 4 * STEP + 3 * MARGIN
    assert sheet.size == (2 * block - 2 * MARGIN, TITLE_HEIGHT + 2 * STEP + MARGIN)
    assert (cell(sheet, 0, 0) == 0).all() and (cell(sheet, 1, 0) == 128).all()
    assert (cell(sheet, 0, 0, left=block) == 255).all()


def test_kept_pixels_of_the_guide_are_faded() -> None:
    mask = torch.zeros(1, 1, 16, 16, dtype=torch.bool)
    mask[..., :8] = True
    guide = cell(contact_sheet([edited(mask)]), 0, 0)
    assert (guide[:, : SMALLEST_CELL // 2 - 16] == 191).all() and (guide[:, SMALLEST_CELL // 2 + 16 :] == 159).all()


@pytest.mark.parametrize(("size", "width"), [(16, 128), (64, 128), (100, 200), (128, 128), (256, 256)])
def test_small_images_are_enlarged_by_whole_factors(size: int, width: int) -> None:
    image = torch.zeros(1, 3, size, size)
    sheet = contact_sheet([Edited(Guide(Path("g.png"), image, (size, size)), None, image, image, (0,))])
    assert sheet.width == MARGIN + 3 * (width + MARGIN)


def test_a_grid_puts_pictures_where_their_rows_and_titles_are() -> None:
    rows = [[Image.new("RGB", (4, 4), name) for name in COLOURS] for _ in range(2)]
    sheet = grid(rows, list(COLOURS), SMALLEST_CELL)
    for row in range(2):
        for column, colour in enumerate(COLOURS.values()):
            assert (cell(sheet, row, column) == colour).all()
