"""Realism of a set of images: KID, the squared maximum mean discrepancy between two sets of features.

    KID = E k(x, x') + E k(y, y') - 2 E k(x, y),        k(a, b) = (a . b / d + 1)^3

with x, x' independent images of one set, y, y' of the other and d the dimension of the features. The usual estimate
takes each mean over all pairs of different images. It is unbiased where images are independent, within a set and
between the sets. Variations of one design are not, nor is an edit of the image that its guide was made of; so images
may be given groups, and then only pairs from different groups count. The estimate is unbiased again, for groups that
are independent draws. It can be negative: two samples of one distribution scatter around 0.

Source: Binkowski et al., "Demystifying MMD GANs", ICLR 2018, section 4; the paired form without the pairs (x_i, y_i) is
equation 4 of Gretton et al., "A Kernel Two-Sample Test", 2012, with groups in place of single draws.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

_DEGREE = 3


class Estimate(NamedTuple):
    """A value and its standard error."""

    value: float
    error: float


def kernel_distance(
    x: Float[Tensor, "N D"],
    y: Float[Tensor, "M D"],
    x_groups: Int[Tensor, "N"] | None = None,
    y_groups: Int[Tensor, "M"] | None = None,
) -> Estimate:
    """The KID of two sets of features, with its standard error from the estimates that leave one group out.

    Args:
        x: features of the one set, (N, D).
        y: features of the other, (M, D).
        x_groups: group of each image of `x`, (N,); None, for both sets: each image is a group of its own.
        y_groups: group of each image of `y`, (M,); equal numbers are one group, also across the two sets.

    Returns:
        The unbiased estimate, and its jackknife error over groups.

    Raises:
        ValueError: groups for one set alone, or less than three groups in a set.
    """
    if x_groups is None and y_groups is None:
        x_groups, y_groups = torch.arange(len(x)), torch.arange(len(x), len(x) + len(y))
    if x_groups is None or y_groups is None:
        raise ValueError("groups are needed for both sets or for none; give x_groups and y_groups")
    for name, groups in (("x", x_groups), ("y", y_groups)):
        if len(groups.unique()) < 3:
            raise ValueError(f"the error needs at least 3 groups in each set, got {len(groups.unique())} in {name}")
    groups, numbers = torch.cat([x_groups, y_groups]).to(x.device).unique(return_inverse=True)
    x_numbers, y_numbers = numbers.split([len(x), len(y)])
    estimates = (
        _means(polynomial_kernel(x, x), x_numbers, x_numbers, len(groups))
        + _means(polynomial_kernel(y, y), y_numbers, y_numbers, len(groups))
        - 2 * _means(polynomial_kernel(x, y), x_numbers, y_numbers, len(groups))
    )
    value, without = estimates[0], estimates[1:]
    variance = (without - value).square().sum() * (len(without) - 1) / len(without)
    return Estimate(value.item(), variance.sqrt().item())


def polynomial_kernel(x: Float[Tensor, "N D"], y: Float[Tensor, "M D"]) -> Float[Tensor, "N M"]:
    """k(x, y) = (x . y / d + 1)^3 of every pair, float64 (N, M)."""
    return (x.double() @ y.double().T / x.shape[1] + 1) ** _DEGREE


def _means(
    kernel: Float[Tensor, "N M"], x_groups: Int[Tensor, "N"], y_groups: Int[Tensor, "M"], groups: int
) -> Float[Tensor, "estimates"]:
    """The mean over pairs from different groups: of all of them first, then without each of the groups 0, 1, ..."""
    rows = kernel.new_zeros(groups, len(y_groups)).index_add(0, x_groups, kernel)
    sums = kernel.new_zeros(groups, groups).index_add(1, y_groups, rows)
    counts = torch.outer(x_groups.bincount(minlength=groups), y_groups.bincount(minlength=groups))
    return _between_groups(sums) / _between_groups(counts.double())


def _between_groups(table: Float[Tensor, "G G"]) -> Float[Tensor, "estimates"]:
    """The sum of a table without its diagonal, and that sum without each row and its column, (1 + G,)."""
    between = table - table.diag().diag()
    total = between.sum()
    return torch.cat([total[None], total - between.sum(0) - between.sum(1)])
