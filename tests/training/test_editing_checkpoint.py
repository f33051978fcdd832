"""Which weights editing gets, and when a run ends early."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import Mock

import lightning
import pytest
from support.tiny import tiny_config

from sdedit_pl.build.model import build_denoiser
from sdedit_pl.build.training_run import build_module
from sdedit_pl.denoiser import Denoiser
from sdedit_pl.training.average import ImageHalfLifeAveraging
from sdedit_pl.training.early_stopping import Patience
from sdedit_pl.training.editing_checkpoint import EditingCheckpoint
from sdedit_pl.training.module import ScoreModule

CRITERION = "val/loss/sigma_mean"


@pytest.fixture(scope="module")
def module() -> ScoreModule:
    config = tiny_config("data.path=unused")
    return build_module(config, build_denoiser(config.model))


class Run:
    """A run of two averages, whose validations say what they are told to."""

    def __init__(self, module: ScoreModule, path: Path, **options: Any) -> None:
        self.module, self.path = module, path
        self.averaging = Mock(spec=ImageHalfLifeAveraging, half_lives=(100, 400))
        self.averaging.averages = lambda module: {100: "short", 400: "long"}
        self.written: list[tuple[str, Any, dict[str, Any]]] = []
        self.checkpoint = EditingCheckpoint(self.averaging, path, self.save, **options)
        self.trainer = Mock(spec=lightning.Trainer, sanity_checking=False, is_global_zero=True, should_stop=False)
        self.trainer.datamodule = SimpleNamespace(consumed_samples=0)

    def save(self, path: Path, denoiser: Denoiser, facts: dict[str, Any]) -> None:
        path.touch()
        self.written.append((path.name, denoiser, facts))

    def validate(self, step: int, short: float, long: float, callback: Any = None) -> None:
        self.trainer.global_step, self.trainer.datamodule.consumed_samples = step, 8 * step
        self.trainer.callback_metrics = {CRITERION: short, f"{CRITERION}/average_400": long}
        (callback or self.checkpoint).on_validation_end(self.trainer, self.module)


def test_the_best_average_of_the_best_validation_is_kept(module: ScoreModule, tmp_path: Path) -> None:
    run = Run(module, tmp_path / "model.safetensors")
    for step, short, long in [(1, 0.5, 0.9), (2, 0.4, 0.3), (3, 0.35, 0.31), (4, 0.29, 0.4), (5, float("nan"), 0.4)]:
        run.validate(step, short, long)
    assert [(name, facts["steps"]) for _, name, facts in run.written] == [("short", 1), ("long", 2), ("short", 4)]
    facts = run.written[-1][2]
    assert facts == {"steps": 4, "images_seen": 32, "average_half_life_images": 100, CRITERION: 0.29}
    run.checkpoint.on_fit_end(run.trainer, module)
    assert len(run.written) == 3


def test_without_best_every_validation_and_the_end_are_written(module: ScoreModule, tmp_path: Path) -> None:
    run = Run(module, tmp_path / "model.safetensors", best=False)
    run.validate(1, 0.1, 0.2)
    run.validate(2, 0.4, 0.3)
    run.checkpoint.on_fit_end(run.trainer, module)
    run.trainer.global_step = 3
    run.checkpoint.on_fit_end(run.trainer, module)
    expected = [("short", 1), ("long", 2), ("long", 2), ("long", 3)]
    assert [(name, facts["steps"]) for _, name, facts in run.written] == expected
    resumed = Run(module, tmp_path / "model.safetensors", best=False)
    resumed.checkpoint.load_state_dict(run.checkpoint.state_dict())
    resumed.trainer.global_step = 3
    resumed.checkpoint.on_fit_end(resumed.trainer, module)
    assert [name for _, name, _ in resumed.written] == ["long"]


def test_a_run_without_validation_writes_its_last_weights(module: ScoreModule, tmp_path: Path) -> None:
    run = Run(module, tmp_path / "model.safetensors")
    run.trainer.global_step = 7
    run.checkpoint.on_fit_end(run.trainer, module)
    assert [(name, facts["steps"]) for _, name, facts in run.written] == [("short", 7)]


def test_a_resumed_run_knows_what_the_file_holds(module: ScoreModule, tmp_path: Path) -> None:
    run = Run(module, tmp_path / "model.safetensors")
    run.validate(1, 0.3, 0.4)
    resumed = Run(module, tmp_path / "model.safetensors")
    resumed.checkpoint.load_state_dict(run.checkpoint.state_dict())
    resumed.validate(2, 0.35, 0.32)
    assert resumed.written == []
    (tmp_path / "model.safetensors").unlink()
    resumed.checkpoint.on_fit_end(resumed.trainer, module)
    assert [name for _, name, _ in resumed.written] == ["long"]  # the better one lately


def test_all_averages_have_files_of_their_own(module: ScoreModule, tmp_path: Path) -> None:
    run = Run(module, tmp_path / "model.safetensors", all_averages=True)
    run.validate(1, 0.3, 0.4)
    names = {(file, name) for file, name, _ in run.written}
    assert names == {
        ("model-100.safetensors", "short"),
        ("model-400.safetensors", "long"),
        ("model.safetensors", "short"),
    }


def test_only_the_first_device_writes(module: ScoreModule, tmp_path: Path) -> None:
    run = Run(module, tmp_path / "model.safetensors", all_averages=True)
    run.trainer.is_global_zero = False
    run.validate(1, 0.3, 0.4)
    run.checkpoint.on_fit_end(run.trainer, module)
    assert run.written == []


def test_patience_ends_a_run_that_gets_no_better(module: ScoreModule, tmp_path: Path) -> None:
    run = Run(module, tmp_path / "model.safetensors")
    patience = Patience(run.averaging, 2)
    for step, (short, long) in enumerate([(0.5, 0.6), (0.6, 0.4), (0.45, 0.5), (0.39, 0.7), (0.4, 0.5)]):
        run.validate(step, short, long, patience)
        assert not run.trainer.should_stop
    resumed = Patience(run.averaging, 2)
    resumed.load_state_dict(patience.state_dict())
    run.validate(5, 0.41, float("nan"), resumed)
    assert run.trainer.should_stop


def test_patience_lasts_at_least_one_validation() -> None:
    with pytest.raises(ValueError, match="at least 1 validation, got 0"):
        Patience(ImageHalfLifeAveraging(), 0)
