"""Realism of a set of images: distances between its features and those of real images, as metrics.

Metrics in a `MetricCollection` share one copy of the features. All computation is in float64 on the CPU, so that the
numbers are the same on every device. FID, precision and recall are those of torch-fidelity.

FID is biased upwards, the more so the fewer images there are. The other measures assume that a set fills the union of
balls around its images, each with the distance to the k-th nearest other image as its radius; they depend on the number
of images too. Compare only sets of equal size.

    precision   share of the generated images inside a ball of a real one
    recall      share of the real images inside a ball of a generated one
    density     mean number of balls of real images around a generated one, over k; may exceed 1
    coverage    share of the real images whose ball holds a generated one

Source: Heusel et al., "GANs Trained by a Two Time-Scale Update Rule", NeurIPS 2017, equation 6 (FID); Kynkaanniemi et
al., "Improved Precision and Recall Metric for Assessing Generative Models", NeurIPS 2019, equations 1 and 2 (k = 3);
Naeem et al., "Reliable Fidelity and Diversity Metrics for Generative Models", ICML 2020, equations 3 and 4 (k = 5).
"""

from __future__ import annotations

import abc
from collections.abc import Iterator
from functools import cached_property
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from sdedit_pl.metrics.features import not_installed
from sdedit_pl.metrics.image_metric import ImageMetric, groups_of
from sdedit_pl.metrics.kid import kernel_distance, subset_distances

BOOTSTRAP_DRAWS = 1000
_ROWS = 1024
"""Images whose distances to all others are held at a time."""
_BORDER = 1e-9
"""Rounding, relative to its radius, by which an image may lie outside a ball and still count as inside."""
_ROUNDING = 1e-12
"""Largest squared distance that counts as rounding, relative to the sum of the two vectors' squared lengths."""

Numbers = dict[str, Float[Tensor, ""]]


class FeatureMetric(ImageMetric, abc.ABC):
    """A metric over the features of images, compared with `reference`, those of real images."""

    def __init__(self, reference: Float[Tensor, "M D"], **options: Any) -> None:
        super().__init__("features", torch.empty(0, reference.shape[1]), **options)
        self.reference = reference.detach().cpu()

    def update(self, features: Float[Tensor, "B D"], numbers: Int[Tensor, "B"] | None = None) -> None:
        """Raises ValueError if the features differ in length from those of the reference set."""
        if features.shape[1] != self.reference.shape[1]:
            raise ValueError(
                f"features have {features.shape[1]} numbers, those of the reference set {self.reference.shape[1]}; "
                "take both from one extractor"
            )
        self.append(features.float(), numbers)


class KernelDistance(FeatureMetric):
    """KID, as `kid`, with its standard error `kid_error` and the ends of its 95 % interval, `kid_low` and `kid_high`.

    `kid_subsets` and `kid_subsets_deviation` are what torchmetrics and torch-fidelity report; see `subset_distances`.

    Args:
        groups: group of each image, indexed by its number; None makes each image a group of its own.
        reference_groups: the group of each real image; equal numbers are one group, also across the two sets.
        subsets: how many random subsets; 0 omits the two numbers of subsets.
        subset_size: images of each set in a subset.
        seed: seed of the subsets and the bootstrap.
    """

    def __init__(
        self,
        reference: Float[Tensor, "M D"],
        groups: Int[Tensor, "N"] | None = None,
        reference_groups: Int[Tensor, "M"] | None = None,
        subsets: int = 100,
        subset_size: int = 1000,
        seed: int = 0,
        **options: Any,
    ) -> None:
        super().__init__(reference, **options)
        self.groups = groups
        self.reference_groups = reference_groups
        self.subsets = subsets
        self.subset_size = subset_size
        self.seed = seed

    def compute(self) -> Numbers:
        """Raises ValueError if a set has fewer images than a subset or fewer than 3 groups, or an edit has no group."""
        features, numbers = self.gathered()
        found: dict[str, float] = {}
        if self.subsets:
            mean, deviation = subset_distances(features, self.reference, self.subsets, self.subset_size, self.seed)
            found |= {"kid_subsets": mean, "kid_subsets_deviation": deviation}
        groups = None if self.groups is None else groups_of(numbers, self.groups)
        kid = kernel_distance(features, self.reference, groups, self.reference_groups, BOOTSTRAP_DRAWS, self.seed)
        found |= {"kid": kid.value, "kid_error": kid.error, "kid_low": kid.low, "kid_high": kid.high}
        return _tensors(found)


