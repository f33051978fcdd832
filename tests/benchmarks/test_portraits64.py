"""The measurement of a portraits64 model: runs on a tiny one, counts right, and refuses bad input."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

import pytest
import torch

from sdedit_pl import save_denoiser
from sdedit_pl.build.model import build_denoiser
from sdedit_pl.configuration.resolution import resolve
from sdedit_pl.configuration.training_config import TrainingConfig

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / "benchmarks"))

import portraits64  # noqa: E402
import portraits64_report  # noqa: E402

from sdedit_pl.metrics.intervals import Estimate  # noqa: E402


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    network = {"name": "ncsnpp", "channels": 8, "channel_multipliers": [1], "attention_levels": [], "patch": 4}
    model = resolve(TrainingConfig, {"data": {"path": "none", "size": 64}, "network": network}).model
    torch.manual_seed(0)
    file = tmp_path_factory.mktemp("model") / "tiny.safetensors"
    save_denoiser(file, build_denoiser(model), model, {"steps": 7, "images_seen": 112})
    return file


def colour(images: torch.Tensor) -> torch.Tensor:
    """Features that cost nothing: mean and deviation of each channel."""
    return torch.cat([images.mean((2, 3)), images.std((2, 3))], 1)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The bundled shards, of those for training only the first."""
    folder = tmp_path_factory.mktemp("data")
    for name in ("train-000000.tar", "val-000000.tar", "build.py"):
        shutil.copy(ROOT / "data" / "portraits64" / name, folder)
    return folder


@pytest.fixture
def arguments(checkpoint: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    monkeypatch.setitem(portraits64.FEATURES, "colour", lambda: colour)
    return [f"ckpt={checkpoint}", f"out={tmp_path / 'a'}", f"data={data}", "features=colour", "images=30", "steps=2"]


def numbers_in(folder: Path) -> dict:
    return json.loads((folder / "metrics.json").read_text(encoding="utf-8"))


def test_measures_each_t0_and_draws_the_sheets(arguments: list[str], tmp_path: Path) -> None:
    assert portraits64.main([*arguments, "t0=[0.2,0.7]"]) == 0
    written = {file.name for file in (tmp_path / "a").iterdir()}
    assert written == {"metrics.json", "report.md", "edits.png", "neighbours_t0_0.2.png", "neighbours_t0_0.7.png"}
    numbers = numbers_in(tmp_path / "a")
    assert numbers["checkpoint"]["steps"] == 7 and numbers["images"] == {"val": 30, "train": 119}
    sets = numbers["sets"]
    assert list(sets) == ["originals", "strokes", "edits t0=0.2", "edits t0=0.7"]
    assert "kid_to_val" not in sets["originals"] and sets["originals"]["squared_l2_to_original"] == 0
    assert sets["strokes"]["squared_l2_to_guide"] == 0
    assert sets["strokes"]["squared_l2_to_original"] == sets["originals"]["squared_l2_to_guide"] > 0
    assert sets["edits t0=0.2"]["squared_l2_to_guide"] < sets["edits t0=0.7"]["squared_l2_to_guide"]
    assert sets["edits t0=0.2"]["kid_to_val"]["value"] < sets["edits t0=0.7"]["kid_to_val"]["value"]
    assert numbers["nearest_train"]["originals"]["share_nearer_than_own_original"] == 0
    report = (tmp_path / "a" / "report.md").read_text(encoding="utf-8")
    assert "step 7, 112 images seen" in report and report.count("| edits t0=0.7 |") == 2


def test_is_the_same_again_and_in_other_batches(arguments: list[str], tmp_path: Path) -> None:
    assert portraits64.main(arguments) == 0
    assert portraits64.main([*arguments, f"out={tmp_path / 'b'}", "batch=7"]) == 0
    first, second = numbers_in(tmp_path / "a"), numbers_in(tmp_path / "b")
    assert [first.pop("seconds"), second.pop("seconds")]
    assert first == second
    assert (tmp_path / "a" / "edits.png").read_bytes() == (tmp_path / "b" / "edits.png").read_bytes()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("t0=1.5", "t0 must lie in (0, 1]"),
        ("ckpt=nowhere.safetensors", "no checkpoint at nowhere.safetensors"),
        ("featurs=colour", "did you mean features?"),
        ("features=resnet", "features are of inception, efficientnet_lite0"),
        ("data=nowhere", "nowhere"),
    ],
)
def test_bad_input_ends_in_one_error(
    arguments: list[str], change: str, message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert portraits64.main([*arguments, change]) == 2
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert error.startswith("error: ") and message in error
    assert not (tmp_path / "a").exists()


def test_earlier_results_stay_unless_told_otherwise(
    arguments: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    earlier = tmp_path / "a" / "neighbours_t0_0.9.png"
    earlier.parent.mkdir()
    earlier.write_bytes(b"earlier")
    assert portraits64.main(arguments) == 2
    assert "overwrite=true" in capsys.readouterr().err and earlier.read_bytes() == b"earlier"
    assert portraits64.main([*arguments, "overwrite=true"]) == 0
    assert not earlier.exists() and (earlier.parent / "neighbours_t0_0.5.png").exists()


def test_closeness_finds_a_remembered_image() -> None:
    generator = torch.Generator().manual_seed(0)
    pixels = torch.rand(6, 3, 8, 8, generator=generator) * 2 - 1
    train = portraits64.Portraits(pixels, colour(pixels), torch.arange(6))
    fresh = torch.rand(2, 3, 8, 8, generator=generator) * 2 - 1
    originals = portraits64.Closeness.of(portraits64.Portraits(fresh, colour(fresh), torch.arange(2)), train)
    mixed = torch.stack([pixels[4] + 0.01, fresh[1]])
    copies = portraits64.Closeness.of(portraits64.Portraits(mixed, colour(mixed), torch.arange(2)), train)
    assert torch.equal(copies.by_pixels[0], pixels[4])
    summary = copies.summary(originals)
    assert summary["share_nearer_than_own_original"] == summary["share_nearer_than_any_original"] == 0.5
    assert summary["l2_least"] == pytest.approx(192 * 0.005**2, rel=1e-3)


def test_halves_keep_units_together() -> None:
    units = torch.tensor([0, 0, 1, 1, 1, 2, 3])
    images = portraits64.Portraits(torch.zeros(7, 3, 2, 2), torch.zeros(7, 1), units)
    sizes = []

    def distance(one: portraits64.Portraits, other: portraits64.Portraits) -> Estimate:
        assert len(one.designs.unique()) == len(other.designs.unique()) == 2
        assert not set(one.designs.tolist()) & set(other.designs.tolist())
        sizes.append(len(one))
        return Estimate(float(len(one)), 0.0)

    found = portraits64.halves(images, units, distance)
    assert len(sizes) == found["splits"] and len(set(sizes)) > 1
    assert found["mean"] == pytest.approx(sum(sizes) / len(sizes))


@pytest.mark.parametrize(("count", "wanted", "expected"), [(98, 6, [8, 24, 40, 57, 73, 89]), (3, 6, [0, 1, 2])])
def test_pictures_shown_are_spread_evenly(count: int, wanted: int, expected: list[int]) -> None:
    assert portraits64_report.spread(count, wanted) == expected
