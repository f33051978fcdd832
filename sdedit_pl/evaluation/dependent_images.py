"""Groups of validation images that are not independent, because a file says so or one is pasted on the other."""

from __future__ import annotations

import csv
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from sdedit_pl.data.image_files import IMAGE_SUFFIXES
from sdedit_pl.noise import hash64


def short_name(name: str) -> str:
    last = re.split(r"[/\\:]", name)[-1]
    return last.rsplit(".", 1)[0] if last.lower().endswith(IMAGE_SUFFIXES) else last


def read_groups(file: str) -> dict[str, str]:
    """Name -> group, from a CSV file of lines `name,group` without a header.

    Raises ValueError for an unreadable file, other lines, or two groups of one name.
    """
    try:
        with Path(file).open(newline="", encoding="utf-8-sig") as opened:
            rows = [row for row in csv.reader(opened) if row]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise ValueError(f"groups={file} cannot be read ({error}); give a CSV file of lines `name,group`") from error
    wrong = next((number for number, row in enumerate(rows, start=1) if len(row) != 2), None)
    if wrong is not None or not rows:
        raise ValueError(f"groups={file} must hold lines `name,group`; line {wrong or 1} does not")
    groups: dict[str, str] = {}
    for name, group in ((short_name(name.strip()), group.strip()) for name, group in rows):
        if groups.setdefault(name, group) != group:
            raise ValueError(
                f"groups={file} has two groups for {name}, {groups[name]} and {group}; folders and suffixes are "
                "ignored, so images of different groups need different names"
            )
    return groups


def group_numbers(names: Sequence[str], groups: Mapping[str, str] | None) -> list[int]:
    """Each image's group number, or its own number without `groups`; raises ValueError for an image in no group."""
    if groups is None:
        return list(range(len(names)))
    lacking = [name for name in names if name not in groups]
    if lacking:
        raise ValueError(
            f"groups= has no group for {len(lacking)} of {len(names)} images, the first is {lacking[0]}; "
            "give every image a line `name,group`"
        )
    numbers: dict[str, int] = {}
    return [numbers.setdefault(groups[name], len(numbers)) for name in names]


class Partners(NamedTuple):
    """For each image, the number of the image pasted on it, and of its group; groups pasted on each other are merged.

    Both are empty if no task pastes.
    """

    numbers: list[int]
    groups: list[int]


def partners(groups: Sequence[int], seed: int) -> Partners:
    """Pairs groups that paste on each other; the last three form a circle if the number of groups is odd.

    A composite depends on both of its images: if groups pasted on any other group, no two edits would be independent.
    Raises ValueError for a single group.
    """
    members: dict[int, list[int]] = {}
    for number, group in enumerate(groups):
        members.setdefault(group, []).append(number)
    if len(members) < 2:
        raise ValueError(
            f"compositing pastes images on images of another group, got {len(members)} group; give images of "
            "more groups, or leave compositing out of tasks="
        )
    order = sorted(members, key=lambda group: hash64(seed, members[group][0]))
    circles = [order[start : start + 2] for start in range(0, len(order), 2)]
    if len(circles[-1]) == 1:
        circles[-2:] = [circles[-2] + circles[-1]]
    numbers, joined = [0] * len(groups), [0] * len(groups)
    for name, circle in enumerate(circles):
        for group, source in zip(circle, circle[1:] + circle[:1], strict=True):
            for number in members[group]:
                numbers[number] = members[source][hash64(seed, number, 1) % len(members[source])]
                joined[number] = name
    return Partners(numbers, joined)
