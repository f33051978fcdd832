"""Files: written whole or not at all, whatever happens meanwhile, and told apart by a hash.

A file is written under another name in the same folder, put on the storage, and renamed: a process that is killed
leaves what was there before, and so does a full disk. The folder is put on the storage too, so that not even a power
cut brings back an older state than the one that later files were written after.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_CHUNK = 1 << 20


@contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """Gives the name to write under; at the end of the block that file becomes `path`.

    Args:
        path: the file, replaced if it is there; its folder is made.

    Raises:
        OSError: the file cannot be written, or put on the storage. What was there before stays as it was.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(f".{path.name}.tmp")
    unfinished.unlink(missing_ok=True)  # of a process that was killed; it may be a hard link to a file in use
    try:
        yield unfinished
        _store(unfinished)
        unfinished.replace(path)
        _store(path.parent)
    finally:
        # Still there after an error, and where it and the file before are hard links to the same.
        unfinished.unlink(missing_ok=True)


def require_folder(out: Path) -> None:
    """Raises ValueError if there is something under the name of a folder to write into that is none."""
    if out.exists() and not out.is_dir():
        raise ValueError(f"out={out} is a file; name a folder")


def write_whole(path: Path, text: str) -> None:
    """Writes a text file that is whole or not there at all; raises what `whole_file` does."""
    with whole_file(path) as unfinished:
        unfinished.write_text(text, encoding="utf-8")


def sha256_of(path: Path) -> str:
    """The SHA-256 of a file's bytes, in hexadecimal."""
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
