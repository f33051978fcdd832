"""What `sdedit pack` can take images from, and how it divides them into training and validation.

Images under `train/` and `val/` (of a folder, or of an archive below the folders that all its members share), a
torchvision set's own splits, or else a share chosen by a hash of the names, as the sources of training do it. Files
beside `train/` and `val/` are left out.
"""

from __future__ import annotations

import hashlib
import os
import posixpath
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import UInt8
from torch import Tensor

from sdedit_pl.data.archives import ARCHIVE_SUFFIXES, open_archive
from sdedit_pl.data.folder_source import FolderImages, image_paths
from sdedit_pl.data.images import ImageFormat
from sdedit_pl.data.source import ImageSet
from sdedit_pl.data.splits import SPLITS, held_out
from sdedit_pl.data.torchvision_source import TorchvisionImages, TorchvisionSource

TORCHVISION = "torchvision:"


@dataclass(frozen=True)
class Originals:
    """The images to pack.

    Args:
        splits: The images of each split, in the order in which they are packed: that of a hash of their names.
        digest: Of the names and sizes of all originals: what tells a place from another one, or from its later state.
    """

    splits: dict[str, ImageSet]
    digest: str

    def __len__(self) -> int:
        return sum(map(len, self.splits.values()))


class SomeImages(ImageSet):
    """Some images of another set.

    Args:
        images: The other set.
        numbers: Which, int (N,).
    """

    def __init__(self, images: ImageSet, numbers: np.ndarray) -> None:
        self.images = images
        self.numbers = numbers

    def __len__(self) -> int:
        return len(self.numbers)

    def name(self, index: int) -> str:
        return self.images.name(int(self.numbers[index]))

    def read(self, index: int) -> UInt8[Tensor, "C H W"]:
        return self.images.read(int(self.numbers[index]))


def open_originals(
    place: str, image_format: ImageFormat, val_fraction: float, scratch: Path, root: str, download: bool
) -> Originals:
    """The images in a folder, an archive or a torchvision data set.

    Args:
        place: Path, or `torchvision:` and the name of a class.
        image_format: What every image is brought to.
        val_fraction: Share for validation where the images are not divided already, in [0, 1).
        scratch: Folder for what has to be unpacked.
        root: Folder of the torchvision data set.
        download: Whether to fetch it when it is not there.

    Raises:
        ValueError: There is no such place, it cannot be read, or it holds no images.
    """
    if place.startswith(TORCHVISION):
        return _of_torchvision(place.removeprefix(TORCHVISION), image_format, val_fraction, root, download)
    path = Path(place)
    if path.is_file():
        if not path.name.lower().endswith(ARCHIVE_SUFFIXES):
            raise ValueError(f"src={place} is no archive: expected a name that ends in {', '.join(ARCHIVE_SUFFIXES)}")
        archive = open_archive(path, image_format, scratch)
        if not len(archive):
            raise ValueError(f"no images in {place}")
        return _divided(archive, archive.members, [size for _, size in archive.places], val_fraction)
    if not path.exists():
        raise ValueError(f"src={place} does not exist; give a folder, an archive or {TORCHVISION}NAME")
    names = image_paths(path)
    sizes = [os.stat(path / name).st_size for name in names]
    return _divided(FolderImages(path, names, image_format), names, sizes, val_fraction)


def _of_torchvision(name: str, image_format: ImageFormat, val_fraction: float, root: str, download: bool) -> Originals:
    source = TorchvisionSource(name, image_format.size, root=root, download=download, val_fraction=val_fraction)
    splits: dict[str, ImageSet] = {}
    for split in SPLITS:
        found = source.images(split)
        images = TorchvisionImages(found.dataset, found.title, found.indices, image_format)
        splits[split] = SomeImages(images, _mixed(np.arange(len(images)), [str(number) for number in images.indices]))
    return Originals(splits, _digest([f"{TORCHVISION}{name} {split} {len(splits[split])}" for split in SPLITS]))


def _divided(images: ImageSet, names: Sequence[str], sizes: Sequence[int], val_fraction: float) -> Originals:
    """Divides images by the folders `train` and `val` if there are both, or else by a hash of their names."""
    tidy = [posixpath.normpath(name) for name in names]  # an archive of the folder "." has names that begin with it
    shared = posixpath.commonpath([posixpath.dirname(name) for name in tidy])
    inner = [name.removeprefix(f"{shared}/") for name in tidy]
    folders = [name.partition("/")[0] for name in inner]
    if all(split in folders for split in SPLITS):
        chosen = {split: [folder == split for folder in folders] for split in SPLITS}
    else:
        is_val = held_out(inner, val_fraction)
        chosen = {"train": [not val for val in is_val], "val": is_val}
    splits: dict[str, ImageSet] = {
        split: SomeImages(images, _mixed(np.flatnonzero(np.array(taken, dtype=bool)), inner))
        for split, taken in chosen.items()
    }
    return Originals(splits, _digest([f"{name} {size}" for name, size in zip(names, sizes, strict=True)]))


def _mixed(numbers: np.ndarray, names: Sequence[str]) -> np.ndarray:
    """Numbers of images in the order of a hash of their names."""
    keys = {number: _digest(["order", names[int(number)]]) for number in numbers}
    return np.array(sorted(numbers, key=lambda number: keys[number]), dtype=np.int64)


def _digest(facts: Sequence[str]) -> str:
    return hashlib.sha256("\n".join(facts).encode(errors="surrogateescape")).hexdigest()
