"""The measurement of networks: runs on tiny ones, reports what it measured, and refuses bad input."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / "benchmarks"))

import network  # noqa: E402
import speed_report  # noqa: E402

TINY = ["cases=[ncsnpp]", "libraries=[sdedit_pl]", "channels=8", "size=8", "batch=1", "rounds=2", "steps=2"]


def test_times_and_memory_of_a_tiny_network(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(network, "peak_memory", lambda prepare, *arguments: 10**6)  # else a process for each
    assert network.main([*TINY, f"out={tmp_path / 'out'}"]) == 0
    assert {file.name for file in (tmp_path / "out").iterdir()} >= {"results.json", "report.md"}
    case = json.loads((tmp_path / "out" / "results.json").read_text(encoding="utf-8"))["cases"]["ncsnpp"]
    rows = ["sdedit_pl, channels last", "sdedit_pl, contiguous"]
    assert list(case["seconds"]) == [speed_report.CEILING, *rows]
    assert all(len(seconds) == 2 for seconds in case["seconds"].values())
    assert (
        case["facts"][rows[0]]["flops"]
        == case["facts"][rows[1]]["flops"]
        > case["facts"][speed_report.CEILING]["flops"]
    )
    assert case["loop"]["calls"] == 2 and set(case["loop"]["seconds"]) == {
        "bare calls",
        "integrate",
        "integrate, no network",
    }
    report = (tmp_path / "out" / "report.md").read_text(encoding="utf-8")
    assert report.strip() in capsys.readouterr().out
    assert report.count("| sdedit_pl, ") == 2 and "of the ceiling" in report


def test_a_report_says_how_we_stand() -> None:
    facts = {"parameters": 10**6, "flops": 2 * 10**9, "tensors": 10**6, "process": 2 * 10**6}
    case = {
        "seconds": {
            speed_report.CEILING: [1.0, 1.0],
            "sdedit_pl, contiguous": [2.0, 4.0],
            "diffusers, contiguous": [4.0, 8.0],
        },
        "facts": {
            speed_report.CEILING: {"flops": 10**9},
            "sdedit_pl, contiguous": facts,
            "diffusers, contiguous": {**facts, "tensors": 2 * 10**6},
        },
    }
    assert speed_report.of_ceiling(case, "sdedit_pl, contiguous") == pytest.approx((0.75, 0.625, 0.875))
    sentence = speed_report.against_goals(case)
    assert "0.750 [0.625, 0.875] of the ceiling" in sentence
    assert "0.500 [0.500, 0.500] of the time of diffusers, contiguous" in sentence
    assert "memory 0.50 (tensors), 1.00 (process), 1.00 (process with weights)" in sentence


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("cases=[ncsnp]", "cases are of ncsnpp, ddpm, ddpm256, got ncsnp"),
        ("libraries=[jax]", "libraries are of sdedit_pl, diffusers, denoising-diffusion-pytorch, got jax"),
        ("solver=euler", "solvers are of "),
        ("rounds=0", "rounds must be at least 1, got 0"),
        ("size=7", "multiples of 8"),
        ("chanels=8", "did you mean channels?"),
    ],
)
def test_bad_input_ends_in_one_error(
    change: str, message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert network.main([*TINY, f"out={tmp_path / 'out'}", change]) == 2
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert error.startswith("error: ") and message in error
    assert not (tmp_path / "out").exists()


def test_earlier_results_stay_unless_told_otherwise(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "report.md").write_text("earlier")
    assert network.main([*TINY, f"out={tmp_path}"]) == 2
    assert "overwrite=true" in capsys.readouterr().err and (tmp_path / "report.md").read_text() == "earlier"
