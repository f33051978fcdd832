"""The log of a training, and that between two entries nothing waits for the device."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import Mock

import lightning
import pytest
import torch
from support.tiny import tiny_config
from torch import Tensor
from torch._subclasses import FakeTensorMode
from torch._subclasses.fake_tensor import DataDependentOutputException

from sdedit_pl.build.model import build_denoiser
from sdedit_pl.build.training_run import build_averaging, build_module
from sdedit_pl.data import FolderSource
from sdedit_pl.training.checkpoint_io import DurableCheckpoints
from sdedit_pl.training.divergence_watch import DivergenceWatch
from sdedit_pl.training.module import ScoreModule
from sdedit_pl.training.progress_bar import RunProgress
from sdedit_pl.training.resumable_checkpoints import ResumableCheckpoint
from sdedit_pl.training.stop_signals import StopSignals
from sdedit_pl.training.training_log import TrainingLog
from sdedit_pl.training.unreadable_images import UnreadableImageCounts


class Clock:
    """A clock that stands still between the ticks of a test."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 0.0
        monkeypatch.setattr("sdedit_pl.training.training_log.time.monotonic", lambda: self.now)


class Rows:
    """A logger that remembers."""

    def __init__(self) -> None:
        self.rows: list[tuple[int, dict[str, float]]] = []

    def log_metrics(self, metrics: dict[str, float], step: int) -> None:
        self.rows.append((step, metrics))

    def of(self, name: str) -> list[float]:
        return [metrics[name] for _, metrics in self.rows if name in metrics]


@pytest.fixture
def module() -> ScoreModule:
    config = tiny_config("data.path=unused")
    return build_module(config, build_denoiser(config.model))


def trainer_at(step: int, images: int, accumulate: int, logger: Rows) -> Mock:
    trainer = Mock(spec=lightning.Trainer, global_step=step, accumulate_grad_batches=accumulate, loggers=[logger])
    trainer.datamodule = SimpleNamespace(consumed_samples=images)
    trainer.strategy.all_gather = lambda tensor: tensor
    trainer.optimizers = [SimpleNamespace(param_groups=[{"lr": step / 8}])]
    return trainer


@pytest.mark.parametrize("accumulate", [1, 3])
@pytest.mark.parametrize("every", [1, 4])
def test_an_entry_is_of_one_step_and_its_rate_without_validation(
    every: int, accumulate: int, module: ScoreModule, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock, log, logger = Clock(monkeypatch), TrainingLog(every, DivergenceWatch()), Rows()
    for batch in range(24 * accumulate):
        clock.now += 0.5  # a batch of 8 images in half a second
        step = (batch + 1) // accumulate
        before = trainer_at(batch // accumulate, 0, accumulate, logger)
        trainer = trainer_at(step, step * 8 * accumulate, accumulate, logger)
        log.on_train_batch_start(before, module, torch.zeros(8, 3, 8, 8), batch)
        module.batch_loss = torch.tensor(float(batch))
        log.on_train_batch_end(trainer, module, None, torch.zeros(8, 3, 8, 8), batch)
        if step == 12 and (batch + 1) % accumulate == 0:
            clock.now += 100
            log.on_validation_end(trainer, module)
    logged = list(range(every, 25, every))
    assert [step for step, _ in logger.rows] == [step - 1 for step in logged]
    assert logger.of("train/images") == [step * 8.0 * accumulate for step in logged]
    assert logger.of("train/rate") == [(step - 1) / 8 for step in logged]  # of the step, not of the next
    middle = (accumulate - 1) / 2
    assert logger.of("train/loss") == [(step - 1) * accumulate + middle for step in logged]
    rates = logger.of("train/images_per_second")
    assert rates == pytest.approx([16.0] * (24 // every - 2))  # two intervals have no beginning: the first of each part


def test_a_logging_interval_that_means_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="at least 1 step between them, got 0"):
        TrainingLog(0, DivergenceWatch())


def test_the_progress_bar_shows_the_latest_entry(module: ScoreModule) -> None:
    log = TrainingLog(1, DivergenceWatch())
    trainer = Mock(spec=lightning.Trainer, progress_bar_metrics={"val/loss": 0.5}, loggers=[])
    bar = RunProgress(log)
    assert bar.get_metrics(trainer, module) == {"val/loss": 0.5}
    log.latest = {"train/loss": 0.25, "train/rate": 1e-3, "train/images_per_second": 40.0}
    shown = bar.get_metrics(trainer, module)
    assert shown == {"train/loss": 0.25, "train/images_per_second": 40.0, "val/loss": 0.5}


class EndlessImages(lightning.LightningDataModule):
    """Batches without end."""

    consumed_samples = 0

    def train_dataloader(self) -> Any:
        class Batches:
            def __iter__(self) -> Iterator[Tensor]:
                while True:
                    yield torch.zeros(4, 3, 8, 8)

        return Batches()


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
    log, files, signals = TrainingLog(5, watch), DurableCheckpoints(), StopSignals()
    settings = {"every_steps": 1000, "every_minutes": 60.0, "keep": 1, "files": files, "watch": watch}
    watching = [
        RunProgress(log),
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
            gradient_clip_val=1.0,
            accumulate_grad_batches=2,
            log_every_n_steps=5,
            logger=False,
            enable_model_summary=False,
            use_distributed_sampler=False,
            callbacks=[*callbacks, *watching, build_averaging(config)],
        )
        with pytest.raises(DataDependentOutputException):
            trainer.fit(module, datamodule=EndlessImages())
    assert trainer.global_step == read_after
