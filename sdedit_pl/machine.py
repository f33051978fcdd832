"""The arithmetic for the machine at hand: the meaning of `auto` for `precision`, `compile` and `channels_last`.

The rule, for which `docs/performance.md` has the measurements:

    machine                            training                                  editing, evaluating, calibrating
    GPU with bf16 tensor cores         bf16-mixed; compiled in channels-last     bfloat16; compiled from 10,000
                                       from 170,000 images of 64 px a device     evaluations of the network
    CPU with AMX or AVX-512 bf16       the same from 20,000 images of 64 px;     float32, not compiled
                                       below that as any other CPU
    other CPU, other accelerator       float32, not compiled                     float32, not compiled

Compiling takes 40 to 100 seconds, which shorter runs do not recover. Compiled training keeps feature maps in
channels-last order; eager training on a GPU is faster in NCHW, because PyTorch's GroupNorm does not keep channels-last.
Edits on a CPU stay in float32, where results are the same in any batch and from run to run.
"""

from __future__ import annotations

import logging
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Literal

import torch
from torch import nn

logger = logging.getLogger(__name__)

AUTO = "auto"
AutoBool = bool | Literal["auto"]
InferencePrecision = Literal["auto", "float32", "tf32", "bfloat16", "float16"]

LONG_TRAINING = {"cuda": 170_000 * 64**2, "cpu": 20_000 * 64**2}
"""Number of pixels trained on per device from which compiling pays off.

An H200 trains `domain64` at 1,119 images a second, or at 2,380 after 80 s of compiling: equal after 170,000 images. One
thread of an EPYC with AVX-512 bf16 takes 23 minutes for 20,000 images of 64 px in float32 and 15 in compiled bf16.
"""
MANY_EVALUATIONS = 10_000
"""Number of evaluations (images times steps) from which compiling pays off for edits on a GPU.

Measured on an H200 with the DDPM network of 256 px: 4,100 in batches of 1, and 13,000 in batches of 16.
"""

GRAPH_PIXELS = 4 * 256**2
"""Largest batch, in pixels, for which edits replay a compiled network as a CUDA graph.

In larger batches of the DDPM network of 256 px, kernels take longer than their launch.
"""


@dataclass(frozen=True)
class Machine:
    """The properties of a machine that determine its arithmetic.

    Args:
        bf16: whether it has fast units for bfloat16 (tensor cores, AMX, AVX-512 bf16).
        missing_compiler: the part of `torch.compile` that is not installed, if any.
        count: number of CUDA devices; None without CUDA, where several processes can share the device.
    """

    device: str
    name: str
    bf16: bool
    missing_compiler: str | None = None
    count: int | None = None


@dataclass(frozen=True)
class Arithmetic:
    """How a network computes; `precision` is Lightning's in training, otherwise an `InferencePrecision`."""

    precision: str
    compile: bool
    channels_last: bool

    def __str__(self) -> str:
        return ", ".join(
            [self.precision] + ["compiled"] * self.compile + ["channels-last" if self.channels_last else "NCHW"]
        )


def this_machine(accelerator: str = AUTO) -> Machine:
    """The machine that `accelerator`, a torch device or a Lightning accelerator, selects."""
    device = _device_type(accelerator)
    if device == "cuda":
        return Machine(
            device,
            torch.cuda.get_device_name(),
            bf16=torch.version.hip is not None or torch.cuda.get_device_capability() >= (8, 0),
            missing_compiler=_missing_compiler("triton"),
            count=torch.cuda.device_count(),
        )
    if device == "cpu":
        units = _bf16_units()
        name = f"CPU with {units}" if units else "CPU"
        return Machine(device, name, bf16=units is not None, missing_compiler=_missing_compiler())
    return Machine(device, device, bf16=False, missing_compiler=_missing_compiler())


def training_arithmetic(
    machine: Machine, pixels: int, precision: str, compile: AutoBool, channels_last: AutoBool
) -> Arithmetic:
    """The arithmetic of a run that trains on `pixels` pixels per device, repeated images included.

    Raises ValueError if the machine lacks what a key requires.
    """
    if precision.startswith("bf16") and machine.device == "cuda" and not machine.bf16:
        raise ValueError(
            f"trainer.precision={precision} needs a GPU with bf16, and {machine.name} has none; use 16-mixed or "
            f"32-true, or leave it at auto, which is 32-true here"
        )
    _check_compiler(machine, compile)
    long = pixels >= LONG_TRAINING.get(machine.device, 0)
    pays = machine.bf16 and long and machine.missing_compiler is None
    if precision == AUTO:
        precision = "bf16-mixed" if machine.bf16 and (machine.device == "cuda" or long) else "32-true"
    compiled = pays if compile == AUTO else bool(compile)
    return Arithmetic(precision, compiled, compiled if channels_last == AUTO else bool(channels_last))


