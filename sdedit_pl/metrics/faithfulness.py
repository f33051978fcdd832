"""Faithfulness: how far an edit is from its guide, in pixels on [0, 1].

Source: Meng et al., "SDEdit", ICLR 2022, section 5: L2 between guide and output, summed over pixels in [0, 1].
"""

from __future__ import annotations

import abc
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from sdedit_pl.metrics.gathered import ImageMetric, groups_of
from sdedit_pl.typing import Images


def squared_l2(images: Images, others: Images) -> Float[Tensor, "B"]:
    """The squared norm of the difference of images in [-1, 1], on [0, 1] and summed over channels and pixels, (B,).

    It grows with the number of pixels: compare it between images of one size only.
    """
    return ((images - others) / 2).square().flatten(1).sum(1)


def root_mean_square(images: Images, others: Images) -> Float[Tensor, "B"]:
    """The difference on [0, 1] as a root mean square over channels and pixels, which compares across sizes, (B,)."""
    return ((images - others) / 2).square().flatten(1).mean(1).sqrt()


class ImageMean(ImageMetric, abc.ABC):
    """The mean over images of a number of each, with its standard error.

    `compute` returns the mean under the metric's name, and its error under `<name>_error`: that of independent groups,
    nan for a single one.

    Args:
        name: of the number.
        groups: the group of the image of each number, (N,); None: each image is a group of its own.
        options: of `torchmetrics.Metric`.

    Source: Liang and Zeger, "Longitudinal data analysis using generalized linear models", 1986, for the error, with the
    usual G / (G - 1) for G groups; with groups of one image it is the deviation over the root of the number.
    """

    def __init__(self, name: str, groups: Int[Tensor, "N"] | None = None, **options: Any) -> None:
        super().__init__(name, torch.empty(0), **options)
        self.name = name
        self.groups = groups

    def compute(self) -> dict[str, Float[Tensor, ""]]:
        """The mean and its error.

        Raises:
            TooFewImages: there is no image.
            ValueError: an image whose number has no group.
        """
        values, numbers = self.gathered()
        groups = torch.arange(len(values)) if self.groups is None else groups_of(numbers, self.groups)
        mean = values.mean()
        numbered = groups.unique(return_inverse=True)[1]
        deviations = torch.zeros(int(numbered.max()) + 1, dtype=values.dtype).index_add_(0, numbered, values - mean)
        count = len(deviations)
        variance = deviations.square().sum() * count / (count - 1) if count > 1 else values.new_tensor(float("nan"))
        return {self.name: mean, f"{self.name}_error": variance.sqrt() / len(values)}


class SquaredL2(ImageMean):
    """The mean of `squared_l2` between edits and guides, as `squared_l2`.

    Args:
        groups: see `ImageMean`.
        options: of `torchmetrics.Metric`.
    """

    def __init__(self, groups: Int[Tensor, "N"] | None = None, **options: Any) -> None:
        super().__init__("squared_l2", groups, **options)

    def update(self, images: Images, others: Images, numbers: Int[Tensor, "B"] | None = None) -> None:
        """Adds edits and their guides, in [-1, 1], with the numbers of the edits."""
        self.append(squared_l2(images, others), numbers)


class RootMeanSquare(ImageMean):
    """The mean of `root_mean_square` between edits and guides, as `rms`.

    Args:
        groups: see `ImageMean`.
        options: of `torchmetrics.Metric`.
    """

    def __init__(self, groups: Int[Tensor, "N"] | None = None, **options: Any) -> None:
        super().__init__("rms", groups, **options)

    def update(self, images: Images, others: Images, numbers: Int[Tensor, "B"] | None = None) -> None:
        """Adds edits and their guides, in [-1, 1], with the numbers of the edits."""
        self.append(root_mean_square(images, others), numbers)
