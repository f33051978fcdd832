"""`sdedit info`: its description of a checkpoint, and refusals."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path

import torch
import yaml
from support.damage import lightning_checkpoint

from sdedit_pl.checkpoints import describe


def test_it_describes_a_checkpoint(desk: Path, tiny_checkpoint: Path, command) -> None:
    code, output, errors = command("info", "ckpt=tiny.safetensors")
    assert (code, errors) == (0, "")
    said = yaml.safe_load(output)
    assert said["file"] == "tiny.safetensors" and said["format"] == "sdedit_pl" and said["weights"] == "float32"
    assert said["model"] == describe("tiny.safetensors").model.as_data()
    assert said["parameters"] == describe("tiny.safetensors").parameters > 10_000
    assert said["training"] == {"steps": 7000, "images_seen": 28} and said["data_range"] == [-1, 1]
    assert said["sha256"] == {"tiny.safetensors": hashlib.sha256(tiny_checkpoint.read_bytes()).hexdigest()}
    assert "origin" not in said


def test_it_reads_a_training_checkpoint(desk: Path, tiny_checkpoint: Path, command) -> None:
    torch.save(lightning_checkpoint(tiny_checkpoint), "last.ckpt")
    said = yaml.safe_load(command("info", "ckpt=last.ckpt").output)
    assert said["format"] == "lightning" and said["training"] == {"steps": 7}
    assert said["origin"]["weights"] == "ema"
    assert said["model"] == describe(tiny_checkpoint).model.as_data()


def test_a_checkpoint_is_required(refused: Callable[..., str]) -> None:
    assert refused("info").startswith("ckpt is required")
    assert "did you mean ckpt?" in refused("info", "cpkt=tiny.safetensors")
