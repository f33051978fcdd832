"""A low-pass filter for images: reduce them with an antialiased bicubic kernel, then enlarge them again."""

from __future__ import annotations

from functools import lru_cache

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import interpolate

from sdedit_pl.typing import Images


def low_frequencies(images: Images, factor: int) -> Images:
    """Images without the frequencies that an image `factor` times smaller cannot hold.

    torch's antialiased interpolation fails on CUDA from a factor of about 48 on, where its kernel exceeds the shared
    memory. Off the CPU, a matrix product with the same weights replaces it.
    """
    height, width = images.shape[2:]
    small_height, small_width = max(1, height // factor), max(1, width // factor)
    if images.device.type == "cpu":
        small = interpolate(images, (small_height, small_width), mode="bicubic", antialias=True)
    else:
        small = reduced_by_matrices(images, small_height, small_width)
    return interpolate(small, (height, width), mode="bicubic")


def reduced_by_matrices(images: Images, height: int, width: int) -> Float[Tensor, "B C h w"]:
    """Images reduced to `height` and `width` like torch's antialiased bicubic interpolation, up to rounding."""
    reduction = _cached_reduction if type(images) is Tensor else _reduction  # fake tensors must not be cached
    rows = reduction(images.shape[2], height, images.device, images.dtype)
    columns = reduction(images.shape[3], width, images.device, images.dtype)
    return rows @ (images @ columns.T)


def _reduction(length: int, reduced_length: int, device: torch.device, dtype: torch.dtype) -> Float[Tensor, "out in"]:
    """The matrix that reduces `length` pixels; its rows are bicubic kernels, normalised within the image."""
    with torch.inference_mode(False):
        scale = length / reduced_length
        centres = (torch.arange(reduced_length, dtype=torch.float64, device="cpu") + 0.5) * scale
        pixels = torch.arange(length, dtype=torch.float64, device="cpu") + 0.5
        weights = _bicubic((pixels - centres[:, None]).abs() / scale)
        return (weights / weights.sum(1, keepdim=True)).to(device, dtype)


_cached_reduction = lru_cache(maxsize=32)(_reduction)


def _bicubic(distance: Float[Tensor, "out in"]) -> Float[Tensor, "out in"]:
    """Keys' cubic kernel with a = -1/2, of absolute distances in output pixels."""
    near = (1.5 * distance - 2.5) * distance.square() + 1
    far = ((-0.5 * distance + 2.5) * distance - 4) * distance + 2
    return torch.where(distance < 1, near, torch.where(distance < 2, far, 0.0))
