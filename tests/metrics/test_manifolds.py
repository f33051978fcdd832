"""Precision and recall, density and coverage: their definitions counted out, and cases that can be seen."""

from __future__ import annotations

import pytest
import torch
from torch_fidelity.metric_prc import prc_features_to_metric

from sdedit_pl.metrics import TooFewImages, manifolds
from sdedit_pl.metrics.manifolds import (
    density_and_coverage,
    inside_balls,
    neighbour_radii,
    precision_and_recall,
)


def features(count: int, seed: int, dimension: int = 3) -> torch.Tensor:
    return torch.randn(count, dimension, generator=torch.Generator().manual_seed(seed))


def on_a_line(*places: float) -> torch.Tensor:
    return torch.tensor(places, dtype=torch.float32)[:, None]


def measured(real: torch.Tensor, generated: torch.Tensor, k: int) -> tuple[float, ...]:
    """Precision, recall, density and coverage."""
    radii = neighbour_radii(real, k)
    return *precision_and_recall(real, generated, radii, k), *density_and_coverage(real, generated, radii, k)


def counted_out(real: torch.Tensor, generated: torch.Tensor, k: int) -> tuple[float, ...]:
    """The same by the definitions, image by image."""

    def radius(images: list[torch.Tensor], i: int) -> float:
        others = [(images[i] - other).norm().item() for j, other in enumerate(images) if j != i]
        return sorted(others)[k - 1]

    x, y = list(real.double()), list(generated.double())
    in_real = [[(b - a).norm().item() <= radius(x, i) for i, a in enumerate(x)] for b in y]
    in_generated = [[(a - b).norm().item() <= radius(y, j) for j, b in enumerate(y)] for a in x]
    return (
        sum(map(any, in_real)) / len(y),
        sum(map(any, in_generated)) / len(x),
        sum(map(sum, in_real)) / len(y) / k,
        sum(map(any, zip(*in_real, strict=True))) / len(x),
    )


@pytest.mark.parametrize("k", [1, 3, 5])
def test_definitions_counted_out(k: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(manifolds, "_ROWS", 4)
    real, generated = features(17, 0), 0.7 * features(11, 1) + 0.8
    found = measured(real, generated, k)
    assert found == pytest.approx(counted_out(real, generated, k))
    assert all(0 < value < 1 for value in found[:2])


def test_agrees_with_torch_fidelity_on_the_same_features() -> None:
    real, generated = features(150, 0, 8), features(150, 1, 8) + 0.7
    other = prc_features_to_metric(generated, real, prc_neighborhood=3, verbose=False)
    found = measured(real, generated, 3)[:2]
    assert found == pytest.approx((other["precision"], other["recall"]), abs=1e-6)
    assert 0.2 < found[0] < 1 and 0.2 < found[1] < 1


def test_a_set_fills_itself() -> None:
    real = features(40, 0)
    precision, recall, density, coverage = measured(real, real, 3)
    assert (precision, recall, coverage) == (1, 1, 1)
    # A ball to the third nearest neighbour holds that one, on its border, two others and its own centre.
    assert density == pytest.approx(4 / 3)


def test_sets_apart_share_nothing() -> None:
    assert measured(features(20, 0), features(20, 1) + 1000, 3) == (0, 0, 0, 0)


def test_images_on_a_line() -> None:
    """Balls of radius 1 around 0, 1, 2 and 3: an image at 0.5 is in two of them, one at 1 in three, two on borders."""
    real = on_a_line(0, 1, 2, 3)
    assert neighbour_radii(real, 1).tolist() == [1, 1, 1, 1]
    of_images, of_balls = inside_balls(on_a_line(0.5, 1.0, 9.0), real, neighbour_radii(real, 1))
    assert of_images.tolist() == [2, 3, 0] and of_balls.tolist() == [2, 2, 1, 0]
    _, _, density, coverage = measured(real, on_a_line(0.5, 1.0, 9.0), 1)
    assert density == pytest.approx(5 / 3) and coverage == pytest.approx(3 / 4)


def test_an_outlier_fools_precision_and_not_density() -> None:
    """The ball of a real outlier is large, and generated images within it look precise."""
    real = torch.cat([features(30, 0), torch.full((1, 3), 60.0)])
    generated = features(30, 1) + 40
    precision, _, density, coverage = measured(real, generated, 5)
    assert precision == 1 and density == pytest.approx(1 / 5) and coverage == pytest.approx(1 / 31)


def test_equal_images_are_at_no_distance_however_long_their_features() -> None:
    real = torch.cat([features(1, 0, 200).repeat(4, 1) * 1e4, features(4, 1, 200)])
    assert neighbour_radii(real, 3)[:4].tolist() == [0, 0, 0, 0]
    of_images, _ = inside_balls(real[:1].clone(), real[:4], torch.zeros(4))
    assert of_images.tolist() == [4]


def test_too_few_images_for_a_neighbour() -> None:
    with pytest.raises(TooFewImages, match="the 3 nearest neighbours need at least 4 images in each set, got 3"):
        neighbour_radii(features(3, 0), 3)
