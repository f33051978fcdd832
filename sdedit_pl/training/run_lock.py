"""A lock on a run's folder, so that no two trainings write into it at the same time."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import FileLock, Timeout
from lightning.pytorch.utilities import rank_zero_only

from sdedit_pl.files import require_folder

LOCK_FILE = ".lock"
# Worker processes of a training that was killed notice it within 5 s; until then they can hold its lock.
_SECONDS = 8.0


@contextmanager
def run_lock(folder: Path, seconds: float = _SECONDS) -> Iterator[None]:
    """Holds the lock of a run's folder, which is created if necessary; waits for it at most some seconds.

    The operating system releases the lock when its process dies. Of several processes that train together, the first
    one holds it. Folders that this call creates and that stay empty are removed again.

    Raises:
        ValueError: another training holds the lock, or `folder` is a file or cannot be written.
    """
    require_folder(folder)
    if rank_zero_only.rank != 0 or os.environ.get("NODE_RANK", "0") != "0":
        yield
        return
    created = [path for path in (folder, *folder.parents) if not path.exists()]
    lock = FileLock(folder / LOCK_FILE, timeout=seconds)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock.acquire()
    except Timeout as error:
        raise ValueError(
            f"another training is running in {folder}; wait until it ends, or give another out="
        ) from error
    except OSError as error:
        raise ValueError(f"out={folder} cannot be written: {error.strerror}; name another folder") from error
    try:
        yield
    finally:
        if created and os.listdir(folder) == [LOCK_FILE]:
            with suppress(OSError):
                (folder / LOCK_FILE).unlink()
                for path in created:
                    path.rmdir()
        lock.release()
