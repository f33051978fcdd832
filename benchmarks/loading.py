"""How long a checkpoint of a published size takes to load, and in how much memory.

    python benchmarks/loading.py

Writes a 256 px DDPM checkpoint (113.7 M parameters, float32, random weights) to a temporary folder, then, each time in
a process of its own and in turns, loads it with this package and with safetensors alone. Both only map the file, so
that every weight is touched, too, for reading it to be part of what is measured: once from the system's cache and once
from the disk, the file's pages having been given up before. The goal: at most 1.2 times the time of safetensors, and no
second copy of the weights in memory.

Memory is the growth of the process's resident set at its highest, the mapped pages of the file among it; a second copy
would show as another 455 MB.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch
from safetensors.torch import load_file

from sdedit_pl import load_denoiser
from sdedit_pl.build.model import build_denoiser
from sdedit_pl.checkpoints import save_denoiser
from sdedit_pl.checkpoints.importers.presets import PRESETS
from sdedit_pl.configuration.model_config import ModelConfig

MODEL = ModelConfig.from_data(PRESETS["church_outdoor"].model)
GOAL = 1.2


def tensors_of_file(file: Path) -> list[torch.Tensor]:
    """The weights, as safetensors loads them."""
    return list(load_file(file).values())


def tensors_of_denoiser(file: Path) -> list[torch.Tensor]:
    """The weights in a denoiser that is ready to edit."""
    return list(load_denoiser(file).network.state_dict().values())


LOADERS: dict[str, Callable[[Path], list[torch.Tensor]]] = {
    "safetensors.torch.load_file": tensors_of_file,
    "sdedit_pl.load_denoiser": tensors_of_denoiser,
}


def peak_memory() -> int:
    """The highest resident set of this process so far, in bytes.

    Linux's `getrusage` also counts the process that started this one, hence its own record where there is one.
    """
    status = Path("/proc/self/status")
    if status.is_file():
        line = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM"))
        return 1024 * int(line.split()[1])
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def measure(loader: str, file: Path, touch: bool) -> dict[str, float]:
    """Seconds and bytes of one load in this process."""
    before, started = peak_memory(), time.perf_counter()
    tensors = LOADERS[loader](file)
    if touch:
        sum(float(tensor.sum()) for tensor in tensors)
    return {"seconds": time.perf_counter() - started, "bytes": peak_memory() - before}


def measured_apart(loader: str, file: Path, touch: bool) -> dict[str, float]:
    """What `measure` returns, in a process of its own."""
    command = [sys.executable, __file__, "--one", loader, "--file", str(file), *(["--touch"] if touch else [])]
    return json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def give_up_cached_pages(file: Path) -> None:
    """Has the next reader of a file fetch it from the disk; Linux only."""
    with file.open("rb") as opened:
        os.fsync(opened.fileno())
        os.posix_fadvise(opened.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def compare(repeats: int, folder: Path) -> str:
    """The table of all loaders, without touching the weights, and with, from the cache and from the disk."""
    file = folder / "model.safetensors"
    save_denoiser(file, build_denoiser(MODEL), MODEL)
    lines = [
        f"{file.stat().st_size / 1e6:.0f} MB, median of {repeats}, torch {torch.__version__}",
        "",
        "| loader | weights | seconds | of safetensors | peak memory (MB) |",
        "| --- | --- | --- | --- | --- |",
    ]
    for read in ("not touched", "from the cache", "from the disk"):
        found: dict[str, list[dict[str, float]]] = {loader: [] for loader in LOADERS}
        for _ in range(repeats):
            for loader in LOADERS:
                if read == "from the disk":
                    give_up_cached_pages(file)
                found[loader].append(measured_apart(loader, file, read != "not touched"))
        seconds = {loader: statistics.median(run["seconds"] for run in runs) for loader, runs in found.items()}
        fastest = seconds["safetensors.torch.load_file"]
        for loader, runs in found.items():
            memory = statistics.median(run["bytes"] for run in runs) / 1e6
            ratio = seconds[loader] / fastest
            lines.append(f"| {loader} | {read} | {seconds[loader]:.3f} | {ratio:.2f} | {memory:.0f} |")
    return "\n".join([*lines, "", f"goal: at most {GOAL} of safetensors, with the weights read"])


def main() -> int:
    """Runs the comparison, or one measurement for it, and returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=5, help="loads of each kind")
    parser.add_argument("--one", choices=LOADERS, help=argparse.SUPPRESS)
    parser.add_argument("--file", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--touch", action="store_true", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.one:
        print(json.dumps(measure(given.one, given.file, given.touch)))
        return 0
    with tempfile.TemporaryDirectory() as folder:
        print(compare(given.repeats, Path(folder)))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
