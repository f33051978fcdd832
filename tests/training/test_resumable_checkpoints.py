"""When checkpoints to resume from are written, which are kept, and what a full disk or damage does to them."""

from __future__ import annotations

import errno
import logging
import os
import resource
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import Mock

import lightning
import pytest
import torch
from support.tiny import tiny_config

from sdedit_pl.build.model import build_denoiser
from sdedit_pl.build.training_run import build_module
from sdedit_pl.training.checkpoint_io import DurableCheckpoints, damage
from sdedit_pl.training.divergence_watch import Diverged, DivergenceWatch
from sdedit_pl.training.module import ScoreModule
from sdedit_pl.training.resumable_checkpoints import BEST, ResumableCheckpoint
from sdedit_pl.training.stop_signals import Interrupted, StopSignals

VALIDATION = 1000


@pytest.fixture
def module() -> ScoreModule:
    config = tiny_config("data.path=unused")
    return build_module(config, build_denoiser(config.model))


class Run:
    """A run without training: at each step its callback may write a checkpoint, which holds the step."""

    def __init__(self, folder: Path, module: ScoreModule, accumulate: int = 1, rank: int = 0, **settings: Any) -> None:
        self.folder, self.module, self.accumulate, self.rank = folder, module, accumulate, rank
        self.files, self.watch, self.signals = DurableCheckpoints(), DivergenceWatch(), StopSignals()
        parts = {"files": self.files, "watch": self.watch, "signals": self.signals}
        self.callback = ResumableCheckpoint(folder, **{"every_steps": 4, "keep": 2} | settings, **parts)
        self.val_every = VALIDATION
        self.max_steps = -1
        self.writes: list[int] = []

    def trainer(self, batches: int) -> Mock:
        step = batches // self.accumulate

        def save(path: Path, weights_only: bool) -> None:
            assert not weights_only
            self.writes.append(step)
            if self.rank == 0:
                self.files.save_checkpoint({"step": step, "weights": torch.full((3000,), step)}, path)

        trainer = Mock(spec=lightning.Trainer, global_step=step, is_global_zero=self.rank == 0)
        trainer.max_steps, trainer.accumulate_grad_batches = self.max_steps, self.accumulate
        trainer.val_check_batch, trainer.enable_validation = self.val_every * self.accumulate, True
        trainer.fit_loop = SimpleNamespace(epoch_loop=SimpleNamespace(total_batch_idx=batches - 1))
        trainer.strategy.all_gather = lambda tensor: tensor
        trainer.save_checkpoint = save
        return trainer

    def train(self, begin: int, end: int) -> None:
        """The steps after `begin` up to `end`, the last."""
        self.max_steps = end
        self.callback.on_train_start(self.trainer(begin * self.accumulate), self.module)
        for batch in range(begin * self.accumulate, end * self.accumulate):
            self.callback.on_train_batch_end(self.trainer(batch + 1), self.module, None, torch.zeros(1), batch)

    def validate(self, step: int, loss: float) -> None:
        trainer = self.trainer(step * self.accumulate)
        trainer.callback_metrics = {self.module.criterion(): torch.tensor(loss)}
        self.callback.on_validation_end(trainer, self.module)

    def kept(self) -> dict[str, int]:
        """The step that each file of the folder holds."""
        return {path.name: torch.load(path, weights_only=True)["step"] for path in sorted(self.folder.iterdir())}


def named(*steps: int) -> dict[str, int]:
    return {f"step={step:08d}.ckpt": step for step in steps}


@pytest.mark.parametrize("accumulate", [1, 2])
def test_checkpoints_come_at_intervals_and_at_the_end_and_the_newest_stay(
    accumulate: int, module: ScoreModule, tmp_path: Path
) -> None:
    first = Run(tmp_path, module, accumulate)
    first.train(0, 10)
    assert first.writes == [4, 8, 10] and first.kept() == named(8, 10)
    resumed = Run(tmp_path, module, accumulate, every_steps=5, keep=3)  # with other settings
    resumed.train(10, 16)
    assert resumed.writes == [15, 16] and resumed.kept() == named(10, 15, 16)


