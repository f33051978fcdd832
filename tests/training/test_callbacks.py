"""What happens beside the training steps, callback by callback."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import Mock

import lightning
import numpy as np
import pytest
import torch
from PIL import Image
from tiny import tiny_config, two_colour_images
from torch import Tensor

from sdedit_pl.build import build_denoiser, build_module, model_config
from sdedit_pl.denoiser import Denoiser
from sdedit_pl.editing import SDEdit
from sdedit_pl.training import (
    EditingCheckpoint,
    ImageHalfLifeAveraging,
    ImagesSeen,
    Previews,
    ResumableCheckpoint,
    ScoreModule,
)

EDIT = SDEdit(t0=0.5, steps=2)
PADDING = 2
"""Pixels between the images of a sheet."""


@pytest.fixture
def module() -> ScoreModule:
    config = tiny_config("data.path=unused", "network.dropout=0.5", "network.init_scale=1")
    return build_module(config, build_denoiser(model_config(config)))


def trainer_at(
    step: int,
    rank: int = 0,
    *,
    images: int = 0,
    sanity_checking: bool = False,
    accumulate: int = 1,
    loggers: Sequence[object] = (),
) -> Mock:
    """What callbacks ask a trainer for."""
    trainer = Mock(spec=lightning.Trainer, global_step=step, is_global_zero=rank == 0, loggers=loggers)
    trainer.sanity_checking, trainer.accumulate_grad_batches = sanity_checking, accumulate
    trainer.datamodule = SimpleNamespace(consumed_samples=images)
    trainer.precision_plugin.forward_context = nullcontext
    return trainer


class Clock:
    """A clock that stands still between the ticks of a test."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 0.0
        monkeypatch.setattr("sdedit_pl.training.callbacks.time.monotonic", lambda: self.now)


