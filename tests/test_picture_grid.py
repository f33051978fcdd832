"""Images as pictures, and the places of pictures in a grid."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

from sdedit_pl.data.image_format import bytes_from_images
from sdedit_pl.picture_grid import MARGIN, SMALLEST_CELL, captioned, cell_side, picture_grid, title_height, to_picture

COLOURS = {"red": (255, 0, 0), "green": (0, 128, 0), "blue": (0, 0, 255)}
STEP = SMALLEST_CELL + MARGIN
TITLE_HEIGHT = title_height(SMALLEST_CELL)


def cell(sheet: Image.Image, row: int, column: int, left: int = 0) -> np.ndarray:
    """The pixels of a picture of a sheet."""
    x, y = left + MARGIN + STEP * column, TITLE_HEIGHT + STEP * row
    return np.array(sheet.crop((x, y, x + SMALLEST_CELL, y + SMALLEST_CELL)))


def test_pixels_are_rounded_and_clamped_and_bytes_come_back() -> None:
    values = torch.tensor([-3.0, -1.0, -0.5, 0.0, 1 / 255, 1.0, 3.0])
    pixels = np.array(to_picture(values.expand(3, 1, -1)))
    assert pixels.tolist() == [[[level] * 3 for level in (0, 0, 64, 128, 128, 255, 255)]]
    levels = torch.arange(256).expand(3, 1, -1)
    assert np.array_equal(np.array(to_picture(levels / 127.5 - 1))[0, :, 0], np.arange(256))
    assert np.array_equal(np.array(to_picture(bytes_from_images(levels / 127.5 - 1)))[0, :, 0], np.arange(256))


def test_one_channel_is_a_grey_picture() -> None:
    picture = to_picture(torch.zeros(1, 4, 5))
    assert picture.mode == "L" and picture.size == (5, 4)


def test_pictures_are_in_the_cells_of_their_rows_and_titles() -> None:
    rows = [[Image.new("RGB", (4, 4), name) for name in COLOURS] for _ in range(2)]
    sheet = picture_grid(rows, list(COLOURS), SMALLEST_CELL)
    for row in range(2):
        for column, colour in enumerate(COLOURS.values()):
            assert (cell(sheet, row, column) == colour).all()


def test_cells_can_be_empty_and_every_column_has_row_titles() -> None:
    red = Image.new("RGB", (4, 4), "red")
    sheet = picture_grid(
        [[red, None], [None, red]], ["a", "b"], SMALLEST_CELL, columns=2, row_titles=["first", "second one"]
    )
    gutter = (sheet.width + 2 * MARGIN) // 2 - 2 * STEP - 3 * MARGIN
    block = gutter + 2 * STEP + 3 * MARGIN
    for index, column in ((0, 0), (1, 1)):
        left = block * index + gutter
        assert (cell(sheet, 0, column, left) == COLOURS["red"]).all() and (
            cell(sheet, 0, 1 - column, left) == 255
        ).all()
        name = np.array(sheet)[TITLE_HEIGHT:, block * index : block * index + gutter]
        assert (name < 128).any()


def test_a_heading_stands_above_the_titles_and_titles_fit_their_cells() -> None:
    rows = [[Image.new("RGB", (4, 4), "red")]]
    plain, headed = (picture_grid(rows, ["seed 0"], SMALLEST_CELL, heading=text) for text in ("", "step 1,000"))
    assert headed.height == plain.height + TITLE_HEIGHT
    assert (np.array(headed)[:TITLE_HEIGHT] < 128).any() and (np.array(headed)[TITLE_HEIGHT:] == np.array(plain)).all()


def test_pictures_that_are_not_square_keep_their_proportions() -> None:
    wide = Image.new("RGB", (32, 16), "red")
    pixels = cell(picture_grid([[wide]], ["a"], cell_side(wide)), 0, 0)
    assert (pixels[64:192] == COLOURS["red"]).all() and (pixels[:64] == 255).all() and (pixels[192:] == 255).all()


@pytest.mark.parametrize(("size", "side"), [((64, 8), 256), ((100, 130), 260), ((700, 300), 512)])
def test_cells_hold_the_longer_side_of_a_picture(size: tuple[int, int], side: int) -> None:
    assert cell_side(Image.new("RGB", size)) == side


def test_images_that_are_not_finite_are_refused() -> None:
    image = torch.zeros(3, 4, 4)
    image[1, 2, 3] = float("nan")
    with pytest.raises(ValueError, match="not finite; try precision=float32"):
        to_picture(image)


def test_a_caption_hides_nothing_of_its_picture() -> None:
    picture = Image.new("RGB", (64, 64), "red")
    cell = captioned(picture, "", 120)
    assert cell.size == (120, 120)
    side = 120 - title_height(120)
    assert cell.crop((0, 0, side, side)).getcolors() == [(side * side, (255, 0, 0))]
    assert cell.getpixel((0, side)) == (255, 255, 255)
