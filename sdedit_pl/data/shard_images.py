"""The images in local or remote shards, by number."""

from __future__ import annotations

import json
import os
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import numpy as np

from sdedit_pl.data.image_decoding import decode_image
from sdedit_pl.data.image_format import ImageFormat
from sdedit_pl.data.local_shards import ARCHIVE_DAMAGE, Members, ShardFile, split_key, tar_images
from sdedit_pl.data.shard_cache import ShardCache
from sdedit_pl.data.shard_manifest import Shard
from sdedit_pl.data.source import ImageSet, UnreadableShard
from sdedit_pl.downloads import is_remote
from sdedit_pl.typing import Pixels

# Files kept open by a process; systems commonly allow 1024.
OPEN_FILES = 128


class ShardImages(ImageSet):
    """The images of some shards, `counts` in each; a remote shard is downloaded when its first image is read."""

    def __init__(self, shards: list[Shard], counts: list[int], cache: ShardCache, image_format: ImageFormat) -> None:
        self.shards = shards
        self.counts = counts
        self.ends = np.cumsum(counts, dtype=np.int64)
        self.cache = cache
        self.format = image_format
        self._opened: OrderedDict[int, tuple[ShardFile, Members]] = OrderedDict()
        self._owner = os.getpid()
        self._unreadable: dict[int, UnreadableShard] = {}

    def __len__(self) -> int:
        return sum(self.counts)

    def name(self, index: int) -> str:
        shard, place = self._place(index)
        known = shard in self._opened or not self._is_remote(shard)
        return f"{self.shards[shard].place}:{self._key(shard, place) if known else f'image {place}'}"

    def key(self, index: int) -> str:
        shard, place = self._place(index)
        return super().key(index) if self._is_remote(shard) else self._key(shard, place)

    def stored_labels(self, place: str) -> list[str | None]:
        """The labels in the members KEY.cls ("cls"), or in a field of the members KEY.json ("json:FIELD")."""
        kind, _, field = place.partition(":")
        if place != "cls" and (kind != "json" or not field):
            return super().stored_labels(place)
        found: list[str | None] = []
        members: dict[str, tuple[int, int]] = {}
        listed = -1
        for index in range(len(self)):
            shard, number = self._place(index)
            file = self._open(shard)[0]
            if shard != listed:
                members = {split_key(name)[0]: part for name, part in _members(file.path, f".{kind}")}
                listed = shard
            key = self._key(shard, number)
            text = file.read(*members[key]) if key in members else b""
            found.append(_label(text, field, self.name(index)))
        return found

    def read(self, index: int) -> Pixels:
        shard, place = self._place(index)
        if shard in self._unreadable:
            raise self._unreadable[shard]
        try:
            file, members = self._open(shard)
            image = file.read(*members.places[place].tolist())
        except UnreadableShard as error:
            self._unreadable[shard] = error
            raise
        return decode_image(image, self.name(index), self.format)

    def after(self, index: int) -> int:
        shard = self._place(index)[0]
        return int(self.ends[shard]) if shard in self._unreadable else index + 1

    def _is_remote(self, shard: int) -> bool:
        return is_remote(self.shards[shard].place)

    def _key(self, shard: int, place: int) -> str:
        members = self._opened[shard][1] if shard in self._opened else self.cache.members(self.shards[shard])
        return os.fsdecode(members.keys[place])

    def _open(self, shard: int) -> tuple[ShardFile, Members]:
        if self._owner != os.getpid():  # file positions would be shared with the parent process
            self._opened.clear()
            self._owner = os.getpid()
        if shard not in self._opened:
            if len(self._opened) >= OPEN_FILES:
                self._opened.popitem(last=False)
            place, count = self.shards[shard].place, self.counts[shard]
            file, members = self.cache.open(self.shards[shard])
            if len(members.keys) != count:
                raise UnreadableShard(place, f"shard {place} holds {len(members.keys)} images, expected {count}")
            self._opened[shard] = file, members
        self._opened.move_to_end(shard)
        return self._opened[shard]

    def _place(self, index: int) -> tuple[int, int]:
        shard = int(np.searchsorted(self.ends, index, side="right"))
        return shard, index - (int(self.ends[shard - 1]) if shard else 0)


def _members(shard: str | Path, suffix: str) -> Iterator[tuple[str, tuple[int, int]]]:
    """Like `tar_images` for members with a suffix, up to any damage."""
    with suppress(*ARCHIVE_DAMAGE):
        yield from tar_images(shard, [], lambda name: split_key(name)[1] == suffix)


def _label(text: bytes, field: str, name: str) -> str | None:
    try:
        found = json.loads(text).get(field) if field and text else text.decode()
    except (ValueError, AttributeError, RecursionError) as error:
        raise ValueError(f"the label of {name} cannot be read: {error}") from error
    return None if found is None else str(found).strip()
