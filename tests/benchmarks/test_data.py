"""The measurement of the data pipeline: runs, gives its numbers, and refuses bad input."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))

import data as benchmark


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    (tmp_path / "photos").mkdir()
    for number in range(6):
        pixels = np.random.default_rng(number).integers(0, 256, (20, 20, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / "photos" / f"{number}.png")
    return tmp_path / "photos"


def test_it_gives_a_row_for_each_size_and_encoding(photos: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = photos.parent / "out"
    arguments = [f"src={photos}", f"out={out}", "sizes=[8,16]", "encodings=[png]", "images=8", "batch=4", "rounds=2"]
    assert benchmark.main(arguments) == 0
    rows = json.loads((out / "data.json").read_text())
    assert [(row["size"], row["encoding"], len(row["bare"]), len(row["pipeline"])) for row in rows] == [
        (8, "png", 2, 2), (16, "png", 2, 2)
    ]  # fmt: skip
    assert all(min(row["bare"] + row["pipeline"]) > 0 for row in rows)
    assert (out / "data.md").read_text() in capsys.readouterr().out
    assert benchmark.main(arguments) == 2 and "already holds files" in capsys.readouterr().err


def test_the_ratio_is_the_median_over_rounds() -> None:
    assert benchmark.Row(8, "png", [100.0, 50.0, 200.0], [90.0, 50.0, 100.0]).ratio == 0.9


@pytest.mark.parametrize(
    ("argument", "message"),
    [
        ("rounds=0", "rounds must be at least 1, got 0"),
        ("src=nowhere", "nowhere"),
        ("encodings=[gif]", "encodings[0] must be 'png'"),
    ],
)
def test_bad_input_is_refused(photos: Path, argument: str, message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert benchmark.main([f"src={photos}", f"out={photos.parent / 'out'}", "images=1", "batch=1", argument]) == 2
    assert message in capsys.readouterr().err and not (photos.parent / "out").exists()
