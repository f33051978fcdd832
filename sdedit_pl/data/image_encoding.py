"""Encodes decoded images as files, in worker processes."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
from PIL import Image
from torch.utils.data import DataLoader, Dataset

from sdedit_pl.data.array_formats import Tiff
from sdedit_pl.data.image_files import UnreadableImage
from sdedit_pl.data.loader import available_cores
from sdedit_pl.data.source import ImageSet
from sdedit_pl.typing import Pixels

_CHUNK = 16


class WorkerDied(RuntimeError):
    """A worker process was killed, most likely for lack of memory."""


@dataclass(frozen=True)
class ImageEncoding:
    """Format of image files, and quality of jpeg and webp, 1 to 100; png, tif and webp at 100 are exact."""

    kind: Literal["png", "jpeg", "webp", "tif"]
    quality: int

    def __post_init__(self) -> None:
        if not 1 <= self.quality <= 100:
            raise ValueError(f"quality must lie in 1..100, got {self.quality}")

    @property
    def suffix(self) -> str:
        return "jpg" if self.kind == "jpeg" else self.kind

    def encode(self, pixels: Pixels) -> bytes:
        array = pixels.permute(1, 2, 0).numpy()
        if self.kind == "tif":
            return Tiff().write(array, None)
        image = Image.fromarray(array[..., 0] if len(pixels) == 1 else array)
        file = io.BytesIO()
        if self.kind == "jpeg":
            image.save(file, "JPEG", quality=self.quality, subsampling="4:4:4")
        elif self.kind == "webp":
            image.save(file, "WEBP", quality=self.quality, lossless=self.quality == 100)
        else:
            image.save(file, "PNG")
        return file.getvalue()


class EncodedImage(NamedTuple):
    """An encoded image and a hash of its pixels; both are empty if it cannot be read."""

    number: int
    name: str
    digest: str
    file: bytes
    problem: str = ""


class _EncodedImages(Dataset[EncodedImage]):
    def __init__(self, images: ImageSet, encoding: ImageEncoding) -> None:
        self.images = images
        self.encoding = encoding

    def __getitem__(self, number: int) -> EncodedImage:
        name = self.images.name(number)
        try:
            pixels = self.images.read(number)
        except UnreadableImage as error:
            return EncodedImage(number, name, "", b"", str(error))
        digest = hashlib.blake2b(pixels.permute(1, 2, 0).numpy().tobytes(), digest_size=16).hexdigest()
        return EncodedImage(number, name, digest, self.encoding.encode(pixels))


def encode_all(images: ImageSet, encoding: ImageEncoding, start: int, processes: int | None) -> Iterator[EncodedImage]:
    """Encodes the images from number `start` on, in order, by default on every core; raises WorkerDied."""
    processes = processes or available_cores()
    loader = DataLoader(
        _EncodedImages(images, encoding),
        batch_size=_CHUNK,
        sampler=range(start, len(images)),
        num_workers=processes if processes > 1 else 0,
        collate_fn=list,
        generator=torch.Generator(),  # otherwise the workers' seeds would advance the global generator
    )
    try:
        for chunk in loader:
            yield from chunk
    except RuntimeError as error:
        if "DataLoader worker" in str(error):
            raise WorkerDied(str(error)) from None
        raise
