"""Where a verb leaves its files and folders: all of them when it has succeeded, none when it has not."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path

from sdedit_pl.configuration import ConfigError
from sdedit_pl.files import require_folder


class Results:
    """A folder that files appear in together, when the `with` block ends without an error.

    The block is given a folder to write to, on the file system of the real one.

    Args:
        folder: where the files go; made with its parents at the end, what has the same names is replaced.
        replaced: files of earlier results, removed at the end.

    Raises:
        ConfigError: if `folder` cannot be written.
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
            if published.is_dir():  # which nothing can replace as long as it is there
                os.replace(published, self.staging / f"{file.name}.replaced")
            os.replace(file, published)


def refuse_used(folder: Path, overwrite: bool) -> None:
    """Keeps what an earlier call has written.

    Raises:
        ValueError: `folder` is a file, or holds something that is not to be overwritten.
    """
    require_folder(folder)
    if folder.is_dir() and any(folder.iterdir()) and not overwrite:
        raise ValueError(f"{folder} already holds files; give another out=, or overwrite=true")


def refuse_replacing(file: Path, overwrite: bool) -> None:
    """Keeps what an earlier command has left.

    Raises:
        ConfigError: if `file` is there and not to be overwritten.
    """
    if file.exists() and not overwrite:
        raise ConfigError(f"{file} is already there; give another out=, or overwrite=true")
