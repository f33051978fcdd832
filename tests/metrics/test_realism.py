"""Realism as metrics: closed forms, definitions counted out, and one copy of the features in a collection."""

from __future__ import annotations

import pickle
import sys

import pytest
import torch
from torchmetrics import MetricCollection

from sdedit_pl.metrics import realism
from sdedit_pl.metrics.kid import kernel_distance, subset_distances
from sdedit_pl.metrics.realism import (
    BOOTSTRAP_DRAWS,
    DensityCoverage,
    FeatureMetric,
    FrechetDistance,
    KernelDistance,
    PrecisionRecall,
    neighbour_radii,
)


def features(count: int, seed: int, dimension: int = 3) -> torch.Tensor:
    return torch.randn(count, dimension, generator=torch.Generator().manual_seed(seed))


REFERENCE, EDITS = features(30, 0, 4), features(20, 1, 4) + 0.4


def computed(metric: FeatureMetric, edits: torch.Tensor) -> dict[str, float]:
    metric.update(edits)
    return {name: value.item() for name, value in metric.compute().items()}


def fid(x: torch.Tensor, y: torch.Tensor) -> float:
    return computed(FrechetDistance(y), x)["fid"]


def over_balls(real: torch.Tensor, generated: torch.Tensor, k: int) -> tuple[float, ...]:
    """Precision, recall, density and coverage."""
    first, second = computed(PrecisionRecall(real, k), generated), computed(DensityCoverage(real, k), generated)
    return first["precision"], first["recall"], second["density"], second["coverage"]


def test_a_collection_computes_each_metric_from_one_copy_of_the_features() -> None:
    others = [FrechetDistance(REFERENCE), PrecisionRecall(REFERENCE), DensityCoverage(REFERENCE)]
    metrics = MetricCollection([KernelDistance(REFERENCE, subsets=5, subset_size=15), *others])
    kid_names = ["kid", "kid_error", "kid_low", "kid_high", "kid_subsets", "kid_subsets_deviation"]
    kids = *kernel_distance(EDITS, REFERENCE, draws=BOOTSTRAP_DRAWS), *subset_distances(EDITS, REFERENCE, 5, 15)
    expected = dict(zip(kid_names, kids, strict=True))
    for kind in (FrechetDistance, PrecisionRecall, DensityCoverage):
        expected |= computed(kind(REFERENCE), EDITS)
    for _ in range(2):
        for part in torch.arange(20).split(8):
            metrics.update(EDITS[part], part)
        assert len(metrics.compute_groups) == 1
        found = metrics.compute()
        assert {name: value.item() for name, value in found.items()} == pytest.approx(expected)
        assert all(value.dtype == torch.float64 and value.ndim == 0 for value in found.values())
        metrics.reset()


class TestKernelDistance:
    def test_groups_belong_to_the_numbers_of_images_whatever_their_order(self) -> None:
        groups, reference_groups = torch.arange(100, 120), torch.arange(100, 130)
        metric = KernelDistance(REFERENCE, groups, reference_groups, subsets=0)
        for part in (torch.arange(12, 20), torch.arange(12)):
            metric.update(EDITS[part], part)
        found = metric.compute()
        wanted = kernel_distance(EDITS, REFERENCE, groups, reference_groups)
        assert (found["kid"].item(), found["kid_error"].item()) == pytest.approx(wanted[:2])
        assert wanted.value != pytest.approx(kernel_distance(EDITS, REFERENCE).value)
        assert found.keys() == {"kid", "kid_error", "kid_low", "kid_high"}

    def test_groups_that_do_not_fit_are_refused(self) -> None:
        metric = KernelDistance(REFERENCE, torch.arange(10), torch.arange(30), subsets=0)
        metric.update(EDITS, torch.arange(20))
        with pytest.raises(ValueError, match="images 0 to 9, got the numbers 0 to 19"):
            metric.compute()


