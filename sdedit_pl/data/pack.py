"""Shards from single images: decoding and encoding on all cores, writing in one order.

Worker processes decode, resize and encode; this process takes their results in the order of the originals, notices
duplicates, and writes shards. The files depend on the originals and the settings alone, not on the number of
processes nor on interruptions. The originals come in the order of a hash of their names, so that neighbours in a shard
have nothing else in common: a stream shuffles some shards at a time.

Everything is made in a hidden folder inside the result. A shard that is whole gets a note beside it, which says how
far the originals have been packed: after a kill at any moment the same command goes on behind the last noted shard.
When all is done the manifest is written, then the shards are moved to their place, then the manifest: a folder
with a manifest is a finished one.
"""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Callable, Iterator
from concurrent.futures.process import BrokenProcessPool
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from filelock import FileLock, Timeout
from webdataset.writer import TarWriter

from sdedit_pl.data.bench import Bench, Encoding, Packed, Work, in_order
from sdedit_pl.data.images import ImageFormat
from sdedit_pl.data.originals import Originals, open_originals
from sdedit_pl.data.shard_manifest import MANIFEST_FILE, manifest_text
from sdedit_pl.data.splits import SPLITS, held_out
from sdedit_pl.files import require_folder, sha256_of, write_whole

WORKSHOP = ".packing"

_KEPT = "Whole shards are kept, and the same command goes on"