@pytest.mark.parametrize("accumulate", [1, 3])
@pytest.mark.parametrize("every", [1, 4])
def test_the_rate_is_images_a_second_without_validation(
    every: int, accumulate: int, module: ScoreModule, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock, counter, logged = Clock(monkeypatch), ImagesSeen(every), []
    module.log = lambda name, value, **options: logged.append((name, value))  # type: ignore[method-assign]
    for batch in range(24 * accumulate):
        clock.now += 0.5  # a batch of 8 images in half a second
        step = (batch + 1) // accumulate
        trainer = trainer_at(step, accumulate=accumulate, images=step * 8 * accumulate)
        counter.on_train_batch_end(trainer, module, None, torch.zeros(8, 3, 8, 8), batch)
        if step == 12 and (batch + 1) % accumulate == 0:
            clock.now += 100
            counter.on_validation_end(trainer, module)
    rates = [value for name, value in logged if name == "train/images_per_second"]
    images = [value for name, value in logged if name == "train/images"]
    assert rates == pytest.approx([16.0] * (24 // every - 2))  # two intervals have no beginning: the first of each part
    assert images == [step * 8.0 * accumulate for step in range(every, 25, every)]


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
    assert np.array_equal(first, second)
    assert first.shape == (3 * (8 + PADDING) + PADDING, 3 * (8 + PADDING) + PADDING, 3)
    shown = ((guides + 1) * 127.5).round().to(torch.uint8).permute(0, 2, 3, 1).numpy()
    for column in range(3):
        left = PADDING + column * (8 + PADDING)
        assert np.abs(first[PADDING : PADDING + 8, left : left + 8].astype(int) - shown[column]).max() <= 1
    row = slice(PADDING + 2 * (8 + PADDING), -PADDING)
    assert (first[row, -8 - PADDING : -PADDING] == 255).all()  # two samples leave the third place blank
    assert first[row, PADDING : PADDING + 8].std() > 1
    module.denoiser.eval()
    edits = callback.edit(module.denoiser, guides, seeds=[0, 1, 2])
    assert torch.equal(callback.rows(module.denoiser, torch.device("cpu"))[1], edits)


@pytest.mark.parametrize(("rank", "sanity", "samples"), [(1, False, 2), (0, True, 2), (0, False, 0)])
def test_no_preview_on_other_devices_in_sanity_checks_or_without_anything_to_show(
    rank: int, sanity: bool, samples: int, module: ScoreModule, tmp_path: Path
) -> None:
    guides = torch.empty(0, 3, 8, 8)
    callback = Previews(ImageHalfLifeAveraging(), tmp_path / "previews", guides, EDIT, (3, 8, 8), samples)
    callback.on_validation_epoch_end(trainer_at(4, rank, sanity_checking=sanity), module)
    assert not (tmp_path / "previews").exists()


def test_previews_show_the_averaged_weights(
    module: ScoreModule, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    averaging, other = ImageHalfLifeAveraging(), build_denoiser(model_config(module.config))
    monkeypatch.setattr(averaging, "averaged", lambda pl_module: other)
    callback = Previews(averaging, tmp_path, None, EDIT, (3, 8, 8), samples=1)
    shown: list[Denoiser] = []
    monkeypatch.setattr(callback, "rows", lambda denoiser, device: shown.append(denoiser) or [torch.zeros(1, 3, 8, 8)])
    callback.on_validation_epoch_end(trainer_at(4), module)
    assert shown == [other]


def test_the_editing_checkpoint_is_written_after_validation_and_at_the_end(module: ScoreModule) -> None:
    saved: list[tuple[Denoiser, dict[str, Any]]] = []
    callback = EditingCheckpoint(ImageHalfLifeAveraging(), lambda denoiser, facts: saved.append((denoiser, facts)))
    callback.on_validation_end(trainer_at(0, sanity_checking=True), module)
    callback.on_validation_end(trainer_at(3, rank=1), module)
    callback.on_validation_end(trainer_at(4, images=64), module)
    callback.on_fit_end(trainer_at(6, images=96), module)
    assert [facts for _, facts in saved] == [{"steps": 4, "images_seen": 64}, {"steps": 6, "images_seen": 96}]
    assert all(denoiser is module.denoiser for denoiser, _ in saved)


def test_samples_come_from_the_prior_and_do_not_depend_on_their_number(module: ScoreModule, tmp_path: Path) -> None:
    denoiser = module.denoiser.eval()

    def samples(count: int) -> Tensor:
        callback = Previews(ImageHalfLifeAveraging(), tmp_path, None, EDIT, (3, 8, 8), count)
        with torch.no_grad():
            return callback.unconditional(denoiser, torch.device("cpu"))

    three = samples(3)
    torch.testing.assert_close(three[:1], samples(1), rtol=1e-5, atol=1e-5)
    assert three.shape == (3, 3, 8, 8) and not torch.allclose(three[0], three[1], atol=0.1)


class Writer:
    """A trainer that writes its step as a checkpoint, and fails where told to."""

    def __init__(self, accumulate: int = 1, fails_at: int | None = None) -> None:
        self.max_steps = -1
        self.accumulate = accumulate
        self.fails_at = fails_at
        self.writes: list[int] = []

    def at(self, step: int, rank: int = 0) -> Mock:
        def save(path: Path, weights_only: bool) -> None:
            assert not weights_only
            if step == self.fails_at:
                path.write_text("half of")
                raise OSError("no space left on device")
            if rank == 0:
                path.write_text(str(step))
            self.writes.append(step)

        trainer = trainer_at(step, rank, accumulate=self.accumulate)
        trainer.save_checkpoint, trainer.max_steps = save, self.max_steps
        return trainer

    def train(self, callback: ResumableCheckpoint, module: ScoreModule, begin: int, end: int) -> None:
        """The steps after `begin` up to `end`, the last."""
        self.max_steps = end
        callback.on_train_start(self.at(begin), module)
        for batch in range(begin * self.accumulate, end * self.accumulate):
            callback.on_train_batch_end(self.at((batch + 1) // self.accumulate), module, None, torch.zeros(1), batch)


@pytest.mark.parametrize("accumulate", [1, 2])
def test_checkpoints_come_at_intervals_and_at_the_end_and_the_newest_stay(
    accumulate: int, module: ScoreModule, tmp_path: Path
) -> None:
    writer = Writer(accumulate)
    writer.train(ResumableCheckpoint(tmp_path, 4, keep=2), module, 0, 10)
    assert writer.writes == [4, 8, 10]
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == {
        "step=00000008.ckpt": "8",
        "step=00000010.ckpt": "10",
    }
    writer.train(ResumableCheckpoint(tmp_path, 5, keep=3), module, 10, 16)  # resumed, with other settings
    assert writer.writes == [4, 8, 10, 15, 16]
    assert sorted(path.name for path in tmp_path.iterdir()) == [f"step=000000{step}.ckpt" for step in (10, 15, 16)]


def test_a_checkpoint_that_could_not_be_written_leaves_the_old_ones_whole(module: ScoreModule, tmp_path: Path) -> None:
    with pytest.raises(OSError, match="no space left"):
        Writer(fails_at=8).train(ResumableCheckpoint(tmp_path, 4, keep=1), module, 0, 10)
    assert {path.name: path.read_text() for path in tmp_path.glob("*.ckpt")} == {"step=00000004.ckpt": "4"}


def test_other_devices_join_in_writing_and_leave_the_folder_alone(module: ScoreModule, tmp_path: Path) -> None:
    writer = Writer()
    callback = ResumableCheckpoint(tmp_path, 1, keep=1)
    callback.on_train_batch_end(writer.at(1, rank=1), module, None, torch.zeros(1), 0)
    assert writer.writes == [1] and list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("every_steps", "keep"), [(0, 2), (10, 0)])
def test_checkpoint_settings_that_mean_nothing_are_refused(every_steps: int, keep: int, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=f"at least 1, got every_steps={every_steps}, keep={keep}"):
        ResumableCheckpoint(tmp_path, every_steps, keep)


def test_a_logging_interval_that_means_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="at least 1 step between them, got 0"):
        ImagesSeen(0)
