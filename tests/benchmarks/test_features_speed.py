"""The measurement of features: runs on a few images, reports what it measured, and refuses bad input."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / "benchmarks"))

import features  # noqa: E402

FEW = ["images=3", "batch=2", "rounds=2", "features.size=32", "size=16"]


def test_times_features_of_a_few_images(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert features.main([*FEW, f"out={tmp_path / 'out'}"]) == 0
    numbers = json.loads((tmp_path / "out" / "results.json").read_text(encoding="utf-8"))
    ways = [features.BARE, features.STREAMED, "cache, a new set", "cache, a known set"]
    assert list(numbers["seconds"]) == ways and all(len(seconds) == 2 for seconds in numbers["seconds"].values())
    assert numbers["features"].endswith("size=32") and (tmp_path / "out" / "features.png").is_file()
    report = (tmp_path / "out" / "report.md").read_text(encoding="utf-8")
    assert report.strip() in capsys.readouterr().out
    assert all(f"| {way} | " in report for way in ways)


def test_the_report_says_how_we_stand() -> None:
    numbers = {
        "settings": {"rounds": 2},
        "machine": {"cores": 2},
        "features": "colour",
        "images": 10,
        "seconds": {features.BARE: [1.0, 1.0], features.STREAMED: [1.25, 1.25]},
    }
    report = features.report(numbers)
    assert "| images to features | 125.00 [125.00, 125.00] | 0.800 [0.800, 0.800] |" in report
    assert "at 0.9 or more of the bare network's throughput; 0.800 was measured." in report


@pytest.mark.parametrize(
    ("argument", "message"),
    [
        ("rounds=0", "rounds must be at least 1, got 0"),
        ("features=inceptoin", "inception"),
        ("features.path=x", "path"),
    ],
)
def test_refuses_bad_input(tmp_path: Path, capsys: pytest.CaptureFixture[str], argument: str, message: str) -> None:
    assert features.main([*FEW, f"out={tmp_path / 'out'}", argument]) == 2
    errors = capsys.readouterr().err
    assert errors.startswith("error: ") and message in errors and not (tmp_path / "out").exists()
