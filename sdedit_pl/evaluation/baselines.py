"""What SDEdit is compared with: blending without a model, and other ways to use the same model.

Poisson and Laplacian-pyramid blending put a patch into an image seamlessly and know nothing of the domain; they are
OpenCV's. DDIM encoding follows the probability-flow ODE from the guide up to t0 and back down, which keeps what the
guide is, its lack of realism too. An unconditional sample is as realistic as the model can be and follows no guide; of
a set of samples, the nearest to a guide shows what comes of choosing.

Source: Perez et al., "Poisson Image Editing", 2003; Burt and Adelson, "A Multiresolution Spline", 1983; Song, Meng and
Ermon, "Denoising Diffusion Implicit Models", ICLR 2021, section 4.3.
"""

from __future__ import annotations

import math
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from sdedit_pl.data.images import bytes_from_images, images_from_bytes
from sdedit_pl.denoiser import Denoiser
from sdedit_pl.noise import SeededNoise
from sdedit_pl.sampling import Callback, integrate
from sdedit_pl.solvers import DDIM
from sdedit_pl.typing import Images, Mask, over_images

_SHRUNK = 3
"""Pixels by which OpenCV's Poisson blending shrinks its mask, which would be most of a small patch."""
_COARSEST = 8
"""Side of the images on top of a Laplacian pyramid, in pixels, at the least."""


def poisson_blend(original: Images, pasted: Images, mask: Mask) -> Images:
    """The gradients of `pasted` inside the mask, joined to `original` around it.

    Args:
        original: in [-1, 1], (B, C, H, W).
        pasted: what the masked pixels come from, in the shape of `original`.
        mask: True where the patch is, (B, 1, H, W); it may not touch the edge.

    Raises:
        ValueError: OpenCV is not installed.
    """
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


def laplacian_blend(original: Images, pasted: Images, mask: Mask) -> Images:
    """Each octave of `pasted` and `original` joined over a seam as wide as its details.

    Arguments and errors are those of `poisson_blend`; the mask may touch the edge.
    """
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
    """OpenCV.

    Raises:
        ValueError: it is not installed.
    """
    try:
        import cv2
    except ModuleNotFoundError as error:
        raise ValueError(
            "blending needs OpenCV; pip install 'sdedit-pl[evaluation]', or leave it out: baselines=[ddim]"
        ) from error
    return cv2


def encode(
    denoiser: Denoiser, images: Images, times: Float[Tensor, "levels"], callback: Callback | None = None
) -> Images:
    """Takes images up the probability-flow ODE to the first of `times`, by DDIM's steps.

        dy / dr = -sigma score,   y = x / alpha, r = sigma / alpha

    The images are taken for states at the lowest level but the end of `times`, whose noise nobody sees.

    Args:
        denoiser: the model.
        images: in [-1, 1], (B, C, H, W).
        times: decreasing times, at least three, as decoding visits them; the last, without a slope, is left out.
        callback: called after each step with the state and the time it has reached.

    Returns:
        The states at `times[0]`.
    """
    sde, y = denoiser.sde, images
    alpha = over_images(sde.alpha(images.new_full((len(images),), times[0].item())))
    with torch.no_grad():
        for now, later in pairwise(times.flip(0)[1:].tolist()):
            t, s = (images.new_full((len(images),), time) for time in (now, later))
            slope = -over_images(sde.sigma(t)) * denoiser.score(over_images(sde.alpha(t)) * y, t)
            y = y + over_images(sde.noise_level(s) - sde.noise_level(t)) * slope
            if callback is not None:
                callback(y, later)
    return alpha * y


def round_trip(
    denoiser: Denoiser, images: Images, times: Float[Tensor, "levels"], callback: Callback | None = None
) -> Images:
    """Encodes images with `encode` and decodes them with DDIM over the same times; arguments as there."""
    state = encode(denoiser, images, times, callback)
    # DDIM draws nothing.
    return integrate(denoiser, DDIM(), state, times, noise=SeededNoise(range(len(images))), callback=callback)


def _laplacian_pyramid(opencv: Any, image: np.ndarray, levels: int) -> list[np.ndarray]:
    """What each halving of an image takes away, and what is left at last."""
    details = []
    for _ in range(levels):
        smaller = opencv.pyrDown(image)
        details.append(image - opencv.pyrUp(smaller, dstsize=image.shape[1::-1]))
        image = smaller
    return [*details, image]


def _bytes(image: Float[Tensor, "C H W"]) -> np.ndarray:
    """An image as OpenCV blends it: uint8 (H, W, 3)."""
    return bytes_from_images(_colour(image)).permute(1, 2, 0).contiguous().numpy()


def _floats(image: Float[Tensor, "C H W"]) -> np.ndarray:
    return _colour(image).float().permute(1, 2, 0).contiguous().numpy()


def _colour(image: Float[Tensor, "C H W"]) -> Float[Tensor, "3 H W"]:
    return image.expand(3, -1, -1)


def _stacked(pictures: list[np.ndarray], channels: int) -> Tensor:
    """The first channels of pictures (H, W, 3), as one tensor (B, channels, H, W)."""
    return torch.from_numpy(np.stack(pictures)).permute(0, 3, 1, 2)[:, :channels].contiguous()
