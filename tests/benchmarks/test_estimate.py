"""The estimates of a training, against what can be counted by hand."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from support.tiny import tiny_config

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))

import estimate


def test_operations_grow_with_the_images_and_memory_is_at_least_what_is_kept() -> None:
    small, large = (
        estimate.estimate(tiny_config("data.path=unused", "network.channels=16", f"data.batch_size={batch}"))
        for batch in (4, 8)
    )
    assert large.flops == pytest.approx(2 * small.flops, rel=0.02) and large.parameters == small.parameters
    # Weights, two moments, gradients and the average.
    assert large.memory > small.memory > 5 * 4 * small.parameters
    # A convolution of 3 x 3 from 16 to 16 channels on 8 x 8 pixels, of which there are some.
    assert small.flops / 4 > 2 * 3 * 9 * 16 * 16 * 64
    assert small.total_images == 4 * 4 and large.total_images == 8 * 4


def test_hours_are_operations_at_a_share_of_the_published_rate() -> None:
    found = estimate.Estimate(10**6, 10**12, 0, images=10, total_images=36_000_000, half_precision=True)
    gpu = estimate.GPU("fast", 1e14, 5e13, 0.5)
    assert found.hours(gpu) == pytest.approx(1e11 * 36e6 / 5e13 / 3600)


def test_more_averages_and_half_precision_count() -> None:
    plain = estimate.estimate(tiny_config("data.path=unused"))
    more = estimate.estimate(
        tiny_config("data.path=unused", "average.half_life_images=[50,100]", "trainer.precision=bf16-mixed")
    )
    assert more.half_precision and not plain.half_precision
    wide = estimate.estimate(tiny_config("data.path=unused", "average.half_life_images=[50,100]"))
    assert wide.memory - plain.memory == 4 * plain.parameters


def test_the_command_prints_and_refuses(capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["config=domain64", "network.channels=8", "network.blocks_per_level=1", "data.batch_size=1"]
    assert estimate.main(arguments) == 0
    shown = capsys.readouterr().out
    assert "GFLOP an image" in shown and "A100 SXM" in shown and "images: 0.1 million" in shown
    assert estimate.main(["config=cifar10_ve", "network.chanels=8"]) == 2
    assert "did you mean network.channels" in capsys.readouterr().err
