"""Weights & Biases without a network or an account: the content of a run, and which run is continued."""

from __future__ import annotations

import json
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import wandb
import yaml
from PIL import Image
from support.tiny import tiny_config, write_images
from torch import Tensor
from wandb.proto import wandb_internal_pb2

from sdedit_pl.training.module import ScoreModule
from sdedit_pl.training_runs.training_run import fit

pytestmark = pytest.mark.usefixtures("offline_wandb")
BLOCK = 32768
HEADER = 7


@pytest.fixture
def settings(tmp_path: Path) -> tuple[str, ...]:
    images = write_images(tmp_path / "images")
    return (f"data.path={images}", f"out={tmp_path / 'run'}", "logger=wandb", "trainer.val_check_interval=2")


def records(file: Path) -> list[Any]:
    """The records of a W&B datastore: LevelDB's log format after a header of seven bytes."""
    content, position, parts, found = file.read_bytes(), HEADER, [], []
    while position + HEADER <= len(content):
        if BLOCK - position % BLOCK < HEADER:  # no room for another header: skip to the next block
            position += BLOCK - position % BLOCK
            continue
        length, kind = int.from_bytes(content[position + 4 : position + 6], "little"), content[position + 6]
        parts.append(content[position + HEADER : position + HEADER + length])
        position += HEADER + length
        if kind in (1, 4):  # a whole record, or the last part of one
            record: Any = wandb_internal_pb2.Record()
            record.ParseFromString(b"".join(parts))
            found.append(record)
            parts = []
    return found


def runs(folder: Path) -> list[list[Any]]:
    """The records of each start of W&B, in order."""
    wandb.teardown()  # writes the buffers of the service
    files = folder.glob("wandb/offline-run-*/*.wandb")
    return [records(file) for file in sorted(files, key=lambda file: file.stat().st_mtime_ns)]


def of_kind(run: list[Any], kind: str) -> list[Any]:
    return [getattr(record, kind) for record in run if record.WhichOneof("record_type") == kind]


def history(run: list[Any], name: str) -> list[tuple[int, Any]]:
    """(step, value) of every entry of a quantity."""
    rows = [
        {"/".join(item.nested_key) or item.key: item.value_json for item in row.item} for row in of_kind(run, "history")
    ]
    return [(int(row["trainer/global_step"]), json.loads(row[name])) for row in rows if name in row]


def test_an_offline_run_holds_losses_previews_configuration_and_checkpoint(
    settings: tuple[str, ...], tmp_path: Path
) -> None:
    folder = tmp_path / "run"
    ours = ("wandb.project=strokes", "wandb.tags=[tiny,test]", "wandb.group=ours")
    fit(tiny_config(*settings, *ours, "checkpoint.early=0.5"))
    (run,) = runs(folder)
    (started,) = of_kind(run, "run")
    assert (started.project, started.display_name, started.run_group) == ("strokes", "run", "ours")
    assert list(started.tags) == ["tiny", "test"]

    assert [step for step, _ in history(run, "train/loss")] == [0, 1, 2, 3]
    assert [step for step, _ in history(run, "val/loss")] == [1, 3]
    assert all(0 < loss < 10 for name in ("train/loss", "val/loss") for _, loss in history(run, name))
    assert [rate for _, rate in history(run, "train/rate")] == [1e-3] * 4
    assert history(run, "train/images_per_second")

    sheets = [file for _, files in history(run, "preview/filenames") for file in files]
    assert [step for step, _ in history(run, "preview/filenames")] == [2, 4]
    (files,) = folder.glob("wandb/offline-run-*/files")
    for sheet, step in zip(sheets, (2, 4), strict=True):
        logged, written = Image.open(files / sheet), Image.open(folder / "previews" / f"step-{step:08d}.png")
        assert np.array_equal(np.asarray(logged), np.asarray(written))

    config = {update.key: json.loads(update.value_json) for part in of_kind(run, "config") for update in part.update}
    resolved = yaml.safe_load((folder / "config.yaml").read_text())
    assert config.items() >= resolved.items() and config["sde"]["name"] == "vp"

    (artifact,) = of_kind(run, "artifact")
    assert artifact.type == "model" and list(artifact.aliases) == ["latest"] and artifact.run_id == started.run_id
    files = {entry.path: entry.size for entry in artifact.manifest.contents}
    weights = ("model.safetensors", "model-early.safetensors")
    assert files == {name: (folder / name).stat().st_size for name in weights}
    assert json.loads(artifact.metadata) == resolved
    assert [ended.exit_code for ended in of_kind(run, "exit")] == [0]


