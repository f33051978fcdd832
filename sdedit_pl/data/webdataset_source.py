"""WebDataset shards as a source: tar files with one image per sample.

Local shards are read by number, like a folder. Remote shards (`https:`, `s3:`, `pipe:`...) pass through a cache and are
shuffled a few at a time, in an equally reproducible order.
"""

from __future__ import annotations

import glob
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
from torch.utils.data import Dataset
from webdataset.shardlists import expand_urls

from sdedit_pl.data.batch_reading import Batch, CachedImages
from sdedit_pl.data.image_files import IMAGE_SUFFIXES, warn_of_unread_images
from sdedit_pl.data.image_format import Fit, ImageFormat, PixelFormat, Size
from sdedit_pl.data.local_shards import COMPRESSED, warn_of_extra_images
from sdedit_pl.data.order import Changes, WindowOrder
from sdedit_pl.data.remote_shards import ShardStream
from sdedit_pl.data.shard_cache import ShardCache
from sdedit_pl.data.shard_images import ShardImages
from sdedit_pl.data.shard_manifest import MANIFEST_FILE, UNFINISHED_FOLDER, Shard, read_manifest
from sdedit_pl.data.source import ImageSet, SelectedImages, Source
from sdedit_pl.data.splits import SPLITS, check_split, held_out
from sdedit_pl.downloads import is_remote
from sdedit_pl.files import matching_files


class WebDatasetSource(Source):
    """Images in WebDataset shards, local or remote tar files.

    The members of a sample share a key, the name up to the first dot of its last part; the sample's image is the first
    member whose remaining name is an image suffix (.png, .jpg, .webp ...). In a sample without such a member, every
    image counts by its own name, so that names with dots (IMG_2024.01.00.png) are not lost.

    Validation images are, in this order of preference: those in the shards `val_path`, which training omits; those that
    a manifest lists as "val", or `val-*.tar` when `path` is a folder that has `train-*.tar` too; or, of local shards, a
    share `val_fraction` of the images, chosen by a hash of their keys. Damaged shards count like unreadable images.

    Args:
        path: Shards: a folder of .tar files, a file or URL, a pattern such as a-{000000..000006}.tar or a-*.tar, the
            manifest.json that `sdedit pack` wrote beside them, or a list of these.
        val_path: Shards of validation images, given like `path`.
        val_fraction: Share of the images held out for validation, if no shards are for validation; 0 for none.
        shuffle_shards: Number of remote shards that are shuffled together; local shards are shuffled as a whole.
        cache_folder: Folder for copies of remote shards, on a local disk that all processes of a node share.
        cache_gigabytes: Size limit; least recently used copies are removed. Must hold twice `shuffle_shards` shards.
    """

    def __init__(
        self,
        path: str | list[str],
        size: Size,
        channels: int = 3,
        val_path: str | list[str] | None = None,
        val_fraction: float = 0.05,
        background: str = "white",
        random_crop: int = 0,
        shuffle_shards: int = 8,
        cache_folder: str = "~/.cache/sdedit_pl/shards",
        cache_gigabytes: float = 50.0,
        broken_limit: int | None = None,
        fit: Fit = "crop",
        format: PixelFormat | None = None,
    ) -> None:
        super().__init__(ImageFormat(size, channels, background, random_crop, fit, format=format), broken_limit)
        if shuffle_shards < 1:
            raise ValueError(f"shuffle_shards must be at least 1, got {shuffle_shards}")
        if not cache_gigabytes > 0:
            raise ValueError(f"cache_gigabytes must be positive, got {cache_gigabytes}")
        self.path = path
        self.val_path = val_path
        self.val_fraction = val_fraction
        self.shuffle_shards = shuffle_shards
        self.cache = ShardCache(Path(cache_folder).expanduser(), int(cache_gigabytes * 1e9))
        self.streams = any(is_remote(place) for place in _as_list(path))
        self._shards: tuple[list[Shard], list[Shard]] | None = None

    def images(self, split: str) -> ImageSet:
        check_split(split)
        train_shards, val_shards = self._find_shards()
        if split == "val" and val_shards:
            return self._images_in(val_shards)
        if self.streams:  # nothing can be held out of a stream
            return CachedImages(self.format.empty())
        train = self._images_in(train_shards)
        if val_shards:
            return train
        keys = [os.fsdecode(key) for shard in train_shards for key in self.cache.members(shard).keys.tolist()]
        chosen = np.array(held_out(keys, self.val_fraction), dtype=bool)
        return SelectedImages(train, np.flatnonzero(chosen == (split == "val")))

    def stream(
        self, seed: int, changes: Changes, labels: Callable[[ImageSet], np.ndarray] | None = None
    ) -> Dataset[Batch]:
        shards = self._find_shards()[0]
        self._check_room(shards)
        order = WindowOrder(len(shards), self.shuffle_shards, seed, changes)
        return ShardStream(shards, self.cache, self.format, order, self.attempts, labels)

    def _find_shards(self) -> tuple[list[Shard], list[Shard]]:
        if self._shards is None:
            train, val = find_shards(self.path)
            if self.val_path is not None:
                other, named_val = find_shards(self.val_path)
                val = named_val or other
                places = {shard.place for shard in val}
                train = [shard for shard in train if shard.place not in places]
                if not train:
                    raise ValueError(
                        f"every shard of {self.path} is also one of val_path; training needs shards of its own"
                    )
            self._shards = train, val
        return self._shards

    def _images_in(self, shards: list[Shard]) -> ShardImages:
        """All images in some shards; records damaged ones. Raises ValueError if there are no images."""
        unknown = [shard for shard in shards if shard.images is None or not is_remote(shard.place)]
        listed = {shard.place: self.cache.members(shard) for shard in unknown}
        local = {place: members for place, members in listed.items() if not is_remote(place)}
        broken = [damage for place, members in listed.items() for damage in members.damage(place)]
        self.record(broken)
        warn_of_extra_images([f"{place}:{name}" for place, members in local.items() for name in members.extra])
        others = f" and {len(local) - 1} more" if len(local) > 1 else ""
        unread = [name for members in local.values() for name in members.unread]
        warn_of_unread_images(next(iter(local), "") + others, unread)
        counts = [len(listed[shard.place].keys) if shard.place in listed else shard.images or 0 for shard in shards]
        if sum(counts) == 0:
            raise ValueError(
                f"no images in {len(shards)} shards, the first {shards[0].place}; expected members named "
                f"{', '.join('KEY' + suffix for suffix in IMAGE_SUFFIXES)}"
                + (f"; {broken[0].reason}" if broken else "")
            )
        return ShardImages(shards, counts, self.cache, self.format)

    def _check_room(self, shards: list[Shard]) -> None:
        sizes = sorted((shard.size or 0 for shard in shards if is_remote(shard.place)), reverse=True)
        needed = sum(sizes[: 2 * self.shuffle_shards])
        if needed > self.cache.limit:
            raise ValueError(
                f"cache_gigabytes = {self.cache.limit / 1e9:g} is too small to shuffle {self.shuffle_shards} shards "
                f"while the next ones are downloaded: give {needed / 1e9:.3g}, or lower shuffle_shards"
            )


