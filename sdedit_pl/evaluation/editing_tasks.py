"""The editing tasks of the paper, simulated: a user's strokes or pasted patch, made from a validation image and a seed.

Inputs depend only on the images and on (seed, number of the image). Strokes and patches use Python's random numbers,
the same in all its versions, and no drawing library, so that they are the same on every machine.

Source: Meng et al., "SDEdit", ICLR 2022, sections 4.1 to 4.3 and appendix D.2.
"""

from __future__ import annotations

import abc
import math
import random
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from typing import ClassVar, NamedTuple, TypeAlias

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from sdedit_pl.guides.strokes import stroke_painting
from sdedit_pl.noise import hash64
from sdedit_pl.typing import Images, Mask

DrawNumber: TypeAlias = Callable[[], float]
"""The next number of a generator, uniform in [0, 1)."""


class TaskInputs(NamedTuple):
    """Guides with their originals; `mask` is True where pixels may change, None if all may.

    `pasted` are the images that the changed pixels come from; None if nothing was pasted.
    """

    original: Images
    guide: Images
    mask: Mask | None = None
    pasted: Images | None = None

    def to(self, device: torch.device) -> TaskInputs:
        mask, pasted = (None if part is None else part.to(device) for part in (self.mask, self.pasted))
        return TaskInputs(self.original.to(device), self.guide.to(device), mask, pasted)


@dataclass(frozen=True)
class EditingTask(abc.ABC):
    """Makes a guide from an image. With `masked` it also makes a mask; with `pastes` it also takes a second image."""

    masked: ClassVar[bool] = False
    pastes: ClassVar[bool] = False

    @abc.abstractmethod
    def inputs(self, original: Images, other: Images, draw: DrawNumber) -> TaskInputs:
        """The inputs made from one image, (1, C, H, W); a pasting task takes its patch from `other`."""


@dataclass(frozen=True)
class StrokeSynthesis(EditingTask):
    """Simulated stroke paintings, to be turned into images."""

    colours: int = 6

    def inputs(self, original: Images, other: Images, draw: DrawNumber) -> TaskInputs:
        return TaskInputs(original, stroke_painting(original, self.colours))


@dataclass(frozen=True)
class StrokeEditing(EditingTask):
    """One to three strokes of a thick brush over an image, each with its own colour, uniform on the RGB cube.

    A stroke is three segments long and a tenth to a fifth of the shorter side wide; the strokes are the mask.
    """

    masked = True

    def inputs(self, original: Images, other: Images, draw: DrawNumber) -> TaskInputs:
        guide, mask = original, torch.zeros(original.shape[2:], dtype=torch.bool)
        for _ in range(1 + int(3 * draw())):
            stroke = brush_stroke((original.shape[2], original.shape[3]), draw)
            colour = original.new_tensor([2 * draw() - 1 for _ in range(original.shape[1])])
            guide = torch.where(stroke, colour[:, None, None], guide)
            mask |= stroke
        return TaskInputs(original, guide, mask[None, None])


@dataclass(frozen=True)
class Compositing(EditingTask):
    """An elliptical patch of one image, pasted at the same place on another; diameters are 1/4 to 1/2 of the sides."""

    masked = pastes = True

    def inputs(self, original: Images, other: Images, draw: DrawNumber) -> TaskInputs:
        mask = ellipse((original.shape[2], original.shape[3]), draw)[None, None]
        return TaskInputs(original, torch.where(mask, other, original), mask, other)


def draws_of(seed: int, number: int, task: str) -> DrawNumber:
    return random.Random(hash64(seed, number, *task.encode())).random


def brush_stroke(sides: tuple[int, int], draw: DrawNumber) -> Bool[Tensor, "H W"]:
    """The pixels of an image of `sides` (height, width) near a bent line."""
    side = min(sides)
    radius = side * (0.05 + 0.05 * draw())
    points = [torch.tensor([0.2 + 0.6 * draw(), 0.2 + 0.6 * draw()], dtype=torch.float64) * torch.tensor(sides)]
    heading = 2 * math.pi * draw()
    for _ in range(3):
        step = torch.tensor([math.sin(heading), math.cos(heading)], dtype=torch.float64)
        points.append(points[-1] + step * side * (0.1 + 0.1 * draw()))
        heading += (draw() - 0.5) * 2 * math.pi / 3
    covered = [_distance(_places(sides), start, end) <= radius for start, end in pairwise(points)]
    return torch.stack(covered).any(0)


def ellipse(sides: tuple[int, int], draw: DrawNumber) -> Bool[Tensor, "H W"]:
    """The pixels of an ellipse inside an image of `sides` (height, width); it does not touch the edges."""
    size = torch.tensor(sides)
    centre = torch.tensor([0.3 + 0.4 * draw(), 0.3 + 0.4 * draw()], dtype=torch.float64) * size
    half_axes = torch.tensor([0.125 + 0.125 * draw(), 0.125 + 0.125 * draw()], dtype=torch.float64) * size
    return ((_places(sides) - centre) / half_axes).square().sum(-1) <= 1


def _places(sides: tuple[int, int]) -> Float[Tensor, "H W 2"]:
    middles = [torch.arange(side, dtype=torch.float64) + 0.5 for side in sides]
    return torch.stack(torch.meshgrid(*middles, indexing="ij"), dim=-1)


def _distance(
    places: Float[Tensor, "H W 2"], start: Float[Tensor, "2"], end: Float[Tensor, "2"]
) -> Float[Tensor, "H W"]:
    along = end - start
    share = ((places - start) @ along / along.square().sum()).clamp(0, 1)
    return (places - start - share[..., None] * along).norm(dim=-1)


TASKS: dict[str, type[EditingTask]] = {
    "stroke_synthesis": StrokeSynthesis,
    "stroke_editing": StrokeEditing,
    "compositing": Compositing,
}
