"""When checkpoints are written, which ones are kept, and what happens on a signal or a full disk."""

from __future__ import annotations

import errno
import os
import signal
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import Mock

import lightning
import pytest
import torch
from support.full_disk import full_disk
from support.one_weight import Batches, OneWeight, quiet_trainer

from sdedit_pl.training.checkpoint_io import DurableCheckpoints, damage
from sdedit_pl.training.divergence_watch import Diverged, DivergenceWatch
from sdedit_pl.training.number_exchange import Agreement
from sdedit_pl.training.resumable_checkpoints import BEST, ResumableCheckpoint
from sdedit_pl.training.stop_signals import Interrupted, StopSignals


class CountedCheckpoints(DurableCheckpoints):
    """Records the step of each checkpoint, whether or not it could be written."""

    def __init__(self) -> None:
        super().__init__()
        self.steps: list[int] = []

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
        self.steps.append(checkpoint["global_step"])
        super().save_checkpoint(checkpoint, path, storage_options)


class AtStep(lightning.Callback):
    """Calls a function once, at the start of an optimiser step, counted from 1."""

    def __init__(self, step: int, call: Callable[[], object]) -> None:
        self.step = step
        self.call = call

    def on_train_batch_start(self, trainer: lightning.Trainer, pl_module: Any, batch: Any, batch_idx: int) -> None:
        if trainer.global_step == self.step - 1 and batch_idx % trainer.accumulate_grad_batches == 0:
            self.call()


class Run:
    """Trainings in one folder of checkpoints."""

    def __init__(self, folder: Path, losses: dict[int, float] | None = None, **settings: Any) -> None:
        self.folder = folder
        self.files, self.watch, self.signals = CountedCheckpoints(), DivergenceWatch(), StopSignals()
        self.settings = {"every_steps": 4, "keep": 2, "best": False} | settings
        self.losses = {step: (loss,) for step, loss in (losses or {}).items()}

    def train(
        self, end: int, *callbacks: lightning.Callback, begin: int = 0, accumulate: int = 1, validate_every: Any = None
    ) -> None:
        """Trains up to the step `end`, from scratch or from the checkpoint of the step `begin`."""
        parts = {"files": self.files, "watch": self.watch, "signals": self.signals}
        resumable = ResumableCheckpoint(self.folder, **self.settings, **parts)
        trainer = quiet_trainer(
            end, [*callbacks, resumable], accumulate=accumulate, validate_every=validate_every, files=self.files
        )
        checkpoint = self.folder / f"step={begin:08d}.ckpt" if begin else None
        trainer.fit(OneWeight(losses=self.losses), datamodule=Batches(), ckpt_path=checkpoint, weights_only=True)

    def kept(self) -> dict[str, int]:
        """The step inside each file of the folder."""
        return {path.name: torch.load(path, weights_only=True)["global_step"] for path in sorted(self.folder.iterdir())}


def named(*steps: int) -> dict[str, int]:
    return {f"step={step:08d}.ckpt": step for step in steps}


@pytest.mark.parametrize("accumulate", [1, 2])
def test_checkpoints_come_at_intervals_and_at_the_end_and_the_newest_stay(accumulate: int, tmp_path: Path) -> None:
    first = Run(tmp_path)
    first.train(10, accumulate=accumulate)
    assert first.files.steps == [4, 8, 10] and first.kept() == named(8, 10)
    resumed = Run(tmp_path, every_steps=5, keep=3)  # other settings
    resumed.train(16, begin=10, accumulate=accumulate)
    assert resumed.files.steps == [15, 16] and resumed.kept() == named(10, 15, 16)


def test_a_damaged_later_checkpoint_does_not_count_among_the_newest(tmp_path: Path) -> None:
    Run(tmp_path, every_steps=1, keep=3).train(3)
    (tmp_path / "step=00000003.ckpt").write_bytes(b"")
    resumed = Run(tmp_path, every_steps=1, keep=1)
    names: list[list[str]] = []

    def list_names() -> None:
        resumed.files.wait()
        names.append(sorted(os.listdir(tmp_path)))

    resumed.train(4, AtStep(3, list_names), begin=1)
    assert names == [["step=00000002.ckpt", "step=00000003.ckpt"]] and resumed.kept() == named(4)


@pytest.mark.parametrize("accumulate", [1, 2])
def test_a_checkpoint_precedes_each_validation(accumulate: int, tmp_path: Path) -> None:
    run = Run(tmp_path)
    run.train(10, accumulate=accumulate, validate_every=3)
    assert run.files.steps == [3, 4, 6, 8, 9, 10]


