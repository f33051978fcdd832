"""Entries of images, gathered from processes in the order of their numbers, each once."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from support import gathering_driver

from sdedit_pl.metrics.faithfulness import GuideDistance
from sdedit_pl.metrics.image_distances import squared_l2
from sdedit_pl.metrics.realism import FrechetDistance

ROOT = Path(__file__).parents[2]


def l2_of(batches: list[tuple[list[float], list[int] | None]]) -> float:
    """The mean over black images and grey ones of these values on [0, 1]."""
    metric = GuideDistance("squared_l2", squared_l2)
    for greys, numbers in batches:
        others = torch.tensor(greys).reshape(-1, 1, 1, 1) * 2 - 1
        metric.update(torch.full_like(others, -1), others, None if numbers is None else torch.tensor(numbers))
    return metric.compute()["squared_l2"].item()


def test_an_image_counts_once_whatever_the_order() -> None:
    expected = (0.0 + 0.25 + 1.0) / 3
    assert l2_of([([0.0, 0.5, 1.0], [0, 1, 2])]) == pytest.approx(expected)
    assert l2_of([([1.0], [2]), ([0.5, 0.0], [1, 0]), ([0.5], [1])]) == pytest.approx(expected)


def test_images_without_numbers_all_count() -> None:
    assert l2_of([([1.0, 0.5], None), ([0.5], None)]) == pytest.approx(0.5)
    assert l2_of([([1.0], None), ([0.5], [1]), ([0.5], [1])]) == pytest.approx(0.625)


def test_two_sets_without_a_reset_between_are_noticed() -> None:
    with pytest.raises(ValueError, match=r"image 1 was added twice.* reset\(\)"):
        l2_of([([0.0, 0.5], [0, 1]), ([0.0, 0.7], [0, 1])])


def test_refuses_numbers_that_do_not_fit() -> None:
    with pytest.raises(ValueError, match=r"2 images, got \[0, -1\]"):
        l2_of([([0.0, 1.0], [0, -1])])


@pytest.mark.filterwarnings("ignore:The ``compute`` method of metric")
def test_no_image_is_an_error() -> None:
    with pytest.raises(ValueError, match="GuideDistance needs at least 1 image, got none"):
        GuideDistance("squared_l2", squared_l2).compute()
    metric = FrechetDistance(torch.zeros(5, 2))
    metric.update(torch.zeros(0, 2))
    with pytest.raises(ValueError, match="FrechetDistance needs at least 1 image, got none"):
        metric.compute()


@pytest.mark.slow
def test_two_processes_measure_what_one_does(tmp_path: Path) -> None:
    command = [sys.executable, gathering_driver.__file__]
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    processes = [
        subprocess.Popen([*command, str(rank), str(tmp_path)], env=environment, stderr=subprocess.PIPE, text=True)
        for rank in range(2)
    ]
    for process in processes:
        _, errors = process.communicate(timeout=300)
        assert process.returncode == 0, errors
    alone = gathering_driver.measured([list(range(gathering_driver.COUNT))])
    assert len(alone) == 15
    for rank in range(2):
        for name, found in torch.load(tmp_path / f"{rank}.pt", weights_only=True).items():
            assert found.keys() == alone.keys()
            for key, value in alone.items():
                assert found[key].equal(value), (name, rank, key)
