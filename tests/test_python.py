"""The package as a Python library: its public names, and the examples of docs/python.md."""

from __future__ import annotations

import pydoc
import re
import subprocess
import sys
from pathlib import Path

import lightning
import pytest
import torch
from torch.utils.data import DataLoader, TensorDataset

import sdedit_pl
from sdedit_pl import ScoreModule, load_denoiser

DOCUMENT = Path(__file__).parents[1] / "docs" / "python.md"
EXAMPLES = re.findall(r"```python\n(.*?)```", DOCUMENT.read_text(encoding="utf-8"), re.DOTALL)


def trainer(folder: Path, **options: object) -> lightning.Trainer:
    quiet = {"logger": False, "enable_progress_bar": False, "enable_checkpointing": False}
    return lightning.Trainer(accelerator="cpu", default_root_dir=folder, **quiet, **options)  # pyright: ignore


def test_every_public_name_is_there_listed_and_in_the_help() -> None:
    text = pydoc.plain(pydoc.render_doc(sdedit_pl))
    for name in sdedit_pl.__all__:
        assert getattr(sdedit_pl, name) is not None and name in dir(sdedit_pl) and name in text
    assert {"ScoreModule", "ImageDataModule", "SOLVERS", "NETWORKS", "SDES"} <= set(sdedit_pl.__all__)
    with pytest.raises(AttributeError, match="no attribute 'SDEditor'"):
        _ = sdedit_pl.SDEditor


def test_importing_the_package_imports_no_library() -> None:
    program = "import sys, sdedit_pl; dir(sdedit_pl); sys.exit('torch' in sys.modules or 'numpy' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program]).returncode == 0


def test_the_examples_train_save_and_edit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert len(EXAMPLES[0].strip().splitlines()) <= 26
    names: dict[str, object] = {"__name__": "example"}
    short = EXAMPLES[0].replace("max_steps=100, val_check_interval=8", "max_steps=2, val_check_interval=2")
    for example in (short.replace("return 64", "return 16").replace("t0=0.5", "t0=0.5, steps=2"), EXAMPLES[1]):
        exec(compile(example, DOCUMENT.name, "exec"), names)
    assert isinstance(names["images"], torch.Tensor) and names["images"].shape == (2, 3, 64, 64)
    trained, before = (load_denoiser(name).network for name in ("colours.safetensors", "portraits64"))
    assert any(not torch.equal(new, old) for new, old in zip(trained.parameters(), before.parameters(), strict=True))
    assert sdedit_pl.describe("untrained.safetensors").image.tensor_shape == (3, 32, 32)


def test_any_loader_validates_alike_whatever_its_batches(tiny_checkpoint: Path, tmp_path: Path) -> None:
    module = ScoreModule(load_denoiser(tiny_checkpoint, train=True))
    images = TensorDataset(torch.rand(6, 3, 16, 16) * 2 - 1, torch.arange(6))
    losses = [
        trainer(tmp_path).validate(module, DataLoader(images, batch_size=size), verbose=False)[0]["val/loss"]
        for size in (6, 4, 1)
    ]
    assert losses == pytest.approx([losses[0]] * 3, rel=1e-5)


def test_schedules_follow_a_run_of_epochs(tiny_checkpoint: Path, tmp_path: Path) -> None:
    module = ScoreModule(load_denoiser(tiny_checkpoint, train=True), schedule=sdedit_pl.SCHEDULES["cosine"]())
    trainer(tmp_path, max_epochs=2).fit(module, DataLoader(TensorDataset(torch.zeros(4, 3, 16, 16)), batch_size=2))
    assert module.total_steps == 4 and module.optimizers().param_groups[0]["lr"] < 1e-9  # pyright: ignore


@pytest.mark.parametrize(
    ("batch", "message"),
    [
        (torch.zeros(2, 3, 16, 16, dtype=torch.uint8), r"got uint8 of .*; convert uint8 x with x / 127.5 - 1"),
        ({"image": torch.zeros(2, 3, 16, 16)}, "must be float images in .*, got a dict"),
    ],
)
def test_a_batch_of_anything_else_is_refused(batch: object, message: str, tiny_checkpoint: Path) -> None:
    with pytest.raises(ValueError, match=message):
        ScoreModule(load_denoiser(tiny_checkpoint, train=True)).training_step(batch, 0)


def test_images_in_0_1_are_warned_of(tiny_checkpoint: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    module = ScoreModule(load_denoiser(tiny_checkpoint, train=True))
    trainer(tmp_path, max_steps=1).fit(module, DataLoader(TensorDataset(torch.rand(2, 3, 16, 16)), batch_size=2))
    assert "no value below 0; convert [0, 1] with 2 x - 1" in caplog.text


def test_frozen_weights_are_refused_with_the_remedy(tiny_checkpoint: Path) -> None:
    with pytest.raises(ValueError, match=r"frozen; load it with load_denoiser\(\.\.\., train=True\)"):
        ScoreModule(load_denoiser(tiny_checkpoint))
