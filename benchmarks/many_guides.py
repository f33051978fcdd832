"""CPU time and memory of `sdedit edit` for a folder of guides, beside the network.

    python benchmarks/many_guides.py [guides] [steps]

"All else" is everything but the network's calls: reading, hashing, the solver, writing, journal, sheet and record. CPU
time of one thread hardly depends on the load of the machine. Guides and weights are random, with seed 0.
"""

from __future__ import annotations

import os
import resource
import sys
import tempfile
import time
from pathlib import Path
from typing import ClassVar

import numpy as np
import torch
from PIL import Image

from sdedit_pl import save_denoiser
from sdedit_pl.build.model import build_denoiser
from sdedit_pl.checkpoints.loading import load_for_editing
from sdedit_pl.configuration.resolving import resolve
from sdedit_pl.configuration.training_config import TrainingConfig
from sdedit_pl.edit_runs import edit_run
from sdedit_pl.edit_runs.edit_settings import EditSettings
from sdedit_pl.edit_runs.edit_share import Progress

SIZE = 64
NETWORK = {"channels": 8, "channel_multipliers": [1, 2], "blocks_per_level": 1, "attention_levels": []}


def save_guides(folder: Path, count: int) -> None:
    """Random patches of colour."""
    folder.mkdir()
    generator = np.random.default_rng(0)
    for number in range(count):
        patches = Image.fromarray(generator.integers(0, 256, (6, 6, 3), dtype=np.uint8))
        patches.resize((SIZE, SIZE), Image.Resampling.NEAREST).save(folder / f"{number:06d}.png")


def save_tiny_model(file: Path) -> None:
    model = resolve(TrainingConfig, {"data": {"path": "unused", "size": SIZE}, "network": NETWORK}).model
    torch.manual_seed(0)
    save_denoiser(file, build_denoiser(model), model, {"steps": 7000})


class Clock(Progress):
    """Notes the CPU time of all else, and memory, after every tenth of the guides."""

    network = 0.0
    tenths: ClassVar[list[tuple[int, float, float]]] = []

    def finished(self) -> None:
        super().finished()
        if self.done % max(1, self.guides // 10) == 0:
            memory = int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize() / 2**20
            Clock.tenths.append((self.done, time.process_time() - Clock.network, memory))


def measure(count: int, steps: int) -> None:
    save_guides(Path("guides"), count)
    save_tiny_model(Path("tiny.safetensors"))
    denoiser, description = load_for_editing("tiny.safetensors", "cpu")
    forward = denoiser.network.forward

    def timed(*inputs: torch.Tensor) -> torch.Tensor:
        begin = time.process_time()
        output = forward(*inputs)
        Clock.network += time.process_time() - begin
        return output

    denoiser.network.forward = timed
    keys = {"ckpt": "tiny.safetensors", "guide": "guides", "samples": 1, "steps": steps, "device": "cpu"}
    begin = time.process_time()
    edit_run.run_edit(resolve(EditSettings, {**keys, "compile": False}), (denoiser, description))
    others = time.process_time() - begin - Clock.network
    weights = sum(weight.numel() for weight in denoiser.parameters())
    print(f"{count:,} guides of {SIZE} px, {steps} steps, one sample, {weights:,} weights, one thread\n")
    print("| | CPU time a guide |\n|---|---:|")
    print(f"| the network | {1000 * Clock.network / count:.1f} ms |")
    print(f"| all else | {1000 * others / count:.1f} ms, {100 * others / Clock.network:.1f} % of the network |\n")
    print("| guides done | all else per guide since the row above | resident memory |\n|---:|---:|---:|")
    for (before, earlier, _), (done, now, memory) in zip(Clock.tenths, Clock.tenths[1:], strict=False):
        print(f"| {done:,} | {1000 * (now - earlier) / (done - before):.2f} ms | {memory:.0f} MiB |")


if __name__ == "__main__":
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        edit_run.Progress = Clock
        measure(*(int(word) for word in (*sys.argv[1:], "10000", "20")[:2]))
