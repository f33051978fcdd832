"""Runs that are interrupted, and the files that they leave."""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from pathlib import Path

import pytest


def interrupt_after(count: int, place: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[int]:
    """Lets the function at `place` run `count` times, then interrupts; returns the calls that are left."""
    module, _, name = place.rpartition(".")
    calls, function = iter(range(count)), getattr(importlib.import_module(module), name)

    def interrupted(*arguments: object, **keys: object) -> object:
        if next(calls, None) is None:
            raise KeyboardInterrupt
        return function(*arguments, **keys)

    monkeypatch.setattr(place, interrupted)
    return calls


def contents(folder: str | Path) -> dict[str, bytes]:
    """The files in a folder and below, by their path within it."""
    return {str(file.relative_to(folder)): file.read_bytes() for file in Path(folder).rglob("*") if file.is_file()}
