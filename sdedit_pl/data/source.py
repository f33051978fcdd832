"""The interface of data sources: named images that can be read one by one, in two splits."""

from __future__ import annotations

import abc
import logging
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
from torch.utils.data import Dataset

from sdedit_pl.data.image_files import UnreadableImage
from sdedit_pl.data.image_format import ImageFormat
from sdedit_pl.data.order import Changes
from sdedit_pl.typing import Pixels

logger = logging.getLogger(__name__)

_UNLABELLED = (
    "a folder of images takes folders or FILE.csv:COLUMN; shards take cls, json:FIELD or, if local, "
    "FILE.csv:COLUMN; data sets of torchvision take targets"
)


class Broken(NamedTuple):
    name: str
    reason: str


class ImageSet(abc.ABC):
    """The images of one split, by number; can be pickled and read from several processes.

    Attributes:
        in_memory: Whether the images are decoded already, so that no worker processes are needed.
        labels: Index of each image's label, int64 (N,), or in a stream its vector, float32 (N, size); or None.
    """

    in_memory: bool = False
    labels: np.ndarray | None = None

    @abc.abstractmethod
    def __len__(self) -> int:
        """Number of images, broken ones included."""

    @abc.abstractmethod
    def name(self, index: int) -> str:
        """An image's name in messages: its path, or its shard and member."""

    @abc.abstractmethod
    def read(self, index: int) -> Pixels:
        """Decodes one image, its margin included; raises UnreadableImage or UnreadableShard."""

    def key(self, index: int) -> str:
        """An image's name within the data, with "/" separators."""
        raise ValueError(_UNLABELLED)

    def stored_labels(self, place: str) -> list[str | None]:
        """The labels stored beside the images, None for an image without one; raises ValueError if none are stored."""
        raise ValueError(f"data.labels={place}: {_UNLABELLED}")

    def after(self, index: int) -> int:
        """Number of the image that replaces an unreadable one: the next, or the first in another file."""
        return index + 1


class SelectedImages(ImageSet):
    """The images of another set with the given numbers, int (N,), in that order; `keys` replace those of the set.

    The numbers increase, for sequential reading; only `sdedit pack` shuffles them.
    """

    def __init__(self, images: ImageSet, numbers: np.ndarray, keys: Sequence[str] | None = None) -> None:
        self.images = images
        self.numbers = numbers
        self.keys = keys

    def __len__(self) -> int:
        return len(self.numbers)

    def name(self, index: int) -> str:
        return self.images.name(int(self.numbers[index]))

    def key(self, index: int) -> str:
        number = int(self.numbers[index])
        return self.images.key(number) if self.keys is None else self.keys[number]

    def stored_labels(self, place: str) -> list[str | None]:
        stored = self.images.stored_labels(place)
        return [stored[number] for number in self.numbers]

    def read(self, index: int) -> Pixels:
        return self.images.read(int(self.numbers[index]))

    def after(self, index: int) -> int:
        number = int(self.numbers[index])
        following = self.images.after(number)
        return index + 1 if following == number + 1 else int(np.searchsorted(self.numbers, following))


class UnreadableShard(UnreadableImage):
    """A file of many images that cannot be read; counted once, not once per image."""

    def __init__(self, shard: str, reason: str) -> None:
        super().__init__(reason)
        self.shard = shard


class Source(abc.ABC):
    """A source of images.

    Args:
        size: Height and width in pixels, one number for both or height,width; images are resampled to it.
        channels: Number of bands: 3 for RGB, 1 for grey, others with a `format`.
        background: Colour under transparent pixels, a name or #rrggbb.
        random_crop: Pixels by which images are decoded taller and wider than `size`; training cuts out random parts.
        broken_limit: Number of unreadable images and shards that ends the run when exceeded; null for no limit.
        fit: How images get the proportions of `size`: crop takes their largest central part, resize changes their
            proportions, pad continues them by their mirror image, which does not enter the loss.
        format: Type, range and names of the bands of data that are not 8-bit photographs, by format.dtype, range,
            percentile, bands, shown, window, alpha and invalid; null for photographs.

    Attributes:
        broken: Name of every unreadable image met so far -> the reason.
        streams: Whether training images come as a stream (`stream`) instead of by number (`images("train")`).
    """

    streams: bool = False

    def __init__(self, image_format: ImageFormat, broken_limit: int | None = None) -> None:
        if broken_limit is not None and broken_limit < 0:
            raise ValueError(f"broken_limit must be None or at least 0, got {broken_limit}")
        self.format = replace(image_format, marked=image_format.fit == "pad")
        self.broken_limit = broken_limit
        self.broken: dict[str, str] = {}

    @property
    def attempts(self) -> int | None:
        """Number of unreadable images in a row that certainly exceeds `broken_limit`; None without a limit."""
        return None if self.broken_limit is None else self.broken_limit + 1

    def prepare(self) -> None:  # noqa: B027 - most sources have nothing to download
        """Downloads missing data. One process per node calls it before any other method."""

    @abc.abstractmethod
    def images(self, split: str) -> ImageSet:
        """The images of "train" or "val" (which may be empty), in an order that depends on the data alone.

        Raises ValueError for a place that does not exist or holds no images.
        """

    def stream(
        self, seed: int, changes: Changes, labels: Callable[[ImageSet], np.ndarray] | None = None
    ) -> Dataset[Any]:
        """Training batches by position, for sources with `streams`; `labels` reads an image set's label vectors."""
        raise NotImplementedError(f"{type(self).__name__} does not stream: its images are read by number")

    def record(self, broken: Sequence[Broken]) -> None:
        """Counts unreadable images and logs each once; raises UnreadableImage beyond `broken_limit`."""
        for name, reason in broken:
            if name not in self.broken:
                self.broken[name] = reason
                logger.warning("skipped (%d so far): %s", len(self.broken), reason)
        if self.broken_limit is not None and len(self.broken) > self.broken_limit:
            raise UnreadableImage(
                f"{len(self.broken)} unreadable images exceed broken_limit = {self.broken_limit}; the last: "
                f"{list(self.broken.values())[-1]}"
            )
