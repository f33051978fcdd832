"""Training images from remote shards, in an order that any device can compute (`WindowOrder`).

Shards are downloaded whole into a cache on the node and read there by number: no image repeats within an epoch, and
there is no shuffle buffer to save. Without a manifest or records of downloads, a resumed run downloads the shards up to
its position again to count images. Each node downloads every shard once per epoch, unless its cache holds all.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from torch.utils.data import Dataset

from sdedit_pl.data.batch_reading import Batch, read_batch
from sdedit_pl.data.image_format import ImageFormat
from sdedit_pl.data.order import Draw, WindowOrder
from sdedit_pl.data.shard_cache import ShardCache, StreamInterrupted
from sdedit_pl.data.shard_images import ShardImages
from sdedit_pl.data.shard_manifest import Shard
from sdedit_pl.data.source import Broken, ImageSet

# A batch can span two windows.
_OPEN_WINDOWS = 2


class Window(NamedTuple):
    """A window of the order, and the stream position of its first image."""

    epoch: int
    number: int
    first: int
    images: ShardImages


class ShardStream(Dataset[Batch]):
    """Batches of training images by their positions in the stream.

    A batch fails after `attempts` unreadable images in a row; None tries a whole window. `labels` reads the label
    vectors of a window, whose shards are then downloaded first.
    """

    def __init__(
        self,
        shards: list[Shard],
        cache: ShardCache,
        image_format: ImageFormat,
        order: WindowOrder,
        attempts: int | None = None,
        labels: Callable[[ImageSet], np.ndarray] | None = None,
    ) -> None:
        self.shards = shards
        self.cache = cache
        self.format = image_format
        self.order = order
        self.attempts = attempts
        self.labels = labels
        self._counts: dict[int, int] = {}
        self._windows: OrderedDict[int, Window] = OrderedDict()
        self._broken: list[Broken] = []
        self._prefetching: threading.Thread | None = None
        self._prefetched = -1  # first position of the window whose successor was prefetched

    def __getitem__(self, position: int) -> Batch:
        return self.__getitems__([position])

    def __getitems__(self, positions: list[int]) -> Batch:
        try:
            places = [self._at(position) for position in positions]
            self._prefetch(next(reversed(self._windows.values())))
            batch = read_batch(places, self.format, self.attempts)
        except StreamInterrupted as error:
            batch = Batch(None, [], str(error))
        broken, self._broken = self._broken + batch.broken, []
        return batch._replace(broken=broken)

    def _at(self, position: int) -> tuple[ImageSet, Draw]:
        window = self._window(position)
        draw = self.order.draw(window.epoch, window.number, len(window.images), position - window.first)
        return window.images, draw

    def _window(self, position: int) -> Window:
        for window in self._windows.values():
            if window.first <= position < window.first + len(window.images):
                return window
        window = self._find_window(position)
        if self.labels is not None:
            try:
                window.images.labels = self.labels(window.images)
            except ValueError as error:  # a shard or a label that cannot be read, or is unknown
                raise StreamInterrupted(str(error)) from None
        self._windows[window.first] = window
        if len(self._windows) > _OPEN_WINDOWS:
            self._windows.popitem(last=False)
        return window

    def _find_window(self, position: int) -> Window:
        epoch, first = 0, 0
        if len(self._counts) == len(self.shards):
            epoch = position // self._images_in_all()
            first = epoch * self._images_in_all()
        while True:
            for number, shards in enumerate(self.order.windows(epoch)):
                counts = [self._count(shard) for shard in shards]
                if position < first + sum(counts):
                    chosen = [self.shards[shard] for shard in shards]
                    return Window(epoch, number, first, ShardImages(chosen, counts, self.cache, self.format))
                first += sum(counts)
            epoch = position // self._images_in_all()
            first = epoch * self._images_in_all()

    def _images_in_all(self) -> int:
        count = sum(self._counts.values())
        if count == 0:
            reason = f"; {self._broken[0].reason}" if self._broken else ""
            raise StreamInterrupted(f"no images in {len(self.shards)} shards, the first {self.shards[0].place}{reason}")
        return count

    def _count(self, number: int) -> int:
        if number not in self._counts:
            shard = self.shards[number]
            if shard.images is not None:
                self._counts[number] = shard.images
            else:
                members = self.cache.members(shard)
                self._counts[number] = len(members.keys)
                self._broken += members.damage(shard.place)
        return self._counts[number]

    def _prefetch(self, window: Window) -> None:
        """Downloads the rest of a window and the next window, once, in the background."""
        busy = self._prefetching is not None and self._prefetching.is_alive()
        if busy or self._prefetched == window.first:
            return
        self._prefetched = window.first
        windows = self.order.windows(window.epoch)
        following = (windows + self.order.windows(window.epoch + 1))[window.number + 1]
        wanted = [*window.images.shards, *(self.shards[shard] for shard in following)]
        self._prefetching = threading.Thread(target=self.cache.prefetch, args=(wanted,), daemon=True)
        self._prefetching.start()

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_prefetching": None}
