"""The loader that a data module hands to Lightning: a plain iterable of image batches over torch's DataLoader."""

from __future__ import annotations

import weakref
from collections.abc import Generator, Iterable
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from sdedit_pl.data.batches import Batch
from sdedit_pl.data.image_files import UnreadableImage
from sdedit_pl.data.source import Source


class ImageLoader(Iterable[Tensor]):
    """Batches of images from worker processes; what could not be read is reported to the source on the way.

    Args:
        dataset: Gives `Batch`.
        source: Counts and names what could not be read.
        workers: Processes, kept between two passes.
        seed: Of the workers' generators.
        batching: Other arguments of DataLoader.
    """

    def __init__(self, dataset: Dataset[Batch], source: Source, workers: int, seed: int, **batching: Any) -> None:
        self.source = source
        self._arguments = {
            "dataset": dataset,
            "num_workers": workers,
            "persistent_workers": workers > 0,
            "collate_fn": _as_it_is,
            "generator": torch.Generator().manual_seed(seed),  # else starting workers would move the global stream
            **batching,
        }
        self._opened: DataLoader[Batch] | None = None
        self._passes: weakref.WeakSet[Generator[Tensor]] = weakref.WeakSet()

    def __iter__(self) -> Generator[Tensor, None, None]:
        batches = self._batches()
        self._passes.add(batches)
        return batches

    def __len__(self) -> int:
        """Number of batches.

        Raises:
            TypeError: The batches are endless.
        """
        return len(self._loader())

    def close(self) -> None:
        """Ends the worker processes and all passes; a new pass starts new ones.

        Left to the garbage collector, workers that a traceback still refers to can take seconds each to end.
        """
        for batches in list(self._passes):
            batches.close()
        self._opened = None

    def _batches(self) -> Generator[Tensor, None, None]:
        for batch in self._loader():
            yield checked_images(batch, self.source)

    def _loader(self) -> DataLoader[Batch]:
        if self._opened is None:
            self._opened = DataLoader(**self._arguments)
        return self._opened


def checked_images(batch: Batch, source: Source) -> Tensor:
    """Takes a batch's images and reports its unreadable ones.

    Raises:
        UnreadableImage: There can be no batch, or more unreadable ones than the source accepts.
    """
    source.record(batch.broken)
    if batch.images is None:
        raise UnreadableImage(batch.failure)
    return batch.images


def _as_it_is(batch: Any) -> Any:
    return batch
