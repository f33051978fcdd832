"""A module of one weight, so that a test can run Lightning's whole training loop in a fraction of a second."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from types import SimpleNamespace
from typing import Any

import lightning
import pytest
import torch
from lightning.fabric.plugins import CheckpointIO
from lightning.pytorch.callbacks import Checkpoint
from torch import Tensor, nn

from sdedit_pl.denoiser import Denoiser
from sdedit_pl.losses import DataWeighting, UniformTimes
from sdedit_pl.parameterisations import Epsilon
from sdedit_pl.sde import VPSDE
from sdedit_pl.training.module import ScoreModule
from sdedit_pl.training.optimizers import Adam, Constant


class OneWeight(ScoreModule):
    """A module whose weight and validation losses are given; its training loss is the number of the batch.

    Args:
        weights: value of the weight after each optimiser step; the last one holds for all later steps.
        losses: validation losses by optimiser step, of the first average and of the others.
    """

    def __init__(self, weights: Sequence[float] = (0.0,), losses: dict[int, Sequence[float]] | None = None) -> None:
        network = nn.Module()
        network.weight = nn.Parameter(torch.zeros(()))
        super().__init__(Denoiser(network, Epsilon(), VPSDE()), DataWeighting(), UniformTimes(), Adam(), Constant())
        self.weights = weights
        self.given_losses = losses or {}

    @property
    def weight(self) -> nn.Parameter:
        return next(self.denoiser.parameters())

    def training_step(self, batch: Tensor, batch_idx: int) -> Tensor:
        self.batch_loss = torch.tensor(float(self.batches_done))
        self.batches_done += 1
        return 0 * self.weight

    def optimizer_step(self, *arguments: Any, **options: Any) -> None:
        super().optimizer_step(*arguments, **options)
        nn.init.constant_(self.weight, self.weights[min(self.global_step, len(self.weights) - 1)])

    def validation_step(self, batch: Tensor, batch_idx: int) -> None:
        losses = self.given_losses.get(self.global_step, [1.0] * (1 + len(self.averages)))
        for half_life, loss in zip((None, *self.averages), losses, strict=True):
            self.log(self.criterion(half_life), loss, batch_size=len(batch))


class Batches(lightning.LightningDataModule):
    """Endless batches to train on and one to validate on."""

    def __init__(self, batch_size: int = 4) -> None:
        super().__init__()
        self.batch_size = batch_size

    @property
    def consumed_samples(self) -> int:
        assert self.trainer is not None
        per_step = self.batch_size * self.trainer.world_size * self.trainer.accumulate_grad_batches
        return self.trainer.global_step * per_step

    def train_dataloader(self) -> Any:
        return Endless(self.batch_size)

    def val_dataloader(self) -> list[Tensor]:
        return [torch.zeros(1, 3, 8, 8)]


class Endless:
    """Batches of black images."""

    def __init__(self, batch_size: int) -> None:
        self.batch_size = batch_size

    def __iter__(self) -> Iterator[Tensor]:
        while True:
            yield torch.zeros(self.batch_size, 3, 8, 8)


class Clock(lightning.Callback):
    """A clock on which a batch takes half a second and a validation 100 seconds.

    Args:
        monkeypatch: replaces the clock in some modules of sdedit_pl.training.
        modules: their names.
    """

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *modules: str) -> None:
        self.now = 0.0
        for module in modules:
            monkeypatch.setattr(f"sdedit_pl.training.{module}.time", SimpleNamespace(monotonic=lambda: self.now))

    def on_train_batch_start(self, *arguments: Any) -> None:
        self.now += 0.5

    def on_validation_batch_start(self, *arguments: Any) -> None:
        self.now += 100


def quiet_trainer(
    max_steps: int,
    callbacks: Sequence[lightning.Callback],
    *,
    accumulate: int = 1,
    validate_every: int | None = None,
    files: CheckpointIO | None = None,
    **options: Any,
) -> lightning.Trainer:
    """Lightning's Trainer as a run uses it, without loggers and bars; with `validate_every=None` it never validates."""
    return lightning.Trainer(
        accelerator="cpu",
        devices=1,
        max_steps=max_steps,
        max_epochs=-1,
        accumulate_grad_batches=accumulate,
        val_check_interval=1 if validate_every is None else validate_every * accumulate,
        limit_val_batches=0 if validate_every is None else None,
        check_val_every_n_epoch=None,
        num_sanity_val_steps=0,
        use_distributed_sampler=False,
        enable_model_summary=False,
        enable_checkpointing=any(isinstance(callback, Checkpoint) for callback in callbacks),
        callbacks=list(callbacks),
        plugins=[] if files is None else [files],
        **{"logger": False, "enable_progress_bar": False, **options},
    )
