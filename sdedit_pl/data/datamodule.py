"""The Lightning data module: batches of any source in an order that survives restarts.

Training is one endless epoch: set `max_steps`, `val_check_interval=STEPS` and `check_val_every_n_epoch=None`.

A resumed run derives its position from the optimiser steps done: the number of batches handed out would include
prefetched ones. The loaders are plain iterables, so that Lightning does not replace their samplers.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from functools import partial
from typing import Any

import numpy as np
import torch
from lightning.pytorch import LightningDataModule
from torch import Tensor
from torch.nn.functional import interpolate
from torch.utils.data import Dataset

from sdedit_pl.conditions import Condition
from sdedit_pl.data.batch_reading import Batch, CachedImages, ReadableImages, read_batch
from sdedit_pl.data.image_labels import label_vectors, labels_of
from sdedit_pl.data.loader import ImageLoader, Loaded, ResidentLoader, available_cores, checked_images, room_on
from sdedit_pl.data.order import Changes, DeviceShare, Draw, TrainingBatches, TrainingOrder, ValidationBatches
from sdedit_pl.data.source import ImageSet, Source
from sdedit_pl.data.splits import SPLITS
from sdedit_pl.typing import Examples, Images

logger = logging.getLogger(__name__)

CACHE_BYTES = 256 * 2**20

_CACHE_CHUNK = 64


class ImageDataModule(LightningDataModule):
    """Training and validation batches of one source.

    Args:
        source: Where images come from.
        batch_size: Images per training step on each device; may exceed the number of images.
        val_batch_size: Images per validation batch on each device; null for `batch_size`.
        workers: Processes per device that decode images, at most the device's share of the machine's cores; 0 decodes
            in the training process. A set in memory needs none.
        seed: Seed of the order of training images and of their flips and crops.
        flip: Whether training images are mirrored left to right with probability one half.
        labels: Where the labels are, for a model that is trained with them (`condition`): folders (the name of each
            image's folder); FILE.csv:COLUMN or FILE.csv:COLUMN,COLUMN, whose first column names the files (not for
            remote shards); cls or json:FIELD for shards (members KEY.cls, KEY.json); targets for torchvision; or null.
        cache: Whether to decode once and keep all images in memory; null to do so if they take at most 256 MiB. They
            are also kept on a GPU if they take at most an eighth of its free memory, which saves copying every batch.
    """

    def __init__(
        self,
        source: Source,
        batch_size: int = 16,
        val_batch_size: int | None = None,
        workers: int = 2,
        seed: int = 0,
        flip: bool = False,
        cache: bool | None = None,
        labels: str | None = None,
    ) -> None:
        super().__init__()
        for name, value in (("batch_size", batch_size), ("val_batch_size", val_batch_size)):
            if value is not None and value < 1:
                raise ValueError(f"{name} must be at least 1, got {value}")
        if workers < 0:
            raise ValueError(f"workers must be at least 0, got {workers}; 0 decodes in the training process")
        if cache and source.streams:
            raise ValueError("cache=true needs shards that are local files; streamed shards cannot be kept in memory")
        self.source = source
        self.batch_size = batch_size
        self.val_batch_size = batch_size if val_batch_size is None else val_batch_size
        self.workers = workers
        self.seed = seed
        self.flip = flip
        self.cache = cache
        if labels is not None and source.streams and labels != "cls" and not labels.startswith("json:"):
            raise ValueError(f"labels={labels} needs local images; remote shards take cls or json:FIELD")
        self.labels = labels
        self.label_names: dict[str, int] = {}
        self._vectors = torch.zeros(0, 0)
        self._condition: Condition | None = None
        self._sets: dict[str, ImageSet] = {}
        self._loaders: list[ImageLoader] = []
        self._consumed_at_step = (0, 0)  # images consumed, and the optimiser step at that time

    def prepare_data(self) -> None:
        self.source.prepare()

    def setup(self, stage: str | None = None) -> None:
        if stage == "fit" and self.trainer is not None and self.trainer.global_step == 0:
            self._consumed_at_step = (0, 0)  # a new run; a resumed one loads its state after this
        for split in ("val",) if self.source.streams else SPLITS:
            if split not in self._sets:
                images = self.source.images(split)
                logger.info("%s images: %d", split, len(images))
                if self.labels is not None and len(images):
                    names = self.label_names
                    numbers = [names.setdefault(label, len(names)) for label in labels_of(images, self.labels)]
                    images.labels = np.array(numbers, dtype=np.int64)
                self._sets[split] = self._in_memory_if_small(images)

    def teardown(self, stage: str | None = None) -> None:
        while self._loaders:
            self._loaders.pop().close()

    def on_exception(self, exception: BaseException) -> None:
        self.teardown()

    def train_dataloader(self) -> ImageLoader | ResidentLoader:
        """Endless decoded batches (B, C, H, W) for this device, from the first image not consumed yet."""
        rank, world_size = self._rank_and_world_size()
        return self.training_loader(rank, world_size, self.consumed_samples)

    def val_dataloader(self) -> ImageLoader | ResidentLoader | list[Any]:
        """This device's validation images in order, decoded (B, C, H, W); an empty list if there are none."""
        return self.validation_loader(*self._rank_and_world_size()) if len(self._images("val")) else []

    def training_loader(self, rank: int = 0, world_size: int = 1, start: int = 0) -> ImageLoader | ResidentLoader:
        """Training batches of device `rank`, after the first `start` images of all devices."""
        share = DeviceShare(self.batch_size, rank, world_size, start)
        changes = Changes(self.flip, self.source.format.margin)
        if self.source.streams:
            labels = None
            if self.labels is not None and self._condition is not None:
                labels = partial(label_vectors, place=self.labels, condition=self._condition)
            stream = self.source.stream(self.seed, changes, labels)
            return self._loader(stream, self.workers, batch_sampler=TrainingBatches(share))
        images = self._images("train")
        order = TrainingOrder(len(images), self.seed, changes)
        return self._image_set_loader(images, TrainingBatches(share, order))

    def validation_loader(self, rank: int = 0, world_size: int = 1) -> ImageLoader | ResidentLoader:
        return self._image_set_loader(self._images("val"), self._validation_batches(rank, world_size))

    def val_indices(self, batch_idx: int) -> range:
        """Numbers of the validation images in this device's batch `batch_idx`, which seed their noise."""
        return self._validation_batches(*self._rank_and_world_size()).indices(batch_idx)

    def val_images(self, count: int) -> Images:
        """The first `count` validation images, or fewer: float32 in [-1, 1], on the CPU."""
        images = self._images("val")
        return torch.cat([self.source.format.images(self.source.format.empty()), *self._read(images, count)])

    def small_training_images(self, side: int, at_most: int) -> Images | None:
        """All training images, averaged down to `side` pixels, on the CPU; None for more than `at_most` or a stream."""
        if self.source.streams or len(self._images("train")) > at_most:
            return None
        side = min(side, *self.source.format.sides)
        chosen = self._read(self._images("train"), at_most)
        return torch.cat([interpolate(image, size=(side, side), mode="area") for image in chosen])

    def encode_labels(self, condition: Condition) -> None:
        """Adds the labels' vectors to batches, as `Examples`; raises ValueError for an unknown label."""
        self._condition, self._vectors = condition, condition.vectors(list(self.label_names))

    def on_after_batch_transfer(self, batch: Loaded, dataloader_idx: int) -> Images | Examples:
        """Converts images to float32 in [-1, 1] on their device; `Examples` if there are labels or invalid pixels."""
        pixels, labels = (batch, None) if isinstance(batch, Tensor) else batch
        images, valid = self.source.format.images(pixels), self.source.format.valid(pixels)
        if labels is not None:
            self._vectors = self._vectors.to(labels.device)
            labels = labels if labels.is_floating_point() else self._vectors[labels]
        return images if valid is None and labels is None else Examples(images, labels, valid)

    @property
    def consumed_samples(self) -> int:
        """Training images consumed over all devices and over the runs that this one resumes."""
        consumed, at_step = self._consumed_at_step
        if self.trainer is None:
            return consumed
        per_step = self.batch_size * self.trainer.world_size * self.trainer.accumulate_grad_batches
        return consumed + (self.trainer.global_step - at_step) * per_step

    def state_dict(self) -> dict[str, int | None]:
        step = 0 if self.trainer is None else self.trainer.global_step
        return {
            "consumed_samples": self.consumed_samples,
            "global_step": step,
            "training_images": self._training_images(),
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Resumes after the consumed images, on any number of devices, in any batch size; warns of a changed order."""
        self._consumed_at_step = (state_dict["consumed_samples"], state_dict["global_step"])
        before, now = state_dict.get("training_images"), self._training_images()
        if None not in (before, now) and before != now:
            logger.warning(
                "there are %d training images, but there were %d when the checkpoint was written: their order changes, "
                "and some images repeat in this epoch",
                now,
                before,
            )

    def _training_images(self) -> int | None:
        return None if self.source.streams else len(self._images("train"))

    def _read(self, images: ImageSet, count: int) -> Iterator[Images]:
        for index in range(min(count, len(images))):
            batch = read_batch([(images, Draw(index, False))], self.source.format, attempts=None)
            yield self.source.format.images(checked_images(batch, self.source))

    def _rank_and_world_size(self) -> tuple[int, int]:
        return (0, 1) if self.trainer is None else (self.trainer.global_rank, self.trainer.world_size)

    def _images(self, split: str) -> ImageSet:
        if split not in self._sets:
            self.setup()
        return self._sets[split]

    def _validation_batches(self, rank: int, world_size: int) -> ValidationBatches:
        return ValidationBatches(len(self._images("val")), DeviceShare(self.val_batch_size, rank, world_size))

    def _in_memory_if_small(self, images: ImageSet) -> ImageSet:
        image_format = self.source.format.before_cutting()
        image_bytes = image_format.planes * image_format.pixels * image_format.dtype.itemsize
        keep = len(images) * image_bytes <= CACHE_BYTES if self.cache is None else self.cache
        if images.in_memory or not keep or len(images) == 0:
            return images
        readable = ReadableImages(images, image_format, self.source.attempts)
        chunks = ValidationBatches(len(images), DeviceShare(_CACHE_CHUNK))
        loader = self._loader(readable, self.workers, batch_sampler=chunks)
        pixels = image_format.empty(len(images))
        labels = None if images.labels is None else np.empty_like(images.labels)
        filled = 0
        for chunk in loader:
            part, numbers = chunk if isinstance(chunk, tuple) else (chunk, None)
            if labels is not None:
                labels[filled : filled + len(part)] = numbers
            pixels[filled : filled + len(part)] = part
            filled += len(part)
        loader.close()
        return CachedImages(pixels, labels)

    def _image_set_loader(
        self, images: ImageSet, batches: TrainingBatches | ValidationBatches
    ) -> ImageLoader | ResidentLoader:
        if isinstance(images, CachedImages) and self.trainer is not None:
            device = self.trainer.strategy.root_device
            if room_on(device, images.pixels):
                return ResidentLoader(images.on(device), batches, self.source.format, images.labels)
        readable = ReadableImages(images, self.source.format, self.source.attempts)
        workers = 0 if images.in_memory else self.workers
        return self._loader(readable, workers, batch_sampler=batches)

    def _loader(self, dataset: Dataset[Batch], workers: int, **batching: Any) -> ImageLoader:
        on_cuda = self.trainer is not None and self.trainer.strategy.root_device.type == "cuda"
        devices = 1 if self.trainer is None else self.trainer.num_devices
        workers = min(workers, max(1, available_cores() // devices))
        loader = ImageLoader(dataset, self.source, workers, self.seed, pin_memory=on_cuda, **batching)
        self._loaders.append(loader)
        return loader
