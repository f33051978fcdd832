"""Folders of results in which all files appear together after success, and none after an error."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path

from sdedit_pl.configuration import ConfigError
from sdedit_pl.files import require_folder


class ResultFolder:
    """A context that yields a temporary folder and moves its files to `folder` if the block ends without an error.

    Args:
        folder: created with its parents at the end; files with the same names are replaced.
        replaced: files of earlier results, removed at the end.

    Raises:
        ConfigError: `folder` cannot be written.
    """

    def __init__(self, folder: Path, replaced: Sequence[Path] = ()) -> None:
        self.folder = folder
        self.replaced = replaced
        nearest = next(place for place in (folder, *folder.parents) if place.exists())
        try:
            self.staging = Path(tempfile.mkdtemp(dir=nearest, prefix=f".{folder.name}."))
        except OSError as error:
            raise ConfigError(f"out={folder} cannot be written: {error.strerror}; name another folder") from error

    def __enter__(self) -> Path:
        return self.staging

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        try:
            if kind is None:
                self._publish()
        finally:
            shutil.rmtree(self.staging, ignore_errors=True)

    def _publish(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        for file in self.replaced:
            file.unlink(missing_ok=True)
        for file in sorted(self.staging.iterdir()):
            published = self.folder / file.name
            if published.is_dir():  # os.replace cannot replace a folder
                os.replace(published, self.staging / f"{file.name}.replaced")
            os.replace(file, published)


def refuse_used(folder: Path, overwrite: bool) -> None:
    """Raises ValueError if `folder` is a file, or holds files and `overwrite` is not set."""
    require_folder(folder)
    if folder.is_dir() and any(folder.iterdir()) and not overwrite:
        raise ValueError(f"{folder} already holds files; give another out=, or overwrite=true")


def refuse_replacing(file: Path, overwrite: bool) -> None:
    """Raises ConfigError if `file` exists and `overwrite` is not set."""
    if file.exists() and not overwrite:
        raise ConfigError(f"{file} is already there; give another out=, or overwrite=true")
