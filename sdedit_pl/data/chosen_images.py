"""A fixed choice of a source's images, on which models are measured."""

from __future__ import annotations

import glob
import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from sdedit_pl.data.folder_source import FolderSource, split_folder
from sdedit_pl.data.image_format import Fit, ImageShape
from sdedit_pl.data.order import Draw
from sdedit_pl.data.shard_manifest import MANIFEST_FILE
from sdedit_pl.data.source import Source
from sdedit_pl.data.splits import SPLITS
from sdedit_pl.data.webdataset_source import WebDatasetSource, tar_files
from sdedit_pl.downloads import is_remote
from sdedit_pl.files import require_outside
from sdedit_pl.typing import Images


class ChosenImages:
    """`count` images (None: all) spread evenly, because neighbours are often alike; no split may be streamed."""

    def __init__(self, source: Source, splits: Sequence[str] = ("val",), count: int | None = None) -> None:
        if source.streams and "train" in splits:
            raise ValueError("training images behind a URL come as a stream; copy the shards here, or use split=val")
        source.prepare()
        sets = [source.images(split) for split in splits]
        places = [(images, index) for images in sets for index in range(len(images))]
        wanted = len(places) if count is None else min(count, len(places))
        self._source = source
        self._places = [places[number * len(places) // wanted] for number in range(wanted)]

    def __len__(self) -> int:
        return len(self._places)

    @property
    def names(self) -> list[str]:
        return [images.name(index) for images, index in self._places]

    def image(self, number: int) -> Float[Tensor, "C H W"]:
        """One image in [-1, 1]. Raises UnreadableImage: a replacement would be measured twice."""
        images, index = self._places[number]
        pixels = self._source.format.part(images.read(index), Draw(index, False).corner)
        return self._source.format.images(pixels[None])[0]

    def digest(self, more: bytes = b"") -> str:
        """SHA-256 of all names and pixels, and of `more`."""
        digest = hashlib.sha256("\n".join(self.names).encode(errors="surrogateescape") + more)
        for number in range(len(self)):
            digest.update(self.image(number).numpy().tobytes())
        return digest.hexdigest()

    def batch(self, start: int, size: int) -> Images:
        return torch.stack([self.image(number) for number in range(start, min(start + size, len(self)))])


def choose_images(
    data: str,
    shape: ImageShape,
    *,
    split: Literal["val", "all"],
    val_fraction: float,
    count: int | None,
    least: int = 1,
    fit: Fit = "crop",
    out: Path | None = None,
) -> ChosenImages:
    """Chooses images of a folder, or of shards given by a folder, file, pattern or URL.

    Raises ValueError if there are fewer than `least`, or `out`, the folder of the results, lies within that of `data`.

    Args:
        val_fraction: share of the images held out if the data has no validation split.
        count: None for all.
    """
    place = Path(data)
    if not (place.exists() or is_remote(data) or glob.has_magic(data) or "{" in data):
        raise ValueError(f"there is no data={data}; give a folder of images, or shards")
    in_shards = not place.is_dir() or (place / MANIFEST_FILE).is_file() or bool(tar_files(place))
    if out is not None and not in_shards:
        require_outside(out, place if split == "all" else split_folder(place, split) or place)
    kind = WebDatasetSource if in_shards else FolderSource
    source = kind(data, shape.size, shape.channels, val_fraction=val_fraction, fit=fit, format=shape.format)
    chosen = ChosenImages(source, ("val",) if split == "val" else SPLITS, count)
    if len(chosen) < least:
        found = f"at least {least} images are needed, and data={data} has {len(chosen)}"
        if split == "all":
            raise ValueError(f"{found}; give more images")
        raise ValueError(
            f"{found} with split=val and val_fraction={val_fraction}; give split=all with images that training "
            "has not seen, or a larger val_fraction, which adds images that it has seen"
        )
    return chosen
