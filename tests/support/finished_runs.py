"""Reads the folder of a training run: its log and its checkpoints."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import torch
from torch import Tensor


def logged(folder: Path, name: str) -> dict[int, float]:
    """The CSV history of a quantity, by optimiser step, over the run's restarts."""
    with (folder / "metrics.csv").open(newline="") as file:
        entries = [(int(row["step"]), float(row[name])) for row in csv.DictReader(file) if row.get(name)]
    assert [step for step, _ in entries] == sorted({step for step, _ in entries})  # nothing double
    return dict(entries)


def resumable(folder: Path, step: int) -> Path:
    return folder / "checkpoints" / f"step={step:08d}.ckpt"


def read(folder: Path, step: int) -> dict[str, Any]:
    """A checkpoint to resume from, loaded without running anything."""
    return torch.load(resumable(folder, step), weights_only=True)


def assert_same(first: Any, second: Any, path: str = "") -> None:
    """Equal to the last bit, in nested plain data and tensors."""
    if isinstance(first, Tensor):
        assert torch.equal(first, second), path
    elif isinstance(first, dict):
        assert first.keys() == second.keys(), path
        for key, value in first.items():
            assert_same(value, second[key], f"{path}/{key}")
    elif isinstance(first, list | tuple):
        for place, values in enumerate(zip(first, second, strict=True)):
            assert_same(*values, path=f"{path}/{place}")
    else:
        assert first == second, path