def test_minutes_bring_a_checkpoint_whatever_the_steps(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = SimpleNamespace(now=0.0)

    class Tick(lightning.Callback):
        def on_train_batch_start(self, *arguments: Any) -> None:
            clock.now += 25  # seconds a step: four steps are more than a minute and a half

    module = "sdedit_pl.training.resumable_checkpoints"
    monkeypatch.setattr(f"{module}.time", SimpleNamespace(monotonic=lambda: clock.now))
    run = Run(tmp_path, every_steps=9, every_minutes=1.5, keep=9)
    run.train(20, Tick())
    assert run.files.steps == [4, 8, 9, 13, 17, 18, 20]  # counted from the last one, whatever its reason


def test_the_checkpoint_with_the_lowest_validation_loss_is_kept(tmp_path: Path) -> None:
    losses = dict(enumerate((0.5, 0.3, 0.4, 0.35, 0.31, 0.29), start=1))
    run = Run(tmp_path, losses, every_steps=1, keep=1, best=True)
    for begin, end, best in ((0, 4, 2), (4, 5, 2), (5, 6, 6)):
        run.train(end, begin=begin, validate_every=1)
        assert run.kept() == {BEST: best} | named(end)
    without = Run(tmp_path / "without", every_steps=1)
    without.train(1, validate_every=1)
    assert without.kept() == named(1)


def test_the_best_checkpoint_is_kept_without_hard_links(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*arguments: object) -> None:
        raise OSError(errno.EPERM, os.strerror(errno.EPERM))

    monkeypatch.setattr("os.link", refuse)
    run = Run(tmp_path, {1: 0.5, 2: 0.3, 3: 0.4}, every_steps=1, keep=1, best=True)
    run.train(3, validate_every=1)
    assert run.kept() == {BEST: 2} | named(3)


def test_a_best_checkpoint_that_could_not_be_written_does_not_count(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    replace = Path.replace

    def full_once(path: Path, target: Path) -> Path:
        if target.name == BEST and (tmp_path / "step=00000002.ckpt").exists() and not (tmp_path / "3").exists():
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return replace(path, target)

    monkeypatch.setattr(Path, "replace", full_once)
    run = Run(tmp_path, {1: 2.0, 2: 1.0, 3: 1.5}, every_steps=1, keep=9, best=True)
    run.train(2, validate_every=1)
    assert run.kept()[BEST] == 1
    monkeypatch.setattr(Path, "replace", replace)
    run.train(3, begin=2, validate_every=1)
    assert run.kept()[BEST] == 3


def test_on_a_full_disk_old_checkpoints_stay_and_training_continues(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    run = Run(tmp_path, keep=1)
    run.train(5)
    with full_disk(1000):
        run.train(9, begin=5)
    assert run.files.steps == [4, 5, 8, 9] and run.kept() == named(5)
    assert damage(tmp_path / "step=00000005.ckpt") is None
    first, second = (record.message for record in caplog.records if "cannot be written" in record.message)
    assert "step=00000008.ckpt cannot be written: File too large" in first and "step=00000009.ckpt" in second
    assert run.files.failure is not None
    run.train(12, begin=5)
    assert run.kept() == named(12) and run.files.failure is None


def test_an_error_in_the_writing_thread_ends_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ResumableCheckpoint, "_remove_old", Mock(side_effect=RuntimeError("from the thread")))
    run = Run(tmp_path, every_steps=2)
    with pytest.raises(RuntimeError, match="from the thread"):
        run.train(9)
    assert run.files.steps == [2, 4]


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGUSR1, signal.SIGINT])
@pytest.mark.parametrize("accumulate", [1, 2])
def test_a_signal_ends_the_run_after_the_checkpoint_of_the_step(accumulate: int, signum: int, tmp_path: Path) -> None:
    run = Run(tmp_path, every_steps=5)
    with run.signals, pytest.raises(Interrupted, match=f"{signal.Signals(signum).name} after step 6;"):
        run.train(9, AtStep(6, lambda: os.kill(os.getpid(), signum)), accumulate=accumulate)
    assert run.kept() == named(5, 6)


def test_a_signal_on_a_full_disk_does_not_promise_a_checkpoint(tmp_path: Path) -> None:
    run = Run(tmp_path)
    run.train(5)
    run.signals.received = signal.SIGTERM
    refused = pytest.raises(Interrupted, match=r"after step 6, but .*6\.ckpt cannot be written: .* newest checkpoint")
    with full_disk(1000), refused:
        run.train(9, begin=5)
    assert run.kept() == named(4, 5)


def test_a_signal_ends_a_validation_after_its_current_batch(tmp_path: Path) -> None:
    class InValidation(lightning.Callback):
        def on_validation_batch_start(self, *arguments: Any) -> None:
            run.signals.received = signal.SIGTERM

    run = Run(tmp_path)
    with pytest.raises(Interrupted, match="SIGTERM after step 3;"):
        run.train(9, InValidation(), validate_every=3)
    assert run.kept() == named(3)


def test_weights_that_are_not_finite_are_in_no_checkpoint(tmp_path: Path) -> None:
    run = Run(tmp_path)
    with pytest.raises(Diverged, match="the loss of step 7 is not finite"):
        run.train(9, AtStep(8, lambda: run.watch.observe(torch.tensor(float("nan")), 7)))
    assert run.kept() == named(4)


def test_devices_that_would_resume_from_different_checkpoints_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Run(tmp_path).train(4)
    monkeypatch.setattr(Agreement, "gathered", lambda agreement, name: ["step=00000004.ckpt", None])
    with pytest.raises(ValueError, match=r"step=00000004\.ckpt, None; .*file system"):
        Run(tmp_path).train(8, begin=4)
