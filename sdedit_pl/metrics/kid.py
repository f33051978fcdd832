"""Realism of a set of images: KID, the squared maximum mean discrepancy between two sets of features.

    KID = E k(x, x') + E k(y, y') - 2 E k(x, y),        k(a, b) = (a . b / d + 1)^3

with x, x' independent images of one set, y, y' of the other and d the dimension of the features. Each mean is over
pairs from different groups: variations of one design are not independent, nor are an edit and its guide's original. The
estimate is unbiased for independent groups, and can be negative: for equal distributions it scatters around 0.

The standard error is the jackknife's over groups, the interval that of the bootstrap (`sdedit_pl.metrics.intervals`),
in which the weight of a pair is the product of its groups' weights. Pairs within a group never count, so that the
bootstrap is centred on the estimate. If the two sets have the same distribution, both are wider than necessary.

Most of the error of a KID over a hundred images comes from the choice of images. All sets of edits of the same images
get the same weights in each draw, so that the interval of a difference is much narrower than the two intervals suggest.

Source: Binkowski et al., "Demystifying MMD GANs", ICLR 2018, section 4; the paired form without the pairs (x_i, y_i) is
equation 4 of Gretton et al., "A Kernel Two-Sample Test", 2012, with groups in place of single draws.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from sdedit_pl.metrics.intervals import Estimate, bootstrap_weights, percentile_interval

LEAST_IMAGES = 3
"""Minimum number of images for a KID with a standard error, which needs estimates that leave one image out."""
_DEGREE = 3
_ROWS = 1024
"""Images whose kernels with all others are held at a time."""


def kernel_distance(
    x: Float[Tensor, "N D"],
    y: Float[Tensor, "M D"],
    x_groups: Int[Tensor, "N"] | None = None,
    y_groups: Int[Tensor, "M"] | None = None,
    draws: int = 0,
    seed: int = 0,
) -> Estimate:
    """The KID of two sets of features, with its jackknife error over groups; arguments as in `distance_and_draws`."""
    return distance_and_draws(x, y, x_groups, y_groups, draws, seed)[0]


def distance_and_draws(
    x: Float[Tensor, "N D"],
    y: Float[Tensor, "M D"],
    x_groups: Int[Tensor, "N"] | None,
    y_groups: Int[Tensor, "M"] | None,
    draws: int,
    seed: int = 0,
) -> tuple[Estimate, Float[Tensor, "draws"]]:
    """The KID, and its value in each draw of the bootstrap.

    Raises ValueError for groups of one set only, or fewer than three groups in a set.

    Args:
        x_groups: the group of each image of `x`; None, for both sets, makes each image a group of its own.
        y_groups: the group of each image of `y`; equal numbers are one group, also across the two sets.
        draws: number of bootstrap draws; 0 computes no interval.
    """
    if x_groups is None and y_groups is None:
        x_groups, y_groups = torch.arange(len(x)), torch.arange(len(x), len(x) + len(y))
    if x_groups is None or y_groups is None:
        raise ValueError("groups are needed for both sets or for none; give x_groups and y_groups")
    for name, groups in (("x", x_groups), ("y", y_groups)):
        if len(groups.unique()) < 3:
            raise ValueError(f"the error needs at least 3 groups in each set, got {len(groups.unique())} in {name}")
    groups, numbers = torch.cat([x_groups, y_groups]).cpu().unique(return_inverse=True)
    weights = bootstrap_weights(len(groups), draws, seed)
    x_numbers, y_numbers = numbers.split([len(x), len(y)])
    x_set, y_set = _Grouped(x, x_numbers), _Grouped(y, y_numbers)
    parts = _means(x_set, x_set, weights), _means(y_set, y_set, weights), _means(x_set, y_set, weights)
    whole, without, drawn = (xx + yy - 2 * xy for xx, yy, xy in zip(*parts, strict=True))
    variance = (without - whole).square().sum() * (len(groups) - 1) / len(groups)
    return Estimate(whole.item(), variance.sqrt().item(), *(percentile_interval(drawn) if draws else ())), drawn


def subset_distances(
    x: Float[Tensor, "N D"], y: Float[Tensor, "M D"], subsets: int = 100, size: int = 1000, seed: int = 0
) -> tuple[float, float]:
    """Mean and standard deviation of the KID over random subsets of `size` >= 2 generated images x and real ones y.

    The mean estimates the same distance as `kernel_distance`; the deviation is that of one subset, not the error of the
    mean. Subsets are drawn without replacement, as by torchmetrics and torch-fidelity.
    """
    if size < 2:
        raise ValueError(f"a KID subset has at least 2 images, got subset_size={size}")
    for name, features in (("generated", x), ("real", y)):
        if len(features) < size:
            raise ValueError(
                f"KID over subsets of {size} images needs at least {size} in each set, got {len(features)} {name} "
                f"images; give more images, or subset_size={len(features)} or less"
            )
    generator = torch.Generator().manual_seed(seed)
    x_chosen, y_chosen = (torch.zeros(len(features), subsets).double() for features in (x, y))
    for number in range(subsets):
        for chosen in (y_chosen, x_chosen):
            chosen[torch.randperm(len(chosen), generator=generator)[:size], number] = 1
    within = _subset_sums(x, x, x_chosen, x_chosen, own=True) + _subset_sums(y, y, y_chosen, y_chosen, own=True)
    between = _subset_sums(x, y, x_chosen, y_chosen)
    found = within / (size * (size - 1)) - 2 * between / size**2
    return found.mean().item(), found.std(correction=0).item()


def polynomial_kernel(x: Float[Tensor, "N D"], y: Float[Tensor, "M D"]) -> Float[Tensor, "N M"]:
    """k(x, y) of every pair, float64."""
    return (x.double() @ y.double().T / x.shape[1] + 1) ** _DEGREE


class _Grouped(NamedTuple):
    features: Float[Tensor, "N D"]
    groups: Int[Tensor, "N"]


def _means(
    x: _Grouped, y: _Grouped, weights: Float[Tensor, "G draws"]
) -> tuple[Float[Tensor, ""], Float[Tensor, "G"], Float[Tensor, "draws"]]:
    """Means over the pairs of images from different groups: over all, without those of each group, and in each draw."""
    sums = torch.zeros(2, len(weights)).double()  # of the pairs of each group of x, and of each of y
    drawn = torch.zeros(weights.shape[1]).double()
    y_weights = weights[y.groups]
    for rows in torch.arange(len(x.features)).split(_ROWS):
        groups = x.groups[rows]
        kernel = polynomial_kernel(x.features[rows], y.features).cpu()
        kernel[groups[:, None] == y.groups] = 0
        sums[0].index_add_(0, groups, kernel.sum(1))
        sums[1].index_add_(0, y.groups, kernel.sum(0))
        drawn += (weights[groups] * (kernel @ y_weights)).sum(0)
    of_x, of_y = (side.groups.bincount(minlength=len(weights)).double() for side in (x, y))
    counts = torch.stack([of_x * (of_y.sum() - of_y), of_y * (of_x.sum() - of_x)])
    weighted_x, weighted_y = weights * of_x[:, None], weights * of_y[:, None]
    pairs = weighted_x.sum(0) * weighted_y.sum(0) - (weighted_x * weighted_y).sum(0)
    total, count = sums[0].sum(), counts[0].sum()
    return total / count, (total - sums.sum(0)) / (count - counts.sum(0)), drawn / pairs


def _subset_sums(
    x: Float[Tensor, "N D"],
    y: Float[Tensor, "M D"],
    x_chosen: Float[Tensor, "N subsets"],
    y_chosen: Float[Tensor, "M subsets"],
    own: bool = False,
) -> Float[Tensor, "subsets"]:
    """The sum of the kernel over the pairs in each subset; `own` omits pairs of an image with itself."""
    found = torch.zeros(x_chosen.shape[1]).double()
    for rows in torch.arange(len(x)).split(_ROWS):
        kernel = polynomial_kernel(x[rows], y).cpu()
        if own:
            kernel[torch.arange(len(rows)), rows] = 0
        found += (x_chosen[rows] * (kernel @ y_chosen)).sum(0)
    return found
