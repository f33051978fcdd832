"""Blending a patch into an image without a model, by OpenCV: Poisson and Laplacian-pyramid blending.

Source: Perez et al., "Poisson Image Editing", 2003; Burt and Adelson, "A Multiresolution Spline", 1983.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import wraps
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from sdedit_pl.data.image_format import bytes_from_images, images_from_bytes
from sdedit_pl.typing import Images, Mask

_SHRUNK = 3
"""Pixels by which OpenCV's Poisson blending shrinks its mask, which is first grown by as many to keep small patches."""
_COARSEST = 8
"""Smallest side of the top image of a Laplacian pyramid, in pixels."""


def _by_bands(blend: Callable[[Images, Images, Mask], Images]) -> Callable[[Images, Images, Mask], Images]:
    """Extends `blend`, which takes RGB and grey images, to other numbers of bands, one band at a time."""

    @wraps(blend)
    def blend_bands(original: Images, pasted: Images, mask: Mask) -> Images:
        size = 3 if original.shape[1] == 3 else 1
        parts = zip(original.split(size, 1), pasted.split(size, 1), strict=True)
        return torch.cat([blend(below, above, mask) for below, above in parts], 1)

    return blend_bands


@_by_bands
def poisson_blend(original: Images, pasted: Images, mask: Mask) -> Images:
    """Joins the gradients of `pasted` inside the mask to `original` around it; the mask must not touch the edge."""
    opencv = load_opencv()

    def blend(below: np.ndarray, above: np.ndarray, where: np.ndarray) -> np.ndarray:
        grown = opencv.dilate(where.astype(np.uint8) * 255, np.ones((3, 3), np.uint8), iterations=_SHRUNK)
        left, top, width, height = opencv.boundingRect(grown)
        middle = left + width // 2, top + height // 2
        return opencv.seamlessClone(above, below, grown, middle, opencv.NORMAL_CLONE)

    blended = [
        blend(_bytes(below), _bytes(above), where[0].numpy())
        for below, above, where in zip(original.cpu(), pasted.cpu(), mask.cpu(), strict=True)
    ]
    return images_from_bytes(_stacked(blended, original.shape[1])).to(original)


@_by_bands
def laplacian_blend(original: Images, pasted: Images, mask: Mask) -> Images:
    """Blends `pasted` into `original` octave by octave, each over a seam as wide as the details of that octave."""
    opencv = load_opencv()
    levels = max(1, int(math.log2(min(original.shape[2:]) / _COARSEST)))

    def blend(below: np.ndarray, above: np.ndarray, where: np.ndarray) -> np.ndarray:
        weights = [where]
        for _ in range(levels):
            weights.append(opencv.pyrDown(weights[-1]))
        pyramids = [_laplacian_pyramid(opencv, image, levels) for image in (below, above)]
        mixed = [low + (high - low) * weight[..., None] for low, high, weight in zip(*pyramids, weights, strict=True)]
        result = mixed.pop()
        while mixed:
            detail = mixed.pop()
            result = opencv.pyrUp(result, dstsize=detail.shape[1::-1]) + detail
        return result

    blended = [
        blend(_floats(below), _floats(above), where[0].numpy().astype(np.float32))
        for below, above, where in zip(original.cpu(), pasted.cpu(), mask.cpu(), strict=True)
    ]
    return _stacked(blended, original.shape[1]).to(original)


def load_opencv() -> Any:
    try:
        import cv2
    except ModuleNotFoundError as error:
        raise ValueError(
            "blending needs OpenCV; pip install 'sdedit-pl[evaluation]', or leave it out: baselines=[ddim]"
        ) from error
    return cv2


def _laplacian_pyramid(opencv: Any, image: np.ndarray, levels: int) -> list[np.ndarray]:
    """The details that each halving of an image removes, then the smallest image."""
    details = []
    for _ in range(levels):
        smaller = opencv.pyrDown(image)
        details.append(image - opencv.pyrUp(smaller, dstsize=image.shape[1::-1]))
        image = smaller
    return [*details, image]


def _bytes(image: Float[Tensor, "C H W"]) -> np.ndarray:
    return bytes_from_images(_colour(image)).permute(1, 2, 0).contiguous().numpy()


def _floats(image: Float[Tensor, "C H W"]) -> np.ndarray:
    return _colour(image).float().permute(1, 2, 0).contiguous().numpy()


def _colour(image: Float[Tensor, "C H W"]) -> Float[Tensor, "3 H W"]:
    return image.expand(3, -1, -1)


def _stacked(pictures: list[np.ndarray], channels: int) -> Tensor:
    """The first channels of pictures (H, W, 3), as (B, channels, H, W)."""
    return torch.from_numpy(np.stack(pictures)).permute(0, 3, 1, 2)[:, :channels].contiguous()
