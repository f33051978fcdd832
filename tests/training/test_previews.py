"""Preview sheets of edits and samples."""

from __future__ import annotations

import errno
import os
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path
from unittest.mock import Mock

import lightning
import numpy as np
import pytest
import torch
from PIL import Image
from support.tiny import tiny_config, two_colour_images

from sdedit_pl.build.model import build_denoiser
from sdedit_pl.build.training_parts import build_module
from sdedit_pl.configuration.model_config import model_of_run
from sdedit_pl.denoiser import Denoiser
from sdedit_pl.editing import SDEdit
from sdedit_pl.picture_grid import MARGIN, SMALLEST_CELL, title_height
from sdedit_pl.training.module import ScoreModule
from sdedit_pl.training.previews import Previews
from sdedit_pl.training.weight_averaging import ImageHalfLifeAveraging

EDIT = SDEdit(t0=0.5, steps=2)
STEP = SMALLEST_CELL + MARGIN


@pytest.fixture
def module() -> ScoreModule:
    config = tiny_config("data.path=unused", "network.dropout=0.5", "network.init_scale=1")
    return build_module(config, build_denoiser(config.model))


def trainer_at(step: int, rank: int = 0, *, loggers: Sequence[object] = ()) -> Mock:
    """A trainer with the attributes that previews need."""
    trainer = Mock(spec=lightning.Trainer, global_step=step, is_global_zero=rank == 0, loggers=loggers)
    trainer.precision_plugin.forward_context = nullcontext
    return trainer


class Saved:
    """A logger that takes images."""

    def __init__(self) -> None:
        self.images: list[tuple[str, list[str], int]] = []

    def log_image(self, key: str, images: list[str], step: int) -> None:
        self.images.append((key, images, step))


def test_previews_are_sheets_of_guides_edits_and_samples(module: ScoreModule, tmp_path: Path) -> None:
    guides, logger = two_colour_images(3, 8), Saved()
    callback = Previews(ImageHalfLifeAveraging(), tmp_path / "previews", guides, EDIT, (3, 8, 8), samples=2)
    module.train()
    for step in (4, 8):
        callback.on_validation_epoch_end(trainer_at(step, loggers=[logger, object()]), module)
    assert module.training  # and dropout was off: the sheets agree
    paths = [tmp_path / "previews" / f"step-{step:08d}.png" for step in (4, 8)]
    assert logger.images == [("preview", [str(path)], step) for path, step in zip(paths, (4, 8), strict=True)]
    first, second = (np.asarray(Image.open(path).convert("RGB")) for path in paths)
    top = title_height(256)
    assert np.array_equal(first[top:], second[top:]) and not np.array_equal(first[:top], second[:top])  # the step
    left, top = first.shape[1] - 3 * STEP, first.shape[0] - 3 * STEP - MARGIN
    assert (first[:top] < 128).any() and (first[top:, :left] < 128).any(), "no heading, or no row titles"
    for column, guide in enumerate(guides):
        quarter = first[top + 64, left + STEP * column + 64].astype(int)  # flat, away from the edge of two colours
        assert np.abs(quarter - ((guide[:, 2, 2] + 1) * 127.5).numpy()).max() <= 1
    samples = first[top + 2 * STEP :]
    assert (samples[:, -STEP + MARGIN :] == 255).all()  # two samples leave the third place blank
    assert samples[:, left : left + STEP].std() > 1
    module.denoiser.eval()
    edits = callback.edit(module.denoiser, guides, seeds=[0, 1, 2])
    assert torch.equal(callback.rows(module.denoiser, torch.device("cpu"))["edit"], edits)


@pytest.mark.parametrize(("rank", "samples"), [(1, 2), (0, 0)])
def test_no_sheet_on_other_devices_or_without_images(
    rank: int, samples: int, module: ScoreModule, tmp_path: Path
) -> None:
    guides = torch.empty(0, 3, 8, 8)
    callback = Previews(ImageHalfLifeAveraging(), tmp_path / "previews", guides, EDIT, (3, 8, 8), samples)
    callback.on_validation_epoch_end(trainer_at(4, rank), module)
    assert not (tmp_path / "previews").exists()


def test_previews_show_the_averaged_weights(
    module: ScoreModule, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    averaging, other = ImageHalfLifeAveraging(), build_denoiser(model_of_run(module.config))
    monkeypatch.setattr(averaging, "averaged", lambda pl_module: other)
    callback = Previews(averaging, tmp_path, None, EDIT, (3, 8, 8), samples=1)
    shown: list[Denoiser] = []
    monkeypatch.setattr(
        callback, "rows", lambda denoiser, device: shown.append(denoiser) or {"a": torch.zeros(1, 3, 8, 8)}
    )
    callback.on_validation_epoch_end(trainer_at(4), module)
    assert shown == [other]


def test_a_full_disk_loses_the_sheet_but_does_not_stop_training(
    module: ScoreModule, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(*arguments: object, **options: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    callback = Previews(ImageHalfLifeAveraging(), tmp_path, None, EDIT, (3, 8, 8), samples=1)
    monkeypatch.setattr("PIL.Image.Image.save", fail)
    callback.on_validation_epoch_end(trainer_at(4), module)
    assert "step-00000004.png cannot be written" in caplog.text and "No space left" in caplog.text
    assert list(tmp_path.iterdir()) == []
