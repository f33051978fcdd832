"""Images larger than those of the model: the network sees overlapping windows, and its outputs are blended.

    F(x) = sum_k w_k F_k,    F_k = F(window k of x),    sum_k w_k = 1 at every pixel

The estimate of x_0 and the score are affine in the network's output F, with the same coefficients for all pixels
(`sdedit_pl.parameterisations`), so blending the outputs blends the estimates. The weights are raised cosines, smallest
at a window's border. The network never sees more than a window: if every training image shows one object, such as a
face, a high t0 puts an object into each window, and a low one leaves enlarged parts grainy.

Source: Bar-Tal et al., "MultiDiffusion", ICML 2023, section 3, with weights.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Sequence
from copy import copy
from itertools import product
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn

from sdedit_pl.denoiser import Denoiser, at_label
from sdedit_pl.typing import Images, Times

WINDOWS_AT_ONCE = 16
"""Maximum number of windows in one call of the network, unless the denoiser prescribes one."""


class Strip(NamedTuple):
    """The rows or columns of a window, and its normalised weights along them, in (0, 1]."""

    pixels: slice
    weights: Float[Tensor, "size"]


class Windowed(nn.Module):
    """A network for large images that evaluates a network for small ones on overlapping windows.

    The images of a batch are processed one after the other, so that a result does not depend on its batch, and memory
    depends neither on the batch nor on the size of the images.

    Args:
        network: maps (B, C, size, size) and labels (B,) to (B, outputs, size, size).
        size: height and width of a window, one number for both or (height, width).
        overlap: minimum overlap of neighbouring windows in pixels, less than their sides; with 0, seams are visible.
        at_once: maximum number of windows in one call of the network.
    """

    def __init__(self, network: nn.Module, size: int | tuple[int, int], overlap: int, *, at_once: int = 1) -> None:
        super().__init__()
        divisor = getattr(network, "size_divisor", 1)
        sides = _sides(size)
        for side in sides:
            if side < 1 or side % divisor:
                above = max(-(-side // divisor), 1) * divisor
                raise ValueError(
                    f"windows must be a multiple of {divisor} px for this network, because of its down-sampling and "
                    f"patches, got {side}; the next multiple is {above}"
                )
        least = min(sides)
        if not 0 <= overlap < least:
            raise ValueError(
                f"the overlap of windows of {least} px must lie in [0, {least}), got {overlap}; try {least // 2}"
            )
        self.network = network
        self.sides = sides
        self.overlap = overlap
        self.at_once = at_once

    @property
    def evaluations(self) -> int:
        return getattr(self.network, "evaluations", 1)

    def at_label(self, label: float) -> nn.Module:
        other = copy(self)
        other._modules = {"network": at_label(self.network, label)}
        return other

    def forward(
        self, images: Images, label: Times, *conditions: Float[Tensor, "B conditions"]
    ) -> Float[Tensor, "B outputs H W"]:
        """The blended output, in float32 or wider; raises ValueError for images smaller than a window."""
        height, width = images.shape[2:]
        if height < self.sides[0] or width < self.sides[1]:
            raise ValueError(
                f"images of {width}x{height} are smaller than a window of {self.sides[1]}x{self.sides[0]}; give larger "
                "images, or use the model without windows"
            )
        rows, columns = (self._strips(images, axis) for axis in (0, 1))
        places = list(product(rows, columns))
        inputs = zip(*(part.split(1) for part in (images, label, *conditions)), strict=True)
        return torch.cat([self._blended(places, *one) for one in inputs])

    def _blended(
        self, places: Sequence[tuple[Strip, Strip]], image: Float[Tensor, "1 C H W"], *labels: Float[Tensor, "1 *_"]
    ) -> Float[Tensor, "1 outputs H W"]:
        blended = None
        for start in range(0, len(places), self.at_once):
            group = places[start : start + self.at_once]
            windows = torch.cat([image[..., row.pixels, column.pixels] for row, column in group])
            outputs = self.network(windows, *(label.expand(len(group), *label.shape[1:]) for label in labels))
            if blended is None:
                precise = torch.promote_types(outputs.dtype, torch.float32)
                blended = outputs.new_zeros(1, outputs.shape[1], *image.shape[2:], dtype=precise)
            for (row, column), output in zip(group, outputs, strict=True):
                blended[..., row.pixels, column.pixels] += row.weights[:, None] * column.weights * output
        assert blended is not None
        return blended

    def _strips(self, images: Images, axis: int) -> list[Strip]:
        """The strips that cover rows (`axis` 0) or columns (1); created on the device, to avoid a copy per call."""
        length, side = images.shape[2 + axis], self.sides[axis]
        dtype = torch.promote_types(images.dtype, torch.float32)
        places = (torch.arange(side, device=images.device, dtype=dtype) + 0.5) / side
        cosine = torch.sin(math.pi * places).square()
        starts = window_starts(length, side, self.overlap)
        pixels = [slice(start, start + side) for start in starts]
        total = cosine.new_zeros(length)
        for part in pixels:
            total[part] += cosine
        return [Strip(part, cosine / total[part]) for part in pixels]


def window_starts(length: int, size: int, overlap: int) -> list[int]:
    """The ascending first pixels of windows of `size` that cover `length` pixels.

    The first window begins at 0 and the last ends with the image; between them are as few as `overlap` allows.
    """
    span = length - size
    if span == 0:
        return [0]
    step = -(-span // -(-span // (size - overlap)))
    return [*range(0, span, step), span]


def windowed(
    denoiser: Denoiser,
    size: int | tuple[int, int],
    overlap: int,
    *,
    trained_size: int | tuple[int, int] | None = None,
) -> Denoiser:
    """A denoiser for images of at least `size`, which evaluates another one, with the same weights, on windows.

    Raises ValueError if the network cannot process windows of this size, or a size or overlap is out of range.

    Args:
        size: height and width of a window, ideally those that the network was trained on.
        overlap: minimum overlap of neighbouring windows in pixels.
        trained_size: size of the training images, if known; smaller windows are refused.
    """
    if trained_size is not None and any(map(operator.lt, _sides(size), _sides(trained_size))):
        raise ValueError(
            f"windows of {size} px are smaller than the {trained_size} px images that this model was trained on; use "
            f"windows of {trained_size} px"
        )
    at_once = WINDOWS_AT_ONCE if denoiser.at_once is None else denoiser.at_once
    network = Windowed(denoiser.network, size, overlap, at_once=at_once)
    return denoiser.changed(network=network.train(denoiser.training), at_once=None)


def _sides(size: int | tuple[int, int]) -> tuple[int, int]:
    return (size, size) if isinstance(size, int) else size
