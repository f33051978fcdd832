"""Distances between images, measured on pixels in [0, 1], and the nearest of a set of images."""

from __future__ import annotations

from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from sdedit_pl.typing import Images


def squared_l2(images: Images, others: Images) -> Float[Tensor, "B"]:
    """The squared difference on [0, 1], summed over channels and pixels; compare it only between images of one size.

    Source: Meng et al., "SDEdit", ICLR 2022, section 5.
    """
    return ((images - others) / 2).square().flatten(1).sum(1)


def root_mean_square(images: Images, others: Images) -> Float[Tensor, "B"]:
    """The difference on [0, 1] as a root mean square over channels and pixels, comparable across image sizes."""
    return ((images - others) / 2).square().flatten(1).mean(1).sqrt()


class Neighbours(NamedTuple):
    """The squared distance of each query to its nearest reference, and the reference's index."""

    squared_distance: Float[Tensor, "N"]
    index: Int[Tensor, "N"]


def nearest_by_distance(queries: Float[Tensor, "N D"], references: Float[Tensor, "M D"]) -> Neighbours:
    """The nearest reference of each query; the first of equals."""
    # In float64 the fast form |q|^2 + |r|^2 - 2 q . r loses nothing that matters.
    distances = torch.cdist(queries.double(), references.double(), compute_mode="use_mm_for_euclid_dist")
    smallest, index = distances.min(1)
    return Neighbours(smallest.square(), index)
