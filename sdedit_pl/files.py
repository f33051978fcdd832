"""Atomic writing of files, their hashes, and claims on results.

A file is written under another name in the same folder, synchronised to the disk and renamed, so that a killed process
or a full disk leaves the previous file intact. The folder is synchronised too, so that files reach the disk in order.
"""

from __future__ import annotations

import errno
import glob
import hashlib
import json
import os
import re
import socket
import unicodedata
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, TypeVar

from filelock import FileLock, Timeout

Value = TypeVar("Value")

_CHUNK = 1 << 20
NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
LONGEST_NAME = 240
"""Longest name, in bytes. File systems allow 255; names of unfinished files are longer than those of results."""
_REMEDIES = {
    errno.ENOSPC: "the disk is full: free some space, or choose a location on another disk",
    errno.EDQUOT: "delete files there, or choose a location on another disk",
    errno.EFBIG: "ulimit -f limits the size of files: raise it",
    errno.EACCES: "change the permissions, or choose another location",
    errno.EPERM: "change the permissions, or choose another location",
    errno.EROFS: "choose a writable location",
    errno.ENAMETOOLONG: "give a shorter name",
}
_FORMULA_STARTS = ("=", "+", "-", "@", "\t", "\r")
# Forked workers of a killed process hold its claim until they notice its death, which takes PyTorch's 5 s.
_WORKER_SECONDS = 8.0


@contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """Yields a temporary path; its file replaces `path` if the block ends without an error. Creates the folder."""
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(f".{path.name}.tmp")
    unfinished.unlink(missing_ok=True)  # left by a killed process; it may be a hard link to a file in use
    try:
        yield unfinished
        _sync(unfinished)
        unfinished.replace(path)
        _sync(path.parent)
    except OSError as error:
        if error.errno is not None:
            error.filename = str(path)  # a failed write names no file
        raise
    finally:
        # It still exists after an error. Renaming also leaves it if both names are hard links to the same file.
        unfinished.unlink(missing_ok=True)


@contextmanager
def claimed(folder: Path, name: str = "") -> Iterator[None]:
    """Reserves `folder`, or only the result called `name` in it, for this process until it leaves the block or dies.

    The folder is created if necessary; new folders that stay empty are removed again. Raises ValueError if another
    process has the claim, or `folder` is a file or cannot be written. An OSError of a full disk names `folder`.
    """
    if not name:
        require_folder(folder)
    created = [path for path in (folder, *folder.parents) if not path.exists()]
    file = folder / result_name(f".sdedit{name and '-'}{name}", ".lock")
    lock = FileLock(file)
    try:
        pid, host = _owner(file)
        try:
            folder.mkdir(parents=True, exist_ok=True)
            lock.acquire(timeout=_WORKER_SECONDS if _is_dead(pid, host) else 0)
        except Timeout as error:
            owner = f"process {pid} on {host}" if pid else "another process"
            raise ValueError(f"{owner} is writing {folder / name}; wait until it ends, or give another out=") from error
        except OSError as error:
            raise ValueError(f"out={folder} cannot be written: {error.strerror}; name another folder") from error
        if isinstance(lock, FileLock):  # otherwise the file system has no locks, and filelock writes the same text
            with suppress(OSError):
                file.write_text(f"{os.getpid()}\n{socket.gethostname()}\n")
        yield
    except OSError as error:
        if error.errno in NO_ROOM and error.filename is None:
            error.filename = str(folder)
        raise
    finally:
        if lock.is_locked:
            file.unlink(missing_ok=True)
            lock.release()
        for path in created:
            with suppress(OSError):
                path.rmdir()


def _owner(lock_file: Path) -> tuple[int, str]:
    """The process that wrote a lock file (0 if unknown), and its machine."""
    try:
        pid, host = lock_file.read_text().split()[:2]
        return int(pid), host
    except (OSError, ValueError):
        return 0, ""


def _is_dead(pid: int, host: str) -> bool:
    """Whether a process of this machine has ended; False if unknown."""
    if not pid or host != socket.gethostname():
        return False
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    except OSError:
        pass
    return False


def matching_files(pattern: str) -> list[str]:
    """The sorted paths that match a glob; folders that exist are taken literally, even one called `[a]`."""
    path = Path(pattern)
    folder = next(place for place in path.parents if place.exists())
    literal = os.path.join(glob.escape(str(folder)), path.relative_to(folder))
    return sorted(str(Path(found)) for found in glob.glob(literal, recursive=True) if os.path.isfile(found))


def result_name(stem: str, ending: str) -> str:
    """`stem` + `ending`; a hash replaces the end of a stem that is too long for file systems."""
    room, stored = LONGEST_NAME - len(os.fsencode(ending)), os.fsencode(stem)
    if len(stored) > room:
        digest = hashlib.sha256(stored).hexdigest()[:12]
        stem = f"{stored[: room - 13].decode(errors='ignore')}-{digest}"
    return stem + ending


def in_both_unicode_forms(named: Mapping[str, Value]) -> dict[str, Value]:
    """Adds the composed and decomposed form of each name: some systems and archives decompose accents."""
    forms = {unicodedata.normalize(form, name): value for form in ("NFC", "NFD") for name, value in named.items()}
    return {**forms, **named}


def in_words(error: Exception) -> str:
    """The message of an error; an operating system's error gives the file, the reason and the remedy."""
    if not isinstance(error, OSError) or not error.strerror:
        return str(error)
    remedy = _REMEDIES.get(error.errno or 0)
    reason = error.strerror + (f"; {remedy}" if remedy else "")
    return f"{error.filename}: {reason}" if error.filename else reason


def without_passwords(text: str) -> str:
    return re.sub(r"(?<=://)[^/@\s]+@", "", text)


def require_folder(out: Path) -> None:
    if out.exists() and not out.is_dir():
        raise ValueError(f"out={out} is a file; name a folder")


def require_outside(out: Path, data: Path) -> None:
    if data.is_dir() and out.resolve().is_relative_to(data.resolve()):
        raise ValueError(f"out={out} lies within data={data}, where results would be originals; give another out=")


def write_whole(path: Path, text: str) -> None:
    """Writes a text file atomically, with undecodable bytes of file names as escapes."""
    with whole_file(path) as unfinished:
        unfinished.write_text(text, encoding="utf-8", errors="backslashreplace")


def not_a_formula(cell: Any) -> Any:
    """A CSV cell, with an apostrophe before text that a spreadsheet would evaluate as a formula."""
    return f"'{cell}" if isinstance(cell, str) and cell.startswith(_FORMULA_STARTS) else cell


def read_json(path: Path) -> dict[str, Any]:
    """Reads a JSON object; raises ValueError if the file holds something else."""
    try:
        content = json.loads(path.read_text(encoding="utf-8-sig"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} is not a JSON file ({error})") from error
    if not isinstance(content, dict):
        raise ValueError(f"{path} must hold a JSON object, got {type(content).__name__}")
    return content


def sha256_of(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK):
            digest.update(chunk)
    return digest.hexdigest()


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
