"""Trainings that are killed and started again equal one that was never killed."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / "benchmarks"))

import resume  # noqa: E402

FAST = ("in the validation after step 4", "half way through the checkpoint of step 4")


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return resume.write_images(tmp_path_factory.mktemp("data") / "images")


@pytest.fixture(scope="module")
def whole(images: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that was never killed; not to be changed."""
    folder = tmp_path_factory.mktemp("runs") / "whole"
    resume.trainings_until_done(images, folder, ())
    return folder


@pytest.mark.parametrize(
    "moment", [moment if moment in FAST else pytest.param(moment, marks=pytest.mark.slow) for moment in resume.KILLS]
)
def test_a_killed_run_goes_on_as_if_nothing_had_been(moment: str, images: Path, whole: Path, tmp_path: Path) -> None:
    resume.trainings_until_done(images, tmp_path / "run", resume.KILLS[moment])
    assert list(resume.differences(whole, tmp_path / "run")) == []


def test_a_kill_that_never_comes_is_an_error(images: Path, whole: Path, tmp_path: Path) -> None:
    shutil.copytree(whole, tmp_path / "run")  # nothing is left to train
    with pytest.raises(RuntimeError, match="a training ended with 0 instead of -9"):
        resume.trainings_until_done(images, tmp_path / "run", (resume.KILLS["between two batches of step 4"]))


def test_differences_are_found(whole: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    shutil.copytree(whole, other)
    assert resume.first_difference(whole, other) is None
    log = other / "metrics.csv"
    log.write_text(log.read_text().replace("0.001,", "0.002,", 1))
    assert str(resume.first_difference(whole, other)).startswith("log: ")
    shutil.copy(whole / "metrics.csv", log)
    checkpoint = other / "checkpoints" / "step=00000006.ckpt"
    state = torch.load(checkpoint, weights_only=True)
    next(iter(state["current_model_state"].values())).view(-1)[0].nextafter_(torch.tensor(9.0))
    torch.save(state, checkpoint)
    assert "current_model_state" in str(resume.first_difference(whole, other))
