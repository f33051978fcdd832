"""Tar files whose images are listed once and then read by position.

Each read first compares size and modification time with those at the listing: a changed file holds other images.
"""

from __future__ import annotations

import logging
import lzma
import os
import re
import tarfile
import zipfile
from collections.abc import Callable, Iterator, Sequence
from io import BufferedReader, FileIO
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from sdedit_pl.data.image_files import DECODING_ERRORS, IMAGE_SUFFIXES, is_image_name, is_unread_image
from sdedit_pl.data.source import Broken, UnreadableShard

logger = logging.getLogger(__name__)

COMPRESSED = (".tar.gz", ".tgz", ".tar.bz2", ".tar.xz", ".tar.zst")
ARCHIVE_DAMAGE = (*DECODING_ERRORS, tarfile.TarError, zipfile.BadZipFile, lzma.LZMAError, RuntimeError, MemoryError)

_LONGEST_HEADER = 2**20
"""Maximum size in bytes that a member's name or PAX header may declare."""
_SLOW = re.compile(rb"\d{64}")
"""Digits on which `tarfile` takes quadratic time before Python 3.12.6, 3.11.10 and 3.10.15 (CVE-2024-6232)."""


class Members(NamedTuple):
    """The images of one shard: `keys` are bytes (N,), `places` the first byte and length of each image, int64 (N, 2).

    Args:
        problem: Why the listing ends before the shard does; empty for an intact shard.
        extra: Names of images omitted because their sample has another one.
        unread: Names of images omitted for their suffix.
    """

    keys: np.ndarray
    places: np.ndarray
    problem: str = ""
    extra: Sequence[str] = ()
    unread: Sequence[str] = ()

    def damage(self, shard: str) -> list[Broken]:
        extent = " to its end" if len(self.keys) else ""
        return [Broken(shard, f"cannot read shard {shard}{extent}: {self.problem}")] if self.problem else []


class Stamp(NamedTuple):
    """Size in bytes and modification time in nanoseconds."""

    size: int
    changed: int

    @classmethod
    def of(cls, status: os.stat_result) -> Stamp:
        return cls(status.st_size, status.st_mtime_ns)


class ShardFile:
    """A shard that is read by position, opened at the first read in each process; `name` names it in messages."""

    def __init__(self, path: str | Path, name: str, stamp: Stamp) -> None:
        self.path = path
        self.name = name
        self.stamp = stamp
        self._file: FileIO | None = None
        self._owner = 0

    def read(self, first: int, length: int) -> bytes:
        """Reads bytes; raises UnreadableShard if the file has vanished, has changed or cannot be read."""
        try:
            file = self.opened()
            if Stamp.of(os.fstat(file.fileno())) != self.stamp:
                raise UnreadableShard(
                    self.name,
                    f"shard {self.name} has changed since its images were listed; put the old file back, or run the "
                    "same command again to train on the new one",
                )
            file.seek(first)
            return file.read(length)
        except FileNotFoundError:
            raise UnreadableShard(
                self.name, f"shard {self.name} has vanished; put it back and run the same command again"
            ) from None
        except OSError as error:
            raise UnreadableShard(self.name, f"cannot read shard {self.name}: {error.strerror}") from None

    def opened(self) -> FileIO:
        """Each process opens its own file, because forked processes would share the position."""
        if self._file is None or self._owner != os.getpid():
            self._file, self._owner = FileIO(self.path), os.getpid()
        return self._file

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_file": None}


def list_members(path: str | Path) -> tuple[Members, Stamp]:
    """Lists the images of one shard up to any damage, one per sample by the rule of `WebDatasetSource`."""
    problem, stamp = "", Stamp(0, 0)
    found: list[tuple[str, tuple[int, int]]] = []
    unread: list[str] = []
    try:
        stamp = Stamp.of(os.stat(path))
        for image in tar_images(path, unread):
            found.append(image)
    except ARCHIVE_DAMAGE as error:
        problem = str(error) or type(error).__name__
    images, extra = one_per_sample(found)
    keys = np.array([os.fsencode(key) for key in images], dtype=np.bytes_)
    places = np.array([place for _, place in images.values()], dtype=np.int64).reshape(-1, 2)
    return Members(keys, places, problem, extra, unread), stamp


def one_per_sample(
    members: Sequence[tuple[str, tuple[int, int]]],
) -> tuple[dict[str, tuple[str, tuple[int, int]]], list[str]]:
    """The image of each sample by its key, by the rule of `WebDatasetSource`, and the names of omitted images."""
    samples = {key for name, _ in members for key, suffix in [split_key(name)] if suffix in IMAGE_SUFFIXES}
    images: dict[str, tuple[str, tuple[int, int]]] = {}
    extra: list[str] = []
    for name, place in members:
        key, suffix = split_key(name)
        if key not in samples:
            key = name.rpartition(".")[0]
        elif suffix not in IMAGE_SUFFIXES:
            extra.append(name)
            continue
        images.setdefault(key, (name, place))
    return images, extra


def tar_images(
    path: str | Path, unread: list[str], is_wanted: Callable[[str], bool] = is_image_name
) -> Iterator[tuple[str, tuple[int, int]]]:
    """Name, first byte and length of each image in an uncompressed tar file.

    Appends the names of images with other suffixes to `unread`; `is_wanted` selects other members by their names.
    Raises ARCHIVE_DAMAGE where the file is damaged, or a header declares more bytes than there are.
    """
    with _Headers(FileIO(path)) as file, tarfile.open(fileobj=file, mode="r:") as archive:
        size = os.fstat(file.fileno()).st_size
        for member in archive:
            if member.size < 0 or not member.offset < member.offset_data <= archive.offset < size + tarfile.BLOCKSIZE:
                raise tarfile.ReadError(f"{member.name} declares {member.size:,} bytes, the file has {size:,}")
            if member.isfile() and is_unread_image(member.name):
                unread.append(member.name)
            if member.isfile() and is_wanted(member.name):
                # A sparse file declares more bytes than are stored.
                yield member.name, (member.offset_data, min(member.size, archive.offset - member.offset_data))
        file.seek(archive.offset)
        end = file.read(tarfile.BLOCKSIZE)
        if end != bytes(tarfile.BLOCKSIZE):  # tarfile takes a damaged header for the end
            raise tarfile.ReadError("its end is missing" if len(end) < tarfile.BLOCKSIZE else "a header is damaged")


class _Headers(BufferedReader):
    """Limits how many bytes a header can make `tarfile` read."""

    def read(self, size: int | None = -1) -> bytes:
        if size is None or not 0 <= size <= _LONGEST_HEADER:
            raise tarfile.ReadError(f"a header declares an impossible length of {size:,} bytes")
        header = super().read(size)
        if size > tarfile.BLOCKSIZE and _SLOW.search(header):
            raise tarfile.ReadError("a header holds an unterminated number")
        return header


def warn_of_extra_images(names: Sequence[str]) -> None:
    if names:
        logger.warning(
            "%d images are left out because their sample has another one: a sample's name ends at the first dot. The "
            "first is %s; to use them too, rename them without dots",
            len(names),
            names[0],
        )


def split_key(name: str) -> tuple[str, str]:
    """Splits a name at the first dot of its last part: "a.b/c.seg.PNG" gives "a.b/c" and ".seg.png"."""
    folder, slash, file = name.rpartition("/")
    stem, dot, suffix = file.partition(".")
    return folder + slash + stem, dot + suffix.lower()
