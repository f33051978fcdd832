"""Compares the data module's decoding speed with that of a bare Pillow loop.

    python benchmarks/image_decoding.py data=photos.tar out=outputs/data

The images are packed into shards at each size. The bare loop opens the same files from memory with Pillow, converts
them to RGB and takes the pixels as an array. The data module reads the shards as in training. Both sides have the same
number of processes and take turns; the table gives each side's median and the median of the rounds' ratios.
"""

from __future__ import annotations

import io
import multiprocessing
import statistics
import sys
import tarfile
import tempfile
import time
from collections.abc import Mapping
from contextlib import redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from benchmark_command import Results, run_benchmark
from PIL import Image
from speed_report import environment, table

from sdedit_pl.cli.pack import run as pack
from sdedit_pl.configuration import require_at_least
from sdedit_pl.configuration.schema import Command
from sdedit_pl.data.datamodule import ImageDataModule
from sdedit_pl.data.webdataset_source import WebDatasetSource

USAGE = "python benchmarks/image_decoding.py data=FOLDER|ARCHIVE out=FOLDER [key=value ...]"


@dataclass(frozen=True, kw_only=True)
class Arguments(Results):
    """A measurement.

    Args:
        data: folder or archive of images.
        sizes: heights and widths of the packed images in pixels.
        encodings: formats of the files in the shards.
        workers: number of processes on each side.
        batch: batch size.
        images: number of images decoded by each side in a round.
        rounds: number of rounds.
    """

    data: str
    sizes: tuple[int, ...] = (64, 256)
    encodings: tuple[Literal["png", "jpeg", "webp"], ...] = ("jpeg", "png")
    workers: int = 1
    batch: int = 64
    images: int = 4096
    rounds: int = 5

    def __post_init__(self) -> None:
        require_at_least(self, workers=1, batch=1, images=1, rounds=1, threads=1)


COMMAND = Command(USAGE, Arguments)


def measure(arguments: Arguments) -> dict[str, Any]:
    """Images per second and core of both sides, for each size and encoding."""
    with tempfile.TemporaryDirectory() as folder:
        rows = [
            measure_shards(arguments, size, encoding, Path(folder) / f"{size}-{encoding}")
            for size in arguments.sizes
            for encoding in arguments.encodings
        ]
    return {"rows": rows}


def measure_shards(arguments: Arguments, size: int, encoding: str, shards: Path) -> dict[str, Any]:
    """Packs the images and lets both sides take turns."""
    with redirect_stdout(io.StringIO()):
        pack([f"data={arguments.data}", f"out={shards}", f"size={size}", f"encoding={encoding}", "val_fraction=0"])
    source = WebDatasetSource(str(shards), size, val_fraction=0.0)
    data = ImageDataModule(source, arguments.batch, workers=arguments.workers, flip=True, cache=False)
    data.setup()
    loader = iter(data.training_loader())
    workers, images = arguments.workers, -(-arguments.images // arguments.batch) * arguments.batch
    bare, pipeline = [], []
    with multiprocessing.get_context("fork").Pool(workers, _keep, (files_in(shards),)) as pool:
        for _ in range(2 * workers):
            next(loader)  # workers have started, and their first batches are not counted
        for _ in range(arguments.rounds):
            seconds = pool.map(decode_bare, [images // workers] * workers, chunksize=1)
            bare.append(statistics.mean(images // workers / passed for passed in seconds))
            pipeline.append(pipeline_speed(loader, images, arguments) / workers)
    data.teardown()
    return {"size": size, "encoding": encoding, "bare": bare, "pipeline": pipeline}


def pipeline_speed(loader: Any, images: int, arguments: Arguments) -> float:
    """Images per second of a running loader, without the batches prefetched before and after its turn."""
    prefetched = 2 * arguments.workers  # batches
    for _ in range(prefetched + 1):
        next(loader)
    begin = time.perf_counter()
    for _ in range(images // arguments.batch):
        next(loader)
    passed = time.perf_counter() - begin
    time.sleep(2 * passed * prefetched * arguments.batch / images)  # until the workers are idle
    return images / passed


def files_in(shards: Path) -> list[bytes]:
    """The image files of all training shards."""
    files = []
    for shard in sorted(shards.glob("train-*.tar")):
        with tarfile.open(shard) as archive:
            members = [member for member in archive if not member.name.endswith((".json", ".txt"))]
            files += [archive.extractfile(member).read() for member in members]  # pyright: ignore[reportOptionalMemberAccess]
    return files


_kept: list[bytes] = []
"""The files that a process of the bare loop decodes."""


def _keep(files: list[bytes]) -> None:
    _kept[:] = files


def decode_bare(images: int) -> float:
    """Decodes `images` files with Pillow, cycling through those kept, and returns the seconds."""
    begin = time.perf_counter()
    for number in range(images):
        with Image.open(io.BytesIO(_kept[number % len(_kept)])) as image:
            np.asarray(image.convert("RGB"))
    return time.perf_counter() - begin


def report(numbers: Mapping[str, Any]) -> str:
    rows = []
    for row in numbers["rows"]:
        shares = [ours / bare for ours, bare in zip(row["pipeline"], row["bare"], strict=True)]
        speeds = [f"{statistics.median(row[side]):.0f}" for side in ("bare", "pipeline")]
        rows.append([f"{row['size']} px, {row['encoding']}", *speeds, f"{statistics.median(shares):.2f}"])
    head = ["images per second and core", "bare Pillow loop", "data module", "ratio"]
    return f"# Decoding\n\n{environment(numbers)}\n\n{table(head, rows)}\n"


def main(words: list[str]) -> int:
    return run_benchmark(words, COMMAND, measure, report)


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
