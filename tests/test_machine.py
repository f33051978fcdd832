"""The arithmetic that `auto` stands for, on machines of every kind."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path
from unittest.mock import Mock

import pytest
import torch
from torch import nn
from torch._subclasses import FakeTensorMode

from sdedit_pl.machine import (
    GRAPH_PIXELS,
    LONG_TRAINING,
    MANY_EVALUATIONS,
    Arithmetic,
    Machine,
    check_devices,
    inference_arithmetic,
    prepare_network,
    tensor_float32,
    this_machine,
    training_arithmetic,
)

H100 = Machine("cuda", "NVIDIA H100", bf16=True, count=2)
V100 = Machine("cuda", "NVIDIA V100", bf16=False, count=1)
AMX = Machine("cpu", "CPU with AMX", bf16=True)
CPU = Machine("cpu", "CPU", bf16=False)
MPS = Machine("mps", "mps", bf16=False)
LONG, SHORT = 10**12, 10**6


@pytest.mark.parametrize(
    ("machine", "pixels", "expected"),
    [
        (H100, LONG, Arithmetic("bf16-mixed", True, True)),
        (H100, LONG_TRAINING["cuda"] - 1, Arithmetic("bf16-mixed", False, False)),
        (replace(H100, missing_compiler="g++"), LONG, Arithmetic("bf16-mixed", False, False)),
        (V100, LONG, Arithmetic("32-true", False, False)),
        (AMX, LONG, Arithmetic("bf16-mixed", True, True)),
        (AMX, SHORT, Arithmetic("32-true", False, False)),
        (replace(AMX, missing_compiler="g++"), LONG, Arithmetic("bf16-mixed", False, False)),
        (CPU, LONG, Arithmetic("32-true", False, False)),
        (MPS, LONG, Arithmetic("32-true", False, False)),
    ],
)
def test_training_by_machine(machine: Machine, pixels: int, expected: Arithmetic) -> None:
    assert training_arithmetic(machine, pixels, "auto", "auto", "auto") == expected


def test_given_keys_are_kept_and_compiling_brings_channels_last() -> None:
    assert training_arithmetic(CPU, SHORT, "bf16-mixed", True, "auto") == Arithmetic("bf16-mixed", True, True)
    assert training_arithmetic(H100, LONG, "32-true", "auto", False) == Arithmetic("32-true", True, False)
    assert training_arithmetic(H100, LONG, "auto", False, "auto") == Arithmetic("bf16-mixed", False, False)


@pytest.mark.parametrize(
    ("machine", "evaluations", "expected"),
    [
        (H100, MANY_EVALUATIONS, Arithmetic("bfloat16", True, True)),
        (H100, MANY_EVALUATIONS - 1, Arithmetic("bfloat16", False, False)),
        (V100, MANY_EVALUATIONS, Arithmetic("float32", False, False)),
        (AMX, MANY_EVALUATIONS, Arithmetic("float32", False, True)),
        (CPU, MANY_EVALUATIONS, Arithmetic("float32", False, True)),
    ],
)
def test_edits_by_machine(machine: Machine, evaluations: int, expected: Arithmetic) -> None:
    assert inference_arithmetic(machine, evaluations, "auto", "auto") == expected


@pytest.mark.parametrize(
    ("device", "pixels", "graph"),
    [("cuda", GRAPH_PIXELS, True), ("cuda", GRAPH_PIXELS + 1, False), ("cuda", None, False), ("cpu", 1, False)],
)
def test_small_batches_on_a_gpu_are_replayed_as_cuda_graphs(device: str, pixels: int | None, graph: bool) -> None:
    with FakeTensorMode():
        weights = [torch.empty(1, device=device)]
    network = Mock(spec=nn.Module, parameters=lambda: iter(weights))
    prepare_network(network, Arithmetic("bfloat16", True, True), pixels)
    assert network.compile.call_args.kwargs == ({"mode": "reduce-overhead", "dynamic": False} if graph else {})


def test_bf16_on_a_gpu_without_it_is_refused() -> None:
    with pytest.raises(ValueError, match=r"trainer\.precision=bf16-mixed .*V100.* 16-mixed"):
        training_arithmetic(V100, LONG, "bf16-mixed", "auto", "auto")
    with pytest.raises(ValueError, match=r"precision=bfloat16 .*V100.* float16"):
        inference_arithmetic(V100, 1, "bfloat16", "auto")
    assert training_arithmetic(CPU, LONG, "bf16-mixed", False, False).precision == "bf16-mixed"


def test_compiling_without_a_compiler_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "which", lambda name: None)
    machine = this_machine("cpu")
    for refused in (
        lambda: training_arithmetic(machine, LONG, "auto", True, "auto"),
        lambda: inference_arithmetic(machine, 1, "auto", True),
    ):
        with pytest.raises(ValueError, match=r"compile=true .*g\+\+.* compile=false"):
            refused()


def test_more_devices_than_there_are_is_refused() -> None:
    with pytest.raises(ValueError, match=r"^devices=8, but .* has room for 2 .*devices=2"):
        check_devices(H100, 8)
    for devices in (2, "auto", "0,1", "-1"):
        check_devices(H100, devices)
    check_devices(CPU, 8)
    with pytest.raises(ValueError, match="devices=1000000, but this machine has room for"):
        check_devices(CPU, 10**6)


@pytest.mark.parametrize(("capability", "bf16"), [((9, 0), True), ((8, 6), True), ((7, 5), False)])
def test_a_gpu_is_found(capability: tuple[int, int], bf16: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "a GPU")
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: capability)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 3)
    for accelerator in ("auto", "gpu", "cuda", "cuda:1"):
        machine = this_machine(accelerator)
        assert (machine.device, machine.bf16, machine.count) == ("cuda", bf16, 3)
    assert this_machine("cpu").device == "cpu"


@pytest.mark.parametrize(
    ("flags", "name"),
    [
        ("avx512f avx512_bf16 amx_bf16 amx_tile", "CPU with AMX"),
        ("avx512f avx512_bf16", "CPU with AVX-512 bf16"),
        ("avx512f", "CPU"),
    ],
)
def test_a_cpu_with_bf16_is_found(flags: str, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Path, "read_text", lambda self: f"flags : {flags}")
    machine = this_machine("cpu")
    assert (machine.name, machine.bf16) == (name, name != "CPU")


def test_tf32_is_allowed_and_forbidden_for_a_while() -> None:
    def flags() -> tuple[bool, bool]:
        return torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32

    before = flags()
    for allowed in (True, False):
        with tensor_float32(allowed):
            assert flags() == (allowed, allowed)
        assert flags() == before
