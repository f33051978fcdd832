"""The results of an edit in WebDataset shards, in place of a file for each sample.

A shard has the files of a fixed number of guides, in the order of the list, so that it depends neither on the number of
processes nor on interruptions. One process edits all guides of a shard, and packs them when the last one is done.
"""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Mapping
from pathlib import Path, PurePath

from sdedit_pl.data.array_formats import stem_of
from sdedit_pl.edit_runs.unfinished_edits import GuideFacts
from sdedit_pl.files import whole_file


def shard_name(number: int, guides: int) -> str:
    return f"edits-{number // guides:06d}.tar"


def pack_results(folder: Path, shard: str, facts: Mapping[int, GuideFacts]) -> None:
    """Moves the files of finished guides from `folder` to a shard in it; a sample also gets its facts, as KEY.json."""
    with whole_file(folder / shard) as unfinished, tarfile.open(unfinished, "w") as archive:
        for _, guide in sorted(facts.items()):
            for file in guide.get("files", ()):
                key, suffix = member(file)
                _add(archive, key + suffix, (folder / file).read_bytes())
                if file in guide["samples"]:
                    _add(archive, f"{key}.json", json.dumps({"file": file, **guide["samples"][file]}).encode())
    for guide in facts.values():
        for file in guide.get("files", ()):
            (folder / file).unlink()


def unpack_results(folder: Path, shard: str, facts: GuideFacts) -> None:
    with tarfile.open(folder / shard) as archive:
        for file in facts["samples"]:
            content = archive.extractfile("".join(member(file)))
            assert content is not None
            (folder / file).write_bytes(content.read())


def member(file: str) -> tuple[str, str]:
    """Key and suffix of a result file in a shard. A key ends at the first dot, so the dots of a name become hyphens."""
    stem = stem_of(PurePath(file))
    return stem.replace(".", "-"), file[len(stem) :]


def _add(archive: tarfile.TarFile, name: str, content: bytes) -> None:
    info = tarfile.TarInfo(name)  # without owner and time
    info.size = len(content)
    archive.addfile(info, io.BytesIO(content))
