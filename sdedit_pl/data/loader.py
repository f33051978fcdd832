"""The data module's loaders: plain iterables of image batches over torch's DataLoader."""

from __future__ import annotations

import os
import weakref
from collections.abc import Generator, Iterable, Iterator
from typing import Any, TypeAlias

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from sdedit_pl.data.batch_reading import Batch, gathered
from sdedit_pl.data.image_files import UnreadableImage
from sdedit_pl.data.image_format import ImageFormat
from sdedit_pl.data.order import TrainingBatches, ValidationBatches
from sdedit_pl.data.source import Source
from sdedit_pl.typing import Pixels

Loaded: TypeAlias = Tensor | tuple[Tensor, Tensor]
"""Images of a batch, alone or with the numbers or vectors of their labels."""


class ImageLoader(Iterable[Loaded]):
    """Batches of images from worker processes, which persist between passes; the source counts unreadable images."""

    def __init__(self, dataset: Dataset[Batch], source: Source, workers: int, seed: int, **batching: Any) -> None:
        self.source = source
        self._arguments = {
            "dataset": dataset,
            "num_workers": workers,
            "persistent_workers": workers > 0,
            "collate_fn": _unchanged,
            # Without one, the workers' seeds would advance the global generator.
            "generator": torch.Generator().manual_seed(seed),
            **batching,
        }
        self._opened: DataLoader[Batch] | None = None
        self._passes: weakref.WeakSet[Generator[Loaded]] = weakref.WeakSet()

    def __iter__(self) -> Generator[Loaded, None, None]:
        batches = self._batches()
        self._passes.add(batches)
        return batches

    def __len__(self) -> int:
        """Raises TypeError if the batches are endless."""
        return len(self._loader())

    def close(self) -> None:
        """Ends all passes and worker processes, at once: garbage collection can take seconds for each worker."""
        for batches in list(self._passes):
            batches.close()
        self._opened = None

    def _batches(self) -> Generator[Loaded, None, None]:
        for batch in self._loader():
            images = checked_images(batch, self.source)
            yield images if batch.labels is None else (images, batch.labels)

    def _loader(self) -> DataLoader[Batch]:
        if self._opened is None:
            self._opened = DataLoader(**self._arguments)
        return self._opened


class ResidentLoader(Iterable[Loaded]):
    """The batches of `ImageLoader`, cut from decoded images in a device's memory; labels stay on the host."""

    def __init__(
        self,
        pixels: Pixels,
        batches: TrainingBatches | ValidationBatches,
        image_format: ImageFormat,
        labels: np.ndarray | None = None,
    ) -> None:
        self.pixels = pixels
        self.batches = batches
        self.format = image_format
        self.labels = labels

    def __iter__(self) -> Iterator[Loaded]:
        for draws in self.batches:
            images = gathered(self.pixels, draws, self.format)
            numbers = [draw.index for draw in draws]
            yield images if self.labels is None else (images, torch.from_numpy(self.labels[numbers]))

    def __len__(self) -> int:
        return len(self.batches)  # pyright: ignore[reportArgumentType]


def room_on(device: torch.device, images: Tensor) -> bool:
    """Whether images take at most an eighth of a GPU's free memory."""
    return device.type == "cuda" and 8 * images.nbytes <= torch.cuda.mem_get_info(device)[0]


def checked_images(batch: Batch, source: Source) -> Tensor:
    """The images of a batch; raises UnreadableImage if it failed, or the source accepts no more unreadable images."""
    source.record(batch.broken)
    if batch.images is None:
        raise UnreadableImage(batch.failure)
    return batch.images


def available_cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _unchanged(batch: Any) -> Any:
    return batch
