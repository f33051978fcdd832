"""Every use of Lightning's private interface, each with its reason and its possible replacement.

`pyproject.toml` admits the Lightning releases that these functions were tested with. To admit another one, run
`tests/training` with it: `test_lightning_internals.py` checks that each attribute still exists.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

import lightning
import torch
from lightning.pytorch.callbacks import WeightAveraging
from lightning.pytorch.strategies import DDPStrategy
from torch import nn


def ignore_signals(trainer: lightning.Trainer) -> None:
    """Stops Lightning from handling signals and from broadcasting them.

    Why: its handlers replace those of `StopSignals`, and with several devices the training loop waits for the
    accelerator at every step to ask whether SIGTERM has arrived. Replacement: an option of the Trainer.
    """
    trainer._signal_connector.register_signal_handlers = lambda: None
    trainer.fit_loop.epoch_loop._broadcast_sigterm_tensor = lambda: None


def validation_is_due(trainer: lightning.Trainer) -> bool:
    """Whether a validation follows the training batch that has just ended.

    Why: a checkpoint must be written before the validation of the same step. Lightning decides whether to validate
    after the last callback and counts batches over all epochs only in its loop. Replacement: a public count of batches.
    """
    interval = trainer.val_check_batch
    batches = trainer.fit_loop.epoch_loop.total_batch_idx + 1
    at_interval = interval and batches % interval == 0
    return bool(trainer.enable_validation and (at_interval or trainer.global_step == trainer.max_steps))


def set_max_steps(trainer: lightning.Trainer, steps: int) -> None:
    """Changes the number of optimiser steps of a running fit; -1 for no limit.

    Why: a run that resumes at its last step skips training and with it the validation that is still due, and
    `Trainer.max_steps` is read-only. Replacement: a setter, or a fit that restores callbacks even if no step is left.
    """
    trainer.fit_loop.epoch_loop.max_steps = steps


def run_validation(trainer: lightning.Trainer) -> None:
    """Validates in the middle of a fit, as the training loop does after a step.

    Why: `Trainer.validate` ends the fit and loses its state. Replacement: a method that validates during a fit.
    """
    validation = trainer.fit_loop.epoch_loop.val_loop
    validation.restarting = False
    trainer.validating = True
    validation.run()
    trainer.training = True


def configure_ddp(trainer: lightning.Trainer, *, timeout: timedelta, static_graph: bool) -> None:
    """Sets how the processes of a distributed run exchange gradients; without effect on a run of one process.

    Gradients are views of the exchanged buffers, which saves a copy of them in memory. The graph is static if every
    step uses the same parameters. Why: only the Trainer knows which strategy `auto` is and how its processes are
    started. Replacement: Trainer options for arguments of the strategy that `auto` chooses.
    """
    if isinstance(trainer.strategy, DDPStrategy):
        trainer.strategy._ddp_kwargs |= {"gradient_as_bucket_view": True, "static_graph": static_graph}
        trainer.strategy._timeout = timeout


def recount_batches(checkpoint: dict[str, Any], accumulated: int) -> None:
    """Sets the batch count of a checkpoint to what it would be with `accumulated` batches in each optimiser step.

    Why: Lightning derives the end of a step and the interval between validations from the number of batches, which is
    wrong if accumulate_grad_batches has changed. Replacement: counting validations in optimiser steps.
    """
    batches = checkpoint["global_step"] * accumulated
    counts = checkpoint["loops"]["fit_loop"]["epoch_loop.batch_progress"]
    for part in (counts["total"], counts["current"]):
        missing = batches - part["ready"]
        for name in part:
            part[name] += missing


@contextmanager
def without_notices() -> Iterator[None]:
    """Hides Lightning's notices inside the block, but not its warnings, except for three.

    Why: the notices advertise, and list absent devices. Of the warnings, one concerns LeafSpec in Lightning's own code,
    one advises `sync_dist` for numbers that only the first process has, and one reports a lack of validation images,
    which the log states. Replacement: a Trainer option, and a Lightning release without LeafSpec.
    """
    loggers = [logging.getLogger(f"lightning.{part}.utilities.rank_zero") for part in ("pytorch", "fabric")]
    levels = [each.level for each in loggers]
    for each in loggers:
        each.setLevel(logging.WARNING)
    try:
        with warnings.catch_warnings():
            for unneeded in ("LeafSpec.* is deprecated", "recommended to use .*sync_dist=", "Total length of `list`"):
                warnings.filterwarnings("ignore", message=f".*{unneeded}")
            yield
    finally:
        for each, level in zip(loggers, levels, strict=True):
            each.setLevel(level)


class AccessibleWeightAveraging(WeightAveraging):
    """Lightning's weight averaging with its private state as properties.

    Why: updates, previews and editing checkpoints need the averaged module itself. During a validation, and after an
    exception in one, Lightning has exchanged the weights of the module and of the average without saying so
    (`exchanged`). Replacement: public properties of `WeightAveraging`.
    """

    def __init__(self) -> None:
        super().__init__(use_buffers=False)
        self.exchanged = False

    @property
    def average(self) -> nn.Module | None:
        """The averaged copy of the LightningModule; None outside of a fit."""
        return None if self._average_model is None else self._average_model.module

    @property
    def updates(self) -> int:
        assert self._average_model is not None
        return int(self._average_model.n_averaged)

    @updates.setter
    def updates(self, count: int) -> None:
        assert self._average_model is not None
        # On the CPU, so that reading it waits for no accelerator.
        self._average_model.n_averaged = torch.tensor(count)

    @property
    def latest_update_step(self) -> int:
        return self._latest_update_step

    @latest_update_step.setter
    def latest_update_step(self, step: int) -> None:
        self._latest_update_step = step

    def _swap_models(self, pl_module: lightning.LightningModule) -> None:
        super()._swap_models(pl_module)
        self.exchanged = not self.exchanged

    def on_exception(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, exception: BaseException
    ) -> None:
        # An exception during validation leaves the weights exchanged.
        if self.exchanged:
            self._swap_models(pl_module)
