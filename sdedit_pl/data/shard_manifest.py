"""The list of shards that `sdedit pack` leaves beside them: how many images each holds, its size and its hash.

With a manifest the order of training is known before any shard has been read, and a shard that is not the one that
was packed is noticed.
"""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any, NamedTuple

from sdedit_pl.downloads import DownloadFailed, download, is_remote

MANIFEST_FILE = "manifest.json"
FORMAT = "sdedit_pl shards, version 1"


class Shard(NamedTuple):
    """A shard, and what a manifest says of it.

    Args:
        place: Path, URL or `pipe:` command.
        images: How many it holds; None without a manifest, and so are the others.
        size: In bytes.
        sha256: Hexadecimal.
    """

    place: str
    images: int | None = None
    size: int | None = None
    sha256: str | None = None


def read_manifest(place: str) -> dict[str, list[Shard]]:
    """Reads the shards of each split from a manifest.

    Args:
        place: Path or URL of the manifest; its shards lie beside it.

    Raises:
        ValueError: There is no such file, the server does not answer, or it is not a manifest.
    """
    folder = place.rpartition("/")[0] if is_remote(place) else str(Path(place).parent)
    try:
        content = json.loads(_text(place))
        if content["format"] != FORMAT:
            raise ValueError(f"its format is {content['format']!r}")
        return {
            split: [
                Shard(f"{folder}/{entry['file']}", entry["images"], entry["bytes"], entry["sha256"])
                for entry in facts["shards"]
            ]
            for split, facts in content["splits"].items()
        }
    except DownloadFailed as error:
        raise ValueError(f"cannot fetch the manifest {place}: {error}; run the same command again") from None
    except OSError as error:
        raise ValueError(f"cannot read the manifest {place}: {error.strerror}") from None
    except (json.JSONDecodeError, UnicodeDecodeError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{place} is not a manifest of `sdedit pack`: {error!r}") from None


def manifest_text(splits: dict[str, list[dict[str, Any]]], **facts: Any) -> str:
    """The text of a manifest.

    Args:
        splits: For each split its shards, each as {"file", "images", "bytes", "sha256"}.
        facts: What else it says.
    """
    content = {
        "format": FORMAT,
        **facts,
        "splits": {
            split: {"images": sum(shard["images"] for shard in shards), "shards": shards}
            for split, shards in splits.items()
        },
    }
    # A file's name may hold bytes that are no text: JSON's own escapes carry them.
    return json.dumps(content, indent=1, ensure_ascii=False).encode(errors="backslashreplace").decode() + "\n"


def _text(place: str) -> str:
    if not is_remote(place):
        return Path(place).read_text(encoding="utf-8")
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder) / MANIFEST_FILE
        download(place, copy)
        return copy.read_text(encoding="utf-8")