class TestFrechetDistance:
    def with_moments(self, mean: torch.Tensor, root: torch.Tensor, seed: int = 0) -> torch.Tensor:
        """Features with the mean `mean` and the covariance root' root, exactly."""
        drawn = features(50, seed, len(mean)).double()
        drawn = drawn - drawn.mean(0)
        white = drawn @ torch.linalg.inv(torch.linalg.cholesky(drawn.T @ drawn / 49)).T
        return white @ root + mean

    def test_independent_features_differ_by_means_and_deviations(self) -> None:
        x = self.with_moments(torch.tensor([0.0, 1.0, 2.0]), torch.tensor([1.0, 2.0, 0.5]).double().diag())
        y = self.with_moments(torch.tensor([3.0, 1.0, 0.0]), torch.tensor([2.0, 2.0, 3.0]).double().diag(), 1)
        assert fid(x, y) == pytest.approx(9 + 0 + 4 + 1 + 0 + 6.25, rel=1e-6)
        assert 0 <= fid(x, x) < 1e-6

    def test_fewer_images_than_features(self) -> None:
        """Two pairs of opposite vectors a and b: 2 |a|^2 + 2 |b|^2 - 4 |a . b|."""
        a, b = features(2, 3, dimension=9)
        expected = 2 * a @ a + 2 * b @ b - 4 * (a @ b).abs()
        assert fid(torch.stack([a, -a]), torch.stack([b, -b])) == pytest.approx(expected.item(), rel=1e-5)

    def test_a_single_image_is_refused(self) -> None:
        with pytest.raises(ValueError, match="at least 2 images in each set, got 1"):
            computed(FrechetDistance(REFERENCE), EDITS[:1])

    def test_it_survives_pickling(self) -> None:
        metric = FrechetDistance(REFERENCE)
        value = computed(metric, EDITS)["fid"]
        assert pickle.loads(pickle.dumps(metric)).compute()["fid"] == value

    def test_without_torch_fidelity_the_error_names_the_extra(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setitem(sys.modules, "torch_fidelity.metric_fid", None)
        monkeypatch.setitem(sys.modules, "torch_fidelity.metric_prc", None)
        for metric in (FrechetDistance(REFERENCE), PrecisionRecall(REFERENCE)):
            with pytest.raises(ValueError, match=r"torch_fidelity.*pip install 'sdedit-pl\[metrics\]'"):
                computed(metric, EDITS)


class TestBalls:
    def counted_out(self, real: torch.Tensor, generated: torch.Tensor, k: int) -> tuple[float, ...]:
        """The four numbers by their definitions, image by image."""

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
    def test_definitions_counted_out(self, k: int, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(realism, "_ROWS", 4)
        real, generated = features(17, 0), 0.7 * features(11, 1) + 0.8
        found = over_balls(real, generated, k)
        assert found == pytest.approx(self.counted_out(real, generated, k))
        assert all(0 < value < 1 for value in found[:2])

    def test_a_set_fills_itself_and_nothing_far_away(self) -> None:
        # A ball to the third nearest neighbour holds it, on its border, two others and the ball's own centre.
        assert over_balls(REFERENCE, REFERENCE, 3) == pytest.approx((1, 1, 4 / 3, 1))
        assert over_balls(REFERENCE, EDITS + 1000, 3) == (0, 0, 0, 0)

    def test_images_on_borders_are_inside(self) -> None:
        """Balls of radius 1 around 0, 1, 2 and 3: 0.5 lies in two of them, 1 in three, on the border of two."""
        real, generated = (torch.tensor(places)[:, None] for places in ([0.0, 1.0, 2.0, 3.0], [0.5, 1.0, 9.0]))
        assert neighbour_radii(real, 1).tolist() == [1, 1, 1, 1]
        assert over_balls(real, generated, 1)[2:] == pytest.approx((5 / 3, 3 / 4))

    def test_an_outlier_fools_precision_and_not_density(self) -> None:
        """The ball of a real outlier is large, and generated images within it look precise."""
        real = torch.cat([features(30, 0), torch.full((1, 3), 60.0)])
        precision, _, density, coverage = over_balls(real, features(30, 1) + 40, 5)
        assert precision == 1 and density == pytest.approx(1 / 5) and coverage == pytest.approx(1 / 31)

    def test_equal_images_are_at_distance_0_however_long_their_features(self) -> None:
        real = torch.cat([features(1, 0, 200).repeat(4, 1) * 1e4, features(4, 1, 200)])
        assert neighbour_radii(real, 3)[:4].tolist() == [0, 0, 0, 0]
        assert computed(DensityCoverage(real, 3), real[:1])["density"] == pytest.approx(4 / 3)

    @pytest.mark.parametrize("metric", [PrecisionRecall, DensityCoverage])
    def test_too_few_images_for_a_neighbour_are_refused(self, metric: type[FeatureMetric]) -> None:
        with pytest.raises(ValueError, match="at least 31 images in each set, got 30"):
            computed(metric(REFERENCE, neighbours=30), EDITS)
        with pytest.raises(ValueError, match="neighbours must be at least 1, got 0"):
            computed(metric(REFERENCE, neighbours=0), EDITS)


def test_features_of_another_extractor_are_refused() -> None:
    with pytest.raises(ValueError, match="features have 3 numbers, those of the reference set 4"):
        FrechetDistance(REFERENCE).update(EDITS[:, :3])
