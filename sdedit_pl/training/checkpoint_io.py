"""Writes checkpoints whole or not at all, and finds damaged ones."""

from __future__ import annotations

import zipfile
import zlib
from pathlib import Path
from typing import Any

import torch
from lightning.fabric.plugins import TorchCheckpointIO

from sdedit_pl.files import whole_file


class DurableCheckpoints(TorchCheckpointIO):
    """Writes Lightning's checkpoints so that each is whole or not there at all.

    A file that cannot be written, as on a full disk, raises nothing: only the first device writes, and the others would
    wait for it. What went wrong stays in `failure` until a checkpoint has been written.
    """

    def __init__(self) -> None:
        super().__init__()
        self.failure: str | None = None

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
        """Writes a checkpoint, or says in `failure` why not."""
        try:
            with whole_file(Path(path)) as unfinished, unfinished.open("wb") as file:
                torch.save(checkpoint, file)
        except (OSError, RuntimeError) as error:
            # torch's writer trips over its own position when the file refuses a write.
            refused = error if isinstance(error, OSError) else error.__context__
            if not isinstance(refused, OSError):
                raise
            self.failure = f"{path} cannot be written: {refused.strerror}"
        else:
            self.failure = None


def damage(checkpoint: Path) -> str | None:
    """What is wrong with a checkpoint's file, or None where all of its bytes are those that were written."""
    try:
        with zipfile.ZipFile(checkpoint) as archive:
            part = archive.testzip()
    except (zipfile.BadZipFile, zlib.error, OSError, EOFError) as error:
        return str(error)
    return None if part is None else f"its part {part} has changed"
