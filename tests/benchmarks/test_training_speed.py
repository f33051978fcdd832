"""The measurement of training: each part runs on a tiny network and reports what it measured."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
import torch
import yaml
from torchvision.utils import save_image

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / "benchmarks"))

import training  # noqa: E402

TINY = ["cases=[ddpm]", "libraries=[sdedit_pl]", "channels=8", "size=16", "batch=2", "rounds=2", "process_steps=1"]


@pytest.fixture
def config(tmp_path: Path) -> Path:
    """A training of a tiny network on ten small images."""
    generator = torch.Generator().manual_seed(0)
    (tmp_path / "images").mkdir()
    for number in range(10):
        save_image(torch.rand(3, 8, 8, generator=generator), tmp_path / "images" / f"{number}.png")
    network = {
        "name": "ncsnpp",
        "channels": 8,
        "channel_multipliers": [1],
        "attention_levels": [],
        "blocks_per_level": 1,
    }
    file = tmp_path / "tiny.yaml"
    data = {"path": str(tmp_path / "images"), "size": 8, "batch_size": 2}
    file.write_text(yaml.safe_dump({"data": data, "network": network}))
    return file


def numbers_in(folder: Path) -> dict:
    return json.loads((folder / "results.json").read_text(encoding="utf-8"))


def test_lightning_and_a_bare_loop_take_turns(config: Path, tmp_path: Path) -> None:
    assert training.main([*TINY, f"out={tmp_path / 'a'}", "parts=[loop]", f"config={config}", "loop_steps=2"]) == 0
    loop = numbers_in(tmp_path / "a")["loop"]
    assert {name: len(seconds) for name, seconds in loop["seconds"].items()} == {"Lightning": 2, "bare loop": 2}
    assert loop["batch"] == 2
    assert "of the bare loop's speed" in (tmp_path / "a" / "report.md").read_text(encoding="utf-8")


def test_steps_and_recomputing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(training, "peak_memory", lambda prepare, *arguments: 10**6)  # else a process for each
    assert training.main([*TINY, f"out={tmp_path / 'a'}", "parts=[step,checkpointing]", "size=32"]) == 0
    numbers = numbers_in(tmp_path / "a")
    assert set(numbers["cases"]["ddpm"]["seconds"]) >= {"sdedit_pl, channels last", "sdedit_pl, contiguous"}
    kept, recomputed = (numbers["checkpointing"]["facts"][way] for way in ("kept", "recomputed"))
    assert recomputed["tensors"] < kept["tensors"] and recomputed["flops"] > kept["flops"]
    assert "## The loop" not in (tmp_path / "a" / "report.md").read_text(encoding="utf-8")


@pytest.mark.slow
def test_two_processes_and_one(tmp_path: Path) -> None:
    assert training.main([*TINY, f"out={tmp_path / 'a'}", "parts=[processes]", "rounds=1", "threads=2"]) == 0
    rates = numbers_in(tmp_path / "a")["processes"]["rates"]
    assert {name: len(values) for name, values in rates.items()} == {"one process": 1, "two processes": 1}
    assert "two gloo processes of 1 threads" in (tmp_path / "a" / "report.md").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (["parts=[speed]"], "parts are of loop, step, checkpointing, processes, got speed"),
        (["cases=[]"], "cases must name at least one of ncsnpp"),
        (["parts=[processes]", "threads=2", "batch=3"], "share a batch of 3 and 2 threads; make both even"),
        (["parts=[loop]", "config=nowhere.yaml"], "nowhere.yaml"),
    ],
)
def test_bad_input_ends_in_one_error(
    changes: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    threads = torch.get_num_threads()
    assert training.main([*TINY, f"out={tmp_path / 'out'}", *changes]) == 2
    torch.set_num_threads(threads)
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert error.startswith("error: ") and message in error
    assert not (tmp_path / "out").exists()
