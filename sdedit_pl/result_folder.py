"""Folders of results in which all files appear together after success, and none after an error."""

from __future__ import annotations

import json
import logging
import os
import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from sdedit_pl.configuration import ConfigError
from sdedit_pl.configuration.yaml_reading import read_file
from sdedit_pl.files import claimed, read_json, require_folder, result_name, sha256_of, write_whole

logger = logging.getLogger(__name__)

ALREADY_THERE = "the results were already there; overwrite=true makes them again"
RECORDED = "files"
SETTINGS, WORK = ".settings.json", ".work"
"""The record of the settings of unfinished results, and the folder of files that are no results."""
_READY = f"{WORK}/ready.json"
"""Lists the results being moved, and the hashes of those that they replace."""


@contextmanager
def result_folder(
    folder: Path, name: str = "", replaced: set[str] | None = None, *, resumes: bool = False
) -> Iterator[Path]:
    """Yields a hidden folder; if the block ends without an error, the results in it (`results_in`) move to `folder`.

    An interrupted move of a killed process is completed before the block. Raises ValueError if another process writes
    the result, `folder` cannot be written, or a file is in the way.

    Args:
        folder: claimed by this process during the block; created with its parents.
        name: name of the result if `folder` may hold others; only this result is claimed.
        replaced: files of earlier results in `folder`, which are removed at the end; may be filled in the block.
        resumes: keeps the hidden folder of an interrupted block, unless it holds only a record of settings.
    """
    replaced = set() if replaced is None else replaced
    with claimed(folder, name):
        staging = folder / result_name(f".sdedit{name and '-'}{name}", ".unfinished")
        if (staging / _READY).is_file():
            _move_ready(staging, folder)
        if not resumes:
            shutil.rmtree(staging, ignore_errors=True)  # left by a killed process
        try:
            staging.mkdir(exist_ok=resumes)
            yield staging
            made = results_in(staging)
            earlier = {file: sha256_of(folder / file) for file in replaced if (folder / file).is_file()}
            refuse_others(folder, {*made} - earlier.keys())
            write_whole(staging / _READY, json.dumps({"made": made, "replaced": earlier}))
            _move_ready(staging, folder)
        finally:
            left = [file for file in staging.rglob("*") if file.is_file() and file.name != SETTINGS]
            if not left or (not resumes and staging / _READY not in left):
                shutil.rmtree(staging, ignore_errors=True)


def _move_ready(staging: Path, folder: Path) -> None:
    ready = read_json(staging / _READY)
    publish_results(staging, folder, ready["made"], own_files(folder, ready["replaced"]))
    shutil.rmtree(staging)


def results_in(folder: Path) -> list[str]:
    """Sorted relative paths of the files in `folder` except `SETTINGS` and those in `WORK`."""
    paths = sorted(file.relative_to(folder) for file in folder.rglob("*") if file.is_file())
    return [str(path) for path in paths if path.parts[0] not in (SETTINGS, WORK)]


def publish_results(staging: Path, folder: Path, made: Sequence[str], replaced: set[str]) -> None:
    """Moves the files `made`, except those already moved by an interrupted call, and removes the other `replaced` ones.

    Raises ValueError if a file is in the way.
    """
    left = [file for file in made if (staging / file).exists()]
    refuse_others(folder, {*left} - replaced)
    for file in replaced.difference(made):
        (folder / file).unlink(missing_ok=True)
    for file in left:
        (folder / file).parent.mkdir(parents=True, exist_ok=True)
        os.replace(staging / file, folder / file)


def own_files(folder: Path, recorded: Any) -> set[str]:
    """The files within `folder` that still have their hash in `recorded`, name -> SHA-256."""
    named = recorded.items() if isinstance(recorded, Mapping) else ()
    inside = [
        (name, sha256)
        for name, sha256 in named
        if isinstance(name, str) and (folder / name).parent.resolve().is_relative_to(folder.resolve())
    ]
    return {name for name, sha256 in inside if (folder / name).is_file() and sha256_of(folder / name) == sha256}


def files_recorded_in(record: Path, *keys: str) -> set[str]:
    """The YAML or JSON file `record` and the unchanged files beside it that it lists; none without such a list.

    `keys` lead to the list in the file, by default `RECORDED`.
    """
    read = read_json if record.suffix == ".json" else read_file
    recorded: Any = read(record) if record.is_file() else None
    for key in keys or (RECORDED,):
        recorded = recorded.get(key) if isinstance(recorded, Mapping) else None
    return set() if recorded is None else {record.name, *own_files(record.parent, recorded)}


def hashes_of(folder: Path) -> dict[str, str]:
    return {name: sha256_of(folder / name) for name in results_in(folder)}


def already_in(folder: Path, staging: Path) -> bool:
    """Whether `folder` holds all results in `staging`, byte for byte; logs it."""
    made = hashes_of(staging)
    same = own_files(folder, made) == made.keys()
    if same:
        logger.info("the results were already there, byte for byte")
    return same


def refuse_others(folder: Path, names: Iterable[str]) -> None:
    """Raises ValueError if `folder` holds any of `names`; the caller leaves out its own earlier results."""
    found = sorted(name for name in names if os.path.lexists(folder / name))
    if found:
        shown = ", ".join(found[:3]) + (f" and {len(found) - 3} others" if len(found) > 3 else "")
        raise ValueError(
            f"{folder} holds {shown}: not written by this program, changed since it was written, or written by an "
            "early version; move it away, or give another out="
        )


def refuse_used(folder: Path, overwrite: bool) -> None:
    """Raises ValueError if `folder` is a file, or holds files without `overwrite`."""
    require_folder(folder)
    if not overwrite and folder.is_dir() and any(not file.name.startswith(".") for file in folder.iterdir()):
        raise ValueError(f"{folder} already holds files; give another out=, or overwrite=true")


def refuse_replacing(file: Path, overwrite: bool, source: Path | None = None) -> None:
    """Raises ConfigError if `file` exists without `overwrite`, or is the `source` of the new file."""
    if file.exists() and source is not None and source.exists() and file.samefile(source):
        raise ConfigError(f"out={file} is the checkpoint to read; give another out=")
    if file.exists() and not overwrite:
        raise ConfigError(f"{file} is already there; give another out=, or overwrite=true")
