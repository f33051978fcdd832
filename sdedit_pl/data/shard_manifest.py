"""The manifest that `sdedit pack` writes beside its shards: images, size and hash of each."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any, NamedTuple

from sdedit_pl.downloads import DownloadFailed, download, is_remote

MANIFEST_FILE = "manifest.json"
UNFINISHED_FOLDER = ".packing"

SHARDS_FORMAT = "sdedit_pl shards, version 1"


class Shard(NamedTuple):
    """A shard at a path, URL or `pipe:` command; only a manifest gives its number of images, bytes and hash."""

    place: str
    images: int | None = None
    size: int | None = None
    sha256: str | None = None


def read_manifest(place: str) -> dict[str, list[Shard]]:
    """The shards of each split, beside the manifest at a path or URL; raises ValueError if there is none."""
    folder = place.rpartition("/")[0] if is_remote(place) else str(Path(place).parent)
    try:
        content = json.loads(_text(place))
        if content["format"] != SHARDS_FORMAT:
            raise ValueError(f"its format is {content['format']!r}")
        return {
            split: [_shard(folder, **entry) for entry in facts["shards"]] for split, facts in content["splits"].items()
        }
    except DownloadFailed as error:
        raise ValueError(f"cannot fetch the manifest {place}: {error}; run the same command again") from None
    except OSError as error:
        raise ValueError(f"cannot read the manifest {place}: {error.strerror}") from None
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise ValueError(f"{place} is not a manifest of `sdedit pack`: {error!r}") from None


def _shard(folder: str, file: Any, images: Any, bytes: Any, sha256: Any) -> Shard:
    # Each image takes at least a block of 512 bytes of the archive.
    if type(images) is not int or type(bytes) is not int or not 0 <= 512 * images <= bytes:
        raise ValueError(f"{file} cannot hold {images!r} images in {bytes!r} bytes")
    if not isinstance(sha256, str):
        raise ValueError(f"{file} has the sha256 {sha256!r}, expected 64 hexadecimal digits")
    return Shard(f"{folder}/{file}", images, bytes, sha256)


def manifest_text(splits: dict[str, list[dict[str, Any]]], **facts: Any) -> str:
    """The text of a manifest of shards, each {"file", "images", "bytes", "sha256"}, with further entries `facts`."""
    content = {
        "format": SHARDS_FORMAT,
        **facts,
        "splits": {
            split: {"images": sum(shard["images"] for shard in shards), "shards": shards}
            for split, shards in splits.items()
        },
    }
    return json.dumps(content, indent=1, ensure_ascii=False) + "\n"


def _text(place: str) -> str:
    if not is_remote(place):
        return Path(place).read_text(encoding="utf-8-sig")
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder) / MANIFEST_FILE
        download(place, copy)
        return copy.read_text(encoding="utf-8-sig")
