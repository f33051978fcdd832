"""What a data source is: named images that can be read one by one, in two splits.

A source is one class in one file: it derives from `Source`, implements `images(split)`, takes flat keyword
arguments, and has a line in the table of the package. Order, batches, mirroring, caching, devices and resuming are not
its concern.
"""

from __future__ import annotations

import abc
import logging
from collections.abc import Sequence
from typing import Any, NamedTuple

from jaxtyping import UInt8
from torch import Tensor
from torch.utils.data import Dataset

from sdedit_pl.data.image_files import UnreadableImage
from sdedit_pl.data.images import ImageFormat
from sdedit_pl.data.order import Changes

logger = logging.getLogger(__name__)


class Broken(NamedTuple):
    """An image that could not be read, and why."""

    name: str
    reason: str


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
            uint8 (C, H, W) in the format of the source, margin included.

        Raises:
            UnreadableImage: The image cannot be decoded.
            UnreadableShard: Nor can others that lie in the same file.
        """

    def after(self, index: int) -> int:
        """Which image stands in for one that cannot be read: the next, or the first one that lies in another file."""
        return index + 1


class UnreadableShard(UnreadableImage):
    """A file of many images that cannot be read, or no longer: it is counted once, not once for each of its images.

    Args:
        shard: What messages call it.
        reason: The message.
    """

    def __init__(self, shard: str, reason: str) -> None:
        super().__init__(reason)
        self.shard = shard


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

    @property
    def attempts(self) -> int | None:
        """How many images in a row can be unreadable before `broken_limit` is certainly exceeded; None: any number."""
        return None if self.broken_limit is None else self.broken_limit + 1

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

    def stream(self, seed: int, changes: Changes) -> Dataset[Any]:
        """Batches of training images by their positions in the stream, for a source that `streams`."""
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
