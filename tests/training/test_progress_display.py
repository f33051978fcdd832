"""The progress bar, its replacement in log files, and the speed that both show."""

from __future__ import annotations

import logging
from pathlib import Path

import lightning
import pytest
from support.one_weight import Batches, Clock, OneWeight, quiet_trainer

from sdedit_pl.training.divergence_watch import DivergenceWatch
from sdedit_pl.training.loss_logging import TrainingLog
from sdedit_pl.training.progress_display import ProgressLines, RunProgressBar, progress_display


def display(monkeypatch: pytest.MonkeyPatch, *, terminal: bool) -> tuple[Clock, TrainingLog, list[lightning.Callback]]:
    monkeypatch.setattr("sys.stdout.isatty", lambda: terminal)
    log = TrainingLog(4, DivergenceWatch())
    return Clock(monkeypatch, "progress_display", "loss_logging"), log, progress_display(log)


@pytest.mark.parametrize("accumulate", [1, 2])
def test_a_log_file_gets_a_line_after_ten_steps_and_then_every_minute(
    accumulate: int, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    clock, log, callbacks = display(monkeypatch, terminal=False)
    with caplog.at_level(logging.INFO, "sdedit_pl"):
        callbacks = [clock, log, *callbacks]
        trainer = quiet_trainer(300, callbacks, accumulate=accumulate, validate_every=250, enable_progress_bar=True)
        trainer.fit(OneWeight(), datamodule=Batches(8))
    lines = [record.message for record in caplog.records if record.name.endswith("progress_display")]
    every = 120 // accumulate  # steps a minute
    assert [int(line.split()[1]) for line in lines] == [10, *range(10 + every, 251, every), 251]
    hours = 290 * 0.5 * accumulate / 3600
    assert lines[0].startswith("step 10 of 300: loss ") and lines[0].endswith(f", {hours:.2f} hours left")
    minutes = 240 * 0.5 * accumulate / 60
    assert f" 16.0 images/s, next preview in {minutes:.1f} minutes, " in lines[0]
    assert all(" 16.0 images/s" in line for line in lines)


@pytest.mark.parametrize("accumulate", [1, 2])
def test_a_terminal_gets_a_bar_over_the_whole_run(
    accumulate: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    checkpoint = None
    for steps in (5, 20):
        clock, log, callbacks = display(monkeypatch, terminal=True)
        assert type(callbacks[1]) is RunProgressBar
        trainer = quiet_trainer(steps, [clock, log, *callbacks], accumulate=accumulate, enable_progress_bar=True)
        trainer.fit(OneWeight(), datamodule=Batches(8), ckpt_path=checkpoint, weights_only=True)
        checkpoint = tmp_path / "5.ckpt"
        trainer.save_checkpoint(checkpoint)
    shown = capsys.readouterr().out
    assert f"Training: 100%|██████████| {20 * accumulate}/{20 * accumulate}" in shown
    assert callbacks[1].train_progress_bar.initial == 5 * accumulate  # type: ignore[attr-defined]
    assert "train/loss=" in shown and "images/s=16.0" in shown and "hours left=0.00" in shown


def test_nothing_is_shown_of_a_speed_before_ten_steps(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    clock, log, callbacks = display(monkeypatch, terminal=False)
    with caplog.at_level(logging.INFO, "sdedit_pl"):
        quiet_trainer(9, [clock, log, *callbacks], enable_progress_bar=True).fit(OneWeight(), datamodule=Batches())
    assert isinstance(callbacks[1], ProgressLines) and not [r for r in caplog.records if "images/s" in r.message]
