"""Training batches from shards that can only be read from front to back.

Each worker of each device draws shards with replacement and shuffles their samples in a buffer, so that all devices
have images without end whatever the number of shards. What a worker draws follows from (seed, device, worker, images
consumed before the start): a resumed run goes on with new draws, and neither repeats its beginning nor continues
where the buffer stood. Its order depends on the number of devices and workers.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from jaxtyping import UInt8
from torch import Tensor
from torch.utils.data import IterableDataset, get_worker_info
from webdataset.filters import detshuffle
from webdataset.pipeline import DataPipeline
from webdataset.shardlists import ResampledShards, SimpleShardList
from webdataset.tariterators import tarfile_to_samples

from sdedit_pl.data.images import IMAGE_SUFFIXES, ImageFormat, UnreadableImage, decode_image
from sdedit_pl.data.order import Share
from sdedit_pl.data.source import Batch, Broken

# Unreadable samples and shards between two batches at which a worker gives up.
_GIVE_UP_AFTER = 1000


class ShardStream(IterableDataset[Batch]):
    """Batches of one device from a stream of shards, without end.

    Args:
        shards: URLs, `pipe:` commands or paths.
        image_format: What every image is brought to.
        share: Batch size, device, number of devices, images consumed before.
        seed: Of draws, shuffling and flips.
        flip: Whether each image is mirrored with probability one half.
        buffer: Samples among which each worker shuffles.
    """

    def __init__(
        self, shards: list[str], image_format: ImageFormat, share: Share, seed: int, flip: bool, buffer: int
    ) -> None:
        self.shards = shards
        self.format = image_format
        self.share = share
        self.seed = seed
        self.flip = flip
        self.buffer = buffer

    def __iter__(self) -> Iterator[Batch]:
        worker = get_worker_info()
        seed = self._seed_of_worker(0 if worker is None else worker.id)
        flips = np.random.default_rng(seed)
        broken: list[Broken] = []
        images = []
        for sample in self._samples(seed, broken):
            image = _decode(sample, self.format, broken)
            if image is not None:
                images.append(image.flip(-1) if self.flip and flips.integers(2) else image)
            if len(broken) >= _GIVE_UP_AFTER:
                break
            if len(images) == self.share.batch_size:
                yield Batch(torch.stack(images), list(broken))
                broken.clear()
                images = []
        yield Batch(None, broken)

    def _samples(self, seed: int, broken: list[Broken]) -> Iterator[dict[str, Any]]:
        return _samples(
            ResampledShards(self.shards, seed=seed, worker_seed=lambda: 0, deterministic=True),
            broken,
            detshuffle(bufsize=self.buffer, initial=max(1, self.buffer // 10), seed=seed),
        )

    def _seed_of_worker(self, worker: int) -> int:
        origin = f"{self.seed} {self.share.rank} {worker} {self.share.start}"
        return int.from_bytes(hashlib.blake2b(origin.encode(), digest_size=4).digest(), "big")


def read_all(shards: list[str], image_format: ImageFormat) -> tuple[UInt8[Tensor, "N C H W"], list[Broken]]:
    """Reads small shards from front to back into memory.

    Args:
        shards: URLs, `pipe:` commands or paths.
        image_format: What every image is brought to.

    Returns:
        The images, and what could not be read.
    """
    broken: list[Broken] = []
    images = []
    for sample in _samples(SimpleShardList(shards), broken):
        image = _decode(sample, image_format, broken)
        if image is not None:
            images.append(image)
    return torch.stack(images) if images else image_format.empty(), broken


def _samples(shards: Any, broken: list[Broken], *stages: Any) -> Iterator[dict[str, Any]]:
    """Samples of shards; shards and groups of members that fail are added to `broken`."""

    def note(error: Exception) -> bool:
        shard = str(error.args[-1]) if error.args else "a shard"
        broken.append(Broken(shard, f"cannot read shard {shard}: {error}"))
        return len(broken) < _GIVE_UP_AFTER

    return iter(DataPipeline(shards, tarfile_to_samples(handler=note), *stages))


def _decode(sample: dict[str, Any], image_format: ImageFormat, broken: list[Broken]) -> Tensor | None:
    name = f"{sample['__url__']}:{sample['__key__']}"
    files = [sample[suffix[1:]] for suffix in IMAGE_SUFFIXES if suffix[1:] in sample]
    try:
        if not files:
            raise UnreadableImage(f"sample {name} has no {' or '.join(IMAGE_SUFFIXES)}")
        return decode_image(files[0], name, image_format)
    except UnreadableImage as error:
        broken.append(Broken(name, str(error)))
        return None
