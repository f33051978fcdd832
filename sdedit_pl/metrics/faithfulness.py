"""Faithfulness: how far an edit is from its guide, in pixels on [0, 1].

Source: Meng et al., "SDEdit", ICLR 2022, section 5: L2 between guide and output, summed over pixels in [0, 1].
"""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor

from sdedit_pl.typing import Images


def squared_l2(images: Images, others: Images) -> Float[Tensor, "B"]:
    """The squared norm of the difference of images in [-1, 1], on [0, 1] and summed over channels and pixels, (B,).

    It grows with the number of pixels: compare it between images of one size only.
    """
    return ((images - others) / 2).square().flatten(1).sum(1)


def root_mean_square(images: Images, others: Images) -> Float[Tensor, "B"]:
    """The difference on [0, 1] as a root mean square over channels and pixels, which compares across sizes, (B,)."""
    return ((images - others) / 2).square().flatten(1).mean(1).sqrt()
