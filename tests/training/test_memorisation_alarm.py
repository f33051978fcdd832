"""The alarm for models that reproduce their training images."""

from __future__ import annotations

import logging
from contextlib import nullcontext
from unittest.mock import Mock

import lightning
import pytest
import torch
from support.tiny import tiny_config
from torch import Tensor

from sdedit_pl.build.model import build_denoiser
from sdedit_pl.build.training_parts import build_module
from sdedit_pl.training.memorisation_alarm import MemorisationAlarm
from sdedit_pl.training.module import ScoreModule
from sdedit_pl.training.weight_averaging import ImageHalfLifeAveraging


def pictures(count: int, seed: int, size: int = 32) -> Tensor:
    """Random soft images."""
    coarse = torch.rand(count, 3, 4, 4, generator=torch.Generator().manual_seed(seed)) * 2 - 1
    return torch.nn.functional.interpolate(coarse, size=size, mode="bilinear")


TRAIN, VAL = pictures(40, 0), pictures(12, 1)


@pytest.fixture
def module() -> ScoreModule:
    config = tiny_config("data.path=unused", "data.size=32")
    return build_module(config, build_denoiser(config.model))


def alarm_over(module: ScoreModule, edits: Tensor) -> MemorisationAlarm:
    """An alarm with given edits."""
    small = torch.nn.functional.interpolate(TRAIN, size=16, mode="area")
    alarm = MemorisationAlarm(ImageHalfLifeAveraging(), module.denoiser, VAL, small)
    alarm.edit = Mock(return_value=edits)
    return alarm


def validated(alarm: MemorisationAlarm, module: ScoreModule) -> dict[str, float]:
    """The numbers that a validation logs."""
    logged: dict[str, float] = {}
    module.log = lambda name, value, **options: logged.update({name: value})  # type: ignore[method-assign]
    trainer = Mock(spec=lightning.Trainer, is_global_zero=True, global_step=5)
    trainer.precision_plugin.forward_context = nullcontext
    alarm.on_validation_epoch_end(trainer, module)
    return logged


@pytest.mark.parametrize("copies", [TRAIN[:12], TRAIN[:12].flip(-1), TRAIN[:12] + 0.03])
def test_copies_of_training_images_raise_the_alarm_once(
    copies: Tensor, module: ScoreModule, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    alarm = alarm_over(module, copies)
    monkeypatch.setattr("sdedit_pl.training.memorisation_alarm.stroke_painting", None)  # not made twice
    with caplog.at_level(logging.WARNING):
        found = [validated(alarm, module) for _ in range(2)]
    assert found[0]["val/memory/ratio"] < 0.05 and found[0] == found[1]
    assert len(caplog.records) == 1 and "repeats its training images" in caplog.text


def test_new_images_raise_no_alarm_even_if_blurred(module: ScoreModule, caplog: pytest.LogCaptureFixture) -> None:
    small = torch.nn.functional.interpolate(pictures(12, 2), size=16, mode="area")
    blurred = torch.nn.functional.interpolate(small, size=32, mode="bilinear")
    for edits in (pictures(12, 2), blurred):
        found = validated(alarm_over(module, edits), module)
        assert 0.8 < found["val/memory/ratio"] < 1.25 and not caplog.records


def test_distances_are_mean_squares_at_sixteen_pixels(module: ScoreModule) -> None:
    alarm = alarm_over(module, TRAIN[:12])
    assert alarm.distance(TRAIN) == pytest.approx(0, abs=1e-6)
    assert alarm.distance(TRAIN + 0.02) == pytest.approx(0.02**2, rel=0.01)


def test_edits_start_where_the_model_was_trained_and_run_on_it() -> None:
    config = tiny_config("data.path=unused", "data.size=32", "times.t_max=0.3")
    module = build_module(config, build_denoiser(config.model))
    small = torch.nn.functional.interpolate(TRAIN, size=16, mode="area")
    alarm = MemorisationAlarm(ImageHalfLifeAveraging(), module.denoiser, VAL[:3], small)
    alarm.edit.check(module.denoiser)
    module.denoiser.train()
    assert validated(alarm, module)["val/memory/edits"] > 0 and module.denoiser.training
