"""Log entries, and that the training loop does not wait for the accelerator between them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import lightning
import pytest
import torch
from lightning.pytorch.loggers.logger import Logger
from support.one_weight import Batches, Clock, OneWeight, quiet_trainer
from support.tiny import tiny_config
from torch._subclasses import FakeTensorMode
from torch._subclasses.fake_tensor import DataDependentOutputException

from sdedit_pl.build.model import build_denoiser
from sdedit_pl.build.training_parts import build_averaging, build_module
from sdedit_pl.data.folder_source import FolderSource
from sdedit_pl.training.checkpoint_io import DurableCheckpoints
from sdedit_pl.training.divergence_watch import DivergenceWatch
from sdedit_pl.training.loss_logging import TrainingLog
from sdedit_pl.training.progress_display import RunProgressBar, TrainingSpeed
from sdedit_pl.training.resumable_checkpoints import ResumableCheckpoint
from sdedit_pl.training.stop_signals import StopSignals
from sdedit_pl.training.unreadable_images import UnreadableImageCounts


class Rows(Logger):
    """A logger that keeps its entries."""

    name, version = "rows", None

    def __init__(self) -> None:
        super().__init__()
        self.rows: list[tuple[int, dict[str, float]]] = []

    def log_metrics(self, metrics: dict[str, float], step: int) -> None:  # type: ignore[override]
        self.rows.append((step, metrics))

    def log_hyperparams(self, *arguments: Any) -> None:
        pass

    def of(self, name: str) -> list[float]:
        return [metrics[name] for _, metrics in self.rows if name in metrics]


@pytest.mark.parametrize("accumulate", [1, 3])
@pytest.mark.parametrize("every", [1, 4])
def test_an_entry_is_of_one_step_and_its_speed_without_validation(
    every: int, accumulate: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock, log, logger = Clock(monkeypatch, "loss_logging"), TrainingLog(every, DivergenceWatch()), Rows()
    trainer = quiet_trainer(24, [clock, log], accumulate=accumulate, validate_every=12, logger=[logger])
    trainer.fit(OneWeight(), datamodule=Batches(8))
    logged = list(range(every, 25, every))
    assert [step for step, metrics in logger.rows if "train/loss" in metrics] == [step - 1 for step in logged]
    assert logger.of("train/images") == [step * 8.0 * accumulate for step in logged]
    assert logger.of("train/rate") == [2e-4] * len(logged)
    middle = (accumulate - 1) / 2
    assert logger.of("train/loss") == [(step - 1) * accumulate + middle for step in logged]
    # The first interval of the run and of the part after the validation have no beginning.
    assert logger.of("train/images_per_second") == pytest.approx([16.0] * (24 // every - 2))


class Numbered(Batches):
    """Batches that are known to lie in [-1, 1], as those of `ImageDataModule` are."""

    def val_indices(self, batch_idx: int) -> range:
        return range(batch_idx, batch_idx + 1)


class Reading(lightning.Callback):
    """Reads the loss at every batch."""

    def on_train_batch_end(self, trainer: Any, pl_module: Any, *args: Any) -> None:
        pl_module.batch_loss.item()


@pytest.mark.parametrize(("callbacks", "read_after"), [([], 5), ([Reading()], 0)], ids=["log", "each batch"])
def test_the_training_loop_reads_nothing_from_the_device_between_log_entries(
    callbacks: list[lightning.Callback], read_after: int, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    # All of Lightning's loop on tensors without values, whatever asks for one raises: forward and backward passes,
    # clipping, optimiser, schedule, average, watch, log, bar, signals and the clock of checkpoints.
    monkeypatch.setattr(FakeTensorMode, "__deepcopy__", lambda mode, memo: mode, raising=False)
    monkeypatch.setattr(torch.nn.Module, "_apply", lambda module, *arguments, **options: module)  # moves to a device
    config = tiny_config(
        "data.path=unused",
        "schedule=cosine",
        "network.attention_levels=[1]",
        "network.channel_multipliers=[1,2]",
        "average.half_life_images=[50,100]",
        "uncertainty=true",
    )
    watch = DivergenceWatch()
    log, speed, files, signals = TrainingLog(5, watch), TrainingSpeed(), DurableCheckpoints(), StopSignals()
    settings = {"every_steps": 1000, "every_minutes": 60.0, "keep": 1, "files": files, "watch": watch}
    watching = [
        speed,
        RunProgressBar(log, speed),
        log,
        UnreadableImageCounts(FolderSource("unused", 8)),
        ResumableCheckpoint(tmp_path, signals=signals, **settings),
    ]
    with FakeTensorMode():
        module = build_module(config, build_denoiser(config.model))
        trainer = lightning.Trainer(
            accelerator="cpu",
            devices=1,
            max_steps=20,
            limit_val_batches=0,
            gradient_clip_val=1.0,
            accumulate_grad_batches=2,
            log_every_n_steps=5,
            logger=False,
            enable_model_summary=False,
            use_distributed_sampler=False,
            callbacks=[*callbacks, *watching, build_averaging(config)],
        )
        with pytest.raises(DataDependentOutputException):
            trainer.fit(module, datamodule=Numbered())
    assert trainer.global_step == read_after
