"""Checkpoint files: complete or absent, and checked for damage."""

from __future__ import annotations

import threading
from pathlib import Path
from unittest.mock import Mock

import pytest
import torch

from sdedit_pl.training.checkpoint_io import DurableCheckpoints, damage


def test_errors_other_than_those_of_the_disk_are_raised(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.save", Mock(side_effect=RuntimeError("out of memory")))
    with pytest.raises(RuntimeError, match="out of memory"):
        DurableCheckpoints().save_checkpoint({}, tmp_path / "step=00000001.ckpt")
    assert list(tmp_path.iterdir()) == []


def test_a_checkpoint_is_a_copy_and_is_written_while_training_continues(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    free = threading.Event()
    monkeypatch.setattr("sdedit_pl.files._sync", lambda path: free.wait(20))
    files, weight, path = DurableCheckpoints(), torch.ones(3), tmp_path / "step=00000001.ckpt"
    files.save_checkpoint({"weight": weight}, path)
    weight.zero_()
    assert not path.exists()
    free.set()
    files.teardown()
    assert torch.equal(torch.load(path, weights_only=True)["weight"], torch.ones(3))


def test_every_kind_of_damage_is_found(tmp_path: Path) -> None:
    path = tmp_path / "step=00000001.ckpt"
    torch.save({"weights": torch.arange(5000.0)}, path)
    content = path.read_bytes()
    assert damage(path) is None
    newer = content.replace(content[(listing := content.index(b"PK\1\2")) :][:7], content[listing:][:6] + b"\xff", 1)
    for damaged in (b"", content[:-1], content[: len(content) // 2], b"not a checkpoint", newer):
        path.write_bytes(damaged)
        assert damage(path)
    middle = len(content) // 2  # inside the weights
    path.write_bytes(content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :])
    assert "has changed" in str(damage(path))
    torch.load(path, weights_only=True)  # torch does not notice
