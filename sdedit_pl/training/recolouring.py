"""Recolouring: replaces one colour of a training image by a random other colour, which the model learns on purpose.

A domain of few designs has few colours: a green coat in a guide becomes another garment if no training image has one.
Recolouring picks a pixel, more often far from the centre, and changes all similar pixels. Unlike torchvision's
ColorJitter, it preserves white, black and shading.

A colour with channels in [0, 1] has the lightness Y, the mean of its channels, and a tint that is nearly independent of
shadows, q = (colour - Y) / (Y + 0.1). Pixels near the picked (q, Y) get the tint q + new tint - picked tint and the
lightness gain * Y, in proportion to their similarity and to the room that their lightness leaves for a tint.
"""

from __future__ import annotations

import math

import torch
from jaxtyping import Float, Int
from torch import Tensor

from sdedit_pl.typing import Images, over_images

# Standard deviations of the similarity to the picked pixel, in tint and in lightness.
_TINT_REACH, _LIGHTNESS_REACH = 0.25, 0.25
# Largest norm of a new tint, and largest factor (or divisor) of the lightness.
_LARGEST_TINT, _LARGEST_GAIN = 1.1, 1.7
_DARK = 0.1


def recolour(images: Images, probability: float) -> Images:
    """Recolours each RGB image in [-1, 1] with a probability, from the default generator of the images' device."""
    if images.shape[1] != 3:
        raise ValueError(f"recolouring needs images of 3 channels (RGB), got {images.shape[1]}")
    uniform = torch.rand(5, len(images), device=images.device, dtype=images.dtype)
    colours = (images + 1) / 2
    lightness = colours.mean(1, keepdim=True)
    tint = (colours - lightness) / (lightness + _DARK)
    room = (4 * lightness * (1 - lightness)).clamp(0, 1).sqrt()
    pixel = _drawn((room * _squared_distance_from_centre(room)).flatten(1), uniform[0])
    chosen_tint, chosen_lightness = (_at(values, pixel) for values in (tint, lightness))
    distance = (tint - chosen_tint).square().sum(1, keepdim=True) / _TINT_REACH**2
    distance = distance + (lightness - chosen_lightness).square() / _LIGHTNESS_REACH**2
    membership = (-distance / 2).exp() * room * over_images((uniform[1] < probability).to(images.dtype))
    new_tint = over_images(_LARGEST_TINT * uniform[2]) * _direction(2 * math.pi * uniform[3])
    gain = membership * over_images((2 * uniform[4] - 1) * math.log(_LARGEST_GAIN))
    lightness = lightness * gain.exp()
    moved = lightness + (lightness + _DARK) * (tint + membership * (new_tint - chosen_tint))
    return torch.where(membership > 0, 2 * moved.clamp(0, 1) - 1, images)


def _squared_distance_from_centre(images: Images) -> Float[Tensor, "H W"]:
    """Squared distance of each pixel from the centre, in units of the image's height and width."""
    rows, columns = (
        torch.linspace(-0.5, 0.5, size, device=images.device, dtype=images.dtype) for size in images.shape[-2:]
    )
    return rows.square().unsqueeze(1) + columns.square()


def _drawn(weights: Float[Tensor, "B P"], uniform: Float[Tensor, "B"]) -> Int[Tensor, "B"]:
    summed = weights.cumsum(1)
    index = torch.searchsorted(summed, uniform.unsqueeze(1) * summed[:, -1:], right=True)
    return index.squeeze(1).clamp(max=weights.shape[1] - 1)


def _at(values: Images, pixel: Int[Tensor, "B"]) -> Float[Tensor, "B C 1 1"]:
    index = pixel.view(-1, 1, 1).expand(-1, values.shape[1], 1)
    return values.flatten(2).gather(2, index).unsqueeze(-1)


def _direction(angle: Float[Tensor, "B"]) -> Float[Tensor, "B 3 1 1"]:
    """Unit vectors in the plane of tints, where channels sum to zero."""
    thirds = torch.tensor([0.0, 1.0, 2.0], device=angle.device, dtype=angle.dtype) * (2 * math.pi / 3)
    channels = (angle.unsqueeze(1) + thirds).cos() * math.sqrt(2 / 3)
    return channels.unsqueeze(-1).unsqueeze(-1)
