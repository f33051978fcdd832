"""The hash that identifies a checkpoint's contents."""

from __future__ import annotations

import hashlib
from pathlib import Path

from sdedit_pl.checkpoints.locating import files_of
from sdedit_pl.files import sha256_of


def fingerprint(checkpoint: Path) -> str:
    """The sha256 of a checkpoint: of the file, or of the names and hashes of the files in a folder."""
    if checkpoint.is_file():
        return sha256_of(checkpoint)
    lines = [f"{file.relative_to(checkpoint).as_posix()} {sha256_of(file)}\n" for file in files_of(checkpoint)]
    return hashlib.sha256("".join(lines).encode()).hexdigest()