def test_a_resumed_run_continues_the_same_wandb_run(settings: tuple[str, ...], tmp_path: Path) -> None:
    for steps in (2, 4):
        fit(tiny_config(*settings, f"trainer.max_steps={steps}", "wandb.log_model=false"))
        assert wandb.run is None
    first, second = runs(tmp_path / "run")
    assert of_kind(first, "run")[0].run_id == of_kind(second, "run")[0].run_id
    assert of_kind(first, "run")[0].run_id == json.loads((tmp_path / "run" / "wandb.json").read_text())["id"]
    steps = [[step for step, _ in history(run, "train/loss")] for run in (first, second)]
    assert steps == [[0, 1], [2, 3]]  # no gaps and no duplicates
    assert not of_kind(first, "artifact") and not of_kind(second, "artifact")


def test_steps_that_are_trained_again_are_logged_once(
    settings: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def failing(self: ScoreModule, batch: Tensor, batch_idx: int) -> Tensor:
        if batch_idx == stop:
            raise RuntimeError("no more")
        return step(self, batch, batch_idx)

    step, stops = ScoreModule.training_step, (5, 4, None)
    lasting = ("trainer.max_steps=6", "trainer.val_check_interval=3", "wandb.log_model=false")
    for stop in stops:  # each after a validation and after steps without a checkpoint
        with monkeypatch.context() as patched, nullcontext() if stop is None else pytest.raises(RuntimeError):
            patched.setattr(ScoreModule, "training_step", failing)
            fit(tiny_config(*settings, *lasting))
    parts = runs(tmp_path / "run")
    assert len(parts) == len(stops)
    whole = tmp_path / "whole"
    fit(tiny_config(*settings, *lasting, f"out={whole}"))
    (expected,) = runs(whole)
    for name in ("train/loss", "train/images", "train/rate", "val/loss"):
        entries = [entry for part in parts for entry in history(part, name)]
        assert entries == history(expected, name)
        assert [step for step, _ in entries] == ([2, 5] if name == "val/loss" else list(range(6)))
    sheets = [step for part in parts for step, _ in history(part, "preview/filenames")]
    assert sheets == [3, 6]


def test_a_failed_run_ends_as_failed_and_another_folder_starts_a_new_run(
    settings: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(self: ScoreModule, batch: object, batch_idx: int) -> None:
        raise RuntimeError("no more")

    with monkeypatch.context() as failing, pytest.raises(RuntimeError, match="no more"):
        failing.setattr(ScoreModule, "training_step", fail)
        fit(tiny_config(*settings))
    (run,) = runs(tmp_path / "run")
    assert [ended.exit_code for ended in of_kind(run, "exit")] == [1] and not of_kind(run, "artifact")
    other = tmp_path / "other"
    fit(tiny_config(*settings, f"out={other}", "trainer.max_steps=1"))
    assert of_kind(runs(other)[0], "run")[0].run_id != of_kind(run, "run")[0].run_id


def test_wandb_starts_only_on_request(
    settings: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(wandb, "init", lambda **options: pytest.fail("W&B was started"))
    fit(tiny_config(*settings, "logger=csv", "trainer.max_steps=1"))
    assert not (tmp_path / "run" / "wandb").exists() and not (tmp_path / "home").exists()
