"""The CSV history of a run over its restarts: no gaps and no duplicates."""

from __future__ import annotations

import csv
import logging
from pathlib import Path

import pytest
import torch
from support.full_disk import full_disk

from sdedit_pl.training.restartable_loggers import ContinuedWandb, CsvHistory


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return [{name: value for name, value in row.items() if value} for row in csv.DictReader(file)]


def filled(path: Path, steps: int, losses_of: tuple[int, ...] = ()) -> CsvHistory:
    """A history of the given number of steps, with a validation after some."""
    history = CsvHistory(path)
    for step in range(steps):
        history.log_metrics({"train/loss": torch.tensor(step / 4), "train/images": 8.0 * step}, step)
        if step in losses_of:
            history.log_metrics({"val/loss": 1 + step / 4, "epoch": 0}, step)
    return history


def test_every_entry_is_written_at_once_and_columns_are_added_as_needed(tmp_path: Path) -> None:
    path = tmp_path / "new" / "metrics.csv"
    filled(path, 3, losses_of=(1,))
    assert path.read_text().splitlines() == [
        "step,train/loss,train/images,val/loss",
        "0,0.0,0.0,",
        "1,0.25,8.0,",
        "1,,,1.25",
        "2,0.5,16.0,",
    ]
    assert [file.name for file in path.parent.iterdir()] == ["metrics.csv"]


@pytest.mark.parametrize("steps", range(5))
def test_rows_of_steps_that_are_trained_again_are_dropped(steps: int, tmp_path: Path) -> None:
    whole, resumed = tmp_path / "whole.csv", tmp_path / "resumed.csv"
    for path in (whole, resumed):
        filled(path, 4, losses_of=(1, 3))
    history = CsvHistory(resumed, steps)
    assert [int(row["step"]) for row in rows(resumed)] == sorted([*range(steps), *(s for s in (1, 3) if s < steps)])
    for step in range(steps, 4):
        history.log_metrics({"train/loss": step / 4, "train/images": 8.0 * step}, step)
        if step in (1, 3):
            history.log_metrics({"val/loss": 1 + step / 4}, step)
    assert rows(resumed) == rows(whole)


def test_a_repeated_validation_replaces_its_row(tmp_path: Path) -> None:
    path = tmp_path / "metrics.csv"
    filled(path, 3, losses_of=(1,))
    before = rows(path)
    resumed = CsvHistory(path, 2)
    resumed.log_metrics({"val/loss": 1.25}, 1)
    assert rows(path) == before[:3]
    resumed.log_metrics({"train/loss": 0.5, "train/images": 16.0}, 2)
    assert rows(path) == before


@pytest.mark.parametrize("cut", [1, 5, 11])
def test_an_incomplete_last_row_is_dropped(cut: int, tmp_path: Path) -> None:
    path = tmp_path / "metrics.csv"
    filled(path, 4)
    before = rows(path)
    path.write_bytes(path.read_bytes()[:-cut])
    CsvHistory(path, 9).log_metrics({"train/loss": 0.75, "train/images": 24.0}, 3)
    assert rows(path) == before


DAMAGES = {
    "semicolons": b"step;train/loss\n0;0.5\n",
    "no step": b"epoch,train/loss\n0,0.5\n",
    "no number": b"step,train/loss\none,0.5\n",
    "another cell": b"step,train/loss\n0,0.5,7\n",
    "latin 1": b"step,caf\xe9\n0,0.5\n",
    "long field": b"step,train/loss\n0," + 200_000 * b"9" + b"\n",
}


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES)
def test_a_table_of_another_program_is_named_and_kept(damage: bytes, tmp_path: Path) -> None:
    path = tmp_path / "metrics.csv"
    history = filled(path, 2)
    path.write_bytes(damage)
    with pytest.raises(ValueError, match=r"metrics.csv is not a table as training writes it.* move it away"):
        CsvHistory(path, 2)
    history.log_metrics({"new": 1.0}, 2)  # training itself continues
    assert path.read_bytes() == damage and "metrics.csv is not a table" in str(history.failure)


def test_a_byte_order_mark_is_dropped(tmp_path: Path) -> None:
    path = tmp_path / "metrics.csv"
    filled(path, 2)
    before = path.read_bytes()
    path.write_bytes(b"\xef\xbb\xbf" + before)
    CsvHistory(path, 2)
    assert path.read_bytes() == before


@pytest.mark.parametrize(("text", "message"), [("{", "is not a JSON file"), ("[]", "must hold a JSON object")])
def test_a_damaged_memory_of_wandb_is_named(text: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "wandb.json").write_text(text)
    with pytest.raises(ValueError, match=f"wandb.json {message}"):
        ContinuedWandb(tmp_path / "wandb.json")


def test_rows_that_a_full_disk_refuses_are_written_later(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "metrics.csv"
    history = filled(path, 2)
    with full_disk(path.stat().st_size + 5):
        for step in (2, 3):
            history.log_metrics({"train/loss": step / 4, "train/images": 8.0 * step}, step)
            assert len(rows(path)) == 2 and path.read_text().endswith("\n")
    assert history.failure is not None
    (warning,) = (record.message for record in caplog.records if record.levelno == logging.WARNING)
    assert "metrics.csv cannot be written: File too large" in warning
    history.log_metrics({"train/loss": 1.0, "train/images": 32.0}, 4)
    assert [row["step"] for row in rows(path)] == ["0", "1", "2", "3", "4"] and history.failure is None
