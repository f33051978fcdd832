"""WebDataset shards: tar files whose members are images, one image a sample.

Local shards are read by number. Their members' positions are listed once from the tar headers, after which an image
is one seek and one read: training has the same exact order, resuming and independence of devices and workers as a
folder, with more workers than shards too. Shards behind a URL (`https:`, `s3:`, `pipe:`...) are streamed.
"""

from __future__ import annotations

import glob
import os
import tarfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from jaxtyping import UInt8
from torch import Tensor
from torch.utils.data import Dataset
from webdataset.shardlists import expand_urls

from sdedit_pl.data.images import IMAGE_SUFFIXES, ImageFormat, UnreadableImage, decode_image, held_out
from sdedit_pl.data.order import Share
from sdedit_pl.data.source import SPLITS, Batch, Broken, CachedImages, ImageSet, Source, check_split
from sdedit_pl.data.stream import ShardStream, read_all


class WebDatasetSource(Source):
    """Images in WebDataset shards: local tar files, or tar files behind URLs.

    A sample is what shares a key, the member's name up to the first dot of its last part; its image is the first
    member whose remaining name is png, jpg, jpeg or webp. Validation images are, in this order of preference: those
    in the shards `val_path`; those in `val-*.tar` when `path` is a folder that has `train-*.tar` too; or, of local
    shards, a share `val_fraction` of the images, chosen by a hash of their keys. Shards of `val_path`
    are left out of training. Damaged shards are counted like unreadable images.

    Args:
        path: Shards: a folder of .tar files, a file or URL, a pattern such as a-{000000..000006}.tar or a-*.tar, or a
            list of these.
        size: Height and width in pixels; larger or smaller images are resampled, the longer side is cropped.
        channels: 3 for RGB, 1 for grey.
        val_path: Shards of validation images, given like `path`.
        val_fraction: Share of the images held out for validation where no shards are for it; 0 for none.
        background: Colour under transparent pixels, a name or #rrggbb.
        shuffle_buffer: Samples among which a stream from URLs is shuffled, in each worker; local shards are shuffled
            as a whole.
        broken_limit: Unreadable images and shards that end the run when exceeded; null for no limit.

    Raises:
        ValueError: An argument outside its range.
    """

    def __init__(
        self,
        path: str | list[str],
        size: int,
        channels: int = 3,
        val_path: str | list[str] | None = None,
        val_fraction: float = 0.05,
        background: str = "white",
        shuffle_buffer: int = 1000,
        broken_limit: int | None = None,
    ) -> None:
        super().__init__(ImageFormat(size, channels, background), broken_limit)
        if shuffle_buffer < 1:
            raise ValueError(f"shuffle_buffer must be at least 1, got {shuffle_buffer}")
        self.path = path
        self.val_path = val_path
        self.val_fraction = val_fraction
        self.shuffle_buffer = shuffle_buffer
        self.streams = any(is_remote(url) for url in _as_list(path))

    def images(self, split: str) -> ImageSet:
        check_split(split)
        train_shards, val_shards = self._find_shards()
        if split == "val" and val_shards:
            return self._images_in(val_shards)
        if self.streams:  # nothing can be held out of a stream
            return CachedImages(self.format.empty())
        train = self._local_images(train_shards)
        if val_shards:
            return train
        chosen = np.array(held_out([os.fsdecode(key) for key in train.keys], self.val_fraction), dtype=bool)
        return train.subset(chosen if split == "val" else ~chosen)

    def stream(self, share: Share, seed: int, flip: bool) -> Dataset[Batch]:
        return ShardStream(self._find_shards()[0], self.format, share, seed, flip, self.shuffle_buffer)

    def _find_shards(self) -> tuple[list[str], list[str]]:
        train, val = find_shards(self.path)
        if self.val_path is not None:
            other, named_val = find_shards(self.val_path)
            val = named_val or other
            train = [shard for shard in train if shard not in val]
            if not train:
                raise ValueError(
                    f"every shard of {self.path} is also one of val_path; training needs shards of its own"
                )
        return train, val

    def _images_in(self, shards: list[str]) -> ImageSet:
        if not any(is_remote(shard) for shard in shards):
            return self._local_images(shards)
        pixels, broken = read_all(shards, self.format)
        self._check(len(pixels), shards, broken)
        return CachedImages(pixels)

    def _local_images(self, shards: list[str]) -> ShardImages:
        images, broken = list_images(shards, self.format)
        self._check(len(images), shards, broken)
        return images

    def _check(self, count: int, shards: list[str], broken: list[Broken]) -> None:
        """Records what is broken, and refuses shards without images."""
        self.record(broken)
        if count == 0:
            raise ValueError(
                f"no images in {len(shards)} shards, the first {shards[0]}; expected members named "
                f"{', '.join('KEY' + suffix for suffix in IMAGE_SUFFIXES)}"
                + (f"; {broken[0].reason}" if broken else "")
            )


