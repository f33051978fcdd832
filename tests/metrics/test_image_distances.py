"""Distances between images, and nearest references."""

from __future__ import annotations

import torch

from sdedit_pl.metrics.image_distances import nearest_by_distance, root_mean_square, squared_l2

REFERENCES = torch.tensor([[0.0, 1.0], [3.0, 3.0], [1.0, 0.0]])


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


def test_nearest_by_distance() -> None:
    found = nearest_by_distance(torch.tensor([[0.0, 3.0], [2.0, 2.5], [1.0, 0.0]]), REFERENCES)
    assert found.index.tolist() == [0, 1, 2]
    torch.testing.assert_close(found.squared_distance, torch.tensor([4.0, 1.25, 0.0], dtype=torch.float64))


def test_near_duplicates_are_distinguished_at_the_length_of_images() -> None:
    generator = torch.Generator().manual_seed(0)
    references = torch.rand(5, 12288, generator=generator)
    queries = references + 1e-5
    found = nearest_by_distance(queries, references)
    assert found.index.tolist() == [0, 1, 2, 3, 4]
    expected = torch.full((5,), 12288e-10, dtype=torch.float64)
    torch.testing.assert_close(found.squared_distance, expected, rtol=0.02, atol=0)
