"""Lists of guides: from files, from a table with a row for each guide, or from WebDataset shards.

A table is a CSV or Parquet file with the columns guide, mask, t0 and seed, of which only guide is required; paths are
relative to the table. A sample of a shard has a guide KEY.png, and may have a mask KEY.mask.png. Remote shards are
downloaded into the training cache, all of them before the first edit.
"""

from __future__ import annotations

import csv
import logging
import os
from collections.abc import Iterator
from contextlib import suppress
from functools import lru_cache
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

from sdedit_pl.data.image_files import IMAGE_SUFFIXES
from sdedit_pl.data.local_shards import (
    ARCHIVE_DAMAGE,
    COMPRESSED,
    ShardFile,
    Stamp,
    one_per_sample,
    tar_images,
    warn_of_extra_images,
)
from sdedit_pl.data.shard_manifest import Shard
from sdedit_pl.downloads import is_remote
from sdedit_pl.guides.guide_files import find_guides
from sdedit_pl.guides.mask_files import AreaKind, find_areas

logger = logging.getLogger(__name__)

COLUMNS = ("guide", "mask", "t0", "seed")
TABLES = (".csv", ".parquet")
SHARDS = (".tar", *COMPRESSED)


class ListedGuide(NamedTuple):
    """A guide to edit; `area` is the file of its mask or strength map.

    Args:
        guide: a file, or SHARD/NAME of an image in a shard.
        t0: None for that of the settings.
        seed: that of the first sample; None for that of the settings.
        shard: the shard of the guide, and of its area if `places` has two entries; None for files.
        places: first byte and length, in the shard, of the guide and then of its area.
    """

    guide: Path
    area: Path | None = None
    t0: float | str | None = None
    seed: int | None = None
    shard: Shard | None = None
    places: tuple[tuple[int, int], ...] = ()

    @property
    def files(self) -> list[Path]:
        return [self.guide, *([] if self.area is None else [self.area])]

    @property
    def names(self) -> list[str]:
        """The names of `files` in messages and records."""
        within = [f"{self.shard.place}/{file.name}" for file in self.files[: len(self.places)]] if self.shard else []
        return [*within, *map(str, self.files[len(within) :])]

    def contents(self) -> list[bytes]:
        """The images in the shard, in the order of `files`; raises ValueError if it is unreadable or has changed."""
        assert self.shard is not None
        file = _file(self.shard)
        return [file.read(*place) for place in self.places]


def list_guides(
    guide: str, kind: AreaKind = "mask", place: str | None = None, suffixes: tuple[str, ...] = IMAGE_SUFFIXES
) -> list[ListedGuide]:
    """The guides of a path, folder, glob, table or of shards; raises ValueError if there are none.

    `place` is a file or folder of masks or maps for guides without one; `suffixes` select the guides of a folder.
    """
    folder = Path(guide).is_dir()
    listed = None
    if guide.endswith(TABLES):
        listed = table_guides(Path(guide))
    elif is_remote(guide) or guide.lower().endswith(SHARDS) or (folder and any(Path(guide).glob("*.tar"))):
        listed = [found for shard in _shards(guide) for found in shard_guides(shard, kind)]
        if not listed:
            raise ValueError(f"the shards {guide} hold no guides; expected images KEY.png, and masks KEY.mask.png")
    if listed is None:
        paths = find_guides(guide, suffixes)
        return [ListedGuide(*pair) for pair in zip(paths, find_areas(kind, place, paths), strict=True)]
    if place is not None and any(found.area is not None for found in listed):
        raise ValueError(f"{guide} names a mask for its guides, and so does {kind}={place}; omit one of them")
    if place is None:
        return listed
    areas = find_areas(kind, place, [found.guide for found in listed])
    return [found._replace(area=area) for found, area in zip(listed, areas, strict=True)]


