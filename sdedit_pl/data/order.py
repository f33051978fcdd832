"""The order of images: a pure function of the seed and of the number of images.

Position p, counted over all devices, is image p mod n of the permutation of epoch p // n, whatever the devices, workers
and interruptions. A step on W devices with B images each covers the next W B positions; device r takes every W-th,
starting with the r-th. Resuming needs one number, the images consumed. A batch may span two permutations. Remote
shards, of which only a few are on disk at a time, are permuted in windows (`WindowOrder`).
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
from torch.utils.data import Sampler


class Draw(NamedTuple):
    """One image of a batch; `corner` is the first row and column of its random crop, None for the central part."""

    index: int
    flipped: bool
    corner: tuple[int, int] | None = None


@dataclass(frozen=True)
class DeviceShare:
    """One device's share of the stream of training images; all devices have consumed `start` images before."""

    batch_size: int
    rank: int = 0
    world_size: int = 1
    start: int = 0

    def positions(self) -> Iterator[np.ndarray]:
        """Stream positions of this device's images, int64 (batch_size,) for each step, endlessly."""
        of_this_rank = self.start + self.rank + self.world_size * np.arange(self.batch_size)
        for step in itertools.count():
            yield of_this_rank + step * self.world_size * self.batch_size


@dataclass(frozen=True)
class Changes:
    """Random changes of training images, drawn anew in every epoch; `margin` as in `ImageFormat`."""

    flip: bool = False
    margin: int = 0


@dataclass(frozen=True)
class TrainingOrder:
    count: int
    seed: int
    changes: Changes = Changes()

    def at(self, positions: np.ndarray) -> list[Draw]:
        draws = []
        for position in positions.tolist():
            epoch, place = divmod(position, self.count)
            draws.append(_shuffled((self.seed, epoch), self.count, self.changes).draw(place))
        return draws


@dataclass(frozen=True)
class WindowOrder:
    """The order of images in shards of which only a few are on disk at a time.

    In every epoch the shards are permuted and cut into windows of `width`; the last may be smaller. The images are
    permuted within each window. An image's window follows from the numbers of images in all shards up to it.
    """

    shards: int
    width: int
    seed: int
    changes: Changes = Changes()

    def windows(self, epoch: int) -> list[list[int]]:
        order = np.random.default_rng([self.seed, epoch]).permutation(self.shards).tolist()
        return [order[first : first + self.width] for first in range(0, self.shards, self.width)]

    def draw(self, epoch: int, window: int, count: int, place: int) -> Draw:
        """The image at a place in a window of `count` images, which are numbered shard by shard."""
        # From 1: numpy treats (seed, epoch) as (seed, epoch, 0), which orders the shards.
        return _shuffled((self.seed, epoch, window + 1), count, self.changes).draw(place)


class TrainingBatches(Sampler[list[Any]]):
    """Endless batches of one device: draws, or positions in the stream for a data set that knows the order itself."""

    def __init__(self, share: DeviceShare, order: TrainingOrder | None = None) -> None:
        self.share = share
        self.order = order

    def __iter__(self) -> Iterator[list[Any]]:
        return map(np.ndarray.tolist if self.order is None else self.order.at, self.share.positions())


class ValidationBatches(Sampler[list[Draw]]):
    """The validation images of one device, in order.

    Every device gets equally many batches, as few as the batch size allows, so that none waits. Batch sizes differ by
    at most one image. An image repeats only if there are fewer images than devices, or if the batch size is 1.
    """

    def __init__(self, count: int, share: DeviceShare) -> None:
        self.count = count
        self.share = share

    def __len__(self) -> int:
        return -(-self.count // (self.share.world_size * self.share.batch_size))

    def __iter__(self) -> Iterator[list[Draw]]:
        for batch in range(len(self)):
            yield [Draw(index, False) for index in self.indices(batch)]

    def indices(self, batch: int) -> range:
        parts = len(self) * self.share.world_size
        part = batch * self.share.world_size + self.share.rank
        first, end = (self.count * bound // parts for bound in (part, part + 1))
        return range(first, end) if end > first else range(part % self.count, part % self.count + 1)


class _Shuffled(NamedTuple):
    permutation: np.ndarray
    flips: np.ndarray | None
    corners: np.ndarray | None

    def draw(self, place: int) -> Draw:
        corner = None if self.corners is None else (int(self.corners[place, 0]), int(self.corners[place, 1]))
        return Draw(int(self.permutation[place]), self.flips is not None and bool(self.flips[place]), corner)


@lru_cache(maxsize=4)
def _shuffled(key: tuple[int, ...], count: int, changes: Changes) -> _Shuffled:
    generator = np.random.default_rng(key)
    permutation = generator.permutation(count)
    flips = generator.integers(0, 2, count, dtype=np.int8)  # always drawn, so that corners do not depend on flips
    corners = generator.integers(0, changes.margin + 1, (count, 2), dtype=np.int32) if changes.margin else None
    return _Shuffled(permutation, flips if changes.flip else None, corners)
