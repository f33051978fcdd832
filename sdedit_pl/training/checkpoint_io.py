"""Writes checkpoints atomically in the background, and finds damaged ones."""

from __future__ import annotations

import io
import logging
import zipfile
import zlib
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch
from lightning.fabric.plugins import TorchCheckpointIO

from sdedit_pl.files import whole_file

logger = logging.getLogger(__name__)


class DurableCheckpoints(TorchCheckpointIO):
    """Writes each checkpoint atomically, in a thread, from a copy in memory; then calls `after` with its path.

    A full disk raises no error: only the first device writes, and the others would wait for it forever. Other errors of
    the thread are raised by the next checkpoint, or at the end of the run, which waits for the last checkpoint.
    """

    def __init__(self) -> None:
        super().__init__()
        self.after: Callable[[Path], object] = lambda path: None
        self._failure: str | None = None
        self._writing: Future[None] | None = None

    @property
    def failure(self) -> str | None:
        """The reason why the latest checkpoint could not be written, if any; waits until its writing has ended."""
        self.wait()
        return self._failure

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
        self.wait()
        copy = io.BytesIO()
        torch.save(checkpoint, copy)
        thread = ThreadPoolExecutor(1)
        self._writing = thread.submit(self._write, copy, Path(path))
        thread.shutdown(wait=False)

    def wait(self) -> None:
        """Waits until the latest checkpoint is written; raises the thread's error."""
        writing, self._writing = self._writing, None
        if writing is not None:
            writing.result()

    def teardown(self) -> None:
        self.wait()

    def _write(self, copy: io.BytesIO, path: Path) -> None:
        try:
            with whole_file(path) as unfinished:
                unfinished.write_bytes(copy.getbuffer())
        except OSError as error:
            self._failure = f"{path} cannot be written: {error.strerror}"
            logger.warning("%s; training continues, and earlier checkpoints are kept", self._failure)
        else:
            self._failure = None
            self.after(path)


def damage(checkpoint: Path) -> str | None:
    """Describes the damage of a checkpoint; None if its checksums are correct."""
    try:
        with zipfile.ZipFile(checkpoint) as archive:
            part = archive.testzip()
    except (zipfile.BadZipFile, zlib.error, OSError, EOFError, RuntimeError, ValueError) as error:
        return str(error)
    return None if part is None else f"its part {part} has changed"
