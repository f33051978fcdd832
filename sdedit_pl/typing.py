"""Shapes of the tensors that cross module borders, and the one helper that broadcasts over images.

A batch of images is `Images`: float, (B, C, H, W), RGB in [-1, 1] when there are three channels. Diffusion times are
`Times`: one t in (0, 1] for each image. A `Mask` is boolean with one channel, True where pixels may change,
and has one entry for each image or one for all; a `Strength` is its soft kind, in [0, 1].
"""

from __future__ import annotations

from typing import TypeAlias

from jaxtyping import Bool, Float
from torch import Tensor

Images: TypeAlias = Float[Tensor, "B C H W"]
Times: TypeAlias = Float[Tensor, "B"]
Mask: TypeAlias = Bool[Tensor, "#B 1 H W"]
Strength: TypeAlias = Float[Tensor, "#B 1 H W"]


def over_images(values: Float[Tensor, "B"]) -> Float[Tensor, "B 1 1 1"]:
    """Shapes one number per image so that it broadcasts over that image's channels and pixels.

    Args:
        values: One number for each image, (B,).

    Returns:
        The same numbers as (B, 1, 1, 1), without a copy.
    """
    return values[:, None, None, None]
