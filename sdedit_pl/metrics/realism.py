"""Realism of a set of images as metrics over features, for Lightning and for loops of one's own.

    realism = MetricCollection([KernelDistance(reference), FrechetDistance(reference)])
    for images, numbers in edits:
        realism.update(extractor(images), numbers)
    realism.compute()

Images go through the extractor once, outside of the metrics; those in a `MetricCollection` share one copy of the
features. The reference set is given whole on every process. Everything is computed in float64 on the CPU, so that the
numbers are the same on every device.
"""

from __future__ import annotations

import abc
from functools import cached_property
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from sdedit_pl.metrics.frechet import Gaussian, frechet_distance
from sdedit_pl.metrics.gathered import ImageMetric, groups_of
from sdedit_pl.metrics.kid import kernel_distance, subset_distances
from sdedit_pl.metrics.manifolds import density_and_coverage, neighbour_radii, precision_and_recall

BOOTSTRAP_DRAWS = 1000

Numbers = dict[str, Float[Tensor, ""]]


class FeatureMetric(ImageMetric, abc.ABC):
    """A metric over the features of images, compared with those of a reference set.

    Args:
        reference: features of the real images, (M, D).
        options: of `torchmetrics.Metric`.
    """

    def __init__(self, reference: Float[Tensor, "M D"], **options: Any) -> None:
        super().__init__("features", torch.empty(0, reference.shape[1]), **options)
        self.reference = reference.detach().cpu()

    def update(self, features: Float[Tensor, "B D"], numbers: Int[Tensor, "B"] | None = None) -> None:
        """Adds the features of edits, with their numbers.

        Raises:
            ValueError: features of another length than those of the reference set.
        """
        if features.shape[1] != self.reference.shape[1]:
            raise ValueError(
                f"features have {features.shape[1]} numbers, those of the reference set {self.reference.shape[1]}; "
                "take both from one extractor"
            )
        self.append(features.float(), numbers)


class KernelDistance(FeatureMetric):
    """KID, as `kid`, with its standard error `kid_error` and the ends of its 95 % interval, `kid_low` and `kid_high`.

    `kid_subsets` and `kid_subsets_deviation` are what torchmetrics and torch-fidelity report; `sdedit_pl.metrics.kid`
    says how the two differ.

    Args:
        reference: features of the real images, (M, D).
        groups: the group of the image of each number, (N,); None: each image is a group of its own.
        reference_groups: the group of each real image, (M,). Images of one group are not independent, also across the
            two sets: pairs of them do not count.
        subsets: how many random subsets; 0 for none, and then none of the two numbers.
        subset_size: images of each set in a subset.
        seed: of the subsets and the bootstrap.
        options: of `torchmetrics.Metric`.

    Raises:
        ValueError: groups for one of the sets alone, or not for each reference image.
    """

    def __init__(
        self,
        reference: Float[Tensor, "M D"],
        groups: Int[Tensor, "N"] | None = None,
        reference_groups: Int[Tensor, "K"] | None = None,
        subsets: int = 100,
        subset_size: int = 1000,
        seed: int = 0,
        **options: Any,
    ) -> None:
        super().__init__(reference, **options)
        if (groups is None) != (reference_groups is None):
            raise ValueError("groups are needed for both sets or for none; give groups and reference_groups")
        if reference_groups is not None and len(reference_groups) != len(reference):
            raise ValueError(f"{len(reference)} reference images need as many groups, got {len(reference_groups)}")
        self.groups = groups
        self.reference_groups = reference_groups
        self.subsets = subsets
        self.subset_size = subset_size
        self.seed = seed

    def compute(self) -> Numbers:
        """The distance of all edits so far.

        Raises:
            TooFewImages: less than a subset in a set, or less than three groups.
            ValueError: an edit whose number has no group.
        """
        features, numbers = self.gathered()
        found: dict[str, float] = {}
        if self.subsets:
            subsets = subset_distances(features, self.reference, self.subsets, self.subset_size, self.seed)
            found |= {"kid_subsets": subsets.mean, "kid_subsets_deviation": subsets.deviation}
        groups = None if self.groups is None else groups_of(numbers, self.groups)
        kid = kernel_distance(features, self.reference, groups, self.reference_groups, BOOTSTRAP_DRAWS, self.seed)
        found |= {"kid": kid.value, "kid_error": kid.error, "kid_low": kid.low, "kid_high": kid.high}
        return _tensors(found)


class FrechetDistance(FeatureMetric):
    """FID, as `fid`.

    Args:
        reference: features of the real images, (M, D).
        options: of `torchmetrics.Metric`.
    """

    @cached_property
    def _real(self) -> Gaussian:
        return Gaussian.of(self.reference)

    def compute(self) -> Numbers:
        """The distance of all edits so far.

        Raises:
            TooFewImages: less than two images in a set.
        """
        features, _ = self.gathered()
        return _tensors({"fid": frechet_distance(Gaussian.of(features), self._real)})


class BallMetric(FeatureMetric, abc.ABC):
    """A metric over balls around images, up to their nearest neighbours.

    Args:
        reference: features of the real images, (M, D).
        neighbours: which nearest other image a ball reaches to.
        options: of `torchmetrics.Metric`.

    Raises:
        ValueError: `neighbours` below 1.
    """

    def __init__(self, reference: Float[Tensor, "M D"], neighbours: int, **options: Any) -> None:
        super().__init__(reference, **options)
        if neighbours < 1:
            raise ValueError(f"neighbours must be at least 1, got {neighbours}")
        self.neighbours = neighbours

    @cached_property
    def _radii(self) -> Float[Tensor, "M"]:
        return neighbour_radii(self.reference, self.neighbours)


class PrecisionRecall(BallMetric):
    """Precision and recall of Kynkaanniemi et al., as `precision` and `recall`.

    Args:
        reference: features of the real images, (M, D).
        neighbours: which nearest other image a ball reaches to.
        options: of `torchmetrics.Metric`.
    """

    def __init__(self, reference: Float[Tensor, "M D"], neighbours: int = 3, **options: Any) -> None:
        super().__init__(reference, neighbours, **options)

    def compute(self) -> Numbers:
        """Both, of all edits so far.

        Raises:
            TooFewImages: a set has no more images than neighbours.
        """
        features, _ = self.gathered()
        precision, recall = precision_and_recall(self.reference, features, self._radii, self.neighbours)
        return _tensors({"precision": precision, "recall": recall})


class DensityCoverage(BallMetric):
    """Density and coverage of Naeem et al., as `density` and `coverage`.

    Args:
        reference: features of the real images, (M, D).
        neighbours: which nearest other image a ball reaches to.
        options: of `torchmetrics.Metric`.
    """

    def __init__(self, reference: Float[Tensor, "M D"], neighbours: int = 5, **options: Any) -> None:
        super().__init__(reference, neighbours, **options)

    def compute(self) -> Numbers:
        """Both, of all edits so far.

        Raises:
            TooFewImages: the reference set has no more images than neighbours.
        """
        features, _ = self.gathered()
        density, coverage = density_and_coverage(self.reference, features, self._radii, self.neighbours)
        return _tensors({"density": density, "coverage": coverage})


def _tensors(numbers: dict[str, float]) -> Numbers:
    """Numbers as Lightning logs them."""
    return {name: torch.tensor(number, dtype=torch.float64) for name, number in numbers.items()}
