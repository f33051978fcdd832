"""`sdedit sample`: its results, their repetition, and refused arguments."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from PIL import Image

from sdedit_pl import load_denoiser, save_denoiser
from sdedit_pl.checkpoints import describe
from sdedit_pl.edit_runs import sample_run as sample

SAMPLE = ("sample", "ckpt=tiny.safetensors", "steps=3")


def results(folder: str) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in Path(folder).iterdir()}


def test_a_sample_depends_on_its_seed_alone(command, desk: Path) -> None:
    assert command(*SAMPLE, "n=5", "out=a") == (0, "5 samples in a; see a/sheet.png\n", "")
    assert command(*SAMPLE, "n=3", "seed=1", "out=b", "batch=2").code == 0
    five, three = results("a"), results("b")
    names = {f"sample_seed{seed}.png" for seed in range(5)}
    assert five.keys() == names | {"sheet.png", "sample.yaml"}
    assert len({five[name] for name in names}) == 5
    for seed in (1, 2, 3):
        assert three.pop(f"sample_seed{seed}.png") == five[f"sample_seed{seed}.png"]
    assert three.keys() == {"sheet.png", "sample.yaml"}


def test_the_record_repeats_the_samples(command, desk: Path) -> None:
    keys = ("n=2", "seed=7", "steps=12", "solver=ddim", "grid=restart", "grid.top=2", "grid.bottom=0.5")
    assert command(*SAMPLE, *keys, "out=a").code == 0
    assert command("sample", "config=a/sample.yaml", "out=b").code == 0
    first, again = results("a"), results("b")
    assert first.pop("sample.yaml") != again.pop("sample.yaml") and first == again
    assert b"sha256" in results("a")["sample.yaml"]


def test_the_sheet_has_the_first_samples(command, desk: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sample, "SHEET_SAMPLES", 2)
    assert command(*SAMPLE, "n=2", "out=a").code == command(*SAMPLE, "n=3", "out=b").code == 0
    assert results("a")["sheet.png"] == results("b")["sheet.png"]


def test_only_own_results_are_replaced(command, refused) -> None:
    assert command(*SAMPLE, "n=2", "out=a").code == 0
    assert "a already holds files" in refused(*SAMPLE, "n=1", "out=a")
    Image.new("RGB", (4, 4)).save("a/sample_seed2.png")
    assert "a holds sample_seed2.png: not written by" in refused(*SAMPLE, "n=3", "out=a", "overwrite=true")
    assert command(*SAMPLE, "n=1", "out=a", "overwrite=true").code == 0
    assert results("a").keys() == {"sample_seed0.png", "sample_seed2.png", "sheet.png", "sample.yaml"}


def test_an_interrupted_run_leaves_nothing(command, desk: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*arguments: object, **named: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(sample, "picture_grid", interrupted)
    assert command(*SAMPLE, "n=2", "out=a").code == 130
    assert not Path("a").exists()


def test_a_model_that_cannot_start_from_noise_is_refused(refused) -> None:
    denoiser = load_denoiser("tiny.safetensors")
    denoiser.t_max = 0.6
    save_denoiser("short.safetensors", denoiser, replace(describe("tiny.safetensors").model, t_max=0.6))
    message = refused("sample", "ckpt=short.safetensors", "out=a")
    assert "up to 0.6 cannot start from noise" in message and "times.t_max=1" in message
    assert refused(*SAMPLE, "n=0") == "n must be at least 1, got 0"
