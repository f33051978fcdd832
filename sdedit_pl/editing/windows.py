"""Images larger than a model's: its network sees overlapping windows, and what it says of them is blended.

    F(x) = sum_k w_k F_k,    F_k = F(window k of x),    sum_k w_k = 1 at every pixel

The estimate of x_0 is affine in the network's output F, with coefficients that are the same for all pixels
(`sdedit_pl.denoiser`), and so is the score. To blend the outputs is therefore to blend the estimates, and a solver is
handed a denoiser of large images that it cannot tell from another one: it blends at each step, so that windows agree
on what they share before they diverge.

A window's weight is a raised cosine in both directions, least where the window's border hides its surroundings from
the network, and divided by the sum over all windows: at the border of the image, where there is but one, it is 1.

A window is all that the network sees at once. That suits domains whose parts look like their wholes, such as textures.
Where each image holds one thing, such as a face, a high t0 puts one into each window, and a low one leaves an enlarged
part grainy, which is unlike what the network knows.

Source: Bar-Tal et al., "MultiDiffusion: Fusing Diffusion Paths for Controlled Image Generation", ICML 2023, section 3,
with weights.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import product
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn

from sdedit_pl.denoiser import Denoiser
from sdedit_pl.typing import Images, Times


class Strip(NamedTuple):
    """The rows, or the columns, of windows that lie beside each other.

    Args:
        pixels: where they are in the image.
        weights: the windows' weights along them, (size,), in (0, 1].
    """

    pixels: slice
    weights: Float[Tensor, "size"]


class Windowed(nn.Module):
    """A network of large images, made of one of small ones.

    The images of a batch are taken one after the other, so that a result does not depend on its batch, and memory not
    on the size of either: the network sees at most `at_once` windows.

    Args:
        network: maps (B, C, size, size) and labels (B,) to (B, outputs, size, size).
        size: height and width of a window.
        overlap: pixels that neighbouring windows share at the least, below `size`. With 0, every border is a seam.
        offset: pixels, down and right, by which the windows are moved that touch no border of the image.
        at_once: how many windows of an image the network is given at once, at the most.

    Raises:
        ValueError: a value out of range, or a `size` that the network cannot divide.
    """

    def __init__(
        self, network: nn.Module, size: int, overlap: int, *, offset: tuple[int, int] = (0, 0), at_once: int = 1
    ) -> None:
        super().__init__()
        divisor = getattr(network, "size_divisor", 1)
        if size < 1 or size % divisor:
            above = max(-(-size // divisor), 1) * divisor
            raise ValueError(
                f"windows must be a multiple of {divisor} px for this network (its down-sampling and patch), got "
                f"{size}; {above} is the next one"
            )
        if not 0 <= overlap < size:
            raise ValueError(
                f"the overlap of windows of {size} px must lie in [0, {size}), got {overlap}; {size // 2} is a good one"
            )
        if min(offset) < 0:
            raise ValueError(f"windows are moved down and right, by an offset of at least 0, got {offset}")
        if at_once < 1:
            raise ValueError(f"at_once must be at least 1 window, got {at_once}")
        self.network = network
        self.size = size
        self.overlap = overlap
        self.offset = offset
        self.at_once = at_once

    def forward(self, images: Images, label: Times) -> Float[Tensor, "B outputs H W"]:
        """The blended output, in float32 at the least.

        Args:
            images: of any height and width from `size` on.
            label: one number for each image.

        Raises:
            ValueError: images smaller than a window.
        """
        height, width = images.shape[2:]
        if min(height, width) < self.size:
            raise ValueError(
                f"images of {width}x{height} are smaller than a window of {self.size}x{self.size}; give larger ones, "
                "or take the model without windows"
            )
        rows, columns = (self._strips(images, axis) for axis in (0, 1))
        places = list(product(rows, columns))
        pairs = zip(images.split(1), label.split(1), strict=True)
        return torch.cat([self._blended(image, its_label, places) for image, its_label in pairs])

    def _blended(
        self, image: Float[Tensor, "1 C H W"], label: Float[Tensor, "1"], places: Sequence[tuple[Strip, Strip]]
    ) -> Float[Tensor, "1 outputs H W"]:
        blended = None
        for start in range(0, len(places), self.at_once):
            group = places[start : start + self.at_once]
            windows = torch.cat([image[..., row.pixels, column.pixels] for row, column in group])
            outputs = self.network(windows, label.expand(len(group)))
            if blended is None:
                precise = torch.promote_types(outputs.dtype, torch.float32)
                blended = outputs.new_zeros(1, outputs.shape[1], *image.shape[2:], dtype=precise)
            for (row, column), output in zip(group, outputs, strict=True):
                blended[..., row.pixels, column.pixels] += row.weights[:, None] * column.weights * output
        assert blended is not None
        return blended

    def _strips(self, images: Images, axis: int) -> list[Strip]:
        """The strips that cover rows (`axis` 0) or columns (1); made on the device, so that nothing is moved there."""
        length = images.shape[2 + axis]
        dtype = torch.promote_types(images.dtype, torch.float32)
        places = (torch.arange(self.size, device=images.device, dtype=dtype) + 0.5) / self.size
        cosine = torch.sin(math.pi * places).square()
        starts = window_starts(length, self.size, self.overlap, self.offset[axis])
        pixels = [slice(start, start + self.size) for start in starts]
        total = cosine.new_zeros(length)
        for part in pixels:
            total[part] += cosine
        return [Strip(part, cosine / total[part]) for part in pixels]


def window_starts(length: int, size: int, overlap: int, offset: int = 0) -> list[int]:
    """Where windows of `size` begin that cover `length` pixels, ascending.

    The first begins at 0, the last ends with the image; those between are evenly spaced, as few as share `overlap`
    pixels with their neighbours, and begin `offset` pixels later.
    """
    span = length - size
    if span == 0:
        return [0]
    step = -(-span // -(-span // (size - overlap)))
    return sorted({0, *range(offset % step, span, step), span})


def windowed(
    denoiser: Denoiser,
    size: int,
    overlap: int,
    *,
    trained_size: int | None = None,
    offset: tuple[int, int] = (0, 0),
    at_once: int = 16,
) -> Denoiser:
    """The denoiser of images of `size` and larger, which sees them in windows.

    Args:
        denoiser: of images of one size; the result shares its weights.
        size: height and width of a window, best the size that the network was trained on.
        overlap: pixels that neighbouring windows share at the least.
        trained_size: the size of the images that the network was trained on, if known; windows below it are refused.
        offset: see `Windowed`.
        at_once: how many windows the network is given at once, at the most, if the denoiser takes whole batches. One
            with a number of its own (`Denoiser.at_once`) keeps it: an image then has the same bits in every batch.

    Raises:
        ValueError: windows that the network cannot take or has never seen so small, or an overlap not below them.
    """
    if trained_size is not None and size < trained_size:
        raise ValueError(
            f"windows of {size} px are smaller than the {trained_size} px images that this model was trained on, and "
            f"it has never seen so little of one; take windows of {trained_size} px"
        )
    own = denoiser.at_once
    network = Windowed(denoiser.network, size, overlap, offset=offset, at_once=at_once if own is None else own)
    whole = Denoiser(network, denoiser.parameterisation, denoiser.sde, t_max=denoiser.t_max)
    return whole.train(denoiser.training)
