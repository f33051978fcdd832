"""FID: the distance of Gaussians in closed form, and of features as others compute it."""

from __future__ import annotations

import pytest
import torch
from scipy.linalg import sqrtm
from torch_fidelity.metric_fid import fid_features_to_statistics, fid_statistics_to_metric
from torchmetrics.image.fid import FrechetInceptionDistance

from sdedit_pl.metrics import TooFewImages
from sdedit_pl.metrics.frechet import Gaussian, frechet_distance


def features(count: int, seed: int, dimension: int = 4) -> torch.Tensor:
    return torch.randn(count, dimension, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def with_moments(mean: torch.Tensor, root: torch.Tensor, seed: int = 0) -> torch.Tensor:
    """Features whose mean is `mean` and whose covariance is root' root, exactly."""
    drawn = features(50, seed, len(mean))
    drawn = drawn - drawn.mean(0)
    white = drawn @ torch.linalg.inv(torch.linalg.cholesky(drawn.T @ drawn / 49)).T
    return white @ root + mean


def distance(x: torch.Tensor, y: torch.Tensor) -> float:
    return frechet_distance(Gaussian.of(x), Gaussian.of(y))


def test_independent_features_differ_by_means_and_deviations() -> None:
    means, deviations = (
        torch.tensor([[0.0, 1.0, 2.0], [3.0, 1.0, 0.0]]),
        torch.tensor([[1.0, 2.0, 0.5], [2.0, 2.0, 3.0]]),
    )
    x, y = (
        with_moments(m.double(), s.double().diag(), k) for k, (m, s) in enumerate(zip(means, deviations, strict=True))
    )
    assert distance(x, y) == pytest.approx(9 + 0 + 4 + 1 + 0 + 6.25)
    assert distance(x, x) == pytest.approx(0, abs=1e-9)


def test_dependent_features_need_the_root_of_a_product() -> None:
    x_root, y_root = features(4, 1), features(4, 2)
    zero = torch.zeros(4, dtype=torch.float64)
    x_covariance, y_covariance = x_root.T @ x_root, y_root.T @ y_root
    expected = (x_covariance + y_covariance).trace().item() - 2 * sqrtm(
        (x_covariance @ y_covariance).numpy()
    ).real.trace()
    assert distance(with_moments(zero, x_root), with_moments(zero, y_root, 1)) == pytest.approx(expected)


def test_fewer_images_than_features() -> None:
    """Two pairs of opposite vectors a and b: 2 |a|^2 + 2 |b|^2 - 4 |a . b|."""
    a, b = features(2, 3, dimension=9)
    expected = 2 * a @ a + 2 * b @ b - 4 * (a @ b).abs()
    assert distance(torch.stack([a, -a]), torch.stack([b, -b])) == pytest.approx(expected.item())


def test_one_set_smaller_and_one_larger_than_the_features() -> None:
    x, y = features(5, 0, dimension=8), features(40, 1, dimension=8)
    assert distance(x, y) == pytest.approx(distance(y, x))
    longer = torch.cat([y.T, torch.zeros(40, 40, dtype=torch.float64)]).T
    assert distance(torch.cat([x, torch.zeros(5, 40, dtype=torch.float64)], 1), longer) == pytest.approx(distance(x, y))


class Flat(torch.nn.Module):
    """Takes images of 1x1 pixels as their own features."""

    num_features = 3

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return images.flatten(1).float()


def test_agrees_with_torchmetrics_on_the_same_features() -> None:
    generator = torch.Generator().manual_seed(0)
    x = torch.randint(0, 200, (50, 3, 1, 1), generator=generator, dtype=torch.uint8)
    y = torch.randint(50, 255, (40, 3, 1, 1), generator=generator, dtype=torch.uint8)
    other = FrechetInceptionDistance(feature=Flat()).set_dtype(torch.float64)
    other.update(x, real=True)
    other.update(y, real=False)
    assert distance(x.flatten(1).float(), y.flatten(1).float()) == pytest.approx(other.compute().item(), rel=1e-6)


@pytest.mark.parametrize(("count", "relative"), [(200, 1e-9), (12, 1e-5)])
def test_agrees_with_torch_fidelity_on_the_same_features(count: int, relative: float) -> None:
    """With fewer images than features theirs takes roots of eigenvalues that should be 0: fewer digits agree."""
    x, y = features(count, 0, 32), 1.5 * features(count, 1, 32) + 0.2
    other = fid_statistics_to_metric(fid_features_to_statistics(x), fid_features_to_statistics(y), False)
    assert distance(x, y) == pytest.approx(other["frechet_inception_distance"], rel=relative)


def test_a_single_image_has_no_spread() -> None:
    with pytest.raises(TooFewImages, match="FID needs at least 2 images in each set, got 1"):
        Gaussian.of(torch.zeros(1, 3))
