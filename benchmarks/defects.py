"""Synthetic defects of stated kinds and sizes, to measure detection on.

A defect changes a part of an image; its mask is True where pixels were replaced, whether they look different or not.

    blot      an ellipse of one random colour
    scratch   a straight line, 1.5 px wide and three times as long as its size, of one random colour
    patch     a square of another image, from another place
    shuffle   a disc whose pixels change places: the colours stay, the texture goes
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor

SIZES = (6, 10, 16)
"""Diameters in pixels."""


class Place(NamedTuple):
    """Offsets of all pixels from a defect's centre, in pixels and turned by a random angle."""

    along: Float[Tensor, "H W"]
    across: Float[Tensor, "H W"]


def ellipse(place: Place, size: int) -> Bool[Tensor, "H W"]:
    return (2 * place.along / size).square() + (3 * place.across / size).square() <= 1


def line(place: Place, size: int) -> Bool[Tensor, "H W"]:
    return (place.along.abs() <= 1.5 * size) & (place.across.abs() <= 0.75)


def square(place: Place, size: int) -> Bool[Tensor, "H W"]:
    return torch.maximum(place.along.abs(), place.across.abs()) <= size / 2


def disc(place: Place, size: int) -> Bool[Tensor, "H W"]:
    return place.along.square() + place.across.square() <= size**2 / 4


SHAPES: dict[str, Callable[[Place, int], Bool[Tensor, "H W"]]] = {
    "blot": ellipse,
    "scratch": line,
    "patch": square,
    "shuffle": disc,
}


def with_defect(
    image: Float[Tensor, "C H W"], other: Float[Tensor, "C H W"], kind: str, size: int, seed: int
) -> tuple[Float[Tensor, "C H W"], Bool[Tensor, "H W"]]:
    """An image with a defect of a kind and size, and its mask; `other` lends the pixels of a patch."""
    generator = torch.Generator().manual_seed(seed)
    height, width = image.shape[1:]
    margin = size / 2
    centre = [margin + float(torch.rand((), generator=generator)) * (side - size) for side in (height, width)]
    angle = float(torch.rand((), generator=generator)) * math.pi if kind in ("blot", "scratch") else 0.0
    down, right = (torch.arange(side) + 0.5 - middle for side, middle in zip((height, width), centre, strict=True))
    along = down[:, None] * math.sin(angle) + right[None] * math.cos(angle)
    across = down[:, None] * math.cos(angle) - right[None] * math.sin(angle)
    mask = SHAPES[kind](Place(along, across), size)
    if kind == "patch":
        shift = [int(torch.randint(side, (), generator=generator)) for side in (height, width)]
        filled = other.roll(shift, (1, 2))
    elif kind == "shuffle":
        filled = image.clone()
        inside = image[:, mask]
        filled[:, mask] = inside[:, torch.randperm(inside.shape[1], generator=generator)]
    else:
        filled = (torch.rand(3, 1, 1, generator=generator) * 2 - 1).expand_as(image)
    return torch.where(mask, filled, image), mask
