"""Atomic writing of files, and their hashes.

A file is written under another name in the same folder, synchronised to the disk and renamed, so that a killed process
or a full disk leaves the previous file. The folder is synchronised too, so that files reach the disk in order.
"""

from __future__ import annotations

import glob
import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_CHUNK = 1 << 20


@contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """Yields a temporary path, whose file replaces `path` at the end of the block; makes the folder if necessary.

    Raises:
        OSError: The file cannot be written or synchronised; a former file at `path` is unchanged.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(f".{path.name}.tmp")
    unfinished.unlink(missing_ok=True)  # left by a killed process; it may be a hard link to a file in use
    try:
        yield unfinished
        _store(unfinished)
        unfinished.replace(path)
        _store(path.parent)
    finally:
        # It still exists after an error, and if it and the former file are hard links to the same file.
        unfinished.unlink(missing_ok=True)


def matching_files(pattern: str) -> list[str]:
    """The sorted paths of the files that a glob matches; names of existing folders are literal, even `[a]`."""
    path = Path(pattern)
    folder = next(place for place in path.parents if place.exists())
    literal = os.path.join(glob.escape(str(folder)), path.relative_to(folder))
    return sorted(str(Path(found)) for found in glob.glob(literal, recursive=True) if os.path.isfile(found))


def require_folder(out: Path) -> None:
    """Raises ValueError if `out` exists and is not a folder."""
    if out.exists() and not out.is_dir():
        raise ValueError(f"out={out} is a file; name a folder")


def write_whole(path: Path, text: str) -> None:
    """Writes a text file atomically, bytes of file names that are not text as escapes; same errors as `whole_file`."""
    with whole_file(path) as unfinished:
        unfinished.write_text(text, encoding="utf-8", errors="backslashreplace")


def sha256_of(path: Path) -> str:
    """The SHA-256 of a file, in hexadecimal."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK):
            digest.update(chunk)
    return digest.hexdigest()


def _store(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
