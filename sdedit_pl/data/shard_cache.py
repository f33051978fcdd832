"""Local copies of remote shards, in a folder that all processes of a node share.

A shard is downloaded once per node, by the process that needs it first; the others wait at its lock. When the copies
exceed the limit, the least recently opened ones are removed; a process that still reads one keeps its open file.
Records stay: the places of a shard's images, from which any position of the training order is found, and its hash. A
shard whose hash differs from its record's or the manifest's is not read.
"""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import NamedTuple

import numpy as np
from filelock import FileLock, Timeout

from sdedit_pl.data.image_files import warn_of_unread_images
from sdedit_pl.data.local_shards import Members, ShardFile, Stamp, list_members, warn_of_extra_images
from sdedit_pl.data.shard_manifest import Shard
from sdedit_pl.data.source import UnreadableShard
from sdedit_pl.downloads import DownloadInterrupted, FileAbsent, WrongFile, download, is_remote, version_of
from sdedit_pl.files import NO_ROOM, write_whole

# A damaged shard is downloaded this many times, then used up to the damage: the transfer may be at fault.
_DOWNLOADS = 3


class StreamInterrupted(ValueError):
    """A stream of shards that cannot continue: the server does not answer, or the disk is full."""


class ShardRecord(NamedTuple):
    """A downloaded shard; `sha256` is empty if the shard does not exist, `version` if the server states none."""

    members: Members
    sha256: str
    version: str


