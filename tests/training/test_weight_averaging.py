"""Averages of the weights, under Lightning's own training loop."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import lightning
import pytest
import torch
from support.one_weight import Batches, OneWeight, quiet_trainer

from sdedit_pl.training.weight_averaging import ImageHalfLifeAveraging


class AverageRecord(lightning.Callback):
    """Records the value of every average after each batch."""

    def __init__(self, averaging: ImageHalfLifeAveraging) -> None:
        self.averaging = averaging
        self.values: list[dict[int, float]] = []

    def on_train_batch_end(self, trainer: lightning.Trainer, pl_module: Any, *arguments: Any) -> None:
        averages = self.averaging.averages(pl_module)
        self.values.append({name: next(denoiser.parameters()).item() for name, denoiser in averages.items()})


def averages(
    averaging: ImageHalfLifeAveraging, weights: Sequence[float], batch_size: int, accumulate: int = 1
) -> list[dict[int, float]]:
    """The averages after each optimiser step of a run in which the weight takes the given values."""
    record = AverageRecord(averaging)
    trainer = quiet_trainer(len(weights), [averaging, record], accumulate=accumulate)
    trainer.fit(OneWeight(weights), datamodule=Batches(batch_size))
    return record.values[accumulate - 1 :: accumulate]


def average(averaging: ImageHalfLifeAveraging, *arguments: Any) -> list[float]:
    return [values[averaging.half_lives[0]] for values in averages(averaging, *arguments)]


@pytest.mark.parametrize(("batch_size", "devices", "accumulate"), [(10, 1, 1), (5, 4, 1), (5, 2, 2), (50, 1, 2)])
def test_the_weight_of_an_image_halves_every_half_life(
    batch_size: int, devices: int, accumulate: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lightning.Trainer, "world_size", devices)
    per_step = batch_size * devices * accumulate
    # The first update replaces the average.
    values = average(ImageHalfLifeAveraging(100, ramp=0.0), [1.0, *[0.0] * (400 // per_step)], batch_size, accumulate)
    every = 100 // per_step
    assert values[every::every] == pytest.approx([0.5, 0.25, 0.125, 0.0625], rel=1e-5)


def test_early_in_training_the_half_life_is_a_fraction_of_the_images_seen() -> None:
    averaging = ImageHalfLifeAveraging(1000, ramp=0.1)
    assert averaging.decay(400, 40) == pytest.approx(0.5)
    assert averaging.decay(200, 40) == pytest.approx(0.25)
    assert averaging.decay(10_000, 1000) == averaging.decay(10**9, 1000) == pytest.approx(0.5)
    assert averaging.decay(0, 16) == 0
    values = average(ImageHalfLifeAveraging(10**9, ramp=0.1), [1.0, 0.0], 20)
    assert values == pytest.approx([1.0, 0.5 ** (20 / (0.1 * 40))])


@pytest.mark.parametrize(("ramp", "tolerance"), [(0.0, 1e-4), (0.5, 0.01)])
def test_the_average_does_not_depend_on_the_batch_size(ramp: float, tolerance: float) -> None:
    final = []
    for batch_size, accumulate in ((80, 1), (40, 4)):
        steps = 8000 // (batch_size * accumulate)
        weights = [float(step >= steps // 2) for step in range(steps)]  # changes after 4000 images
        final.append(average(ImageHalfLifeAveraging(2000, ramp=ramp), weights, batch_size, accumulate)[-1])
    assert final[1] == pytest.approx(final[0], rel=tolerance) and 0.5 < final[0] < 0.9999


def test_each_half_life_has_its_own_average() -> None:
    weights = [float(step % 7) for step in range(40)]
    together = averages(ImageHalfLifeAveraging([100, 400, 25], ramp=0.5), weights, 20)
    for half_life in (100, 400, 25):
        alone = average(ImageHalfLifeAveraging(half_life, ramp=0.5), weights, 20)
        assert [values[half_life] for values in together] == pytest.approx(alone, rel=1e-5)
    assert list(together[-1]) == [100, 400, 25] and len(set(together[-1].values())) == 3


@pytest.mark.parametrize("half_lives", [[100, 400], [100, 900], [400, 100], [400]])
def test_checkpoints_keep_every_average_and_a_new_one_starts_as_the_first(
    half_lives: list[int], tmp_path: Path
) -> None:
    weights = [float(step) for step in range(9)]
    whole = averages(ImageHalfLifeAveraging([100, 400], ramp=0.0), weights, 20)
    trainer = quiet_trainer(8, [ImageHalfLifeAveraging([100, 400], ramp=0.0)])
    trainer.fit(OneWeight(weights), datamodule=Batches(20))
    trainer.save_checkpoint(tmp_path / "8.ckpt")
    averaging = ImageHalfLifeAveraging(half_lives, ramp=0.0)
    record = AverageRecord(averaging)
    trainer = quiet_trainer(9, [averaging, record])
    trainer.fit(OneWeight(weights), datamodule=Batches(20), ckpt_path=tmp_path / "8.ckpt", weights_only=True)
    (found,) = record.values
    share = averaging.decay(180, 20, 900)
    expected = whole[-1] | {900: whole[-2][100] * share + weights[-1] * (1 - share)}
    assert found == pytest.approx({half_life: expected[half_life] for half_life in half_lives}, rel=1e-5)


def test_batches_without_an_optimiser_step_change_no_average() -> None:
    averaging = ImageHalfLifeAveraging([100, 400], ramp=0.0)
    record = AverageRecord(averaging)
    quiet_trainer(3, [averaging, record], accumulate=2).fit(OneWeight([1.0, 0.0, 3.0]), datamodule=Batches(20))
    first, second, third, fourth, *_ = record.values[1:]
    assert first == second != third == fourth


@pytest.mark.parametrize(("half_life", "ramp"), [(0, 0.05), (-5, 0.05), (100, -0.1)])
def test_invalid_settings_are_refused(half_life: int, ramp: float) -> None:
    with pytest.raises(ValueError, match=f"half_life_images .* ramp .* got {half_life} and {ramp}"):
        ImageHalfLifeAveraging(half_life, ramp)


def test_half_lives_must_differ() -> None:
    with pytest.raises(ValueError, match=r"differ .* got \[5, 9, 5\]"):
        ImageHalfLifeAveraging([5, 9, 5])
    with pytest.raises(ValueError, match=r"half_life_images .* got \[\]"):
        ImageHalfLifeAveraging([])


class FailingValidation(OneWeight):
    """Raises in its second validation."""

    validated = math.nan

    def validation_step(self, batch: torch.Tensor, batch_idx: int) -> None:
        if self.global_step > 2:
            self.validated = self.weight.item()
            raise RuntimeError("stopped in validation")
        super().validation_step(batch, batch_idx)


def test_an_exception_in_validation_leaves_the_trained_weights_in_the_module() -> None:
    averaging, module = ImageHalfLifeAveraging(100), FailingValidation([1.0, 2.0, 3.0, 4.0])
    with pytest.raises(RuntimeError, match="stopped in validation"):
        quiet_trainer(8, [averaging], validate_every=2).fit(module, datamodule=Batches())
    average = next(averaging.averaged(module).parameters())
    assert module.weight.item() == 4.0 and module.validated == average.item() != 4.0
