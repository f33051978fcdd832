"""Trainings that are killed and resumed equal one that was never killed, bit for bit."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch
from support.killed_trainings import KILLS, differences, first_difference, trainings_until_done
from support.tiny import write_images

FAST = ("in the validation after step 4", "halfway through the checkpoint of step 4")


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_images(tmp_path_factory.mktemp("data") / "images")


@pytest.fixture(scope="module")
def whole(images: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that was never killed; tests must not change it."""
    folder = tmp_path_factory.mktemp("runs") / "whole"
    trainings_until_done(images, folder, ())
    return folder


@pytest.mark.parametrize(
    "moment",
    [moment if moment in FAST else pytest.param(moment, marks=pytest.mark.slow) for moment in KILLS],
)
def test_a_killed_run_resumes_exactly(moment: str, images: Path, whole: Path, tmp_path: Path) -> None:
    trainings_until_done(images, tmp_path / "run", KILLS[moment])
    assert list(differences(whole, tmp_path / "run")) == []


def test_a_kill_that_never_happens_is_an_error(images: Path, whole: Path, tmp_path: Path) -> None:
    shutil.copytree(whole, tmp_path / "run")  # nothing is left to train
    with pytest.raises(RuntimeError, match="ended with 0 instead of -9"):
        trainings_until_done(images, tmp_path / "run", (KILLS["between two batches of step 4"]))


def test_differences_are_found(whole: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    shutil.copytree(whole, other)
    assert first_difference(whole, other) is None
    log = other / "metrics.csv"
    log.write_text(log.read_text().replace("0.001,", "0.002,", 1))
    assert str(first_difference(whole, other)).startswith("log: ")
    shutil.copy(whole / "metrics.csv", log)
    checkpoint = other / "checkpoints" / "step=00000006.ckpt"
    state = torch.load(checkpoint, weights_only=True)
    next(iter(state["current_model_state"].values())).view(-1)[0].nextafter_(torch.tensor(9.0))
    torch.save(state, checkpoint)
    assert "current_model_state" in str(first_difference(whole, other))
