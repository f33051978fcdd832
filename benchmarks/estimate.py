"""Estimates what training as a configuration says will take, without training and without a GPU.

    python benchmarks/estimate.py config=cifar10_ve
    python benchmarks/estimate.py config=domain64 data.batch_size=128 trainer.precision=bf16-mixed

One training step of the configuration is run on fake tensors, which have a shape, a device and no values. Its
floating-point operations are counted (`torch.utils.flop_counter`: convolutions, matrix products and attention, forward
and backward), its memory is followed tensor by tensor (torch's `MemTracker`). Hours are these operations at a stated
share of a GPU's published rate. All of that is an estimate: kernels' workspaces and the memory allocator's fragments
are not counted, the share that is reached depends on the network, and reading data is taken for free.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass, replace
from types import SimpleNamespace
from typing import Any, cast

import torch
import yaml
from command import run_command
from torch._subclasses import FakeTensorMode
from torch.distributed._tools.mem_tracker import MemTracker
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from sdedit_pl.build.model import build_denoiser
from sdedit_pl.build.training_run import build_module
from sdedit_pl.cli.train import COMMAND as TRAIN
from sdedit_pl.configuration.command_line import Command
from sdedit_pl.configuration.schema import schema_of
from sdedit_pl.configuration.training_config import TrainingConfig
from sdedit_pl.configuration.yaml_text import read_file
from sdedit_pl.resources import find_config
from sdedit_pl.training.module import ScoreModule

USAGE = (
    "python benchmarks/estimate.py config=NAME [key=value ...]\n\nEstimates operations, memory and time of a training."
)


@dataclass(frozen=True)
class GPU:
    """A GPU by its data sheet.

    Args:
        name: the GPU.
        tensor_flops: operations a second on dense 16-bit matrices.
        single_flops: on 32-bit ones, with tensor cores where there are any (TF32).
        share: of these that training such U-Nets is taken to reach.
    """

    name: str
    tensor_flops: float
    single_flops: float
    share: float


GPUS = (
    GPU("A100 SXM", 312e12, 156e12, 0.3),
    GPU("RTX 4090", 165e12, 83e12, 0.3),
)
"""Rates as NVIDIA publishes them, dense, with 32-bit accumulation; the shares are assumptions."""


@dataclass(frozen=True)
class Estimate:
    """What a training takes.

    Args:
        parameters: numbers in the network.
        flops: operations of one step on one device.
        memory: largest memory of one step on one device, in bytes: weights, averages, optimiser, gradients and
            activations.
        images: of one step on one device.
        total_images: of the whole run, on all devices.
        half_precision: whether the network computes in 16 bits.
    """

    parameters: int
    flops: int
    memory: int
    images: int
    total_images: int
    half_precision: bool

    def hours(self, gpu: GPU) -> float:
        """GPU hours of the whole run, on as many as there are."""
        rate = gpu.tensor_flops if self.half_precision else gpu.single_flops
        return self.flops / self.images * self.total_images / (rate * gpu.share) / 3600


def estimate(config: TrainingConfig) -> Estimate:
    """The estimate of a resolved configuration, whose devices are taken for GPUs; "auto" is one."""
    trainer, size = config.trainer, config.image.size
    batch, devices = config.data.values["batch_size"], trainer.devices
    devices = devices if isinstance(devices, int) else int(devices) if devices.isdecimal() else 1
    # On the CPU: the backward pass of a GPU's fake tensors asks for a GPU. What is kept for it is the same.
    with FakeTensorMode():
        module = stepping(config)
        optimizer = module.optimizer.build([weight for weight in module.parameters() if weight.requires_grad])
        images = torch.empty(batch, config.image.channels, size, size)
        tracker = MemTracker()
        tracker.track_external(module, optimizer)
        step(module, optimizer, images, trainer.precision)  # makes what the optimiser keeps
        with tracker:
            step(module, optimizer, images, trainer.precision)
        peak = tracker.get_tracker_snapshot("peak")
        # Attention as plain matrix products: the counter does not know the fused kernel, which keeps less in memory.
        with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
            step(module, optimizer, images, trainer.precision)
    parameters = sum(weight.numel() for weight in module.denoiser.network.parameters())
    half_lives = config.average.half_life_images
    averages = 1 if isinstance(half_lives, int) else len(half_lives)
    per_step = batch * devices * trainer.num_nodes * trainer.accumulate_grad_batches
    return Estimate(
        parameters=parameters,
        flops=counter.get_total_flops(),
        memory=peak[torch.device("cpu")]["Total"] + averages * 4 * parameters,
        images=batch,
        total_images=trainer.max_steps * per_step,
        half_precision="16" in trainer.precision,
    )


def with_place(config: dict[str, Any]) -> dict[str, Any]:
    """A configuration that says where its images are, which some leave to the command line and nothing here reads."""
    data = {"name": schema_of(TrainingConfig).families["data"].default, **config.get("data", {})}
    place = {"path": "anywhere"} if "path" in schema_of(TrainingConfig).families["data"].keys(data["name"]) else {}
    return {**config, "data": {**place, **data}}


def stepping(config: TrainingConfig) -> ScoreModule:
    """The module of a configuration, able to take a training step outside of a training loop."""
    module = build_module(replace(config, compile=False), build_denoiser(config.model))
    module._trainer = cast(Any, SimpleNamespace(global_rank=0, max_steps=config.trainer.max_steps))
    module.log = lambda *arguments, **options: None
    return module


def step(module: ScoreModule, optimizer: torch.optim.Optimizer, images: torch.Tensor, precision: str) -> None:
    """One optimiser step on a batch."""
    half = torch.bfloat16 if "bf16" in precision else torch.float16
    with torch.autocast("cpu", half, enabled="16" in precision):
        loss = module.training_step(images, 0)
    loss.backward()
    torch.nn.utils.clip_grad_norm_(module.parameters(), 1.0)
    optimizer.step()
    optimizer.zero_grad()


def described(found: Estimate) -> dict[str, Any]:
    """An estimate in numbers for people."""
    return {
        "parameters": f"{found.parameters / 1e6:.1f} M",
        "operations": f"{found.flops / found.images / 1e9:.0f} GFLOP an image, forward and backward",
        "memory": f"{found.memory / 2**30:.1f} GiB on each GPU, for {found.images} images",
        "images": f"{found.total_images / 1e6:.1f} million in the whole run",
        "hours": {
            gpu.name: (
                f"{found.hours(gpu):.{0 if found.hours(gpu) >= 10 else 1}f} GPU hours at {gpu.share:.0%} of its "
                f"{(gpu.tensor_flops if found.half_precision else gpu.single_flops) / 1e12:.0f} TFLOP/s "
                f"({'16 bits' if found.half_precision else 'TF32'})"
            )
            for gpu in GPUS
        },
    }


def run(config: TrainingConfig) -> str:
    """The estimate as YAML."""
    return yaml.safe_dump(described(estimate(config)), sort_keys=False).rstrip()


def main(arguments: list[str]) -> int:
    """Prints the estimate and returns the exit code."""

    def read(file: str) -> dict[str, Any]:
        return with_place(read_file(find_config(file)))

    return run_command(arguments, Command(USAGE, TrainingConfig, TRAIN.file), run, read=read)


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
