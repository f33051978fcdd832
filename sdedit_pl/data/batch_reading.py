"""Reads batches of images, with the next readable image in place of an unreadable one."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from sdedit_pl.data.image_files import UnreadableImage
from sdedit_pl.data.image_format import ImageFormat
from sdedit_pl.data.order import Draw
from sdedit_pl.data.source import Broken, ImageSet, UnreadableShard
from sdedit_pl.typing import Pixels


class Batch(NamedTuple):
    """A worker's batch: decoded values (B, C, H, W), or None and the reason for the failure.

    `broken` lists the unreadable images and shards that were skipped; `labels` has shape (B,) or (B, size).
    """

    images: Tensor | None
    broken: list[Broken]
    failure: str = ""
    labels: Tensor | None = None


class ReadableImages(Dataset[Batch]):
    """Batches of an image set in which the next readable image replaces an unreadable one.

    The replacement depends on the set alone, so the order of all other images does not change. A batch fails after
    `attempts` unreadable images in a row; None tries the whole set.
    """

    def __init__(self, images: ImageSet, image_format: ImageFormat, attempts: int | None = None) -> None:
        self.images = images
        self.format = image_format
        self.attempts = attempts

    def __getitems__(self, draws: Sequence[Draw]) -> Batch:
        """DataLoader calls this method in place of `__getitem__` where it exists."""
        return read_batch([(self.images, draw) for draw in draws], self.format, self.attempts)


def read_batch(places: Sequence[tuple[ImageSet, Draw]], image_format: ImageFormat, attempts: int | None) -> Batch:
    """Reads one image for each (set, draw), replacing unreadable ones as `ReadableImages` does."""
    broken: list[Broken] = []
    batch = image_format.empty(len(places))
    labels: list[np.ndarray] = []
    for row, (images, draw) in zip(batch, places, strict=True):
        image, number, failed = _first_readable(images, draw.index, attempts)
        broken += failed
        if image is None:
            count = len({name for name, _ in failed})
            return Batch(None, broken, f"none of {count} images in a row can be read; the first: {failed[0].reason}")
        part = image_format.part(image, draw.corner)
        row.copy_(part.flip(-1) if draw.flipped else part)
        if images.labels is not None:
            labels.append(images.labels[number])
    return Batch(batch, broken, labels=torch.from_numpy(np.stack(labels)) if labels else None)


def _first_readable(images: ImageSet, index: int, attempts: int | None) -> tuple[Tensor | None, int, list[Broken]]:
    """The first readable image from `index` on, its number, and the unreadable ones before it."""
    failed: list[Broken] = []
    candidate = index
    while candidate < index + len(images) and (attempts is None or len(failed) < attempts):
        number = candidate % len(images)
        try:
            return images.read(number), number, failed
        except UnreadableShard as error:
            failed.append(Broken(error.shard, str(error)))
        except UnreadableImage as error:
            failed.append(Broken(images.name(number), str(error)))
        candidate += images.after(number) - number
    return None, index, failed


class CachedImages(ImageSet):
    in_memory = True

    def __init__(self, pixels: Pixels, labels: np.ndarray | None = None) -> None:
        self.pixels = pixels
        self.labels = labels
        self._copy = pixels

    def on(self, device: torch.device) -> Pixels:
        if self._copy.device != device:
            # CUDA has no indexing of 16-bit whole numbers.
            self._copy = self.pixels.to(device, torch.int32 if self.pixels.dtype == torch.uint16 else None)
        return self._copy

    def __len__(self) -> int:
        return len(self.pixels)

    def name(self, index: int) -> str:
        return f"image {index}"

    def read(self, index: int) -> Pixels:
        return self.pixels[index]


def gathered(pixels: Pixels, draws: Sequence[Draw], image_format: ImageFormat) -> Tensor:
    """Like `read_batch` on the device that holds `pixels`, without synchronisation."""
    centre = (image_format.margin // 2, image_format.margin // 2)
    places = [(draw.index, draw.flipped, *(draw.corner or centre)) for draw in draws]
    table = torch.tensor(places, dtype=torch.int64, pin_memory=pixels.is_cuda)
    index, flipped, top, left = table.to(pixels.device, non_blocking=True)[:, :, None].unbind(1)
    down, across = (torch.arange(side, device=pixels.device) for side in image_format.sides)
    rows, columns = top + down, left + torch.where(flipped > 0, across.flip(0), across)
    channels_last = pixels.permute(0, 2, 3, 1)
    return channels_last[index[:, :, None], rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2)
