"""Faithfulness of a set of edits: the mean distance to their guides, with its standard error."""

from __future__ import annotations

import abc
from collections.abc import Callable
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torchmetrics import MetricCollection

from sdedit_pl.metrics.image_distances import root_mean_square, squared_l2
from sdedit_pl.metrics.image_metric import ImageMetric, groups_of
from sdedit_pl.typing import Images


class ImageMean(ImageMetric, abc.ABC):
    """The mean over images of one number per image, with its standard error.

    `compute` returns the mean under the metric's name, and its error under `<name>_error`, which takes groups as
    independent and is nan for a single group.

    Args:
        groups: group of each image, indexed by its number; None makes each image a group of its own.

    Source: Liang and Zeger, "Longitudinal data analysis using generalized linear models", 1986, for the error, with the
    usual G / (G - 1) for G groups; with groups of one image, the standard deviation divided by the root of the count.
    """

    def __init__(self, name: str, groups: Int[Tensor, "N"] | None = None, **options: Any) -> None:
        super().__init__(name, torch.empty(0), **options)
        self.name = name
        self.groups = groups

    def compute(self) -> dict[str, Float[Tensor, ""]]:
        values, numbers = self.gathered()
        groups = torch.arange(len(values)) if self.groups is None else groups_of(numbers, self.groups)
        mean = values.mean()
        numbered = groups.unique(return_inverse=True)[1]
        deviations = torch.zeros(int(numbered.max()) + 1, dtype=values.dtype).index_add_(0, numbered, values - mean)
        count = len(deviations)
        variance = deviations.square().sum() * count / (count - 1) if count > 1 else values.new_tensor(float("nan"))
        return {self.name: mean, f"{self.name}_error": variance.sqrt() / len(values)}


class GuideDistance(ImageMean):
    """The mean of a distance between edits and guides in [-1, 1]; see `ImageMean` for the other arguments."""

    def __init__(
        self,
        name: str,
        distance: Callable[[Images, Images], Float[Tensor, "B"]],
        groups: Int[Tensor, "N"] | None = None,
        **options: Any,
    ) -> None:
        super().__init__(name, groups, **options)
        self.distance = distance

    def update(self, images: Images, others: Images, numbers: Int[Tensor, "B"] | None = None) -> None:
        self.append(self.distance(images, others), numbers)


def guide_distances(groups: Int[Tensor, "N"] | None = None) -> MetricCollection:
    distances = {"squared_l2": squared_l2, "rms": root_mean_square}
    return MetricCollection({name: GuideDistance(name, distance, groups) for name, distance in distances.items()})
