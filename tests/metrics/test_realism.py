"""Realism as metrics: what the functions give, under names of its own, with one copy of the features."""

from __future__ import annotations

import pickle

import pytest
import torch
from torchmetrics import MetricCollection

from sdedit_pl.metrics import (
    DensityCoverage,
    FrechetDistance,
    KernelDistance,
    PrecisionRecall,
    TooFewImages,
    kernel_distance,
)
from sdedit_pl.metrics.frechet import Gaussian, frechet_distance
from sdedit_pl.metrics.kid import subset_distances
from sdedit_pl.metrics.manifolds import density_and_coverage, neighbour_radii, precision_and_recall
from sdedit_pl.metrics.realism import BOOTSTRAP_DRAWS

REFERENCE = torch.randn(30, 4, generator=torch.Generator().manual_seed(0))
EDITS = torch.randn(20, 4, generator=torch.Generator().manual_seed(1)) + 0.4


def collection(**kid: object) -> MetricCollection:
    return MetricCollection(
        [
            KernelDistance(REFERENCE, **{"subsets": 5, "subset_size": 15, **kid}),
            FrechetDistance(REFERENCE),
            PrecisionRecall(REFERENCE),
            DensityCoverage(REFERENCE),
        ]
    )


def expected() -> dict[str, float]:
    kid = kernel_distance(EDITS, REFERENCE, draws=BOOTSTRAP_DRAWS)
    subsets = subset_distances(EDITS, REFERENCE, 5, 15)
    precision, recall = precision_and_recall(REFERENCE, EDITS, neighbour_radii(REFERENCE, 3), 3)
    density, coverage = density_and_coverage(REFERENCE, EDITS, neighbour_radii(REFERENCE, 5), 5)
    return {
        "kid": kid.value,
        "kid_error": kid.error,
        "kid_low": kid.low,
        "kid_high": kid.high,
        "kid_subsets": subsets.mean,
        "kid_subsets_deviation": subsets.deviation,
        "fid": frechet_distance(Gaussian.of(EDITS), Gaussian.of(REFERENCE)),
        "precision": precision,
        "recall": recall,
        "density": density,
        "coverage": coverage,
    }


def test_a_collection_gives_what_the_functions_give() -> None:
    metrics = collection()
    for part in torch.arange(20).split(8):
        metrics.update(EDITS[part], part)
    found = metrics.compute()
    assert {name: value.item() for name, value in found.items()} == pytest.approx(expected())
    assert all(value.dtype == torch.float64 and value.ndim == 0 for value in found.values())
    low, value, high = found["kid_low"], found["kid"], found["kid_high"]
    assert low < value < high


def test_a_collection_holds_the_features_once() -> None:
    metrics = collection()
    metrics.update(EDITS[:10])
    metrics.update(EDITS[10:])
    assert len(metrics.compute_groups) == 1
    metrics.reset()
    metrics.update(EDITS)
    assert {name: value.item() for name, value in metrics.compute().items()} == pytest.approx(expected())


def test_groups_are_of_the_numbers_of_images() -> None:
    """An edit and its own original are one group, in whatever order the edits come."""
    groups = torch.arange(100, 120)
    reference_groups = torch.arange(100, 130)
    metric = KernelDistance(REFERENCE, groups, reference_groups, subsets=0)
    for part in (torch.arange(12, 20), torch.arange(12)):
        metric.update(EDITS[part], part)
    found = metric.compute()
    wanted = kernel_distance(EDITS, REFERENCE, groups, reference_groups)
    assert (found["kid"].item(), found["kid_error"].item()) == pytest.approx(wanted[:2])
    assert wanted.value != pytest.approx(kernel_distance(EDITS, REFERENCE).value)
    assert found.keys() == {"kid", "kid_error", "kid_low", "kid_high"}


def test_metrics_survive_pickling() -> None:
    metric = FrechetDistance(REFERENCE)
    metric.update(EDITS)
    value = metric.compute()["fid"]
    assert pickle.loads(pickle.dumps(metric)).compute()["fid"] == value


def test_small_sets_are_told_how_many_images_are_needed() -> None:
    metric = KernelDistance(REFERENCE)
    metric.update(EDITS)
    with pytest.raises(TooFewImages, match="needs at least 1000 in each set, got 20 generated images"):
        metric.compute()
    ball = PrecisionRecall(REFERENCE, neighbours=20)
    ball.update(EDITS)
    with pytest.raises(TooFewImages, match="need at least 21 images in each set, got 20"):
        ball.compute()


def test_refuses_what_does_not_fit_together() -> None:
    with pytest.raises(ValueError, match="for both sets or for none; give groups and reference_groups"):
        KernelDistance(REFERENCE, torch.arange(20))
    with pytest.raises(ValueError, match="30 reference images need as many groups, got 20"):
        KernelDistance(REFERENCE, torch.arange(20), torch.arange(20))
    with pytest.raises(ValueError, match="neighbours must be at least 1, got 0"):
        DensityCoverage(REFERENCE, neighbours=0)
    with pytest.raises(ValueError, match="features have 3 numbers, those of the reference set 4"):
        FrechetDistance(REFERENCE).update(EDITS[:, :3])
    metric = KernelDistance(REFERENCE, torch.arange(10), torch.arange(30), subsets=0)
    metric.update(EDITS, torch.arange(20))
    with pytest.raises(ValueError, match="the 10 groups are of the images 0 to 9, got the numbers 0 to 19"):
        metric.compute()
