"""KID and L2 of several sets of edits of the same guides, and of their differences, over one bootstrap of the groups.

Most of the error of a KID over a hundred images comes from the choice of images, which all sets of edits share. All
sets therefore get the same weights of the groups, and the interval of a difference is much narrower than the two
intervals suggest. Pairs of images from one group do not count.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.functional import one_hot

from sdedit_pl.metrics.intervals import bootstrap_weights
from sdedit_pl.metrics.kid import polynomial_kernel


@dataclass(frozen=True)
class GroupSums:
    """Sums over groups, from which KID and L2 of a set of edits follow.

    Args:
        discrepancy: for each pair of groups, the sum over their pairs of images of k(x, x') + k(y, y') - k(x, y') -
            k(y, x') with edits x and originals y, 0 on the diagonal.
        l2: for each group, the sum of its edits' squared L2 distances to their guides.
    """

    discrepancy: Float[Tensor, "G G"]
    l2: Float[Tensor, "G"]

    @classmethod
    def of(
        cls,
        edits: Float[Tensor, "N D"],
        originals: Float[Tensor, "N D"],
        l2: Float[Tensor, "N"],
        groups: Int[Tensor, "N"],
    ) -> GroupSums:
        membership = members(groups)
        across = polynomial_kernel(edits, originals)
        kernel = polynomial_kernel(edits, edits) + polynomial_kernel(originals, originals) - across - across.mT
        return cls(without_diagonal(membership.mT @ kernel @ membership), membership.mT @ l2.double())


@dataclass(frozen=True)
class PairedBootstrap:
    """Bootstrap weights of groups, the same for every set of edits; `sizes` are the groups' numbers of images."""

    weights: Float[Tensor, "G draws"]
    sizes: Float[Tensor, "G"]

    @classmethod
    def of(cls, groups: Int[Tensor, "N"], draws: int = 2000, seed: int = 0) -> PairedBootstrap:
        sizes = members(groups).sum(0)
        return cls(bootstrap_weights(len(sizes), draws, seed), sizes)

    def kid(self, discrepancy: Float[Tensor, "G G"]) -> Float[Tensor, "draws"]:
        """The KID in each draw; for the difference of two sets' discrepancies, the difference of their KIDs."""
        pairs = without_diagonal(torch.outer(self.sizes, self.sizes))
        return self._over_pairs(discrepancy) / self._over_pairs(pairs)

    def l2(self, l2: Float[Tensor, "G"]) -> Float[Tensor, "draws"]:
        return l2 @ self.weights / (self.sizes @ self.weights)

    def _over_pairs(self, table: Float[Tensor, "G G"]) -> Float[Tensor, "draws"]:
        return (table @ self.weights * self.weights).sum(0)


def members(groups: Int[Tensor, "N"]) -> Float[Tensor, "N G"]:
    """1 where an image (row) belongs to a group (column), float64; groups are in the order of their numbers."""
    return one_hot(groups.unique(return_inverse=True)[1]).double()


def without_diagonal(table: Float[Tensor, "G G"]) -> Float[Tensor, "G G"]:
    return table - table.diag().diag()