def inference_arithmetic(machine: Machine, evaluations: int, precision: str, compile: AutoBool) -> Arithmetic:
    """The arithmetic of edits with `evaluations` (images times steps) of the network; float32 is without TF32.

    Raises ValueError if the machine lacks what an argument requires.
    """
    on_gpu = machine.device == "cuda"
    if on_gpu and not machine.bf16 and precision in ("bfloat16", "tf32"):
        raise ValueError(
            f"precision={precision} needs a GPU with bf16 and TF32, and {machine.name} has neither; use float16 or "
            f"float32"
        )
    _check_compiler(machine, compile)
    if precision == AUTO:
        precision = "bfloat16" if on_gpu and machine.bf16 else "float32"
    if compile == AUTO:
        compile = on_gpu and machine.bf16 and machine.missing_compiler is None and evaluations >= MANY_EVALUATIONS
    # On a CPU channels-last is the faster order, compiled or not.
    return Arithmetic(precision, compile, bool(compile) or not on_gpu)


def check_devices(machine: Machine, devices: int | str) -> None:
    wanted = int(devices) if str(devices).isdecimal() else 0
    most = machine.count or 8 * (os.cpu_count() or 1)
    if wanted > most:
        raise ValueError(
            f"devices={devices}, but this machine has room for {most} ({machine.name}); use devices={most} or auto, "
            "and num_nodes for more machines"
        )


def prepare_network(network: nn.Module, arithmetic: Arithmetic, batch_pixels: int | None = None) -> None:
    """Sets the memory order of a network for inference, and compiles it.

    Compiled for a GPU, it replays a CUDA graph for up to `GRAPH_PIXELS` pixels: each call overwrites the last outputs.
    """
    network.to(memory_format=torch.channels_last if arithmetic.channels_last else torch.contiguous_format)  # pyright: ignore[reportCallIssue]
    if not arithmetic.compile:
        return
    if batch_pixels is not None and batch_pixels <= GRAPH_PIXELS and next(network.parameters()).is_cuda:
        network.compile(mode="reduce-overhead", dynamic=False)
    else:
        network.compile()


def prepare_for_inference(
    network: nn.Module, evaluations: int, precision: str, compile: AutoBool, batch_pixels: int | None = None
) -> Arithmetic:
    """Prepares a network on its device, see `inference_arithmetic`; logs anything but uncompiled float32."""
    machine = this_machine(next(network.parameters()).device.type)
    arithmetic = inference_arithmetic(machine, evaluations, precision, compile)
    prepare_network(network, arithmetic, batch_pixels)
    if (arithmetic.precision, arithmetic.compile) != ("float32", False):
        log_arithmetic(arithmetic, machine)
    return arithmetic


@contextmanager
def tensor_float32(allowed: bool) -> Iterator[None]:
    """Lets NVIDIA GPUs round factors in float32 products and convolutions to TF32 (10 bits), or forbids it."""
    before = torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = allowed
    try:
        yield
    finally:
        torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32 = before


def log_arithmetic(arithmetic: Arithmetic, machine: Machine) -> None:
    logger.info("arithmetic: %s (%s)", arithmetic, machine.name)


def _check_compiler(machine: Machine, compile: AutoBool) -> None:
    if compile is True and machine.missing_compiler is not None:
        raise ValueError(
            f"compile=true needs {machine.missing_compiler}, which is not installed; install it or set compile=false"
        )


def _device_type(accelerator: str) -> str:
    if accelerator in (AUTO, "gpu"):
        found = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
        return found if found != "cpu" or accelerator == AUTO else "gpu"
    return accelerator.partition(":")[0]


def _bf16_units() -> str | None:
    """The name of a CPU's units for bfloat16; None if it has none, or PyTorch does not use them."""
    try:
        flags = Path("/proc/cpuinfo").read_text() if torch.backends.mkldnn.is_available() else ""
    except OSError:
        return None
    return "AMX" if "amx_bf16" in flags else "AVX-512 bf16" if "avx512_bf16" in flags else None


def _missing_compiler(*packages: str) -> str | None:
    """The first missing part of `torch.compile`: one of `packages`, or a C++ compiler."""
    for package in packages:
        if find_spec(package) is None:
            return f"the package {package}"
    found = any(shutil.which(name) for name in ("g++", "clang++", "c++", "cl"))
    return None if found else "a C++ compiler (g++)"
