"""Unreadable images of several devices."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from unittest.mock import Mock

import lightning
import pytest
import torch

from sdedit_pl.data import FolderSource
from sdedit_pl.data.image_files import UnreadableImage
from sdedit_pl.data.source import Broken
from sdedit_pl.training.unreadable_images import UnreadableImageCounts

SHARING = """
import logging, sys, torch.distributed as dist
from unittest.mock import Mock
from sdedit_pl.data import FolderSource
from sdedit_pl.data.image_files import UnreadableImage
from sdedit_pl.data.source import Broken
from sdedit_pl.training.unreadable_images import UnreadableImageCounts
logging.basicConfig(level=logging.WARNING, stream=sys.stdout, format="%(message)s")
rank = int(sys.argv[1])
dist.init_process_group("gloo", init_method=f"file://{sys.argv[2]}", rank=rank, world_size=2)
source = FolderSource("unused", 8, broken_limit=4)
shared = UnreadableImageCounts(source)
shared.setup(Mock(world_size=2), Mock(), "fit")
met = {1: ["a", "shared"], 4: ["shared"], 9: ["d"]} if rank else {1: ["shared"], 6: ["b"], 9: ["c"]}
for step in range(13):
    source.record([Broken(name, f"cannot read {name}") for name in met.get(step, [])])
    try:
        shared.on_train_batch_end(Mock(), Mock(), None, None, step)
    except UnreadableImage as error:
        print(f"step {step}: {error}")
        break
    if step == 8:
        assert sorted(source.broken) == ["a", "b", "shared"], source.broken
"""


def test_they_count_together_and_each_is_named_by_the_first(tmp_path: Path) -> None:
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", SHARING, str(rank), str(tmp_path / "meeting")],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for rank in range(2)
    ]
    outputs = [process.communicate(timeout=120)[0] for process in processes]
    assert [process.returncode for process in processes] == [0, 0], outputs
    ends = [[line for line in output.splitlines() if line.startswith("step")] for output in outputs]
    assert ends == [
        [f"step 10: 5 unreadable images exceed broken_limit = 4; the last: cannot read {last}"] for last in "dc"
    ]
    named = [line.partition(": ")[2] for line in outputs[0].splitlines() if line.startswith("skipped")]
    assert sorted(named) == [f"cannot read {name}" for name in ("a", "b", "c", "d", "shared")]


def test_one_device_counts_alone() -> None:
    source = FolderSource("unused", 8, broken_limit=1)
    trainer, module = Mock(spec=lightning.Trainer, world_size=1), Mock(spec=lightning.LightningModule)
    shared = UnreadableImageCounts(source)
    shared.setup(trainer, module, "fit")
    source.record([Broken("a", "cannot read a")])
    for step in range(2):
        shared.on_train_batch_end(trainer, module, None, torch.zeros(1), step)
    assert source.broken == {"a": "cannot read a"}
    source.broken["b"] = "cannot read b"
    with pytest.raises(UnreadableImage, match="2 unreadable images exceed broken_limit = 1"):
        shared.on_train_batch_end(trainer, module, None, torch.zeros(1), 2)
