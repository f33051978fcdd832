"""Unreadable images on several devices."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import lightning
import pytest
from support.processes import on_two_devices

from sdedit_pl.data.folder_source import FolderSource
from sdedit_pl.data.image_decoding import UnreadableImage
from sdedit_pl.data.source import Broken
from sdedit_pl.training.unreadable_images import UnreadableImageCounts


def counts(source: FolderSource, devices: int) -> UnreadableImageCounts:
    """The callback at the start of a training."""
    shared = UnreadableImageCounts(source)
    shared.setup(Mock(spec=lightning.Trainer, world_size=devices), Mock(spec=lightning.LightningModule), "fit")
    return shared


def test_devices_count_together_and_the_first_one_names_all(tmp_path: Path) -> None:
    met = [{1: ["shared"], 6: ["b"], 9: ["c"]}, {1: ["a", "shared"], 4: ["shared"], 9: ["d"]}]

    def work(rank: int) -> Any:
        warnings: list[str] = []
        handler = logging.Handler()
        handler.emit = lambda record: warnings.append(record.getMessage())  # type: ignore[method-assign]
        logging.getLogger("sdedit_pl").addHandler(handler)
        source = FolderSource("unused", 8, broken_limit=4)
        shared = counts(source, devices=2)
        known: list[str] = []
        for step in range(13):
            source.record([Broken(name, f"cannot read {name}") for name in met[rank].get(step, [])])
            try:
                shared.on_train_batch_end()
            except UnreadableImage as error:
                return step, str(error), known, sorted(warnings)
            if step == 8:
                known = sorted(source.broken)
        return None

    first, second = on_two_devices(work, tmp_path)
    for rank, (step, error, known, _) in enumerate((first, second)):
        assert step == 10 and known == ["a", "b", "shared"]
        assert "5 unreadable images exceed broken_limit = 4" in error and f"cannot read {'dc'[rank]}" in error
    assert all(f"cannot read {name}" in "".join(first[3]) for name in ("a", "b", "c", "d", "shared"))


def test_one_device_counts_alone() -> None:
    source = FolderSource("unused", 8, broken_limit=1)
    shared = counts(source, devices=1)
    source.record([Broken("a", "cannot read a")])
    for _ in range(2):
        shared.on_train_batch_end()
    assert source.broken == {"a": "cannot read a"}
    source.broken["b"] = "cannot read b"
    with pytest.raises(UnreadableImage, match="2 unreadable images exceed broken_limit = 1"):
        shared.on_train_batch_end()
