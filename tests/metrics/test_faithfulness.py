"""Distances between images: on [0, 1], summed or averaged over pixels and channels."""

from __future__ import annotations

import torch

from sdedit_pl.metrics import root_mean_square, squared_l2


def test_black_and_white_differ_by_one_in_every_number() -> None:
    black, white = torch.full((1, 3, 4, 5), -1.0), torch.ones(1, 3, 4, 5)
    assert squared_l2(black, white).tolist() == [60.0]
    assert root_mean_square(black, white).tolist() == [1.0]


def test_each_image_is_compared_with_its_own() -> None:
    images = torch.zeros(2, 3, 8, 8)
    others = images.clone()
    others[1, 0, 2, 3] = 0.5
    assert squared_l2(images, others).tolist() == [0.0, 0.0625]
    torch.testing.assert_close(root_mean_square(images, others)[1], torch.tensor((0.0625 / 192) ** 0.5))
