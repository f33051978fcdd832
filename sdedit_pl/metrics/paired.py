"""KID and L2 of several sets of edits of the same guides, and of their differences, over the same resampled groups.

Most of the error of a KID over a hundred images is in which images there are, and it is the same for every set of edits
that was made of them. So groups are drawn with replacement once, and every set is evaluated on the same draws: the
difference of two sets then has an interval of its own, far narrower than their two intervals suggest.

As in `sdedit_pl.metrics.kid`, pairs of images from one group do not count, nor do those of a group and a second copy of
it in the same draw, which are as dependent. The edits and their originals have the same groups here, so that draws with
replacement leave both of them whole.

Source: Efron and Tibshirani, "An Introduction to the Bootstrap", 1993, sections 8.3 (groups) and 13.3 (percentiles).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.functional import one_hot

from sdedit_pl.metrics.intervals import Interval
from sdedit_pl.metrics.kid import polynomial_kernel

__all__ = ["GroupSums", "Interval", "Resampling", "members", "without_diagonal"]


@dataclass(frozen=True)
class GroupSums:
    """What resampling needs of a set of edits.

    Args:
        discrepancy: for each two groups, the sum over their pairs of images of k(x, x') + k(y, y') - k(x, y') -
            k(y, x') with edits x and originals y, 0 on the diagonal, (G, G).
        l2: for each group, the sum of its edits' squared L2 distances to their guides, (G,).
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
        """The sums of a set, of features of its edits and of the originals that their guides were made of.

        Args:
            edits: features of the edits.
            originals: features of the original of each.
            l2: squared L2 distance of each edit to its guide.
            groups: group of each.
        """
        membership = members(groups)
        across = polynomial_kernel(edits, originals)
        kernel = polynomial_kernel(edits, edits) + polynomial_kernel(originals, originals) - across - across.mT
        return cls(without_diagonal(membership.mT @ kernel @ membership), membership.mT @ l2.double())


@dataclass(frozen=True)
class Resampling:
    """Draws of groups with replacement, the same for every set of edits.

    Args:
        counts: how often each draw has each group, (draws, G).
        sizes: images of each group, (G,).
    """

    counts: Float[Tensor, "draws G"]
    sizes: Float[Tensor, "G"]

    @classmethod
    def of(cls, groups: Int[Tensor, "N"], draws: int = 2000, seed: int = 0) -> Resampling:
        """Draws of as many groups as there are; those of a single group, which has no pairs, are left out."""
        sizes = members(groups).sum(0)
        generator = torch.Generator().manual_seed(seed)
        drawn = torch.randint(len(sizes), (draws, len(sizes)), generator=generator)
        ones = torch.ones(drawn.shape, dtype=torch.float64)
        counts = torch.zeros_like(ones).scatter_add(1, drawn, ones)
        return cls(counts[(counts > 0).sum(1) > 1], sizes)

    def kid(self, discrepancy: Float[Tensor, "G G"]) -> Float[Tensor, "draws"]:
        """The KID in each draw; that of a difference of two sets' discrepancies is the difference of their KIDs."""
        pairs = without_diagonal(torch.outer(self.sizes, self.sizes))
        return self._over_pairs(discrepancy) / self._over_pairs(pairs)

    def l2(self, l2: Float[Tensor, "G"]) -> Float[Tensor, "draws"]:
        """The mean L2 in each draw."""
        return self.counts @ l2 / (self.counts @ self.sizes)

    def _over_pairs(self, table: Float[Tensor, "G G"]) -> Float[Tensor, "draws"]:
        return (self.counts @ table * self.counts).sum(1)


def members(groups: Int[Tensor, "N"]) -> Float[Tensor, "N G"]:
    """1 where an image (row) is of a group (column), the groups in the order of their numbers, float64."""
    return one_hot(groups.unique(return_inverse=True)[1]).double()


def without_diagonal(table: Float[Tensor, "G G"]) -> Float[Tensor, "G G"]:
    """The table with zeros on its diagonal."""
    return table - table.diag().diag()
