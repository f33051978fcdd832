"""The tasks of the paper, simulated: what a user would paint or paste, made of a validation image by a seed.

Inputs are functions of (seed, number of the image) and of the images alone. Strokes and patches are drawn from the
numbers that Python's generator gives for a seed, which all its versions share, and from distances, not by a drawing
library: two people who evaluate on the same images get the same inputs.

Source: Meng et al., "SDEdit", ICLR 2022, sections 4.1 to 4.3 and appendix D.2.
"""

from __future__ import annotations

import abc
import math
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import NamedTuple, TypeAlias

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from sdedit_pl.guides.strokes import stroke_painting
from sdedit_pl.noise import mixed
from sdedit_pl.typing import Images, Mask

Draw: TypeAlias = Callable[[], float]
"""The next number of a generator, uniform in [0, 1)."""


class Inputs(NamedTuple):
    """What a method is given.

    Args:
        original: the images that the guides were made of, (B, C, H, W).
        guide: the guides.
        mask: True where pixels may change, (B, 1, H, W); None where all may.
        pasted: the images that the changed pixels come from; None where they come from no image.
    """

    original: Images
    guide: Images
    mask: Mask | None = None
    pasted: Images | None = None

    def to(self, device: torch.device) -> Inputs:
        """The same on another device."""
        mask, pasted = (None if part is None else part.to(device) for part in (self.mask, self.pasted))
        return Inputs(self.original.to(device), self.guide.to(device), mask, pasted)


@dataclass(frozen=True)
class Task(abc.ABC):
    """A way to make a guide, and a mask where the task has one, of an image."""

    @property
    def masked(self) -> bool:
        """Whether guides come with a mask."""
        return False

    @property
    def pastes(self) -> bool:
        """Whether guides are made of two images."""
        return False

    @abc.abstractmethod
    def inputs(self, original: Images, other: Images, draw: Draw) -> Inputs:
        """The inputs of one image.

        Args:
            original: the image, (1, C, H, W) in [-1, 1].
            other: another one, for a task that pastes.
            draw: the numbers of this image.
        """


@dataclass(frozen=True)
class StrokeSynthesis(Task):
    """Simulated stroke paintings, to be made into images.

    Args:
        colours: colours of a painting.
    """

    colours: int = 6

    def inputs(self, original: Images, other: Images, draw: Draw) -> Inputs:
        return Inputs(original, stroke_painting(original, self.colours))


@dataclass(frozen=True)
class StrokeEditing(Task):
    """One to three strokes of a thick brush over an image, each of a colour of its own, uniform on the RGB cube.

    A stroke is three segments long and a tenth to a fifth of the side wide; what it covers is the mask.
    """

    @property
    def masked(self) -> bool:
        return True

    def inputs(self, original: Images, other: Images, draw: Draw) -> Inputs:
        guide, mask = original, torch.zeros(original.shape[2:], dtype=torch.bool)
        for _ in range(1 + int(3 * draw())):
            stroke = brush_stroke(original.shape[-1], draw)
            colour = original.new_tensor([2 * draw() - 1 for _ in range(original.shape[1])])
            guide = torch.where(stroke, colour[:, None, None], guide)
            mask |= stroke
        return Inputs(original, guide, mask[None, None])


@dataclass(frozen=True)
class Compositing(Task):
    """A patch of one image pasted on another at the same place: an ellipse a quarter to half of the side across."""

    @property
    def masked(self) -> bool:
        return True

    @property
    def pastes(self) -> bool:
        return True

    def inputs(self, original: Images, other: Images, draw: Draw) -> Inputs:
        mask = ellipse(original.shape[-1], draw)[None, None]
        return Inputs(original, torch.where(mask, other, original), mask, other)


def draws_of(seed: int, number: int, task: str) -> Draw:
    """The numbers of one image in one task."""
    return random.Random(mixed(seed, number, *task.encode())).random


def brush_stroke(side: int, draw: Draw) -> Bool[Tensor, "S S"]:
    """Where a stroke of a thick brush covers an image of `side` pixels: all that is near to a bent line."""
    radius = side * (0.05 + 0.05 * draw())
    points = [torch.tensor([0.2 + 0.6 * draw(), 0.2 + 0.6 * draw()], dtype=torch.float64) * side]
    heading = 2 * math.pi * draw()
    for _ in range(3):
        step = torch.tensor([math.sin(heading), math.cos(heading)], dtype=torch.float64)
        points.append(points[-1] + step * side * (0.1 + 0.1 * draw()))
        heading += (draw() - 0.5) * 2 * math.pi / 3
    covered = [_distance(_places(side), start, end) <= radius for start, end in pairwise(points)]
    return torch.stack(covered).any(0)


def ellipse(side: int, draw: Draw) -> Bool[Tensor, "S S"]:
    """Where an ellipse lies in an image of `side` pixels, none of whose edges it touches."""
    centre = torch.tensor([0.3 + 0.4 * draw(), 0.3 + 0.4 * draw()], dtype=torch.float64) * side
    half_axes = torch.tensor([0.125 + 0.125 * draw(), 0.125 + 0.125 * draw()], dtype=torch.float64) * side
    return ((_places(side) - centre) / half_axes).square().sum(-1) <= 1


def _places(side: int) -> Float[Tensor, "S S 2"]:
    """Row and column of the middle of each pixel."""
    middles = torch.arange(side, dtype=torch.float64) + 0.5
    return torch.stack(torch.meshgrid(middles, middles, indexing="ij"), dim=-1)


def _distance(
    places: Float[Tensor, "S S 2"], start: Float[Tensor, "2"], end: Float[Tensor, "2"]
) -> Float[Tensor, "S S"]:
    """The distance of each place from a segment."""
    along = end - start
    share = ((places - start) @ along / along.square().sum()).clamp(0, 1)
    return (places - start - share[..., None] * along).norm(dim=-1)


class Partners(NamedTuple):
    """Which image is pasted on which, and which images depend on each other for it.

    Args:
        numbers: for each image, the number of the one that is pasted on it.
        groups: for each image, the number of its group: groups that paste on each other are one.
    """

    numbers: list[int]
    groups: list[int]


def partners(groups: Sequence[int], seed: int) -> Partners:
    """Pairs of groups that paste on each other, the last three in a circle where their number is odd.

    In pairs, because what is made of two images depends on both: groups that pasted on any others would all depend on
    each other, and no two edits could be taken for independent.

    Args:
        groups: the group of each image.
        seed: of the choice.

    Raises:
        ValueError: there is one group only.
    """
    members: dict[int, list[int]] = {}
    for number, group in enumerate(groups):
        members.setdefault(group, []).append(number)
    if len(members) < 2:
        raise ValueError(f"compositing pastes one image on another of another group, got {len(members)} group")
    order = sorted(members, key=lambda group: mixed(seed, members[group][0]))
    circles = [order[start : start + 2] for start in range(0, len(order), 2)]
    if len(circles[-1]) == 1:
        circles[-2:] = [circles[-2] + circles[-1]]
    numbers, joined = [0] * len(groups), [0] * len(groups)
    for name, circle in enumerate(circles):
        for group, source in zip(circle, circle[1:] + circle[:1], strict=True):
            for number in members[group]:
                numbers[number] = members[source][mixed(seed, number, 1) % len(members[source])]
                joined[number] = name
    return Partners(numbers, joined)


TASKS: dict[str, type[Task]] = {
    "stroke_synthesis": StrokeSynthesis,
    "stroke_editing": StrokeEditing,
    "compositing": Compositing,
}
