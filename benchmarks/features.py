"""Measures the cost of the features of KID and FID relative to the bare feature network.

    python benchmarks/features.py out=outputs/features
    python benchmarks/features.py out=... features=inception features.weights=pt_inception-2015-12-05-6726825d.pth

The bare network receives prepared batches. It is compared with `stream_features`, from images in [-1, 1] to features
with resampling, and with `cached_features` for a new and for a cached set.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from benchmark_command import Results, run_benchmark
from measuring import Spread, in_turns, ratio
from speed_report import environment, shown, table
from tqdm import tqdm

from sdedit_pl.build.component import build_component
from sdedit_pl.configuration import Component, family, require_at_least
from sdedit_pl.configuration.schema import Command
from sdedit_pl.metrics.extractor_table import FEATURES
from sdedit_pl.metrics.feature_cache import cached_features
from sdedit_pl.metrics.features import FeatureExtractor, stream_features
from sdedit_pl.typing import Images

USAGE = "python benchmarks/features.py out=FOLDER [key=value ...]"
BARE = "bare network"
STREAMED = "features of a set"
GOAL = 0.9
"""Throughput of `stream_features` divided by that of the bare network."""


@dataclass(frozen=True, kw_only=True)
class Arguments(Results):
    """A measurement.

    Args:
        images: number of images.
        size: height and width of the images in pixels.
        batch: batch size.
        rounds: number of timings.
    """

    images: int = 128
    size: int = 64
    batch: int = 32
    rounds: int = 10
    features: Component[FeatureExtractor] = family(FEATURES, "efficientnet_lite0")

    def __post_init__(self) -> None:
        require_at_least(self, images=1, size=1, batch=1, rounds=1, threads=1)


COMMAND = Command(USAGE, Arguments)


def measure(arguments: Arguments) -> dict[str, Any]:
    """Raises ValueError if the features are not available, ModuleNotFoundError if a package is missing."""
    extractor = build_component(arguments.features)
    shape = (arguments.images, 3, arguments.size, arguments.size)
    batches = (torch.rand(shape, generator=torch.Generator().manual_seed(0)) * 2 - 1).split(arguments.batch)
    prepared = [extractor.prepare(images) for images in batches]
    with (
        tempfile.TemporaryDirectory() as folder,
        tqdm(total=4 * (arguments.rounds + 1), desc="timing", unit="run", disable=None) as bar,
    ):
        runs = {
            BARE: lambda: bare_network(extractor, prepared),
            STREAMED: lambda: stream_features(extractor, batches),
            "cache, a new set": lambda: cached_features(extractor, batches, Path(tempfile.mkdtemp(dir=folder))),
            "cache, a cached set": lambda: cached_features(extractor, batches, Path(folder)),
        }
        seconds = in_turns(runs, arguments.rounds, bar.update)
    return {"features": extractor.identity, "images": arguments.images, "seconds": seconds}


@torch.no_grad()
def bare_network(extractor: FeatureExtractor, prepared: list[Images]) -> None:
    for pixels in prepared:
        extractor.vectors(pixels)


def report(numbers: Mapping[str, Any]) -> str:
    seconds = numbers["seconds"]
    throughput = {name: ratio(seconds, BARE, name) for name in seconds}
    rows = [
        [name, shown(Spread.of(times), 1e3 / numbers["images"], ".2f"), shown(throughput[name], 1, ".3f")]
        for name, times in seconds.items()
    ]
    blocks = [
        "# Features",
        environment(numbers),
        f"`{numbers['features']}`, {numbers['images']} images. Medians over the rounds, quartiles in brackets.",
        table(["", "ms per image", f"throughput divided by that of the {BARE}"], rows),
        f"Goal for {STREAMED}: at least {GOAL} of the {BARE}; measured: {throughput[STREAMED].median:.3f}.",
    ]
    return "\n\n".join(blocks) + "\n"


def main(words: list[str]) -> int:
    return run_benchmark(words, COMMAND, measure, report)


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