def find_shards(path: str | list[str]) -> tuple[list[Shard], list[Shard]]:
    """Expands folders, patterns and manifests to training and validation shards; raises ValueError for missing ones."""
    train: list[Shard] = []
    val: list[Shard] = []
    for part in _as_list(path):
        of_train, of_val = _shards_of(part)
        train += of_train
        val += of_val
    for shard in train + val:
        if shard.place.lower().endswith(COMPRESSED):
            raise ValueError(
                f"{shard.place} is compressed, so that its images cannot be read one by one; decompress it, or pack "
                "its images into shards: sdedit pack data=FILE out=FOLDER size=PIXELS"
            )
    local = [shard for shard in train + val if not is_remote(shard.place)]
    missing = [shard.place for shard in local if not Path(shard.place).is_file()]
    if missing:
        raise ValueError(f"{len(missing)} of {len(train + val)} shards do not exist, the first: {missing[0]}")
    for shard in local:
        if shard.size is not None and os.stat(shard.place).st_size != shard.size:
            raise ValueError(
                f"{shard.place} has {os.stat(shard.place).st_size} bytes, but {shard.size} in its manifest: it has "
                "changed since it was packed; pack again"
            )
    if not train:
        raise ValueError("path names no shards; expected a folder of .tar files, a pattern or a list")
    return train, val


def _shards_of(part: str) -> tuple[list[Shard], list[Shard]]:
    folder = not is_remote(part) and Path(part).is_dir()
    if folder and (Path(part) / MANIFEST_FILE).is_file():
        part, folder = str(Path(part) / MANIFEST_FILE), False
    if part.endswith(f"/{MANIFEST_FILE}") or part == MANIFEST_FILE:
        splits = read_manifest(part)
        return splits.get("train", []), splits.get("val", [])
    if not folder:
        patterns = expand_urls(part) if "{" in part else [part]
        return [Shard(place) for pattern in patterns for place in _expand_wildcards(pattern)], []
    if (Path(part) / UNFINISHED_FOLDER).is_dir():
        raise ValueError(f"the shards in {part} are not complete; run the same `sdedit pack` again to complete them")
    tars = sorted(map(str, tar_files(Path(part))))
    if not tars:
        raise ValueError(f"no shards in {part}; expected files that end in .tar; for image files use data.name=folder")
    train, val = ([Shard(tar) for tar in tars if Path(tar).name.startswith(f"{split}-")] for split in SPLITS)
    return (train, val) if train and val else ([Shard(tar) for tar in tars], [])


def tar_files(folder: Path) -> list[Path]:
    """The tar files in a folder that are not hidden, compressed ones included."""
    suffixes = (".tar", *COMPRESSED)
    return [file for file in folder.iterdir() if file.name.lower().endswith(suffixes) and file.name[0] != "."]


def _as_list(path: str | list[str]) -> list[str]:
    return [path] if isinstance(path, str) else list(path)


def _expand_wildcards(pattern: str) -> list[str]:
    if is_remote(pattern) or not glob.has_magic(pattern) or Path(pattern).exists():
        return [pattern]
    found = matching_files(pattern)
    if not found:
        raise ValueError(f"no shard matches {pattern}")
    return found
