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
    """The matrix that reduces `length` pixels: the identity, reduced on the CPU along one side."""
    with torch.inference_mode(False):
        identity = torch.eye(length, dtype=torch.float64, device="cpu")[None, None]
        reduced = interpolate(identity, (reduced_length, length), mode="bicubic", antialias=True)
        return reduced[0, 0].to(device, dtype)


_cached_reduction = lru_cache(maxsize=32)(_reduction)