def test_a_damaged_later_one_takes_no_ones_place(module: ScoreModule, tmp_path: Path) -> None:
    Run(tmp_path, module, every_steps=1, keep=3).train(0, 3)
    damaged = tmp_path / "step=00000003.ckpt"
    damaged.write_bytes(b"")
    resumed = Run(tmp_path, module, every_steps=1, keep=1)
    resumed.max_steps = 9
    resumed.callback.on_train_start(resumed.trainer(1), module)
    resumed.callback.on_train_batch_end(resumed.trainer(2), module, None, torch.zeros(1), 1)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["step=00000002.ckpt", "step=00000003.ckpt"]
    resumed.callback.on_train_batch_end(resumed.trainer(3), module, None, torch.zeros(1), 2)
    assert resumed.kept() == named(3)


@pytest.mark.parametrize("accumulate", [1, 2])
def test_there_is_one_before_each_validation(accumulate: int, module: ScoreModule, tmp_path: Path) -> None:
    run = Run(tmp_path, module, accumulate)
    run.val_every = 3
    run.train(0, 10)
    assert run.writes == [3, 4, 6, 8, 9, 10]


def test_minutes_bring_one_too_whatever_the_steps(
    module: ScoreModule, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = SimpleNamespace(now=0.0)
    monkeypatch.setattr("sdedit_pl.training.resumable_checkpoints.time.monotonic", lambda: clock.now)
    run = Run(tmp_path, module, every_steps=9, every_minutes=1.5, keep=9)
    run.max_steps = 20
    run.callback.on_train_start(run.trainer(0), module)
    for batch in range(20):
        clock.now += 25  # seconds a step: four steps are more than a minute and a half
        run.callback.on_train_batch_end(run.trainer(batch + 1), module, None, torch.zeros(1), batch)
    assert run.writes == [4, 8, 9, 13, 17, 18, 20]  # counted from the last one, whatever it was for
    other = Run(tmp_path, module, rank=1, every_steps=9, every_minutes=1e-9)
    other.train(0, 3)
    assert other.writes == [3]  # another device's clock asks for none


def test_the_one_with_the_lowest_validation_loss_is_kept_beside_the_newest(module: ScoreModule, tmp_path: Path) -> None:
    run = Run(tmp_path, module, every_steps=1, keep=1)
    for step, loss in enumerate((0.5, 0.3, 0.4, 0.35), start=1):
        run.train(step - 1, step)
        run.validate(step, loss)
    assert run.kept() == {BEST: 2} | named(4)
    resumed = Run(tmp_path, module, every_steps=1, keep=1)
    resumed.callback.load_state_dict(run.callback.state_dict())
    for step, loss in ((5, 0.31), (6, 0.29)):
        resumed.train(step - 1, step)
        resumed.validate(step, loss)
        assert resumed.kept() == {BEST: 2 if step == 5 else 6} | named(step)
    without = Run(tmp_path / "without", module, every_steps=1, best=False)
    without.train(0, 1)
    without.validate(1, 0.1)
    assert without.kept() == named(1)


def test_the_best_is_kept_where_there_are_no_hard_links(
    module: ScoreModule, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*arguments: object) -> None:
        raise OSError(errno.EPERM, os.strerror(errno.EPERM))

    monkeypatch.setattr("os.link", refuse)
    run = Run(tmp_path, module, every_steps=1, keep=1)
    for step, loss in ((1, 0.5), (2, 0.3), (3, 0.4)):
        run.train(step - 1, step)
        run.validate(step, loss)
    assert run.kept() == {BEST: 2} | named(3)


@contextmanager
def full_disk(size: int) -> Iterator[None]:
    """Files cannot grow beyond `size` bytes."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)


def test_on_a_full_disk_the_old_ones_stay_and_training_goes_on(
    module: ScoreModule, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    run = Run(tmp_path, module, keep=1)
    run.train(0, 5)
    with full_disk(5000):
        run.train(5, 9)
    assert run.writes == [4, 5, 8, 9] and run.kept() == named(5)
    assert damage(tmp_path / "step=00000005.ckpt") is None
    (first, second) = (record.message for record in caplog.records if record.levelno == logging.WARNING)
    assert "step=00000008.ckpt cannot be written: File too large" in first
    assert run.files.failure is not None and "step=00000009.ckpt" in second
    run.train(9, 12)
    assert run.kept() == named(12) and run.files.failure is None


def test_what_is_no_matter_of_the_disk_is_not_hidden(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.save", Mock(side_effect=RuntimeError("out of memory")))
    with pytest.raises(RuntimeError, match="out of memory"):
        DurableCheckpoints().save_checkpoint({}, tmp_path / "step=00000001.ckpt")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGUSR1, signal.SIGINT])
@pytest.mark.parametrize("accumulate", [1, 2])
def test_a_signal_ends_the_run_after_the_steps_checkpoint(
    accumulate: int, signum: int, module: ScoreModule, tmp_path: Path
) -> None:
    run = Run(tmp_path, module, accumulate)
    run.train(0, 5)
    with run.signals, pytest.raises(Interrupted, match=f"{signal.Signals(signum).name} after step 6;"):
        run.signals.wait()
        os.kill(os.getpid(), signum)
        run.train(5, 9)
    assert run.kept() == named(5, 6)


def test_a_signal_on_a_full_disk_does_not_promise_a_checkpoint(module: ScoreModule, tmp_path: Path) -> None:
    run = Run(tmp_path, module)
    run.train(0, 5)
    run.signals.received = signal.SIGTERM
    words = r"after step 6, but .*6\.ckpt cannot be written: .* from the newest checkpoint"
    with full_disk(5000), pytest.raises(Interrupted, match=words):
        run.train(5, 9)
    assert run.kept() == named(4, 5)


def test_a_best_checkpoint_that_cannot_be_written_is_not_taken_for_it(
    module: ScoreModule, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = Run(tmp_path, module, every_steps=1, keep=9)
    run.train(0, 3)
    run.validate(1, 2.0)
    with monkeypatch.context() as patch:
        patch.setattr("os.replace", Mock(side_effect=OSError(28, "No space left on device")))
        run.validate(2, 1.0)
    assert run.kept()[BEST] == 1
    run.validate(3, 1.5)
    assert run.kept()[BEST] == 3


def test_devices_that_would_go_on_from_different_checkpoints_end(module: ScoreModule, tmp_path: Path) -> None:
    callback = Run(tmp_path, module, resumes_from=tmp_path / "step=00000004.ckpt").callback
    callback.agreement = Mock(gathered=lambda name: [name, None])
    trainer = Mock(spec=lightning.Trainer, world_size=2)
    trainer._signal_connector, trainer.fit_loop = Mock(), Mock()
    with pytest.raises(ValueError, match=r"newest ones are step=00000004\.ckpt, None; `out` must lie on a file system"):
        callback.setup(trainer, module, "fit")


def test_a_signal_ends_a_validation_at_once(module: ScoreModule, tmp_path: Path) -> None:
    run = Run(tmp_path, module)
    run.callback.on_validation_batch_end(run.trainer(4), module, None, None, 0)
    run.signals.received = signal.SIGTERM
    with pytest.raises(Interrupted, match="SIGTERM after step 4;"):
        run.callback.on_validation_batch_end(run.trainer(4), module, None, None, 1)


def test_weights_that_are_not_finite_are_in_no_checkpoint(module: ScoreModule, tmp_path: Path) -> None:
    run = Run(tmp_path, module)
    run.train(0, 5)
    run.watch.observe(torch.tensor(float("nan")), 7)
    with pytest.raises(Diverged, match="the loss of step 7 is not finite"):
        run.train(5, 9)
    assert run.kept() == named(4, 5)


def test_other_devices_join_in_writing_and_leave_the_folder_alone(module: ScoreModule, tmp_path: Path) -> None:
    run = Run(tmp_path, module, rank=1, every_steps=1)
    run.train(0, 1)
    run.validate(1, 0.5)
    assert run.writes == [1] and list(tmp_path.iterdir()) == []
    assert run.callback.state_dict() == {"lowest": 0.5}


@pytest.mark.parametrize("settings", [{"every_steps": 0}, {"keep": 0}, {"every_minutes": 0.0}, {"every_minutes": -2.0}])
def test_settings_that_mean_nothing_are_refused(settings: dict[str, Any], module: ScoreModule, tmp_path: Path) -> None:
    ((name, value),) = settings.items()
    with pytest.raises(ValueError, match=f"every_minutes above 0, got .*{name}={value}"):
        Run(tmp_path, module, **settings)


def test_every_kind_of_damage_is_found(tmp_path: Path) -> None:
    path = tmp_path / "step=00000001.ckpt"
    torch.save({"weights": torch.arange(5000.0)}, path)
    content = path.read_bytes()
    assert damage(path) is None
    for damaged in (b"", content[:-1], content[: len(content) // 2], b"nothing of the kind"):
        path.write_bytes(damaged)
        assert damage(path)
    middle = len(content) // 2  # in the weights
    path.write_bytes(content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :])
    assert "has changed" in str(damage(path))
    torch.load(path, weights_only=True)  # which torch does not notice
