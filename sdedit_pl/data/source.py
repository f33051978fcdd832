"""What a data source is: named images that can be read one by one, in two splits.

A source is one class in one file: it derives from `Source`, implements `images(split)`, takes flat keyword
arguments, and has a line in the table of the package. Order, batches, mirroring, caching, devices and resuming are not
its concern.
"""

from __future__ import annotations

import abc
import logging
from collections.abc import Sequence
from typing import NamedTuple

import torch
from jaxtyping import UInt8
from torch import Tensor
from torch.utils.data import Dataset

from sdedit_pl.data.images import ImageFormat, UnreadableImage
from sdedit_pl.data.order import Draw, Share

logger = logging.getLogger(__name__)

SPLITS = ("train", "val")


class Broken(NamedTuple):
    """An image that could not be read, and why."""

    name: str
    reason: str


class Batch(NamedTuple):
    """What a worker hands over.

    Args:
        images: uint8 (B, C, H, W), or None when no image could be read.
        broken: The images that were to be in the batch and could not be read.
    """

    images: Tensor | None
    broken: list[Broken]


class ImageSet(abc.ABC):
    """The images of one split, by number. Must survive pickling and be safe to read from several processes.

    Attributes:
        in_memory: Whether they are decoded already, so that reading them needs no worker processes.
    """

    in_memory: bool = False

    @abc.abstractmethod
    def __len__(self) -> int:
        """Number of images, broken ones included."""

    @abc.abstractmethod
    def name(self, index: int) -> str:
        """What messages call an image: a path, or shard and member."""

    @abc.abstractmethod
    def read(self, index: int) -> UInt8[Tensor, "C H W"]:
        """Decodes one image.

        Returns:
            uint8 (C, H, W) in the format of the source.

        Raises:
            UnreadableImage: The image cannot be decoded.
        """


class Source(abc.ABC):
    """Where images come from.

    Args:
        image_format: What every image is brought to.
        broken_limit: Distinct unreadable images that end the run when exceeded; None for no limit.

    Attributes:
        broken: Name and reason of every image met so far that could not be read.
        streams: Whether training images come as a stream (`stream`) and not by number (`images("train")`).
    """

    streams: bool = False

    def __init__(self, image_format: ImageFormat, broken_limit: int | None = None) -> None:
        if broken_limit is not None and broken_limit < 0:
            raise ValueError(f"broken_limit must be None or at least 0, got {broken_limit}")
        self.format = image_format
        self.broken_limit = broken_limit
        self.broken: dict[str, str] = {}

    def prepare(self) -> None:  # noqa: B027 - most sources have nothing to fetch
        """Fetches what is not there yet. One process of each node calls it before any other method."""

    @abc.abstractmethod
    def images(self, split: str) -> ImageSet:
        """The images of a split, in an order that depends on nothing but the data.

        Args:
            split: "train" or "val". The val set may be empty.

        Raises:
            ValueError: An unknown split, or a place that does not exist or holds no images.
        """

    def stream(self, share: Share, seed: int, flip: bool) -> Dataset[Batch]:
        """Training batches of one device, without end, for a source that `streams`."""
        raise NotImplementedError(f"{type(self).__name__} reads images by number")

    def record(self, broken: Sequence[Broken]) -> None:
        """Counts and names unreadable images; each is logged once.

        Raises:
            UnreadableImage: There are now more of them than `broken_limit`.
        """
        for name, reason in broken:
            if name not in self.broken:
                self.broken[name] = reason
                logger.warning("skipped (%d so far): %s", len(self.broken), reason)
        if self.broken_limit is not None and len(self.broken) > self.broken_limit:
            raise UnreadableImage(
                f"{len(self.broken)} unreadable images exceed broken_limit = {self.broken_limit}; the last: "
                f"{list(self.broken.values())[-1]}"
            )


class ReadableImages(Dataset[Batch]):
    """Batches of an image set in which every unreadable image is replaced by the next readable one.

    The replacement depends on the set alone, so that the order of all other images stays as it is.

    Args:
        images: The set.
        attempts: How many images in a row may be unreadable before the batch is given up; None: the whole set.
    """

    def __init__(self, images: ImageSet, attempts: int | None = None) -> None:
        self.images = images
        self.attempts = len(images) if attempts is None else min(attempts, len(images))

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> Batch:
        return self.__getitems__([Draw(index, False)])

    def __getitems__(self, draws: Sequence[Draw]) -> Batch:
        """Reads a whole batch; the DataLoader looks for this name."""
        broken: list[Broken] = []
        images = []
        for index, flipped in draws:
            image = self._first_readable(index, broken)
            if image is None:
                return Batch(None, broken)
            images.append(image.flip(-1) if flipped else image)
        return Batch(torch.stack(images), broken)

    def _first_readable(self, index: int, broken: list[Broken]) -> Tensor | None:
        for candidate in range(index, index + self.attempts):
            try:
                return self.images.read(candidate % len(self.images))
            except UnreadableImage as error:
                broken.append(Broken(self.images.name(candidate % len(self.images)), str(error)))
        return None


class CachedImages(ImageSet):
    """Decoded images in memory.

    Args:
        pixels: uint8 (N, C, H, W).
    """

    in_memory = True

    def __init__(self, pixels: UInt8[Tensor, "N C H W"]) -> None:
        self.pixels = pixels

    def __len__(self) -> int:
        return len(self.pixels)

    def name(self, index: int) -> str:
        return f"image {index}"

    def read(self, index: int) -> UInt8[Tensor, "C H W"]:
        return self.pixels[index]


def check_split(split: str) -> None:
    """Refuses a split that sources do not have.

    Raises:
        ValueError: A split other than "train" and "val".
    """
    if split not in SPLITS:
        raise ValueError(f"unknown split {split!r}; a source has {' and '.join(SPLITS)}")
