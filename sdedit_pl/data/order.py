"""Which image is the p-th of training, for every p: a pure function of the seed and the number of images.

Position p, counted from the start of training over all devices, lies in epoch p // n, and is the (p mod n)-th of that
epoch's permutation. Nothing else enters: not the number of devices, of workers, nor where the run was interrupted. A
step on W devices with B images each covers the next W B positions, and device r takes every W-th of them, from the
r-th on; so any W gives the same order of images, and resuming needs one number, the images consumed.

Training has no epochs beyond that: the stream never ends, a batch may reach over from one permutation into the next,
and it may be larger than the whole set.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

import numpy as np
from torch.utils.data import Sampler


class Draw(NamedTuple):
    """One image of a batch: which one, and whether it is mirrored left to right."""

    index: int
    flipped: bool


@dataclass(frozen=True)
class Share:
    """What one device takes of the stream of training images.

    Args:
        batch_size: Images a step on each device.
        rank: Number of this device, in [0, world_size).
        world_size: Number of devices over all nodes.
        start: Images that all devices together have consumed before.

    Raises:
        ValueError: A batch size below 1, a rank outside [0, world_size), or a negative start.
    """

    batch_size: int
    rank: int = 0
    world_size: int = 1
    start: int = 0

    def __post_init__(self) -> None:
        if self.batch_size < 1:
            raise ValueError(f"batch_size must be at least 1, got {self.batch_size}")
        if not 0 <= self.rank < self.world_size:
            raise ValueError(f"rank must lie in [0, world_size = {self.world_size}), got {self.rank}")
        if self.start < 0:
            raise ValueError(f"start counts consumed images and cannot be negative, got {self.start}")


@dataclass(frozen=True)
class TrainingOrder:
    """The infinite order of training images.

    Args:
        count: Number of images in the set.
        seed: Of permutations and flips.
        flip: Whether each image is mirrored with probability one half, drawn anew in every epoch.
    """

    count: int
    seed: int
    flip: bool = False

    def at(self, positions: np.ndarray) -> list[Draw]:
        """The images at the given positions of the stream, in their order."""
        draws = []
        for position in positions.tolist():
            permutation, flips = _epoch(self.seed, position // self.count, self.count)
            place = position % self.count
            draws.append(Draw(int(permutation[place]), self.flip and bool(flips[place])))
        return draws


class TrainingBatches(Sampler[list[Draw]]):
    """The batches of one device, without end."""

    def __init__(self, order: TrainingOrder, share: Share) -> None:
        self.order = order
        self.share = share

    def __iter__(self) -> Iterator[list[Draw]]:
        share = self.share
        of_this_rank = share.start + share.rank + share.world_size * np.arange(share.batch_size)
        for step in itertools.count():
            yield self.order.at(of_this_rank + step * share.world_size * share.batch_size)


class ValidationBatches(Sampler[list[Draw]]):
    """The validation images of one device, in order, each image on exactly one device.

    Every device gets the same number of batches (with fewer, the others would wait for it), the smallest number for
    which none exceeds the batch size, and all batches hold equally many images to within one; so nothing is dropped
    or padded, and a mean over batches is nearly the mean over images. Only a set with fewer images than devices
    repeats images.
    """

    def __init__(self, count: int, share: Share) -> None:
        self.count = count
        self.share = share

    def __len__(self) -> int:
        return -(-self.count // (self.share.world_size * self.share.batch_size))

    def __iter__(self) -> Iterator[list[Draw]]:
        for batch in range(len(self)):
            yield [Draw(index, False) for index in self.indices(batch)]

    def indices(self, batch: int) -> range:
        """Which images the `batch`-th batch of this device holds."""
        parts = len(self) * self.share.world_size
        part = batch * self.share.world_size + self.share.rank
        first, end = (self.count * bound // parts for bound in (part, part + 1))
        return range(first, end) if end > first else range(part % self.count, part % self.count + 1)


@lru_cache(maxsize=4)
def _epoch(seed: int, epoch: int, count: int) -> tuple[np.ndarray, np.ndarray]:
    generator = np.random.default_rng([seed, epoch])
    return generator.permutation(count), generator.integers(0, 2, count, dtype=np.int8)