def table_guides(table: Path) -> list[ListedGuide]:
    """The guides of a table's rows; raises ValueError without rows, or with the number of an invalid row."""
    if not table.is_file():
        raise ValueError(f"there is no table of guides at {table}; give a CSV or Parquet file")
    listed: list[ListedGuide] = []
    ignored: set[str] = set()
    for number, row in enumerate(_rows(table), 1):
        ignored |= row.keys() - {*COLUMNS}
        try:
            listed.append(_listed(table, row))
        except ValueError as error:
            raise ValueError(f"{table}, row {number}: {error}") from None
    if not listed:
        raise ValueError(f"{table} has no rows; it needs the column guide, and may have {', '.join(COLUMNS[1:])}")
    if ignored:
        logger.info("%s: the columns %s are ignored", table, ", ".join(sorted(map(str, ignored))))
    return listed


def shard_guides(shard: Shard, kind: AreaKind) -> list[ListedGuide]:
    """The guides in a shard, in its order; raises ValueError if it is damaged or cannot be downloaded."""
    guides: list[tuple[str, tuple[int, int]]] = []
    areas: dict[str, tuple[str, tuple[int, int]]] = {}
    try:
        for name, place in tar_images(_file(shard).path, []):
            stem = name.rpartition(".")[0]
            if stem.endswith(f".{kind}"):
                areas[stem.removesuffix(f".{kind}")] = (name, place)
            else:
                guides.append((name, place))
    except ARCHIVE_DAMAGE as error:
        raise ValueError(f"cannot read the shard {shard.place} to its end: {error}") from None
    images, extra = one_per_sample(guides)
    warn_of_extra_images(extra)
    listed = []
    for key, (name, place) in images.items():
        found = [(name, place), *([areas[key]] if key in areas else [])]
        files = [Path(shard.place, PurePosixPath(name).name) for name, _ in found]
        places = tuple(place for _, place in found)
        listed.append(ListedGuide(files[0], files[1] if files[1:] else None, shard=shard, places=places))
    return listed


def _shards(place: str) -> list[Shard]:
    from sdedit_pl.data.webdataset_source import find_shards  # imports webdataset, which takes a second

    train, val = find_shards(place)
    return train + val


def _file(shard: Shard) -> ShardFile:
    return (
        _copy(shard) if is_remote(shard.place) else ShardFile(shard.place, shard.place, Stamp.of(os.stat(shard.place)))
    )


@lru_cache(maxsize=4)  # keeps a copy open that another process removes from the cache
def _copy(shard: Shard) -> ShardFile:
    from sdedit_pl.data.webdataset_source import WebDatasetSource

    cache = WebDatasetSource([], 1).cache
    cache.warned = True  # no warning that training leaves out masks
    return cache.open(shard)[0]


def _rows(table: Path) -> Iterator[dict[str, Any]]:
    if table.suffix == ".csv":
        try:
            with open(table, newline="", encoding="utf-8-sig") as file:
                yield from csv.DictReader(file)
        except (UnicodeDecodeError, csv.Error) as error:
            raise ValueError(f"{table} is not a CSV file in UTF-8: {error}") from None
        return
    try:
        from pyarrow import ArrowException, parquet
    except ImportError:
        raise ValueError(
            f"reading {table} needs pyarrow; pip install 'sdedit-pl[parquet]', or give a CSV file"
        ) from None
    try:
        with parquet.ParquetFile(table) as file:
            for batch in file.iter_batches():
                yield from batch.to_pylist()
    except ArrowException as error:
        raise ValueError(f"{table} is not a Parquet file: {error}") from None


def _listed(table: Path, row: dict[str, Any]) -> ListedGuide:
    guide, mask, t0, seed = (None if row.get(name) in (None, "") else row[name] for name in COLUMNS)
    if guide is None:
        raise ValueError(f"there is no guide; the columns are {', '.join(COLUMNS)}, got {', '.join(map(str, row))}")
    number = None if seed is None else str(seed).removesuffix(".0")
    if number is not None and not number.isdecimal():
        raise ValueError(f"seed must be a whole number of at least 0, got {seed!r}")
    with suppress(ValueError):  # a noise level, such as sigma:1.2
        t0 = None if t0 is None else float(t0)
    area = None if mask is None else table.parent / str(mask)
    return ListedGuide(table.parent / str(guide), area, t0, None if number is None else int(number))
