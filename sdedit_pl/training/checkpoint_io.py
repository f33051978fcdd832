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
    """Writes each checkpoint completely or not at all.

    A full disk raises no error: only the first device writes, and the others would wait for it forever. The reason
    stays in `failure` until a checkpoint has been written.
    """

    def __init__(self) -> None:
        super().__init__()
        self.failure: str | None = None

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
        try:
            with whole_file(Path(path)) as unfinished, unfinished.open("wb") as file:
                torch.save(checkpoint, file)
        except (OSError, RuntimeError) as error:
            # If a write fails, torch's writer raises a RuntimeError about its position while handling the OSError.
            refused = error if isinstance(error, OSError) else error.__context__
            if not isinstance(refused, OSError):
                raise
            self.failure = f"{path} cannot be written: {refused.strerror}"
        else:
            self.failure = None


def damage(checkpoint: Path) -> str | None:
    """The damage of a checkpoint; None if its checksums are correct."""
    try:
        with zipfile.ZipFile(checkpoint) as archive:
            part = archive.testzip()
    except (zipfile.BadZipFile, zlib.error, OSError, EOFError, RuntimeError, ValueError) as error:
        return str(error)
    return None if part is None else f"its part {part} has changed"
