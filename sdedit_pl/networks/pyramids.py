"""The pyramids of NCSN++: an image beside a U-Net's features, and the joints of the two at each level.

An input joint halves the input pyramid and joins it to the halved features after each downsampling. An output joint
doubles the output pyramid of the level below and joins it with this level's features. A joint maps (features, pyramid)
to (features, pyramid); only the lowest output joint, which starts the pyramid, gets None for it.

Source: Karras et al., "Analyzing and Improving the Image Quality of StyleGAN" (2020), figure 7; Song et al.,
"Score-Based Generative Modeling through Stochastic Differential Equations" (2021), appendix H.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TypeAlias

import torch
from jaxtyping import Float
from torch import Tensor, nn

from sdedit_pl.networks.initialisation import convolution
from sdedit_pl.networks.layers import Downsample, OutputHead, Upsample, scaled_
from sdedit_pl.typing import Images

TwiceAsLarge: TypeAlias = Float[Tensor, "B P 2*H 2*W"]
HalfAsLarge: TypeAlias = Float[Tensor, "B P H//2 W//2"]
Joined: TypeAlias = Float[Tensor, "B C_out H W"]
Pyramid: TypeAlias = Float[Tensor, "B P_out H W"]


class InputSkip(nn.Module):
    """A pyramid of images, joined by a 1 x 1 convolution and "sum" or "cat"; the widths count channels after that."""

    def __init__(self, pyramid_width: int, width: int, *, combine: str, fir_kernel: Sequence[float] | None) -> None:
        super().__init__()
        self.downsample = Downsample(pyramid_width, pyramid_width, convolve=False, fir_kernel=fir_kernel)
        self.projection = convolution(pyramid_width, width, 1)
        self.concatenate = combine == "cat"
        self.width = 2 * width if self.concatenate else width
        self.pyramid_width = pyramid_width

    def forward(self, h: Images, pyramid: TwiceAsLarge) -> tuple[Joined, Pyramid]:
        pyramid = self.downsample(pyramid)
        projected = self.projection(pyramid)
        return torch.cat([projected, h], dim=1) if self.concatenate else projected + h, pyramid


class InputResidual(nn.Module):
    """Adds the pyramid through a strided convolution; the sum becomes both features and pyramid."""

    def __init__(
        self, pyramid_width: int, width: int, *, skip_rescale: bool, fir_kernel: Sequence[float] | None
    ) -> None:
        super().__init__()
        self.downsample = Downsample(pyramid_width, width, convolve=True, fir_kernel=fir_kernel)
        self.scale = math.sqrt(0.5) if skip_rescale else 1.0
        self.width = self.pyramid_width = width

    def forward(self, h: Images, pyramid: TwiceAsLarge) -> tuple[Joined, Pyramid]:
        h = scaled_(self.downsample(pyramid).add_(h), self.scale)
        return h, h


class OutputSkip(nn.Module):
    """A sum of one image from each level, which is the network's output at the end."""

    def __init__(
        self,
        width: int,
        image_channels: int,
        *,
        lowest: bool,
        epsilon: float,
        init_scale: float,
        fir_kernel: Sequence[float] | None,
    ) -> None:
        super().__init__()
        self.head = OutputHead(width, image_channels, smallest_group=4, epsilon=epsilon, init_scale=init_scale)
        self.upsample = (
            None if lowest else Upsample(image_channels, image_channels, convolve=False, fir_kernel=fir_kernel)
        )

    def forward(self, h: Images, pyramid: HalfAsLarge | None) -> tuple[Images, Pyramid]:
        image = self.head(h)
        if self.upsample is not None:
            image = self.upsample(pyramid) + image
        return h, image


class OutputResidual(nn.Module):
    """Adds the pyramid, upsampled with a convolution, to the features; the sum becomes both features and pyramid."""

    def __init__(
        self,
        width: int,
        below: int | None,
        *,
        skip_rescale: bool,
        epsilon: float,
        fir_kernel: Sequence[float] | None,
    ) -> None:
        super().__init__()
        starts = below is None
        self.head = OutputHead(width, width, smallest_group=4, epsilon=epsilon, init_scale=1.0) if starts else None
        self.upsample = None if below is None else Upsample(below, width, convolve=True, fir_kernel=fir_kernel)
        self.scale = math.sqrt(0.5) if skip_rescale else 1.0

    def forward(self, h: Images, pyramid: HalfAsLarge | None) -> tuple[Images, Pyramid]:
        """Returns the sum twice; at the lowest level, the unchanged features and a new pyramid."""
        if self.head is not None:
            return h, self.head(h)
        assert self.upsample is not None and pyramid is not None
        h = scaled_(self.upsample(pyramid).add_(h), self.scale)
        return h, h


InputJoint: TypeAlias = InputSkip | InputResidual
OutputJoint: TypeAlias = OutputSkip | OutputResidual