@dataclass(frozen=True)
class Job:
    """What to pack, where to and how.

    Args:
        src: Folder of images, archive (.zip, .tar, .tar.gz ...), or torchvision: and the name of a class.
        out: Folder of the shards and their manifest.json.
        size: Height and width in pixels that training will use.
        fit: crop takes the central square; resize changes an image's proportions; random_crop takes the central square
            with a margin, out of which training cuts a part.
        margin: Pixels of that margin; null for an eighth of `size`.
        channels: 3 for RGB, 1 for grey.
        background: Colour under transparent pixels, a name or #rrggbb.
        encoding: png (exact), jpeg or webp.
        quality: Of jpeg and webp, 1 to 100; webp at 100 is exact.
        val_fraction: Share of the images for validation, where they are not in folders train and val; 0 for none.
        duplicates: Of images that are equal in every pixel: keep and report them, or drop all but the first.
        samples: Images in a shard.
        processes: Processes that decode and encode; null for one on each core.
        root: Folder of a torchvision data set.
        download: Whether to fetch a torchvision data set that is not there.

    Raises:
        ValueError: An argument outside its range.
    """

    src: str
    out: str
    size: int
    fit: Literal["crop", "resize", "random_crop"] = "crop"
    margin: int | None = None
    channels: int = 3
    background: str = "white"
    encoding: Literal["png", "jpeg", "webp"] = "png"
    quality: int = 95
    val_fraction: float = 0.05
    duplicates: Literal["keep", "drop"] = "keep"
    samples: int = 2000
    processes: int | None = None
    root: str = "data/torchvision"
    download: bool = False

    def __post_init__(self) -> None:
        if self.margin is not None and self.fit != "random_crop":
            raise ValueError(f"margin is for fit=random_crop, got fit={self.fit}")
        for name, value in (("samples", self.samples), ("processes", self.processes)):
            if value is not None and value < 1:
                raise ValueError(f"{name} must be at least 1, got {value}")
        held_out([], self.val_fraction)  # these refuse what they cannot take
        self.image_format()
        self.image_encoding()

    @property
    def settings(self) -> dict[str, Any]:
        """What the shards depend on besides the originals."""
        elsewhere = ("src", "out", "processes", "root", "download")
        return {key: value for key, value in asdict(self).items() if key not in elsewhere}

    def image_format(self) -> ImageFormat:
        """What every image is brought to."""
        margin = (self.size // 8 if self.margin is None else self.margin) if self.fit == "random_crop" else 0
        fit: Literal["crop", "resize"] = "resize" if self.fit == "resize" else "crop"
        return ImageFormat(self.size, self.channels, self.background, margin, fit)

    def image_encoding(self) -> Encoding:
        """What kind of files the images become."""
        return Encoding(self.encoding, self.quality)


@dataclass
class Note:
    """What is known of a whole shard, and how far the originals had been packed when it was.

    Args:
        file: Its name.
        images: In it.
        bytes: Its size.
        sha256: Its hash.
        following: Number of the next original of the split.
        digests: For the digest of each image's pixels, the name of its original.
        broken: For each original met for it that cannot be read, why.
        duplicates: For each original met for it that equals an earlier one, that one.
    """

    file: str
    images: int = 0
    bytes: int = 0
    sha256: str = ""
    following: int = 0
    digests: dict[str, str] = field(default_factory=dict)
    broken: dict[str, str] = field(default_factory=dict)
    duplicates: dict[str, str] = field(default_factory=dict)


def pack(job: Job, on_images: Callable[[int, int], None]) -> dict[str, Any]:
    """Writes shards, or finishes those that an interrupted call has left.

    Args:
        job: What and how.
        on_images: Called with the number of originals done since the last call, and their number in all.

    Returns:
        The content of the manifest.

    Raises:
        ValueError: The originals cannot be read, or none of them; or `out` cannot be written, or holds something else.
    """
    out = Path(job.out)
    require_folder(out)
    new = [folder for folder in (out, *out.parents) if not folder.exists()]
    workshop = out / WORKSHOP
    try:
        workshop.mkdir(parents=True, exist_ok=True)
        lock = FileLock(workshop / "lock", timeout=0)
        lock.acquire()
    except Timeout:
        raise ValueError(f"another process is packing to {out}") from None
    except OSError as error:
        raise ValueError(f"out={out} cannot be written: {error.strerror}; name another folder") from error
    try:
        originals = open_originals(job.src, job.image_format(), job.val_fraction, workshop, job.root, job.download)
        return _Packing(job, originals, on_images).run()
    except BrokenProcessPool:
        raise ValueError(
            f"a worker process was ended, maybe for want of memory; give fewer processes=. {_KEPT}"
        ) from None
    except OSError as error:
        raise ValueError(f"cannot pack {job.src} to {out}: {error}. {_KEPT}") from error
    finally:
        lock.release()
        _remove_if_nothing_is_done(workshop, new)


class _Packing:
    """One pack to one folder."""

    def __init__(self, job: Job, originals: Originals, on_images: Callable[[int, int], None]) -> None:
        self.out = Path(job.out)
        self.workshop = self.out / WORKSHOP
        self.job = job
        self.originals = originals
        self.on_images = on_images
        self.source = {"place": job.src, "images": len(originals), "sha256": originals.digest}
        self.first_with: dict[str, str] = {}  # digest of an image's pixels -> name of the first that has them

    def run(self) -> dict[str, Any]:
        done, ready = self.out / MANIFEST_FILE, self.workshop / MANIFEST_FILE
        if done.is_file():
            self._require_same(done, "holds the result")
        else:
            self._begin()
            if not ready.is_file():
                bench = Bench(self.originals.splits, self.job.image_encoding())
                with in_order(bench, self.job.processes) as work:
                    notes = {split: list(self._notes(split, work)) for split in SPLITS}
                write_whole(ready, self._manifest(notes))
            for shards in json.loads(ready.read_text())["splits"].values():
                for shard in shards["shards"]:
                    if (self.workshop / shard["file"]).exists():  # else a call before this one has moved it
                        (self.workshop / shard["file"]).replace(self.out / shard["file"])
            ready.replace(done)
        for note in self.workshop.glob("*.json"):  # nothing that is still to be done
            note.unlink()
        return json.loads(done.read_text())

    def _begin(self) -> None:
        """Notes in the workshop whose it is.

        Raises:
            ValueError: It is another pack's, or there are shards beside it that none has made.
        """
        job = self.workshop / "job"
        if job.is_file():
            self._require_same(job, "holds an unfinished result")
        elif any(self.out.glob("*.tar")):
            raise ValueError(f"{self.out} holds shards that are not of this pack; name another folder")
        write_whole(job, json.dumps({"settings": self.job.settings, "source": self.source}))

    def _require_same(self, file: Path, holds: str) -> None:
        try:
            other = json.loads(file.read_text())
            changed = [key for key, value in self.job.settings.items() if other["settings"].get(key) != value]
            if other["source"]["sha256"] != self.source["sha256"]:
                changed.insert(0, "src")
        except (json.JSONDecodeError, KeyError, TypeError, AttributeError):
            raise ValueError(f"{file} is not a file of `sdedit pack`; name another folder") from None
        if changed:
            raise ValueError(f"{self.out} {holds} of another pack ({', '.join(changed)} differ); name another folder")

    def _notes(self, split: str, work: Work) -> Iterator[Note]:
        """The shards of a split: those that are there, then the others; a last note may be without a shard."""
        number = following = 0
        while (file := self.workshop / f"{split}-{number:06d}.json").is_file():
            note = Note(**json.loads(file.read_text()))
            self.on_images(note.following - following, len(self.originals))
            number, following = number + 1, note.following
            yield self._remembered(note)
        images = self.originals.splits[split]
        results = work(split, range(following, len(images)))
        while following < len(images):
            note = self._write_shard(f"{split}-{number:06d}.tar", following, len(images), results)
            number, following = number + 1, note.following
            yield self._remembered(note)

    def _remembered(self, note: Note) -> Note:
        self.first_with |= note.digests
        note.digests = {}
        return note

    def _write_shard(self, name: str, following: int, end: int, results: Iterator[Packed]) -> Note:
        """Writes one shard and its note; without a readable original neither."""
        note = Note(name, following=following)
        unfinished = self.workshop / f"{name}.part"
        with open(unfinished, "wb") as file:
            # without an owner or a time, so that equal images make equal files
            with TarWriter(file, user="", group="", mode=0o644, mtime=0, encoder=False) as archive:
                while note.images < self.job.samples and note.following < end:
                    packed = next(results)
                    note.following += 1
                    self.on_images(1, len(self.originals))
                    if self._takes(packed, note):
                        self._add(archive, packed)
                        note.images += 1
            file.flush()
            os.fsync(file.fileno())
        if note.images == 0:
            unfinished.unlink()
            note.file = ""
            return note
        note.bytes, note.sha256 = unfinished.stat().st_size, sha256_of(unfinished)
        unfinished.replace(self.workshop / name)
        write_whole(self.workshop / f"{Path(name).stem}.json", json.dumps(asdict(note)))
        return note

    def _takes(self, packed: Packed, note: Note) -> bool:
        """Notes what is broken and what is there already, and says whether the image goes into the shard."""
        if packed.problem:
            note.broken[packed.name] = packed.problem
            return False
        first = self.first_with.get(packed.digest) or note.digests.get(packed.digest)
        if first is None:
            note.digests[packed.digest] = packed.name
            return True
        note.duplicates[packed.name] = first
        return self.job.duplicates == "keep"

    def _add(self, archive: TarWriter, packed: Packed) -> None:
        stem = re.sub(r"[^A-Za-z0-9]+", "-", Path(packed.name.rpartition(":")[2]).stem).strip("-")[:60]
        suffix = self.job.image_encoding().suffix.removeprefix(".")
        archive.write({"__key__": f"{packed.number:08d}-{stem}", suffix: packed.file})

    def _manifest(self, notes: dict[str, list[Note]]) -> str:
        every = [note for split in SPLITS for note in notes[split]]
        broken = [{"name": name, "reason": reason} for note in every for name, reason in note.broken.items()]
        if not any(note.images for note in every):
            first = broken[0]["reason"] if broken else "there are none"
            raise ValueError(f"no image of {self.source['place']} can be read; the first: {first}")
        return manifest_text(
            {
                split: [
                    {"file": note.file, "images": note.images, "bytes": note.bytes, "sha256": note.sha256}
                    for note in of_split
                    if note.images
                ]
                for split, of_split in notes.items()
            },
            source=self.source,
            settings=self.job.settings,
            broken=broken,
            duplicates=[{"name": name, "equals": first} for note in every for name, first in note.duplicates.items()],
        )


def _remove_if_nothing_is_done(workshop: Path, new: list[Path]) -> None:
    """Removes a workshop without a whole shard, and the folders that were made for it if they are empty."""
    if any(workshop.glob("*.json")):
        return
    shutil.rmtree(workshop, ignore_errors=True)
    for folder in new:
        with suppress(OSError):
            folder.rmdir()
