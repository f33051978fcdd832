"""Measures the time and memory of loading a checkpoint of a published size.

    python benchmarks/checkpoint_loading.py [repeats=5]

Loads a 256 px DDPM checkpoint (113.7 M parameters, float32, random weights) with this package and with safetensors, in
turns and each time in a fresh process. Both only map the file, so every weight is also read in two further series:
from the system's cache, and from disk after the file's pages have been dropped. Memory is the increase of the peak
resident set, including mapped pages; a second copy of the weights would add 455 MB.
"""

from __future__ import annotations

import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from benchmark_command import run_command
from measuring import apart, peak_memory
from safetensors.torch import load_file

from sdedit_pl import load_denoiser
from sdedit_pl.build.model import build_denoiser
from sdedit_pl.checkpoints import save_denoiser
from sdedit_pl.checkpoints.importers.presets import PRESETS
from sdedit_pl.configuration import require_at_least
from sdedit_pl.configuration.model_config import ModelConfig
from sdedit_pl.configuration.schema import Command

GOAL = 1.2
NOT_READ, FROM_DISK = "not read", "read from disk"
LOADERS: dict[str, Callable[[Path], list[torch.Tensor]]] = {
    "safetensors.torch.load_file": lambda file: list(load_file(file).values()),
    "sdedit_pl.load_denoiser": lambda file: list(load_denoiser(file).network.state_dict().values()),
}


@dataclass(frozen=True)
class Arguments:
    """A measurement.

    Args:
        repeats: number of loads of each kind.
    """

    repeats: int = 5

    def __post_init__(self) -> None:
        require_at_least(self, repeats=1)


def loading(loader: str, file: Path, weights: str) -> Callable[[], float]:
    """A run that loads the file, reads the weights if asked to, and returns the seconds; all modules are imported."""
    LOADERS[loader](file)
    if weights == FROM_DISK:
        with file.open("rb") as opened:
            os.fsync(opened.fileno())
            os.posix_fadvise(opened.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)

    def run() -> float:
        started = time.perf_counter()
        tensors = LOADERS[loader](file)
        if weights != NOT_READ:
            sum(float(tensor.sum()) for tensor in tensors)
        return time.perf_counter() - started

    return run


def seconds_of(loader: str, file: Path, weights: str) -> float:
    return loading(loader, file, weights)()


def compare(arguments: Arguments) -> str:
    with tempfile.TemporaryDirectory() as folder:
        file, model = Path(folder) / "model.safetensors", ModelConfig.from_data(PRESETS["church_outdoor"].model)
        save_denoiser(file, build_denoiser(model), model)
        lines = [
            f"{file.stat().st_size / 1e6:.0f} MB, median of {arguments.repeats}, torch {torch.__version__}",
            "",
            "| loader | weights | seconds | of safetensors | peak memory (MB) |",
            "| --- | --- | --- | --- | --- |",
        ]
        for weights in (NOT_READ, "read from the cache", FROM_DISK):
            seconds = {loader: [] for loader in LOADERS}
            for _ in range(arguments.repeats):
                for loader, times in seconds.items():
                    times.append(apart(seconds_of, loader, file, weights))
            medians = {loader: statistics.median(times) for loader, times in seconds.items()}
            for loader, median in medians.items():
                share = median / medians["safetensors.torch.load_file"]
                memory = peak_memory(loading, loader, file, weights) / 1e6
                lines.append(f"| {loader} | {weights} | {median:.3f} | {share:.2f} | {memory:.0f} |")
    return "\n".join([*lines, "", f"goal: at most {GOAL} of safetensors, with the weights read"])


if __name__ == "__main__":
    raise SystemExit(run_command(sys.argv[1:], Command("python benchmarks/checkpoint_loading.py", Arguments), compare))
