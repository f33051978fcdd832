"""Recolouring: what changes, what stays, and that it depends only on the random generator."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch._subclasses import FakeTensorMode

from sdedit_pl.training.recolouring import recolour


def scene(count: int = 1, size: int = 32) -> Tensor:
    """White images with a black frame, a blue square in one corner and a dull red one in the middle."""
    images = torch.ones(count, 3, size, size)
    images[..., :2, :] = images[..., -2:, :] = -1.0
    images[..., 4:14, 4:14] = torch.tensor([-0.6, -0.2, 0.7])[:, None, None]
    images[..., 18:24, 18:24] = torch.tensor([0.5, -0.1, -0.2])[:, None, None]
    return images


def test_white_and_black_stay() -> None:
    torch.manual_seed(0)
    images = scene(64)
    changed = recolour(images, 1.0)
    plain = (images == 1).all(1) | (images == -1).all(1)
    assert torch.equal(changed.movedim(1, -1)[plain], images.movedim(1, -1)[plain])
    assert ((changed - images).abs().amax((1, 2, 3)) > 0.05).float().mean() > 0.9


def test_one_colour_is_replaced_uniformly() -> None:
    torch.manual_seed(0)
    images = scene(64)
    changed = recolour(images, 1.0)
    blue, red = changed[..., 4:14, 4:14], changed[..., 18:24, 18:24]
    for square in (blue, red):
        assert (square - square[..., :1, :1]).abs().max() < 1e-5
    moved = [
        (square - images[..., rows, rows]).abs().amax((1, 2, 3)) > 0.1
        for square, rows in ((blue, slice(4, 14)), (red, slice(18, 24)))
    ]
    assert moved[0].float().mean() > 0.8  # further from the centre, and larger
    assert not (moved[0] & moved[1]).all()


def test_values_stay_in_range() -> None:
    torch.manual_seed(0)
    images = torch.rand(64, 3, 16, 16) * 2 - 1
    changed = recolour(images, 1.0)
    assert changed.isfinite().all() and changed.min() >= -1 and changed.max() <= 1


def test_the_probability_is_the_share_of_changed_images() -> None:
    torch.manual_seed(0)
    images = scene(600)
    assert torch.equal(recolour(images, 0.0), images)
    share = (recolour(images, 0.3) != images).flatten(1).any(1).float().mean().item()
    assert share == pytest.approx(0.3, abs=0.06)


def test_images_without_colours_stay() -> None:
    images = torch.cat([torch.ones(1, 3, 8, 8), -torch.ones(1, 3, 8, 8)])
    assert torch.equal(recolour(images, 1.0), images)


def test_it_is_a_function_of_the_random_state() -> None:
    images = scene(4)
    torch.manual_seed(5)
    first, second = recolour(images, 1.0), recolour(images, 1.0)
    torch.manual_seed(5)
    assert torch.equal(recolour(images, 1.0), first) and not torch.equal(first, second)


def test_it_reads_nothing_from_the_accelerator() -> None:
    with FakeTensorMode(), torch.device("cuda"):
        assert recolour(torch.zeros(4, 3, 16, 16), 0.5).device.type == "cuda"


def test_images_that_are_not_rgb_are_refused() -> None:
    with pytest.raises(ValueError, match=r"RGB.*got 1"):
        recolour(torch.zeros(1, 1, 8, 8), 0.5)
