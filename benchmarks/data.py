"""Measures how much of a core's time a data worker spends on decoding, and how much on everything around it.

    python benchmarks/data.py src=photos.tar out=outputs/data

The images are packed to shards of JPEG and PNG files at each size. From the same bytes, already in memory, a bare loop
decodes with Pillow alone: open, convert to RGB, take the pixels as an array. The other side is what a training run
does: a data module over the shards with its workers, in the order of training, flips on, batches received in this
process. The bare loop runs in as many processes, so that both sides have the same cores; the rounds alternate, and
the table gives each side's median and the median of the rounds' ratios.
"""

from __future__ import annotations

import io
import json
import multiprocessing
import os
import platform
import statistics
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import PIL
import torch
from command import run_command
from PIL import Image

from sdedit_pl.configuration import require_at_least
from sdedit_pl.configuration.command_line import Command
from sdedit_pl.configuration.resolution import as_data
from sdedit_pl.data import ImageDataModule, WebDatasetSource
from sdedit_pl.data.shard_files import ShardFile, list_members
from sdedit_pl.data.shard_packing import PackSettings, pack
from sdedit_pl.result_folder import ResultFolder, refuse_used

USAGE = "python benchmarks/data.py src=FOLDER|ARCHIVE out=FOLDER [key=value ...]"


@dataclass
class Arguments:
    """A measurement.

    Args:
        src: folder or archive of images.
        out: folder of the results.
        sizes: pixels.
        encodings: kinds of files in the shards.
        workers: processes on each side.
        batch: images a batch.
        images: decoded in each round on each side.
        rounds: how often both sides take their turn.
        overwrite: replace earlier results.
    """

    src: str
    out: str
    sizes: tuple[int, ...] = (64, 256)
    encodings: tuple[Literal["png", "jpeg", "webp"], ...] = ("jpeg", "png")
    workers: int = 1
    batch: int = 64
    images: int = 4096
    rounds: int = 5
    overwrite: bool = False

    def __post_init__(self) -> None:
        require_at_least(self, workers=1, batch=1, images=1, rounds=1)


COMMAND = Command(USAGE, Arguments)


@dataclass(frozen=True)
class Row:
    """Images a second and core at one size and encoding.

    Args:
        size: Pixels.
        encoding: Kind of file.
        bare: Of the bare loop, in each round.
        pipeline: Of the data module, in each round.
    """

    size: int
    encoding: str
    bare: list[float]
    pipeline: list[float]

    @property
    def ratio(self) -> float:
        """How much of the bare loop's speed the pipeline has."""
        return statistics.median(ours / bare for ours, bare in zip(self.pipeline, self.bare, strict=True))


def measure(config: dict[str, Any], size: int, encoding: str, folder: Path) -> Row:
    """Packs, and lets both sides take turns."""
    shards = folder / f"{size}-{encoding}"
    pack(
        PackSettings(src=config["src"], out=str(shards), size=size, encoding=encoding, val_fraction=0.0),  # pyright: ignore
        lambda done, total: None,
    )
    source = WebDatasetSource(str(shards), size, val_fraction=0.0)
    data = ImageDataModule(source, config["batch"], workers=config["workers"], flip=True, cache=False)
    data.setup()
    loader = iter(data.training_loader())
    files = files_in(shards)
    workers, images = config["workers"], -(-config["images"] // config["batch"]) * config["batch"]
    row = Row(size, encoding, [], [])
    with multiprocessing.get_context("fork").Pool(workers, keep, (files,)) as pool:
        for _ in range(2 * workers):
            next(loader)  # the workers are running, and their first batches are not counted
        for _ in range(config["rounds"]):
            seconds = pool.map(decode_bare, [images // workers] * workers, chunksize=1)
            row.bare.append(statistics.mean(images // workers / passed for passed in seconds))
            row.pipeline.append(pipeline_speed(loader, images, config) / workers)
    data.teardown()
    return row


def pipeline_speed(loader: Any, images: int, config: dict[str, Any]) -> float:
    """Images a second of a running loader. What it prefetches before and after its turn does not count."""
    prefetched = 2 * config["workers"]  # batches
    for _ in range(prefetched + 1):
        next(loader)
    begin = time.perf_counter()
    for _ in range(images // config["batch"]):
        next(loader)
    passed = time.perf_counter() - begin
    time.sleep(2 * passed * prefetched * config["batch"] / images)  # until the workers are idle
    return images / passed


def files_in(shards: Path) -> list[bytes]:
    """The image files of all shards."""
    files = []
    for shard in sorted(shards.glob("train-*.tar")):
        members, stamp = list_members(shard)
        opened = ShardFile(shard, str(shard), stamp)
        files += [opened.read(*place) for place in members.places.tolist()]
    return files


_kept: list[bytes] = []
"""The files that a process of the bare loop decodes."""


def keep(files: list[bytes]) -> None:
    """Gives a process its files."""
    _kept[:] = files


def decode_bare(images: int) -> float:
    """Decodes so many images, as often in turn as it takes, and returns the seconds."""
    begin = time.perf_counter()
    for number in range(images):
        with Image.open(io.BytesIO(_kept[number % len(_kept)])) as image:
            np.asarray(image.convert("RGB"))
    return time.perf_counter() - begin


def report(rows: list[Row], config: dict[str, Any]) -> str:
    """The table."""
    lines = [
        f"Images a second and core: {config['workers']} worker(s), batches of {config['batch']}, median of "
        f"{config['rounds']} rounds of {config['images']} images. {platform.machine()}, {os.cpu_count()} threads, "
        f"torch {torch.__version__}, Pillow {PIL.__version__}.",
        "",
        "| size | files | bare Pillow loop | data module | ratio |",
        "|---|---|---|---|---|",
    ]
    for row in rows:
        bare, ours = statistics.median(row.bare), statistics.median(row.pipeline)
        lines.append(f"| {row.size} | {row.encoding} | {bare:.0f} | {ours:.0f} | {row.ratio:.2f} |")
    return "\n".join(lines) + "\n"


def run(config: dict[str, Any]) -> str:
    """Runs the measurement and returns its table."""
    out = Path(config["out"])
    refuse_used(out, config["overwrite"])
    with tempfile.TemporaryDirectory() as shards, ResultFolder(out) as folder:
        rows = [
            measure(config, size, encoding, Path(shards))
            for size in config["sizes"]
            for encoding in config["encodings"]
        ]
        numbers = [{**row.__dict__, "ratio": row.ratio} for row in rows]
        (folder / "data.json").write_text(json.dumps(numbers, indent=2) + "\n", encoding="utf-8")
        (folder / "data.md").write_text(report(rows, config), encoding="utf-8")
    return report(rows, config)


def main(arguments: list[str]) -> int:
    """Runs the measurement and returns the exit code."""
    return run_command(arguments, COMMAND, lambda parsed: run(as_data(parsed)))


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
