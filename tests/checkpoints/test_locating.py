"""Finding checkpoints by path, by a run's folder and by the name of a bundled one."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch
from support.damage import lightning_checkpoint
from support.denoisers import same_model

from sdedit_pl.checkpoints import CheckpointError, find_checkpoint, load_denoiser

BUNDLED = Path(__file__).parents[2] / "checkpoints" / "portraits64.safetensors"


def test_a_runs_folder_is_its_editing_checkpoint_or_else_its_newest_training_checkpoint(
    tiny_checkpoint: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "checkpoints"
    folder.mkdir()
    for age, step in ((10, 2), (20, 1)):
        file = folder / f"step={step}.ckpt"
        torch.save(lightning_checkpoint(tiny_checkpoint), file)
        os.utime(file, (file.stat().st_atime, file.stat().st_mtime - age))
    assert find_checkpoint(tmp_path) == folder / "step=2.ckpt"
    assert same_model(load_denoiser(tmp_path), load_denoiser(tiny_checkpoint))
    (tmp_path / "model.safetensors").write_bytes(tiny_checkpoint.read_bytes())
    assert find_checkpoint(tmp_path) == tmp_path / "model.safetensors"


@pytest.mark.parametrize("name", ["portraits64", "checkpoints/portraits64.safetensors"])
def test_a_bundled_checkpoint_is_found_from_any_folder(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert find_checkpoint(name) == BUNDLED


def test_an_existing_path_comes_before_a_bundled_checkpoint(
    tiny_checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("portraits64").write_bytes(tiny_checkpoint.read_bytes())
    assert find_checkpoint("portraits64") == Path("portraits64")


@pytest.mark.parametrize("name", ["portraits46", "elsewhere/portraits64.safetensors", "checkpoints/portraits64"])
def test_another_name_is_refused_and_the_bundled_ones_are_listed(name: str, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=f"no checkpoint at {name}.*portraits64$"):
        find_checkpoint(name)
