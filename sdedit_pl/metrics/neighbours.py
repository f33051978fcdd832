"""Closeness to the training images: the nearest one, which tells how much of a result is memory."""

from __future__ import annotations

from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.functional import normalize


class Neighbours(NamedTuple):
    """The nearest reference of each query.

    Args:
        measure: how near it is: a squared distance, or a cosine.
        index: its place among the references.
    """

    measure: Float[Tensor, "N"]
    index: Int[Tensor, "N"]


def nearest(queries: Float[Tensor, "N D"], references: Float[Tensor, "M D"]) -> Neighbours:
    """The reference at the smallest squared distance from each query; the first of equals."""
    # In float64 the fast form |q|^2 + |r|^2 - 2 q . r loses nothing that matters.
    distances = torch.cdist(queries.double(), references.double(), compute_mode="use_mm_for_euclid_dist")
    smallest, index = distances.min(1)
    return Neighbours(smallest.square(), index)


def nearest_by_angle(queries: Float[Tensor, "N D"], references: Float[Tensor, "M D"]) -> Neighbours:
    """The reference with the largest cosine to each query, in [-1, 1]; the first of equals."""
    cosines = normalize(queries.double(), dim=1) @ normalize(references.double(), dim=1).T
    return Neighbours(*cosines.max(1))