class ShardCache:
    """Local shards are read in place; `limit` is in bytes; `warned` suppresses the warning about omitted images."""

    def __init__(self, folder: Path, limit: int) -> None:
        self.folder = folder
        self.limit = limit
        self._confirmed: set[str] = set()
        self.warned = False
        self._local: dict[str, tuple[Members, Stamp]] = {}

    def members(self, shard: Shard) -> Members:
        """The images of a shard, downloaded unless known; none if it does not exist. Raises StreamInterrupted."""
        if not is_remote(shard.place):
            return self._local_members(shard)[0]
        record = self._record(shard)
        if record is None:
            with suppress(UnreadableShard):
                return self.open(shard)[1]
            record = self._record(shard)  # `open` records that a shard does not exist
        assert record is not None
        return record.members

    def open(self, shard: Shard) -> tuple[ShardFile, Members]:
        """A shard's file, downloaded if necessary, and its images; raises StreamInterrupted or UnreadableShard."""
        if not is_remote(shard.place):
            members, stamp = self._local_members(shard)
            return ShardFile(shard.place, shard.place, stamp), members
        found = self._find(shard)
        if found is None:
            with self._locked(shard):
                found = self._find(shard) or self._fetch(shard, kept=(shard,))
        return found

    def prefetch(self, shards: Sequence[Shard]) -> None:
        """Downloads shards that no other process is downloading, while there is room; `open` later reports failures."""
        for shard in shards:
            names, copies = self._names(shards), self._copies()
            held = sum(status.st_size for copy, status in copies if copy.name.partition("-")[0] in names)
            largest = max((status.st_size for _, status in copies), default=0)
            if not is_remote(shard.place) or held + largest > self.limit:
                continue
            try:
                if self._find(shard) is None:
                    with self._locked(shard, timeout=0.0):
                        if self._find(shard) is None:
                            self._fetch(shard, kept=shards)
            except (Timeout, UnreadableShard, StreamInterrupted):
                continue

    def _find(self, shard: Shard) -> tuple[ShardFile, Members] | None:
        record = self._record(shard)
        if record is None or not record.sha256 or (shard.sha256 or record.sha256) != record.sha256:
            return None
        file = self._copy(shard, record.sha256)
        try:
            status = file.stat()
            os.utime(file, ns=(time.time_ns(), status.st_mtime_ns))  # copies are removed in the order of these times
            opened = ShardFile(file, shard.place, Stamp.of(status))
            opened.opened()  # the copy may be removed from here on
        except FileNotFoundError:
            return None
        if shard.sha256 is None:
            self._confirm(shard, record)
        return opened, record.members

    def _confirm(self, shard: Shard, record: ShardRecord) -> None:
        """Checks, once per shard, that the server still has the copied version."""
        if shard.place not in self._confirmed:
            now = version_of(shard.place)
            if now and record.version and now != record.version:
                raise self._changed(shard)
            self._confirmed.add(shard.place)

    def _fetch(self, shard: Shard, kept: Sequence[Shard]) -> tuple[ShardFile, Members]:
        """Downloads a shard, whose lock is held, without removing the copies of `kept`."""
        before = self._record(shard)
        expected = shard.sha256 or (before.sha256 if before else "")
        new = self._path(shard, ".new")
        try:
            record = self._download(shard, new, expected)
            self._write(shard, record)
            file = self._copy(shard, record.sha256)
            new.replace(file)
            self._confirmed.add(shard.place)
            opened = ShardFile(file, shard.place, Stamp.of(file.stat()))
            opened.opened()
            self._remove_oldest(kept)
            return opened, record.members
        except FileAbsent as error:
            if not expected:  # otherwise its images are known, and others replace them
                note = self._path(shard, ".json")
                problem = f"{error} (noted in {note}: remove that file to let a new run try again)"
                none = Members(np.zeros(0, dtype=np.bytes_), np.zeros((0, 2), dtype=np.int64), problem)
                self._write(shard, ShardRecord(none, "", ""))
            raise UnreadableShard(shard.place, f"cannot read shard {shard.place}: {error}") from None
        except DownloadInterrupted as error:
            raise StreamInterrupted(
                f"cannot fetch {shard.place}: {error}; when it can be reached again, run the same command again"
            ) from None
        except OSError as error:
            raise self._unusable(error) from error

    def _download(self, shard: Shard, new: Path, expected: str) -> ShardRecord:
        """Downloads a shard, again if it is damaged or its hash is wrong; accepts one that stays damaged."""
        for attempt in range(_DOWNLOADS):
            try:
                sha256 = download(shard.place, new, expected)
            except WrongFile:
                continue
            members = list_members(new)[0]
            if not self.warned:
                warn_of_extra_images([f"{shard.place}:{name}" for name in members.extra])
                warn_of_unread_images(shard.place, members.unread)
                self.warned = bool(members.extra or members.unread)
            if expected or not members.problem or attempt == _DOWNLOADS - 1:
                return ShardRecord(members, sha256, version_of(shard.place))
        raise self._changed(shard)

    def _names(self, shards: Sequence[Shard]) -> set[str]:
        return {self._path(shard, "").name for shard in shards}

    def _copies(self) -> list[tuple[Path, os.stat_result]]:
        found = []
        for copy in self.folder.glob("*.tar"):
            with suppress(FileNotFoundError):  # other processes remove copies too
                found.append((copy, copy.stat()))
        return sorted(found, key=lambda entry: entry[1].st_atime_ns)

    def _remove_oldest(self, kept: Sequence[Shard]) -> None:
        copies, protected = self._copies(), self._names(kept)
        total = sum(status.st_size for _, status in copies)
        for copy, status in copies:
            if total <= self.limit:
                return
            if copy.name.partition("-")[0] not in protected:
                copy.unlink(missing_ok=True)
                total -= status.st_size

    def _local_members(self, shard: Shard) -> tuple[Members, Stamp]:
        if shard.place not in self._local:
            self._local[shard.place] = list_members(shard.place)
        return self._local[shard.place]

    def _record(self, shard: Shard) -> ShardRecord | None:
        try:
            stored = json.loads(self._path(shard, ".json").read_bytes())
            keys = np.array([os.fsencode(key) for key in stored["keys"]], dtype=np.bytes_)
            places = np.array(stored["places"], dtype=np.int64).reshape(-1, 2)
            return ShardRecord(Members(keys, places, stored["problem"]), stored["sha256"], stored["version"])
        except (FileNotFoundError, NotADirectoryError, ValueError, KeyError, TypeError):
            return None

    def _write(self, shard: Shard, record: ShardRecord) -> None:
        # Not npz: numpy parses its headers with `ast`, which CPython 3.11 cannot do in two threads at once
        # (python/cpython#106905), and shards are prefetched in a thread.
        stored = {
            "keys": [os.fsdecode(key) for key in record.members.keys.tolist()],
            "places": record.members.places.tolist(),
            "problem": record.members.problem,
            "sha256": record.sha256,
            "version": record.version,
        }
        write_whole(self._path(shard, ".json"), json.dumps(stored))

    @contextmanager
    def _locked(self, shard: Shard, timeout: float = -1.0) -> Iterator[None]:
        """Locks the download of a shard; raises Timeout if another process holds the lock for `timeout` seconds."""
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            lock = FileLock(self._path(shard, ".lock"), timeout=timeout)
            lock.acquire()
        except Timeout:
            raise
        except OSError as error:
            raise self._unusable(error) from error
        try:
            yield
        finally:
            lock.release()

    def _path(self, shard: Shard, suffix: str) -> Path:
        digest = hashlib.blake2b(shard.place.encode(), digest_size=12).hexdigest()
        return self.folder / (digest + suffix)

    def _copy(self, shard: Shard, sha256: str) -> Path:
        # Named by its content too: one record can never lead to the copy of another version.
        return self._path(shard, f"-{sha256[:16]}.tar")

    def _changed(self, shard: Shard) -> UnreadableShard:
        if shard.sha256 is not None:
            advice = "is not the one in its manifest; upload both again"
        else:
            advice = (
                "has changed since it was first read; put the old file back, or, to begin a new run on the new one, "
                f"remove {self._path(shard, '.json')}"
            )
        return UnreadableShard(shard.place, f"shard {shard.place} {advice}")

    def _unusable(self, error: OSError) -> StreamInterrupted:
        if error.errno in NO_ROOM:
            return StreamInterrupted(
                f"there is no room left in cache_folder={self.folder}; make some, or lower cache_gigabytes"
            )
        return StreamInterrupted(
            f"cache_folder={self.folder} cannot be written: {error.strerror or error}; name another folder"
        )
