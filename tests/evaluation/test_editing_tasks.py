"""The simulated tasks: reproducible inputs, and masks that are exactly the changed pixels."""

from __future__ import annotations

import hashlib

import pytest
import torch

from sdedit_pl.evaluation.editing_tasks import TASKS, StrokeSynthesis, TaskInputs, brush_stroke, draws_of, ellipse
from sdedit_pl.guides.strokes import stroke_painting
from sdedit_pl.typing import Images


def images(count: int = 2, size: int = 32, channels: int = 3) -> Images:
    return torch.rand(count, channels, size, 32, generator=torch.Generator().manual_seed(0)) * 2 - 1


def made(task: str, seed: int = 0, number: int = 0, channels: int = 3, size: int = 32) -> TaskInputs:
    original, other = images(size=size, channels=channels).split(1)
    return TASKS[task]().inputs(original, other, draws_of(seed, number, task))


@pytest.mark.parametrize("task", TASKS)
def test_inputs_are_a_function_of_seed_and_number(task: str) -> None:
    first, again = made(task), made(task)
    assert torch.equal(first.guide, again.guide)
    if TASKS[task]().masked:
        for other in (made(task, seed=1), made(task, number=1)):
            assert not torch.equal(first.guide, other.guide)


@pytest.mark.parametrize("task", ["stroke_editing", "compositing"])
@pytest.mark.parametrize(("channels", "size"), [(1, 32), (3, 32), (4, 48)])
def test_the_mask_is_exactly_the_changed_pixels(task: str, channels: int, size: int) -> None:
    original = images(channels=channels, size=size)[:1]
    for number in range(20):
        guide, mask = made(task, number=number, channels=channels, size=size)[1:3]
        assert mask is not None and mask.shape == (1, 1, size, 32) and 0 < mask.float().mean() < 0.7
        assert torch.equal((guide != original).any(1, keepdim=True), mask)


def test_a_composite_is_the_other_image_inside_the_mask() -> None:
    inputs = made("compositing")
    assert inputs.mask is not None and inputs.pasted is not None
    assert torch.equal(inputs.guide, torch.where(inputs.mask, images()[1:], images()[:1]))


def test_synthesis_starts_from_simulated_strokes_of_any_number_of_colours() -> None:
    original = images()[:1]
    inputs = StrokeSynthesis(colours=3).inputs(original, original, draws_of(0, 0, "strokes"))
    assert inputs.mask is None and torch.equal(inputs.guide, stroke_painting(original, 3))


def test_strokes_are_thick_and_patches_touch_no_edge() -> None:
    for number in range(50):
        stroke = brush_stroke((64, 64), draws_of(0, number, "stroke"))
        # a disc of the smallest radius fits
        assert stroke.sum() > 3.14 * (0.05 * 64) ** 2
        patch = ellipse((16, 16), draws_of(0, number, "patch"))
        edge = torch.ones_like(patch)
        edge[1:-1, 1:-1] = False
        assert patch.any() and not (patch & edge).any()
        assert patch.any(0).sum() <= 9 and patch.any(1).sum() <= 9


def test_draws_are_the_same_in_all_versions() -> None:
    draw = draws_of(3, 7, "StrokeEditing")
    mask = brush_stroke((64, 64), draw)
    digest = hashlib.sha256(mask.numpy().tobytes()).hexdigest()[:16]
    assert [round(draw(), 12) for _ in range(2)] == [0.908646567061, 0.196885971835]
    assert digest == "2e67ec51f47eebb4"
