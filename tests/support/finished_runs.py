"""Reads the folder of a training run: its log and its checkpoints."""

from __future__ import annotations

import csv
from collections.abc import Container, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor


def logged(folder: Path, name: str) -> dict[int, float]:
    """The CSV history of a quantity, by optimiser step, over the run's restarts."""
    with (folder / "metrics.csv").open(newline="") as file:
        entries = [(int(row["step"]), float(row[name])) for row in csv.DictReader(file) if row.get(name)]
    assert [step for step, _ in entries] == sorted({step for step, _ in entries})  # no duplicates
    return dict(entries)


def resumable(folder: Path, step: int) -> Path:
    return folder / "checkpoints" / f"step={step:08d}.ckpt"


def read(folder: Path, step: int) -> dict[str, Any]:
    """A checkpoint to resume from, loaded without running anything."""
    return torch.load(resumable(folder, step), weights_only=True)


def assert_same(first: Any, second: Any, path: str = "") -> None:
    assert not list(different_parts(first, second, path))


def different_parts(first: Any, second: Any, path: str, ignored: Container[str] = ()) -> Iterator[str]:
    """Paths in nested data at which values are not bit-equal."""
    if isinstance(first, Tensor):
        if not torch.equal(first, second):
            yield path
    elif isinstance(first, dict) and first.keys() == second.keys():
        for key, value in first.items():
            if key not in ignored:
                yield from different_parts(value, second[key], f"{path}/{key}", ignored)
    elif isinstance(first, list | tuple) and len(first) == len(second):
        for place, values in enumerate(zip(first, second, strict=True)):
            yield from different_parts(*values, path=f"{path}/{place}", ignored=ignored)
    elif first != second:
        yield path
