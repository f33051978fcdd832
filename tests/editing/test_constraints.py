"""The kept region: the level and the noise of its pixels."""

from __future__ import annotations

import pytest
import torch

from sdedit_pl.editing.constraints import KeptRegion
from sdedit_pl.noise import SeededNoise, StepNoise
from sdedit_pl.sde import VPSDE

IMAGE = torch.linspace(-1, 1, 2 * 3 * 4 * 4).reshape(2, 3, 4, 4)
STATE = torch.full_like(IMAGE, 7.0)
MASK = torch.zeros(1, 1, 4, 4, dtype=torch.bool)
MASK[..., :2] = True
T, S = torch.tensor([0.5, 0.4]), torch.tensor([0.3, 0.0])
SDE = VPSDE()


def step_noise() -> StepNoise:
    return StepNoise(SeededNoise([1, 2]), 3, IMAGE)


@pytest.mark.parametrize(("level", "time"), [("reached", S), ("left", T)])
def test_kept_pixels_are_written_at_their_level_with_the_steps_noise(level, time) -> None:
    after = KeptRegion(IMAGE, MASK, SDE, level).after_step(STATE, T, S, step_noise())
    assert (after[..., :2] == 7).all()
    assert torch.equal(after[..., 2:], SDE.perturb(IMAGE, time, step_noise().shared)[..., 2:])


def test_the_start_is_written_at_its_own_level() -> None:
    start = KeptRegion(IMAGE, MASK, SDE).start(STATE, T, step_noise())
    assert (start[..., :2] == 7).all()
    assert torch.equal(start[..., 2:], SDE.perturb(IMAGE, T, step_noise().shared)[..., 2:])


def test_at_time_zero_kept_pixels_equal_the_image() -> None:
    after = KeptRegion(IMAGE, MASK, SDE).after_step(STATE, T, S, step_noise())
    assert torch.equal(after[1, :, :, 2:], IMAGE[1, :, :, 2:])


def test_all_writes_can_use_one_noise() -> None:
    fixed = torch.full_like(IMAGE, 0.5)
    after = KeptRegion(IMAGE, MASK, SDE, noise=fixed).after_step(STATE, T, S, step_noise())
    assert torch.equal(after[..., 2:], SDE.perturb(IMAGE, S, fixed)[..., 2:])


def test_masks_may_differ_in_a_batch() -> None:
    masks = torch.cat([MASK, ~MASK])
    after = KeptRegion(IMAGE, masks, SDE).after_step(STATE, T, S, step_noise())
    assert torch.equal(after == 7, masks.expand_as(IMAGE))
