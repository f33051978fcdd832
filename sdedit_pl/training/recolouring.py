"""Recolouring: training images in which one colour has become another.

A domain of few designs knows few colours: whoever paints a green coat where the training images have none gets
another garment. Here a pixel is chosen, everything of about its colour takes on a random other colour, and light and
shade stay. The pixel is one away from the centre rather than near it, where the subject itself is. White and black stay
as they are, and with them plain backgrounds and outlines.

A colour of channels in [0, 1] is split into its lightness, the mean Y of its channels, and its tint
q = (colour - Y) / (Y + 0.1), which a shadow leaves nearly unchanged. Pixels whose (q, Y) are near those of the chosen
one are moved to the tint q + new tint - chosen tint and the lightness gain * Y, as far as they belong to it and have
room for a tint between black and white.

The augmentation is meant to leak: images of the new colours are part of what the model learns.
"""

from __future__ import annotations

import math

import torch
from jaxtyping import Float, Int
from torch import Tensor

from sdedit_pl.typing import Images, over_images

# How far, in tint and in lightness, pixels belong to the chosen one: standard deviations of the membership.
_TINT_REACH, _LIGHTNESS_REACH = 0.25, 0.25
# Largest length of a new tint, and the factors between which lightness is changed.
_LARGEST_TINT, _LARGEST_GAIN = 1.1, 1.7
_DARK = 0.1


def recolour(images: Images, probability: float) -> Images:
    """Gives one colour of some of the images another tint and lightness.

    Random numbers come from the default generator of the images' device.

    Args:
        images: RGB in [-1, 1].
        probability: of an image to be recoloured, in [0, 1].

    Returns:
        The images, in [-1, 1].

    Raises:
        ValueError: images that are not RGB.
    """
    if images.shape[1] != 3:
        raise ValueError(f"recolouring needs images of 3 channels (RGB), got {images.shape[1]}")
    uniform = torch.rand(5, len(images), device=images.device, dtype=images.dtype)
    colours = (images + 1) / 2
    lightness = colours.mean(1, keepdim=True)
    tint = (colours - lightness) / (lightness + _DARK)
    room = (4 * lightness * (1 - lightness)).clamp(0, 1).sqrt()
    pixel = _drawn((room * _distance_from_centre(room)).flatten(1), uniform[0])
    chosen_tint, chosen_lightness = (_at(values, pixel) for values in (tint, lightness))
    distance = (tint - chosen_tint).square().sum(1, keepdim=True) / _TINT_REACH**2
    distance = distance + (lightness - chosen_lightness).square() / _LIGHTNESS_REACH**2
    membership = (-distance / 2).exp() * room * over_images((uniform[1] < probability).to(images.dtype))
    new_tint = over_images(_LARGEST_TINT * uniform[2]) * _direction(2 * math.pi * uniform[3])
    gain = membership * over_images((2 * uniform[4] - 1) * math.log(_LARGEST_GAIN))
    lightness = lightness * gain.exp()
    moved = lightness + (lightness + _DARK) * (tint + membership * (new_tint - chosen_tint))
    return torch.where(membership > 0, 2 * moved.clamp(0, 1) - 1, images)


def _distance_from_centre(images: Images) -> Float[Tensor, "H W"]:
    """Of each pixel, squared, in shares of the image's size."""
    rows, columns = (
        torch.linspace(-0.5, 0.5, size, device=images.device, dtype=images.dtype) for size in images.shape[-2:]
    )
    return rows.square().unsqueeze(1) + columns.square()


def _drawn(weights: Float[Tensor, "B P"], uniform: Float[Tensor, "B"]) -> Int[Tensor, "B"]:
    """An index of each row, drawn with probabilities in proportion to the weights."""
    summed = weights.cumsum(1)
    index = torch.searchsorted(summed, uniform.unsqueeze(1) * summed[:, -1:], right=True)
    return index.squeeze(1).clamp(max=weights.shape[1] - 1)


def _at(values: Images, pixel: Int[Tensor, "B"]) -> Float[Tensor, "B C 1 1"]:
    """One pixel of each image."""
    index = pixel.view(-1, 1, 1).expand(-1, values.shape[1], 1)
    return values.flatten(2).gather(2, index).unsqueeze(-1)


def _direction(angle: Float[Tensor, "B"]) -> Float[Tensor, "B 3 1 1"]:
    """Unit vectors in the plane of tints, whose channels sum to zero."""
    thirds = torch.tensor([0.0, 1.0, 2.0], device=angle.device, dtype=angle.dtype) * (2 * math.pi / 3)
    channels = (angle.unsqueeze(1) + thirds).cos() * math.sqrt(2 / 3)
    return channels.unsqueeze(-1).unsqueeze(-1)