class FrechetDistance(FeatureMetric):
    """FID, as `fid`."""

    @cached_property
    def _reference_statistics(self) -> dict[str, Any]:
        return _statistics(self.reference)

    def compute(self) -> Numbers:
        """Raises ValueError for fewer than two images in a set, or without torch-fidelity."""
        features, _ = self.gathered()
        try:
            from torch_fidelity.metric_fid import KEY_METRIC_FID, fid_statistics_to_metric
        except ModuleNotFoundError as error:
            raise not_installed(error) from error
        found = fid_statistics_to_metric(_statistics(features), self._reference_statistics, verbose=False)
        # Rounding can bring the distance of equal sets below 0.
        return _tensors({"fid": max(0.0, found[KEY_METRIC_FID])})


class PrecisionRecall(FeatureMetric):
    """Precision and recall of Kynkaanniemi et al., as `precision` and `recall`."""

    def __init__(self, reference: Float[Tensor, "M D"], neighbours: int = 3, **options: Any) -> None:
        super().__init__(reference, **options)
        self.neighbours = neighbours

    def compute(self) -> Numbers:
        """Raises ValueError if `neighbours` < 1, if a set has no more images than that, or without torch-fidelity."""
        features, _ = self.gathered()
        try:
            from torch_fidelity.metric_prc import prc_features_to_metric
        except ModuleNotFoundError as error:
            raise not_installed(error) from error
        for images in (self.reference, features):
            _require_neighbours(images, self.neighbours)
        found = prc_features_to_metric(
            features,
            self.reference.double(),
            prc_neighborhood=self.neighbours,
            prc_batch_size=_ROWS,
            save_cpu_ram=True,
            verbose=False,
        )
        return _tensors({name: found[name] for name in ("precision", "recall")})


class DensityCoverage(FeatureMetric):
    """Density and coverage of Naeem et al., as `density` and `coverage`."""

    def __init__(self, reference: Float[Tensor, "M D"], neighbours: int = 5, **options: Any) -> None:
        super().__init__(reference, **options)
        self.neighbours = neighbours

    @cached_property
    def _radii(self) -> Float[Tensor, "M"]:
        return neighbour_radii(self.reference, self.neighbours)

    def compute(self) -> Numbers:
        """Raises ValueError if `neighbours` < 1, or if the reference set has no more images than that."""
        features, _ = self.gathered()
        in_balls, covered = 0, torch.zeros(len(self.reference), dtype=torch.bool)
        for distances in _distances(features, self.reference):
            inside = distances <= self._radii * (1 + _BORDER)
            in_balls += int(inside.sum())
            covered |= inside.any(0)
        density = in_balls / len(features) / self.neighbours
        return _tensors({"density": density, "coverage": covered.double().mean().item()})


def neighbour_radii(features: Float[Tensor, "N D"], neighbours: int) -> Float[Tensor, "N"]:
    _require_neighbours(features, neighbours)
    # The nearest is the image itself, at 0.
    radii = [distances.kthvalue(neighbours + 1, dim=1).values for distances in _distances(features, features)]
    return torch.cat(radii)


def _distances(x: Float[Tensor, "N D"], y: Float[Tensor, "M D"]) -> Iterator[Float[Tensor, "rows M"]]:
    """The distances of the images in `x` to all in `y`, some rows at a time."""
    x, y = x.cpu().double(), y.cpu().double()
    lengths = y.square().sum(1)
    for rows in x.split(_ROWS):
        scale = rows.square().sum(1)[:, None] + lengths
        squared = scale - 2 * rows @ y.T
        squared[squared < _ROUNDING * scale] = 0  # of equal images, and rounding below 0
        yield squared.sqrt()


def _statistics(features: Float[Tensor, "N D"]) -> dict[str, Any]:
    from torch_fidelity.metric_fid import fid_features_to_statistics

    if len(features) < 2:
        raise ValueError(f"FID needs at least 2 images in each set, got {len(features)}")
    return fid_features_to_statistics(features.double())


def _require_neighbours(features: Float[Tensor, "N D"], neighbours: int) -> None:
    if neighbours < 1:
        raise ValueError(f"neighbours must be at least 1, got {neighbours}")
    if len(features) <= neighbours:
        raise ValueError(
            f"neighbours={neighbours} needs at least {neighbours + 1} images in each set, got {len(features)}"
        )


def _tensors(numbers: dict[str, float]) -> Numbers:
    return {name: torch.tensor(number, dtype=torch.float64) for name, number in numbers.items()}
