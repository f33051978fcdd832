"""Contact sheets: which picture is in which cell."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from sdedit_pl.data.image_format import PixelFormat
from sdedit_pl.editing.contact_sheets import contact_sheet, demo_sheet, variation_sheet
from sdedit_pl.editing.many_guides import Edited
from sdedit_pl.guides.guide_files import Guide
from sdedit_pl.picture_grid import MARGIN, SMALLEST_CELL, title_height

STEP = SMALLEST_CELL + MARGIN
TITLE_HEIGHT = title_height(SMALLEST_CELL)


def flat(value: float) -> torch.Tensor:
    return torch.full((1, 3, 16, 16), value)


def edited(area: torch.Tensor | None = None, guide: float = 0.5, samples: tuple[float, float] = (0.0, 1.0)) -> Edited:
    """An edit whose pictures are flat: guide 0.5, noised guide -1, samples 0 and 1."""
    pictures = torch.cat([flat(value) for value in samples])
    return Edited(Guide(Path("g.png"), flat(guide), (16, 16)), area, flat(-1.0), pictures, (4, 5))


def cell(sheet: Image.Image, row: int, column: int, left: int = 0) -> np.ndarray:
    """The pixels of a picture of a sheet."""
    x, y = left + MARGIN + STEP * column, TITLE_HEIGHT + STEP * row
    return np.array(sheet.crop((x, y, x + SMALLEST_CELL, y + SMALLEST_CELL)))


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


def test_kept_pixels_are_faded_in_the_window_that_the_sheet_shows() -> None:
    pixels = PixelFormat("float32", range=(0.0, 4.0), shown=(2,), window=(0.0, 2.0))
    whole = edited(area=torch.zeros(1, 1, 16, 16), guide=-0.5, samples=(-0.5, 1.0))
    sheet = contact_sheet([replace(whole, guide=whole.guide._replace(format=pixels))])
    assert [cell(sheet, 0, column)[0, 0, 0] for column in (0, 2, 3)] == [128, 128, 255]
    whole = replace(whole, guide=whole.guide._replace(format=pixels, image=flat(0.0)))
    assert cell(contact_sheet([whole]), 0, 0)[0, 0, 0] == 191  # half way from white to grey


@pytest.mark.parametrize(("guides", "columns"), [(19, 4), (5, 3), (3, 4)])
def test_a_demo_sheet_fills_its_rectangle_and_shows_one_noised_guide(guides: int, columns: int) -> None:
    sheet = demo_sheet([edited(guide=0.5)] * guides, 0.5)
    block, lines = 3 * STEP + 3 * MARGIN, (guides + 1) // columns
    assert sheet.size == (columns * block - 2 * MARGIN, TITLE_HEIGHT + lines * STEP + MARGIN)
    for place in range(guides + 1):
        left, row = block * (place // lines), place % lines
        assert (cell(sheet, row, 0, left)[:200, :200] == 191).all()
        noised = (cell(sheet, row, 1, left)[:200, :200] == 0).all()
        assert noised == (place == guides)


def test_kept_pixels_of_the_guide_are_faded() -> None:
    mask = torch.zeros(1, 1, 16, 16, dtype=torch.bool)
    mask[..., :8] = True
    guide = cell(contact_sheet([edited(mask)]), 0, 0)
    assert (guide[:, : SMALLEST_CELL // 2 - 32] == 191).all() and (guide[:, SMALLEST_CELL // 2 + 32 :] == 159).all()


@pytest.mark.parametrize(("size", "width"), [(16, 256), (64, 256), (100, 300), (128, 256), (256, 256)])
def test_small_images_are_enlarged_by_whole_factors(size: int, width: int) -> None:
    image = torch.zeros(1, 3, size, size)
    sheet = contact_sheet([Edited(Guide(Path("g.png"), image, (size, size)), None, image, image, (0,))])
    assert sheet.width == MARGIN + 3 * (width + MARGIN)


def test_a_strength_map_fades_the_guide_gradually() -> None:
    strength = torch.linspace(0, 1, 16).expand(1, 1, 16, 16)
    guide = cell(contact_sheet([edited(strength)]), 0, 0).astype(int)[64, :, 0]
    np.testing.assert_allclose(guide[[0, 128, -1]], [159, 176, 191], atol=2)
    assert (np.diff(guide) >= 0).all()


def test_a_variation_sheet_has_a_row_for_each_t0_and_a_column_for_each_seed() -> None:
    first = [edited(samples=(level, -level)) for level in (0.2, 0.6)]
    second = [edited(guide=-0.5, samples=(level, -level)) for level in (0.4, 0.8)]
    sheet = variation_sheet([dict(zip((0.3, "sigma:1.2"), edits, strict=True)) for edits in (first, second)])
    gutter = sheet.width - MARGIN - 3 * STEP
    assert gutter > 0 and sheet.height == TITLE_HEIGHT + 4 * STEP + MARGIN
    pixels = np.array(sheet)
    for row, (guide, level) in enumerate(((191, 0.2), (None, 0.6), (64, 0.4), (None, 0.8))):
        expected = [255 if guide is None else guide, round((level + 1) * 127.5), round((1 - level) * 127.5)]
        for column, value in enumerate(expected):
            assert (cell(sheet, row, column, left=gutter) == value).all(), (row, column)
        title = pixels[TITLE_HEIGHT + STEP * row :][:SMALLEST_CELL, : MARGIN + gutter]
        assert (title < 128).any() and (title[:, -MARGIN:] == 255).all(), "a row's title is missing or too long"
    for column in range(3):
        left = MARGIN + gutter + STEP * column
        assert (pixels[:TITLE_HEIGHT, left : left + SMALLEST_CELL] < 128).any(), "no title"
