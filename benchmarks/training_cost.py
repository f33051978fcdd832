"""Estimates the operations, memory and GPU hours of a training run, without training and without a GPU.

    python benchmarks/training_cost.py config=cifar10_ve
    python benchmarks/training_cost.py config=domain64 data.batch_size=128 trainer.precision=bf16-mixed

Runs one training step on fake tensors, which have a shape, a device and no values. Counts its floating-point operations
(`torch.utils.flop_counter`: convolutions, matrix products and attention, forward and backward) and its memory (torch's
`MemTracker`). Hours assume a stated share of a GPU's published rate. Not included are workspaces of kernels, the
fragmentation of the memory allocator and the time to read data.
"""

from __future__ import annotations

import sys
from dataclasses import replace
from types import SimpleNamespace
from typing import Any, NamedTuple, cast

import torch
import yaml
from benchmark_command import run_command
from torch._subclasses import FakeTensorMode
from torch.distributed._tools.mem_tracker import MemTracker
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from sdedit_pl.build.model import build_denoiser
from sdedit_pl.build.training_parts import build_module, resolve_arithmetic
from sdedit_pl.checkpoints import describe
from sdedit_pl.checkpoints.init_from import network_from
from sdedit_pl.cli.train import COMMAND as TRAIN
from sdedit_pl.configuration.bundled_configs import find_config
from sdedit_pl.configuration.schema import Command, schema_of
from sdedit_pl.configuration.training_config import TrainingConfig
from sdedit_pl.configuration.yaml_reading import read_file
from sdedit_pl.machine import Machine
from sdedit_pl.training.module import ScoreModule

USAGE = (
    "python benchmarks/training_cost.py config=NAME [key=value ...]\n\nEstimates operations, memory and time of a run."
)


class GPU(NamedTuple):
    """Dense rates of a GPU in operations per second (with 32-bit accumulation) and the share that U-Nets reach."""

    name: str
    half_rate: float
    single_rate: float
    share: float


GPUS = (
    GPU("H100 SXM", 989e12, 495e12, 0.15),
    GPU("A100 SXM", 312e12, 156e12, 0.3),
    GPU("RTX 4090", 165e12, 83e12, 0.3),
)
"""Rates as published by NVIDIA, the 32-bit ones with TF32.

The share of the H100 is what an H200, which has the same arithmetic, reached (results/gpu); the others are assumptions.
"""


class Estimate(NamedTuple):
    """The cost of a training run.

    Args:
        flops: floating-point operations per image, forward and backward.
        memory: peak memory on each device in bytes: weights, averages, optimiser, gradients and activations.
        batch: batch size of one device.
        images: number of images seen in the whole run.
    """

    parameters: int
    flops: float
    memory: int
    batch: int
    images: int
    half_precision: bool

    def hours(self, gpu: GPU) -> float:
        """GPU hours of the whole run, summed over devices."""
        rate = gpu.half_rate if self.half_precision else gpu.single_rate
        return self.flops * self.images / (rate * gpu.share) / 3600


def estimate(config: TrainingConfig) -> Estimate:
    """The estimate of a configuration; devices are assumed to be GPUs with bf16, and "auto" counts as one."""
    config = resolve_arithmetic(config, Machine("cuda", "a GPU", bf16=True))
    if config.ckpt:
        base = config.ckpt if isinstance(config.ckpt, str) else config.ckpt[0]
        config = replace(config, network=network_from(describe(base).model.network, config.network))
    trainer, image, batch = config.trainer, config.image, config.batch_size
    devices = int(trainer.devices) if str(trainer.devices).isdecimal() else 1
    # On the CPU, as the backward pass on a GPU's fake tensors needs a GPU; it keeps the same tensors.
    with FakeTensorMode():
        module = build_module(replace(config, compile=False, channels_last=False), build_denoiser(config.model))
        module._trainer = cast(Any, SimpleNamespace(global_rank=0, max_steps=trainer.max_steps))
        module.log = lambda *arguments, **options: None
        optimizer = module.optimizer.build([weight for weight in module.parameters() if weight.requires_grad])
        images = torch.empty(batch, *image.tensor_shape)
        tracker = MemTracker()
        tracker.track_external(module, optimizer)
        step(module, optimizer, images, trainer.precision)  # creates the optimiser's state
        with tracker:
            step(module, optimizer, images, trainer.precision)
        peak = tracker.get_tracker_snapshot("peak")[torch.device("cpu")]["Total"]
        # Attention as plain matrix products, because the counter does not know the fused kernel.
        with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
            step(module, optimizer, images, trainer.precision)
    parameters = sum(weight.numel() for weight in module.denoiser.network.parameters())
    half_lives = config.average.half_life_images
    averages = 1 if isinstance(half_lives, int) else len(half_lives)
    return Estimate(
        parameters=parameters,
        flops=counter.get_total_flops() / batch,
        memory=peak + averages * 4 * parameters,
        batch=batch,
        images=trainer.max_steps * batch * devices * trainer.num_nodes * trainer.accumulate_grad_batches,
        half_precision="16" in trainer.precision,
    )


def step(module: ScoreModule, optimizer: torch.optim.Optimizer, images: torch.Tensor, precision: str) -> None:
    half = torch.bfloat16 if "bf16" in precision else torch.float16
    with torch.autocast("cpu", half, enabled="16" in precision):
        loss = module.training_step(images, 0)
    loss.backward()
    torch.nn.utils.clip_grad_norm_(module.parameters(), 1.0)
    optimizer.step()
    optimizer.zero_grad()


def report(config: TrainingConfig) -> str:
    found, hours = estimate(config), {}
    for gpu in GPUS:
        value, rate = found.hours(gpu), gpu.half_rate if found.half_precision else gpu.single_rate
        hours[gpu.name] = (
            f"{value:.{0 if value >= 10 else 1}f} GPU hours at {gpu.share:.0%} of its {rate / 1e12:.0f} TFLOP/s "
            f"({'16 bits' if found.half_precision else 'TF32'})"
        )
    numbers = {
        "parameters": f"{found.parameters / 1e6:.1f} M",
        "operations": f"{found.flops / 1e9:.0f} GFLOP per image, forward and backward",
        "memory": f"{found.memory / 2**30:.1f} GiB on each GPU for {found.batch} images",
        "images": f"{found.images / 1e6:.1f} million in the whole run",
        "hours": hours,
    }
    return yaml.safe_dump(numbers, sort_keys=False).rstrip()


def read_config(file: str) -> dict[str, Any]:
    """Reads a configuration; a missing path of the images, which the estimate does not read, is filled in."""
    config, sources = read_file(find_config(file)), schema_of(TrainingConfig).families["data"]
    data = {"name": sources.default, **config.get("data", {})}
    place = {"path": "anywhere"} if "path" in sources.keys(data["name"]) else {}
    return {**config, "data": {**place, **data}}


def main(words: list[str]) -> int:
    return run_command(words, Command(USAGE, TrainingConfig, TRAIN.file), report, read=read_config)


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
