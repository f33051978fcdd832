"""Packs images into WebDataset shards: decoded and encoded on all cores, written in one order.

The files depend on the originals and the settings alone, not on the number of processes or on interruptions.
Originals are ordered by a hash of their names, because a stream shuffles only a few shards at a time.

Work happens in the hidden folder `.packing` inside the result. A complete shard gets a note beside it, from which the
same command resumes after a kill. At the end the shards are moved into place, followed by the manifest: a folder with a
manifest is complete, and training refuses a folder with `.packing` and no manifest.
"""

from __future__ import annotations

import json
import logging
import os
import re
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from webdataset.writer import TarWriter

from sdedit_pl.data.image_encoding import EncodedImage, ImageEncoding, WorkerDied, encode_all
from sdedit_pl.data.image_format import ImageFormat
from sdedit_pl.data.originals_to_pack import Originals, open_originals
from sdedit_pl.data.pack_settings import PackSettings
from sdedit_pl.data.shard_manifest import MANIFEST_FILE, UNFINISHED_FOLDER, manifest_text
from sdedit_pl.data.splits import SPLITS
from sdedit_pl.files import claimed, in_words, read_json, sha256_of, write_whole
from sdedit_pl.settings_record import SettingsRecord, require_same_settings

logger = logging.getLogger(__name__)

_REMEDY = "name another folder"
_KEPT = "Complete shards are kept; run the same command again to resume"


@dataclass
class ShardNote:
    """A complete shard, and the state of packing at its end.

    Args:
        file: Its name; empty if the last originals of a split gave no image.
        following: Number of the split's next original.
        digests: Digest of each image's pixels -> name of its original.
        broken: Unreadable originals before `following` -> the reason.
        duplicates: Originals before `following` that equal an earlier one -> the earlier one.
    """

    file: str
    images: int = 0
    bytes: int = 0
    sha256: str = ""
    following: int = 0
    digests: dict[str, str] = field(default_factory=dict)
    broken: dict[str, str] = field(default_factory=dict)
    duplicates: dict[str, str] = field(default_factory=dict)


def pack(settings: PackSettings, on_images: Callable[[int, int], None]) -> dict[str, Any]:
    """Writes shards, or completes those of an interrupted call; returns the content of the manifest.

    `on_images` receives the number of originals done since the last call, and the number of all originals. Raises
    ValueError for invalid settings, no readable original, or an `out` that cannot be written or holds something else.
    """
    image_format = ImageFormat(
        settings.size,
        settings.channels,
        settings.background,
        settings.margin_pixels,
        "resize" if settings.fit == "resize" else "crop",
        # Training multiplies colours by their opacity.
        format=None if settings.format is None else replace(settings.format, alpha=False),
    )
    encoding = ImageEncoding(settings.encoding if settings.format is None else "tif", settings.quality)
    out = Path(settings.out)
    workshop = out / UNFINISHED_FOLDER
    with claimed(out):
        try:
            workshop.mkdir(exist_ok=True)
            originals = open_originals(
                settings.data, image_format, settings.val_fraction, workshop, settings.root, settings.download
            )
            originals = originals if settings.labels is None else originals.labelled(settings.labels)
            return _Packing(settings, encoding, originals, on_images).run()
        except WorkerDied as error:
            raise ValueError(f"{error}: memory may have run out; use fewer processes=. {_KEPT}") from None
        except OSError as error:
            raise ValueError(f"cannot pack {settings.data} to {out}: {in_words(error)}. {_KEPT}") from error
        finally:
            if not any(workshop.glob("*.json")):
                shutil.rmtree(workshop, ignore_errors=True)


