"""Measures what the features of KID and FID cost beside the bare network that they come from.

    python benchmarks/features.py out=outputs/features
    python benchmarks/features.py out=... features=inception features.weights=pt_inception-2015-12-05-6726825d.pth

`--help` lists the keys. The bare network gets batches that are ready for it; what is compared with it goes from images
in [-1, 1] to features of the whole set, with resampling, and through the cache.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from command import run_benchmark
from measuring import Spread, in_turns, ratio
from speed_report import environment, shown, table
from tqdm import tqdm

from sdedit_pl.build.components import build_component
from sdedit_pl.configuration import Component, family, require_at_least
from sdedit_pl.configuration.command_line import Command
from sdedit_pl.configuration.resolution import resolve_component
from sdedit_pl.configuration.schema import Family
from sdedit_pl.metrics.feature_cache import cached_features
from sdedit_pl.metrics.feature_table import FEATURES
from sdedit_pl.metrics.features import FeatureExtractor, stream_features
from sdedit_pl.plots import bar_plot
from sdedit_pl.typing import Images

USAGE = "python benchmarks/features.py out=FOLDER [key=value ...]"
BARE, STREAMED = "bare network", "images to features"
GOAL = 0.9
"""Of the bare network's throughput."""


@dataclass
class Arguments:
    """A measurement.

    Args:
        out: folder of the results.
        images: how many; random ones.
        size: their height and width.
        batch: images at a time.
        rounds: how often each way is timed.
        threads: of torch; null for as many as it takes by itself.
        overwrite: replace earlier results.
    """

    out: str
    images: int = 128
    size: int = 64
    batch: int = 32
    rounds: int = 10
    threads: int | None = None
    overwrite: bool = False
    features: Component = family(FEATURES, "efficientnet_lite0")

    def __post_init__(self) -> None:
        require_at_least(self, images=1, size=1, batch=1, rounds=1, threads=1)


COMMAND = Command(USAGE, Arguments)


def measure(config: Mapping[str, Any]) -> dict[str, Any]:
    """The seconds of the bare network, of features from images, and of features through the cache.

    Raises:
        ValueError: features that cannot be had.
        ModuleNotFoundError: a package that is not installed.
    """
    extractor = build_component(
        resolve_component("features", config["features"], Family(FEATURES, "efficientnet_lite0"))
    )
    shape = (config["images"], 3, config["size"], config["size"])
    batches = (torch.rand(shape, generator=torch.Generator().manual_seed(0)) * 2 - 1).split(config["batch"])
    with (
        tempfile.TemporaryDirectory() as folder,
        tqdm(total=4 * (config["rounds"] + 1), desc="timing", unit="run", disable=None) as bar,
    ):
        runs = {
            BARE: bare_network(extractor, batches),
            STREAMED: lambda: stream_features(extractor, batches),
            "cache, a new set": lambda: cached_features(extractor, batches, Path(tempfile.mkdtemp(dir=folder))),
            "cache, a known set": lambda: cached_features(extractor, batches, Path(folder)),
        }
        seconds = in_turns(runs, config["rounds"], bar.update)
    return {"features": extractor.identity, "images": config["images"], "seconds": seconds}


def bare_network(extractor: FeatureExtractor, batches: tuple[Images, ...]) -> Any:
    """The network's forward passes over batches that are prepared before."""
    prepared = [extractor.prepare(images) for images in batches]

    def forward() -> None:
        with torch.no_grad():
            for pixels in prepared:
                extractor.vectors(pixels)

    return forward


def report(numbers: Mapping[str, Any]) -> str:
    """The numbers as Markdown."""
    seconds = numbers["seconds"]
    rows = [
        [name, shown(Spread.of(times), 1e3 / numbers["images"], ".2f"), shown(throughput(numbers, name), 1, ".3f")]
        for name, times in seconds.items()
    ]
    share = throughput(numbers, STREAMED).median
    blocks = [
        "# Features",
        environment(numbers),
        f"`{numbers['features']}`, {numbers['images']} images. Medians over the rounds, quartiles in brackets.",
        table(["", "ms an image", f"throughput over that of the {BARE}"], rows),
        f"Goal: {STREAMED} at {GOAL} or more of the {BARE}'s throughput; {share:.3f} was measured.",
    ]
    return "\n\n".join(blocks) + "\n"


def throughput(numbers: Mapping[str, Any], name: str) -> Spread:
    """The throughput of a way as a share of that of the bare network."""
    return ratio(numbers["seconds"], BARE, name)


def plot(numbers: Mapping[str, Any], folder: Path) -> None:
    """Draws the throughput of each way."""
    bars = {name: throughput(numbers, name) for name in numbers["seconds"] if name != BARE}
    x_title = f"throughput, as a share of that of the {BARE}"
    bar_plot({"features": bars}, x_title=x_title, levels={"goal": GOAL}, ours=set(bars)).save(folder / "features.png")


def main(arguments: list[str]) -> int:
    """Runs the measurement and returns the exit code."""
    return run_benchmark(arguments, COMMAND, measure, report, plot)


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
