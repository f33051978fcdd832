"""Images in an archive (.zip, .tar and compressed .tar), read by number in the order of their names."""

from __future__ import annotations

import bz2
import gzip
import hashlib
import lzma
import os
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from sdedit_pl.data.image_decoding import decode_image
from sdedit_pl.data.image_files import UnreadableImage, is_image_name, max_pixels, warn_of_unread_images
from sdedit_pl.data.image_format import ImageFormat
from sdedit_pl.data.local_shards import ARCHIVE_DAMAGE, ShardFile, Stamp, tar_images
from sdedit_pl.data.source import ImageSet
from sdedit_pl.files import whole_file
from sdedit_pl.typing import Pixels

ARCHIVE_SUFFIXES = (".zip", ".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tar.xz")

# Images hardly compress, and tar's padding of small files does not reach these limits.
LEAST_LIMIT, MOST_EXPANSION = 2**30, 20

_OPENERS: dict[str, Callable[..., Any]] = {".gz": gzip.open, ".tgz": gzip.open, ".bz2": bz2.open, ".xz": lzma.open}


class ArchiveImages(ImageSet):
    """Images in an archive; `title` names it in messages, `sizes` are the bytes of each file."""

    def __init__(self, title: str, sizes: dict[str, int], image_format: ImageFormat) -> None:
        self.title = title
        self.members = sorted(sizes)
        self.sizes = [sizes[name] for name in self.members]
        self.format = image_format

    def __len__(self) -> int:
        return len(self.members)

    def name(self, index: int) -> str:
        return f"{self.title}:{self.members[index]}"


class TarImages(ArchiveImages):
    def __init__(self, path: Path, title: str, image_format: ImageFormat) -> None:
        self.file = ShardFile(path, title, Stamp.of(path.stat()))
        unread: list[str] = []
        try:
            found = dict(tar_images(path, unread))
        except ARCHIVE_DAMAGE as error:
            raise ValueError(f"cannot read archive {title} to its end: {error}") from None
        warn_of_unread_images(title, unread)
        super().__init__(title, {name: size for name, (_, size) in found.items()}, image_format)
        self.places = [found[name] for name in self.members]

    def read(self, index: int) -> Pixels:
        return decode_image(self.file.read(*self.places[index]), self.name(index), self.format)


class ZipImages(ArchiveImages):
    def __init__(self, path: Path, image_format: ImageFormat) -> None:
        self.path = path
        self._archive: zipfile.ZipFile | None = None
        self._owner = 0
        try:
            with zipfile.ZipFile(path) as archive:
                found = {entry.filename: entry.file_size for entry in archive.infolist()}
        except ARCHIVE_DAMAGE as error:
            raise ValueError(f"cannot read archive {path}: {error}") from None
        self.largest = max(path.stat().st_size, 2 * max_pixels())
        warn_of_unread_images(path, found)
        images = {name: size for name, size in found.items() if is_image_name(name)}
        super().__init__(str(path), images, image_format)

    def read(self, index: int) -> Pixels:
        if self._archive is None or self._owner != os.getpid():  # forked processes would share the file's position
            self._archive, self._owner = zipfile.ZipFile(self.path), os.getpid()
        if self.sizes[index] > self.largest:
            size = f"it declares {self.sizes[index]:,} bytes, too many for an image"
            raise UnreadableImage(f"cannot read image {self.name(index)}: {size}")
        try:
            image = self._archive.read(self.members[index])
        except ARCHIVE_DAMAGE as error:
            raise UnreadableImage(f"cannot read image {self.name(index)}: {error}") from None
        return decode_image(image, self.name(index), self.format)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_archive": None}


def open_archive(path: Path, image_format: ImageFormat, scratch: Path) -> ArchiveImages:
    """Lists the images in an archive; a compressed tar is decompressed into `scratch`, once per version.

    Raises ValueError if the archive is damaged, or expands far more than images do.
    """
    if path.name.lower().endswith(".zip"):
        return ZipImages(path, image_format)
    opener = _OPENERS.get(path.suffix.lower())
    if opener is None:
        return TarImages(path, str(path), image_format)
    version = repr((os.fspath(path.resolve()), *Stamp.of(path.stat()))).encode(errors="surrogateescape")
    unpacked = scratch / f"unpacked-{hashlib.blake2b(version, digest_size=12).hexdigest()}.tar"
    if not unpacked.exists():
        limit = max(LEAST_LIMIT, MOST_EXPANSION * path.stat().st_size)
        try:
            with opener(path, "rb") as packed, whole_file(unpacked) as unfinished, open(unfinished, "wb") as plain:
                while chunk := packed.read(2**20):
                    if plain.tell() > limit:
                        raise ValueError(f"it expands to more than {limit:,} bytes; unpack it yourself if you trust it")
                    plain.write(chunk)
        except ARCHIVE_DAMAGE as error:
            raise ValueError(f"cannot read archive {path} to its end: {error}") from None
    return TarImages(unpacked, str(path), image_format)
