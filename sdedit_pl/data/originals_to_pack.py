"""The originals of `sdedit pack`: a folder, an archive or a torchvision data set, divided into training and validation.

The division follows the folders `train` and `val` (below the folders that all members of an archive share) if both
exist, ignoring files beside them; a torchvision set's own splits; or else a hash of the names.
"""

from __future__ import annotations

import hashlib
import os
import posixpath
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from sdedit_pl.data.archives import ARCHIVE_SUFFIXES, open_archive
from sdedit_pl.data.folder_source import FolderImages, image_paths
from sdedit_pl.data.image_format import ImageFormat
from sdedit_pl.data.image_labels import labels_of
from sdedit_pl.data.source import ImageSet, SelectedImages
from sdedit_pl.data.splits import SPLITS, held_out
from sdedit_pl.data.torchvision_source import TorchvisionSource

TORCHVISION = "torchvision:"


@dataclass(frozen=True)
class Originals:
    """The images to pack, ordered by a hash of their names; `digest` hashes names, sizes and labels."""

    splits: dict[str, ImageSet]
    digest: str
    labels: dict[str, list[str]] = field(default_factory=dict)

    def __len__(self) -> int:
        return sum(map(len, self.splits.values()))

    def labelled(self, place: str) -> Originals:
        labels = {split: labels_of(images, place) for split, images in self.splits.items()}
        return replace(
            self, labels=labels, digest=_digest([self.digest, *(one for each in labels.values() for one in each)])
        )


def open_originals(
    place: str, image_format: ImageFormat, val_fraction: float, scratch: Path, root: str, download: bool
) -> Originals:
    """Lists the images of `place`; raises ValueError if it does not exist, cannot be read, or holds no images.

    `val_fraction` applies if the images are not divided already; archives are unpacked into `scratch`.
    """
    if place.startswith(TORCHVISION):
        return _of_torchvision(place.removeprefix(TORCHVISION), image_format, val_fraction, root, download)
    path = Path(place)
    if path.is_file():
        if not path.name.lower().endswith(ARCHIVE_SUFFIXES):
            raise ValueError(f"data={place} is not an archive: its name must end in {', '.join(ARCHIVE_SUFFIXES)}")
        archive = open_archive(path, image_format, scratch)
        if not len(archive):
            raise ValueError(f"no images in {place}")
        return _divided(archive, archive.members, archive.sizes, val_fraction)
    if not path.exists():
        raise ValueError(f"data={place} does not exist; give a folder, an archive or {TORCHVISION}NAME")
    names = image_paths(path, image_format)
    sizes = [os.stat(file).st_size if os.path.exists(file := path / name) else 0 for name in names]
    return _divided(FolderImages(path, names, image_format), names, sizes, val_fraction)


def _of_torchvision(name: str, image_format: ImageFormat, val_fraction: float, root: str, download: bool) -> Originals:
    source = TorchvisionSource(name, image_format.size, root=root, download=download, val_fraction=val_fraction)
    source.format = image_format
    splits: dict[str, ImageSet] = {}
    for split in SPLITS:
        images = source.images(split)
        names = [images.key(index) for index in range(len(images))]
        splits[split] = _shuffled(images, np.arange(len(images)), names)
    return Originals(splits, _digest([f"{TORCHVISION}{name} {split} {len(splits[split])}" for split in SPLITS]))


def _divided(images: ImageSet, names: Sequence[str], sizes: Sequence[int], val_fraction: float) -> Originals:
    tidy = [posixpath.normpath(name) for name in names]  # names in an archive of the folder "." begin with "./"
    shared = posixpath.commonpath([posixpath.dirname(name) for name in tidy])
    inner = [name.removeprefix(f"{shared}/") for name in tidy]
    folders = [name.partition("/")[0] for name in inner]
    if all(split in folders for split in SPLITS):
        chosen = {split: [folder == split for folder in folders] for split in SPLITS}
        keys = [name.partition("/")[2] for name in inner]
    else:
        keys = inner
        is_val = held_out(inner, val_fraction)
        chosen = {"train": [not val for val in is_val], "val": is_val}
    splits: dict[str, ImageSet] = {
        split: _shuffled(images, np.flatnonzero(np.array(is_in, dtype=bool)), inner, keys)
        for split, is_in in chosen.items()
    }
    return Originals(splits, _digest([f"{name} {size}" for name, size in zip(names, sizes, strict=True)]))


def _shuffled(
    images: ImageSet, numbers: np.ndarray, names: Sequence[str], keys: Sequence[str] | None = None
) -> SelectedImages:
    ranks = {number: _digest(["order", names[int(number)]]) for number in numbers}
    order = np.array(sorted(numbers, key=lambda number: ranks[number]), dtype=np.int64)
    return SelectedImages(images, order, keys or names)


def _digest(facts: Sequence[str]) -> str:
    return hashlib.sha256("\n".join(facts).encode(errors="surrogateescape")).hexdigest()