class _Packing:
    def __init__(
        self,
        settings: PackSettings,
        encoding: ImageEncoding,
        originals: Originals,
        on_images: Callable[[int, int], None],
    ) -> None:
        self.out = Path(settings.out)
        self.workshop = self.out / UNFINISHED_FOLDER
        self.settings = settings
        self.encoding = encoding
        self.originals = originals
        self.on_images = on_images
        self.source = {"place": settings.data, "images": len(originals), "sha256": originals.digest}
        self.first_with: dict[str, str] = {}  # digest of an image's pixels -> name of the first image that has them

    def run(self) -> dict[str, Any]:
        done, ready = self.out / MANIFEST_FILE, self.workshop / MANIFEST_FILE
        if done.is_file():
            self._require_same(self._manifest(done))
            logger.info("the shards were already there; delete %s to make them again", self.out)
        else:
            self._begin()
            if not ready.is_file():
                write_whole(ready, self._new_manifest({split: list(self._shards(split)) for split in SPLITS}))
            for facts in self._manifest(ready)["splits"].values():
                for shard in facts["shards"]:
                    if (self.workshop / shard["file"]).exists():  # otherwise an earlier call has moved it
                        (self.workshop / shard["file"]).replace(self.out / shard["file"])
            ready.replace(done)
        for note in self.workshop.glob("*.json"):
            note.unlink()
        return self._manifest(done)

    def _begin(self) -> None:
        record = SettingsRecord(self.workshop / "settings", "sdedit_pl unfinished pack, version 1", _REMEDY)
        before = record.read()
        if before is not None:
            self._require_same(before)
        elif any(self.out.glob("*.tar")):
            raise ValueError(f"{self.out} holds .tar files that this pack has not written; {_REMEDY}")
        else:
            record.write(self._recorded())

    def _recorded(self) -> dict[str, Any]:
        """The settings and originals that the shards depend on; the originals' place does not count."""
        return {"settings": self.settings.recorded(), "source": {key: self.source[key] for key in ("images", "sha256")}}

    def _require_same(self, before: dict[str, Any]) -> None:
        require_same_settings(self.out, before, self._recorded(), _REMEDY)

    def _manifest(self, file: Path) -> dict[str, Any]:
        with suppress(ValueError):
            manifest = read_json(file)
            if {"settings", "source", "splits"} <= manifest.keys():
                return manifest
        raise ValueError(f"{file} is not a manifest of `sdedit pack`; {_REMEDY}")

    def _shards(self, split: str) -> Iterator[ShardNote]:
        """The shards of a split: the complete ones, then the others; the last note may have no shard."""
        number = following = 0
        while (file := self.workshop / f"{split}-{number:06d}.json").is_file():
            try:
                note = ShardNote(**read_json(file))
            except TypeError as error:
                raise ValueError(f"{file} is not a note of this version ({error}); delete {self.workshop}") from error
            self.on_images(note.following - following, len(self.originals))
            number, following = number + 1, note.following
            yield self._remembered(note)
        images = self.originals.splits[split]
        encoded = encode_all(images, self.encoding, following, self.settings.processes)
        while following < len(images):
            labels = self.originals.labels.get(split)
            note = self._write_shard(f"{split}-{number:06d}.tar", following, len(images), encoded, labels)
            number, following = number + 1, note.following
            yield self._remembered(note)

    def _remembered(self, note: ShardNote) -> ShardNote:
        self.first_with |= note.digests
        note.digests = {}
        return note

    def _write_shard(
        self, name: str, following: int, end: int, encoded: Iterator[EncodedImage], labels: Sequence[str] | None
    ) -> ShardNote:
        """Writes one shard and its note; neither if no original can be read."""
        note = ShardNote(name, following=following)
        unfinished = self.workshop / f"{name}.part"
        with open(unfinished, "wb") as file:
            # Without owner and time, so that equal images make equal files.
            with TarWriter(file, user="", group="", mode=0o644, mtime=0, encoder=False) as archive:
                while note.images < self.settings.samples and note.following < end:
                    image = next(encoded)
                    note.following += 1
                    self.on_images(1, len(self.originals))
                    if self._takes(image, note):
                        label = {} if labels is None else {"json": json.dumps({"label": labels[image.number]}).encode()}
                        archive.write({"__key__": _key(image), self.encoding.suffix: image.file, **label})
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

    def _takes(self, image: EncodedImage, note: ShardNote) -> bool:
        if image.problem:
            note.broken[image.name] = image.problem
            return False
        first = self.first_with.get(image.digest) or note.digests.get(image.digest)
        if first is None:
            note.digests[image.digest] = image.name
            return True
        note.duplicates[image.name] = first
        return self.settings.duplicates == "keep"

    def _new_manifest(self, notes: dict[str, list[ShardNote]]) -> str:
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
            settings=self.settings.recorded(),
            broken=broken,
            duplicates=[{"name": name, "equals": first} for note in every for name, first in note.duplicates.items()],
        )


def _key(image: EncodedImage) -> str:
    """Name of an image in its shard, without dots, which would end the sample's key."""
    stem = re.sub(r"[^A-Za-z0-9]+", "-", Path(image.name.rpartition(":")[2]).stem).strip("-")[:60]
    return f"{image.number:08d}-{stem}"
