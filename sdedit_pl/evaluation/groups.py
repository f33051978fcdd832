"""Which validation images depend on each other, by their names."""

from __future__ import annotations

import csv
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from sdedit_pl.configuration import ConfigError
from sdedit_pl.data.image_files import IMAGE_SUFFIXES


def short_name(name: str) -> str:
    """An image's name without folder, shard and suffix."""
    last = re.split(r"[/\\:]", name)[-1]
    return last.rsplit(".", 1)[0] if last.lower().endswith(IMAGE_SUFFIXES) else last


def read_groups(file: str) -> dict[str, str]:
    """Reads which images belong together from a CSV file of lines `name,group`, without a heading.

    Raises:
        ConfigError: there is no such file, it has other lines, or two groups for one name.
    """
    try:
        with Path(file).open(newline="", encoding="utf-8-sig") as opened:
            rows = [row for row in csv.reader(opened) if row]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise ConfigError(f"groups={file} cannot be read ({error}); give a CSV file of lines `name,group`") from error
    wrong = next((number for number, row in enumerate(rows, start=1) if len(row) != 2), None)
    if wrong is not None or not rows:
        raise ConfigError(f"groups={file} must hold lines `name,group`; line {wrong or 1} does not")
    groups: dict[str, str] = {}
    for name, group in ((short_name(name.strip()), group.strip()) for name, group in rows):
        if groups.setdefault(name, group) != group:
            raise ConfigError(
                f"groups={file} has two groups for {name}, {groups[name]} and {group}; folders and suffixes do not "
                "count, so give images of several groups names of their own"
            )
    return groups


def group_numbers(names: Sequence[str], groups: Mapping[str, str] | None) -> list[int]:
    """The number of each image's group; without groups, each image is one of its own.

    Raises:
        ConfigError: an image that has none.
    """
    if groups is None:
        return list(range(len(names)))
    lacking = [name for name in names if name not in groups]
    if lacking:
        raise ConfigError(
            f"groups= names no group for {len(lacking)} of {len(names)} images, the first: {lacking[0]}; "
            "give every image a line `name,group`"
        )
    numbers: dict[str, int] = {}
    return [numbers.setdefault(groups[name], len(numbers)) for name in names]
