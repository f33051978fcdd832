"""The work of `sdedit pack` that all cores share: decoding originals and encoding what they become."""

from __future__ import annotations

import hashlib
import io
import multiprocessing
import os
import signal
import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import torch
from jaxtyping import UInt8
from PIL import Image
from torch import Tensor

from sdedit_pl.data.image_files import UnreadableImage
from sdedit_pl.data.source import ImageSet

# Originals that a process takes at a time.
_CHUNK = 16

_SUFFIXES = {"png": ".png", "jpeg": ".jpg", "webp": ".webp"}


@dataclass(frozen=True)
class Encoding:
    """A kind of image file.

    Args:
        kind: png, jpeg or webp.
        quality: Of jpeg and webp, 1 to 100; webp at 100 is exact.

    Raises:
        ValueError: A quality outside its range.
    """

    kind: str
    quality: int

    def __post_init__(self) -> None:
        if not 1 <= self.quality <= 100:
            raise ValueError(f"quality must lie in 1..100, got {self.quality}")

    @property
    def suffix(self) -> str:
        return _SUFFIXES[self.kind]

    def encode(self, pixels: UInt8[Tensor, "C H W"]) -> bytes:
        """The file of an image."""
        array = pixels.permute(1, 2, 0).numpy()
        image = Image.fromarray(array[..., 0] if len(pixels) == 1 else array)
        file = io.BytesIO()
        if self.kind == "jpeg":
            image.save(file, "JPEG", quality=self.quality, subsampling="4:4:4")
        elif self.kind == "webp":
            image.save(file, "WEBP", quality=self.quality, lossless=self.quality == 100)
        else:
            image.save(file, "PNG")
        return file.getvalue()


class Packed(NamedTuple):
    """What became of one original.

    Args:
        number: Of the original in its split.
        name: What messages call it.
        digest: Of its decoded pixels.
        file: Its encoded image; empty for an unreadable one.
        problem: Why it is unreadable.
    """

    number: int
    name: str
    digest: str
    file: bytes
    problem: str = ""


Work = Callable[[str, Sequence[int]], Iterator[Packed]]
"""Packs the originals of a split with the given numbers."""


class Bench:
    """What a worker process has before it.

    Args:
        splits: The originals of each split.
        encoding: What kind of files they become.
    """

    def __init__(self, splits: dict[str, ImageSet], encoding: Encoding) -> None:
        self.splits = splits
        self.encoding = encoding

    def packed(self, split: str, numbers: Sequence[int]) -> list[Packed]:
        return [self._one(self.splits[split], number) for number in numbers]

    def _one(self, images: ImageSet, number: int) -> Packed:
        name = images.name(number)
        try:
            pixels = images.read(number)
        except UnreadableImage as error:
            return Packed(number, name, "", b"", str(error))
        digest = hashlib.blake2b(pixels.permute(1, 2, 0).numpy().tobytes(), digest_size=16).hexdigest()
        return Packed(number, name, digest, self.encoding.encode(pixels))


_bench: Bench | None = None
"""The bench of this process, if it is a worker: sent once, and not with every task."""


def _start_worker(bench: Bench) -> None:
    global _bench
    _bench = bench
    torch.set_num_threads(1)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the first process ends the others
    parent = multiprocessing.parent_process()
    if parent is not None:
        threading.Thread(target=_end_with, args=(parent,), daemon=True).start()


def _end_with(parent: Any) -> None:
    """Ends this process when its parent has been killed: nobody else would."""
    parent.join()
    os._exit(1)


def _do(split: str, numbers: Sequence[int]) -> list[Packed]:
    assert _bench is not None
    return _bench.packed(split, numbers)


@contextmanager
def in_order(bench: Bench, processes: int | None) -> Iterator[Work]:
    """What packs originals and gives them back in their order.

    Args:
        bench: The originals.
        processes: How many work on them; None for one on each core, 1 for this one alone.
    """
    processes = processes or _cores()
    if processes == 1:
        yield lambda split, numbers: (packed for number in numbers for packed in bench.packed(split, [number]))
        return
    with ProcessPoolExecutor(processes, initializer=_start_worker, initargs=(bench,)) as executor:
        try:
            yield partial(_results, executor, 4 * processes)
        finally:
            executor.shutdown(wait=False, cancel_futures=True)


def _results(executor: ProcessPoolExecutor, ahead: int, split: str, numbers: Sequence[int]) -> Iterator[Packed]:
    """Results in the order of the numbers, of which at most `ahead` chunks are under way."""
    pending: deque[Future[list[Packed]]] = deque()
    for first in range(0, len(numbers), _CHUNK):
        pending.append(executor.submit(_do, split, numbers[first : first + _CHUNK]))
        if len(pending) > ahead:
            yield from pending.popleft().result()
    while pending:
        yield from pending.popleft().result()


def _cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
