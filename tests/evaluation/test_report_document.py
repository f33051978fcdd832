"""The report as HTML and Markdown: escaped text, embedded figures, and tables of the measures present."""

from __future__ import annotations

import base64
import io
import re
from pathlib import Path

import pytest
from PIL import Image

from sdedit_pl.evaluation.report_document import Figure, ReportDocument, Section, Table, markdown_table
from sdedit_pl.evaluation.report_sections import chosen_rows, few_images, measures_table

PICTURE = Image.new("RGB", (3, 2), "red")


def report() -> ReportDocument:
    table = Table(["name", "value"], [["a|b", "1 < 2"], ["SDEdit", "<b>"]])
    figure = Figure("dots", 'red & "round"', PICTURE)
    return ReportDocument("Evaluation of <x>", [Section("One", ["<urlopen error>"], table, [figure])], "few")


def test_the_page_holds_its_pictures_and_escapes_text(tmp_path: Path) -> None:
    report().write(tmp_path, {})
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert "<title>Evaluation of &lt;x&gt;</title>" in page and "&lt;urlopen error&gt;" in page and "<b>" not in page
    assert '<p class="warning">few</p>' in page and page.index("<img") < page.index("<tr><td>SDEdit</td>")
    assert "font-weight" not in page and "figure img { width: 100%" in page
    content = base64.b64decode(page.partition("base64,")[2].partition('"')[0])
    assert content == (tmp_path / "figures" / "dots.png").read_bytes()
    assert Image.open(io.BytesIO(content)).getpixel((0, 0)) == (255, 0, 0)
    assert "http" not in page


def test_markdown_escapes_text_in_tables(tmp_path: Path) -> None:
    text = report().markdown()
    assert "| a/b | 1 &lt; 2 |\n| SDEdit | &lt;b> |" in text and "&lt;urlopen error>" in text
    assert text.startswith("# Evaluation of &lt;x>\n\n> few\n")
    assert "![dots](figures/dots.png)" in text
    assert markdown_table(Table(["x"], [])) == "| x |\n| --- |"


def test_a_table_shows_only_measures_that_exist() -> None:
    first = {"kid": 0.25, "kid_error": 0.125, "kid_low": None, "kid_high": None, "squared_l2": 3.0}
    table = measures_table({"one": first, "two": {"kid": 0.5, "kid_error": None, "masked_lpips": 0.03}}, "method")
    assert table.titles == ["method", "KID ↓", "L2 to guide ↓", "masked LPIPS ↓"]
    assert table.rows == [["one", "0.2500 ± 0.1250", "3.00", "-"], ["two", "0.5000", "-", "0.0300"]]


@pytest.mark.parametrize(("count", "words"), [(99, "FID.*KID"), (2000, "FID"), (10_000, "^$")])
def test_few_images_get_a_warning(count: int, words: str) -> None:
    assert re.search(words, few_images(count)) and ("KID" in few_images(count)) == (count < 1000)


@pytest.mark.parametrize(("count", "expected"), [(3, [0, 1, 2]), (8, list(range(8))), (32, list(range(2, 32, 4)))])
def test_shown_images_are_spread_evenly(count: int, expected: list[int]) -> None:
    assert chosen_rows(count) == expected
