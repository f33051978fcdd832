"""Which weights the editing checkpoint holds."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import lightning
import pytest
from support.one_weight import Batches, OneWeight, quiet_trainer

from sdedit_pl.denoiser import Denoiser
from sdedit_pl.training.editing_checkpoint import EditingCheckpoint
from sdedit_pl.training.weight_averaging import ImageHalfLifeAveraging

CRITERION = "val/loss"


class Run:
    """Trainings with two averages and given validation losses (of the half-life 100, of 400)."""

    def __init__(self, folder: Path, **options: Any) -> None:
        self.folder = folder
        self.options = options
        self.written: list[tuple[str, dict[str, Any]]] = []
        self.without_room = range(0)

    def save(self, path: Path, denoiser: Denoiser, facts: dict[str, Any]) -> bool:
        if facts["steps"] in self.without_room:
            return False
        path.touch()
        self.written.append((path.name, facts))
        return True

    def train(self, losses: dict[int, tuple[float, float]], steps: int, resume: bool = False) -> None:
        """Trains with a validation after every step, or with none where there are no losses."""
        averaging = ImageHalfLifeAveraging([100, 400])
        editing = EditingCheckpoint(averaging, self.folder / "model.safetensors", self.save, **self.options)
        trainer = quiet_trainer(steps, [averaging, editing], validate_every=1 if losses else None)
        checkpoint = self.folder / "resume.ckpt"
        module = OneWeight([1.0, 2.0, 3.0], losses)
        trainer.fit(module, datamodule=Batches(8), ckpt_path=checkpoint if resume else None, weights_only=True)
        trainer.save_checkpoint(checkpoint)

    def chosen(self) -> list[tuple[int, int]]:
        """Half-life and step of each model.safetensors that was written."""
        files = [facts for name, facts in self.written if name == "model.safetensors"]
        return [(facts["average_half_life_images"], facts["steps"]) for facts in files]


def test_the_best_average_of_the_best_validation_is_kept(tmp_path: Path) -> None:
    run = Run(tmp_path)
    run.train({1: (0.5, 0.9), 2: (0.4, 0.3), 3: (0.35, 0.31), 4: (0.29, 0.4), 5: (float("nan"), 0.4)}, 5)
    assert run.chosen() == [(100, 1), (400, 2), (100, 4)]
    facts = run.written[-1][1]
    assert facts.pop(CRITERION) == pytest.approx(0.29)
    assert facts == {"steps": 4, "images_seen": 32, "average_half_life_images": 100}


def test_a_loss_that_is_not_a_number_counts_as_the_highest(tmp_path: Path) -> None:
    nan, run = float("nan"), Run(tmp_path)
    run.train({1: (nan, nan), 2: (nan, 0.5), 3: (0.4, nan), 4: (nan, nan)}, 4)
    assert run.chosen() == [(100, 1), (400, 2), (100, 3)]


def test_weights_that_a_full_disk_refused_do_not_count_as_the_best(tmp_path: Path) -> None:
    run = Run(tmp_path)
    run.without_room = range(2, 3)
    run.train({1: (0.5, 0.9), 2: (0.3, 0.9), 3: (0.4, 0.9)}, 3)
    assert run.chosen() == [(100, 1), (100, 3)]


def test_without_best_every_validation_and_the_end_are_written(tmp_path: Path) -> None:
    run = Run(tmp_path, best=False)
    run.train({1: (0.1, 0.2), 2: (0.4, 0.3)}, 2)
    assert run.chosen() == [(100, 1), (400, 2), (400, 2)]
    run.written.clear()
    run.train({}, 3, resume=True)
    assert run.chosen() == [(400, 3)]


def test_a_run_without_validation_writes_its_last_weights(tmp_path: Path) -> None:
    run = Run(tmp_path)
    run.train({}, 3)
    assert run.chosen() == [(100, 3)]


def test_a_resumed_run_knows_the_loss_of_the_file(tmp_path: Path) -> None:
    run = Run(tmp_path)
    run.train({1: (0.3, 0.4)}, 1)
    run.written.clear()
    run.train({2: (0.35, 0.32)}, 2, resume=True)
    assert run.written == []
    (tmp_path / "model.safetensors").unlink()
    run.train({}, 3, resume=True)
    assert run.chosen() == [(400, 3)]  # the best average of the latest validation


def test_an_early_average_is_written_once(tmp_path: Path) -> None:
    run = Run(tmp_path, early=0.4)
    run.train({}, 5)
    facts = {"steps": 2, "images_seen": 16, "average_half_life_images": 100}
    assert run.written[0] == ("model-early.safetensors", facts) and len(run.written) == 2


def test_an_early_average_that_a_full_disk_refused_is_not_logged_as_written(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    run = Run(tmp_path, early=0.4)
    run.without_room = range(2, 3)
    run.train({}, 5)
    assert "model.safetensors" in caplog.text and "model-early" not in caplog.text


def test_all_averages_have_their_own_files(tmp_path: Path) -> None:
    run = Run(tmp_path, all_averages=True)
    run.train({1: (0.3, 0.4)}, 1)
    names = {(name, facts["average_half_life_images"]) for name, facts in run.written}
    assert names == {("model-100.safetensors", 100), ("model-400.safetensors", 400), ("model.safetensors", 100)}


def test_only_the_first_device_writes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = Run(tmp_path, all_averages=True)
    monkeypatch.setattr(lightning.Trainer, "is_global_zero", False)
    run.train({1: (0.3, 0.4)}, 1)
    assert run.written == []
