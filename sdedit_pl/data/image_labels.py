"""Text labels of images, from folders, a CSV file, or members of shards."""

from __future__ import annotations

import csv
import difflib
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from sdedit_pl.conditions import Condition
from sdedit_pl.data.array_formats import stem_of
from sdedit_pl.data.source import ImageSet

FOLDERS = "folders"
_NAMED = 3


def labels_of(images: ImageSet, place: str) -> list[str]:
    """The label of each image; raises ValueError if `place` cannot be read, or some images have no label.

    Args:
        place: "folders": the topmost folder that holds an image. FILE.csv:COLUMN: a table whose first column is a path
            or file name, with or without suffix; COLUMN,COLUMN joins two by a comma. Others: `ImageSet.stored_labels`.
    """
    file, _, column = place.rpartition(":")
    if place == FOLDERS:
        found = [folder if slash else None for folder, slash, _ in (key.partition("/") for key in _keys(images))]
    elif file.lower().endswith(".csv"):
        table = _column(Path(file), column)
        found = [next((table[name] for name in _names(key) if name in table), None) for key in _keys(images)]
    else:
        found = images.stored_labels(place)
    missing = [index for index, label in enumerate(found) if not label]
    if missing:
        first = ", ".join(images.name(index) for index in missing[:_NAMED])
        raise ValueError(
            f"{len(missing)} of {len(images)} images have no label in data.labels={place}, the first: {first}; add "
            "their labels, or leave these images out"
        )
    return [label for label in found if label]


def label_vectors(images: ImageSet, place: str, condition: Condition) -> np.ndarray:
    """The vectors of the images' labels, float32 (N, size)."""
    return condition.vectors(labels_of(images, place)).numpy()


def _keys(images: ImageSet) -> Iterator[str]:
    return (images.key(index) for index in range(len(images)))


def _names(key: str) -> Sequence[str]:
    file = Path(key)
    return key, file.with_name(stem_of(file)).as_posix(), file.name, stem_of(file)


def _column(file: Path, column: str) -> dict[str, str]:
    try:
        with file.open(encoding="utf-8-sig", newline="") as opened:
            first, *rows = csv.reader(opened)
    except (OSError, UnicodeDecodeError, csv.Error, ValueError) as error:
        raise ValueError(f"data.labels: {file} cannot be read as CSV with a line of column names: {error}") from error
    names = [column] if column in first[1:] else column.split(",")
    for name in names:
        if name not in first[1:]:
            close = difflib.get_close_matches(name, first[1:], n=1, cutoff=0.5)
            meant = f"; did you mean {close[0]}?" if close else ""
            raise ValueError(f"{file} has no column {name!r} after the first; it has {', '.join(first[1:])}{meant}")
    places = [first.index(name, 1) for name in names]
    cells = {row[0].strip(): [row[place].strip() for place in places] for row in rows if len(row) > max(places)}
    return {image: ",".join(found) if all(found) else "" for image, found in cells.items()}