class ShardImages(ImageSet):
    """Images at known places in local tar files, listed in arrays: worker processes share those without copying.

    Args:
        shards: Paths of the tar files.
        keys: Key of each image, bytes (N,).
        places: int64 (N, 3): for each image the number of its shard, its first byte there and its length.
        image_format: What every image is brought to.
    """

    def __init__(self, shards: list[str], keys: np.ndarray, places: np.ndarray, image_format: ImageFormat) -> None:
        self.shards = shards
        self.keys = keys
        self.places = places
        self.format = image_format

    def __len__(self) -> int:
        return len(self.keys)

    def name(self, index: int) -> str:
        return f"{self.shards[self.places[index, 0]]}:{os.fsdecode(self.keys[index])}"

    def read(self, index: int) -> UInt8[Tensor, "C H W"]:
        shard, offset, length = self.places[index].tolist()
        try:
            with open(self.shards[shard], "rb") as file:  # anew: forked workers would share a handle's position
                file.seek(offset)
                image = file.read(length)
        except OSError as error:
            raise UnreadableImage(f"cannot read image {self.name(index)}: {error.strerror}") from None
        return decode_image(image, self.name(index), self.format)

    def subset(self, chosen: np.ndarray) -> ShardImages:
        """The images where `chosen`, bool (N,), is true."""
        return ShardImages(self.shards, self.keys[chosen], self.places[chosen], self.format)


def list_images(shards: Sequence[str], image_format: ImageFormat) -> tuple[ShardImages, list[Broken]]:
    """Lists the images in local shards from their headers, without reading the images.

    Args:
        shards: Paths of uncompressed tar files.
        image_format: What every image is brought to.

    Returns:
        The images in the order of the shards, and the shards that are damaged; of those, the images before the damage
        are listed.
    """
    keys: list[bytes] = []
    places: list[tuple[int, int, int]] = []
    broken = []
    for number, shard in enumerate(shards):
        known = set()
        try:
            with tarfile.open(shard, "r:") as archive:
                for member in archive:
                    key, suffix = split_key(member.name)
                    if member.isfile() and suffix in IMAGE_SUFFIXES and key not in known:
                        known.add(key)
                        keys.append(os.fsencode(key))
                        places.append((number, member.offset_data, member.size))
        except (tarfile.TarError, OSError) as error:
            broken.append(Broken(shard, f"cannot read shard {shard} to its end: {error}"))
    table = np.array(places, dtype=np.int64).reshape(-1, 3)
    return ShardImages(list(shards), np.array(keys, dtype=np.bytes_), table, image_format), broken


def split_key(name: str) -> tuple[str, str]:
    """Splits a member's name at the first dot of its last part: "a.b/c.seg.PNG" into "a.b/c" and ".seg.png"."""
    folder, slash, file = name.rpartition("/")
    stem, dot, suffix = file.partition(".")
    return folder + slash + stem, dot + suffix.lower()


def is_remote(shard: str) -> bool:
    """Whether a shard is a URL or a command, and not a local path."""
    return "://" in shard or shard.startswith("pipe:")


def find_shards(path: str | list[str]) -> tuple[list[str], list[str]]:
    """Expands folders and patterns.

    Args:
        path: A folder of .tar files, a file, a URL, a pattern with braces or (locally) wildcards, or a list of these.

    Returns:
        Training shards and validation shards; the latter only from folders that hold both `train-*.tar` and
        `val-*.tar`.

    Raises:
        ValueError: No such folder or file, or no shard in it.
    """
    train: list[str] = []
    val: list[str] = []
    for part in _as_list(path):
        if not is_remote(part) and Path(part).is_dir():
            tars = sorted(str(tar) for tar in Path(part).glob("*.tar"))
            named_train, named_val = ([t for t in tars if Path(t).name.startswith(f"{s}-")] for s in SPLITS)
            train += named_train if named_val and named_train else tars
            val += named_val if named_train else []
            if not tars:
                raise ValueError(f"no shards in {part}; expected files that end in .tar; images: the folder source")
        else:
            patterns = expand_urls(part) if "{" in part else [part]
            train += [shard for pattern in patterns for shard in _expand_wildcards(pattern)]
    missing = [shard for shard in train if not is_remote(shard) and not Path(shard).is_file()]
    if missing:
        raise ValueError(f"{len(missing)} of {len(train)} shards do not exist, the first: {missing[0]}")
    if not train:
        raise ValueError("path names no shards; expected a folder of .tar files, a pattern or a list")
    return train, val


def _as_list(path: str | list[str]) -> list[str]:
    return [path] if isinstance(path, str) else list(path)


def _expand_wildcards(pattern: str) -> list[str]:
    if is_remote(pattern) or not glob.has_magic(pattern) or Path(pattern).exists():
        return [pattern]
    found = sorted(glob.glob(pattern))
    if not found:
        raise ValueError(f"no shard matches {pattern}")
    return found
