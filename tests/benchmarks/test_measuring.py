"""What the benchmarks of speed measure with, against numbers that are known: ratios, FLOPs, convolutions, memory."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from sdedit_pl.networks import DDPM, NCSNpp

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / "benchmarks"))

import ceiling  # noqa: E402
import compared  # noqa: E402
import measuring  # noqa: E402

MIB = 2**20


def test_runs_take_turns_and_the_first_round_does_not_count() -> None:
    order: list[str] = []
    seconds = measuring.in_turns({"a": lambda: order.append("a"), "b": lambda: order.append("b")}, 2)
    assert order == ["a", "b"] * 3
    assert {name: len(values) for name, values in seconds.items()} == {"a": 2, "b": 2}


def test_a_ratio_is_of_each_round_and_not_of_the_medians() -> None:
    seconds = {"a": [1.0, 20.0, 3.0], "b": [2.0, 40.0, 6.0]}
    assert measuring.ratio(seconds, "a", "b") == (0.5, 0.5, 0.5)
    assert measuring.Spread.of([3.0, 1.0, 2.0, 4.0, 5.0]) == (3.0, 2.0, 4.0)
    assert measuring.Spread.of([3.0]) == (3.0, 3.0, 3.0)


def test_flops_are_counted_without_computing() -> None:
    weight, x = torch.randn(5, 4, 3, 3), torch.randn(2, 4, 8, 8, requires_grad=True)
    query = torch.randn(1, 1, 6, 10)
    assert measuring.counted(lambda: F.conv2d(x.detach(), weight, padding=1)).flops == 2 * 2 * 64 * 5 * 4 * 9
    assert measuring.counted(lambda: F.scaled_dot_product_attention(query, query, query)).flops == 2 * 2 * 6 * 6 * 10


def test_the_most_that_tensors_hold_at_once() -> None:
    x = torch.zeros(MIB // 4)

    def run() -> None:
        y = x + 1
        z = y.view(2, -1) * 2
        del y
        z.add_(1)
        (z + 1).reshape(-1)

    assert measuring.counted(run).tensors == 2 * MIB
    assert measuring.counted(lambda: x.add_(1)).tensors == 0


def test_gradients_and_what_they_need_count_as_memory() -> None:
    weight = nn.Parameter(torch.zeros(MIB // 4))
    assert measuring.counted(lambda: (weight.sigmoid().sigmoid()).sum().backward()).tensors >= 3 * MIB


def big(size: int) -> measuring.Run:
    """A run that needs `size` bytes once."""
    return lambda: torch.ones(size // 4)


@pytest.mark.slow
def test_the_memory_of_a_process() -> None:
    # the system's count of a process's pages lags behind by some of them on each core
    assert 63 * MIB <= measuring.peak_memory(big, 64 * MIB) < 72 * MIB


@pytest.mark.parametrize(
    "network",
    [
        NCSNpp(channels=8, channel_multipliers=(1, 2), blocks_per_level=1, progressive_input="residual"),
        DDPM(channels=8, channel_multipliers=(1, 2), blocks_per_level=1),
    ],
    ids=["ncsnpp", "ddpm"],
)
def test_the_convolutions_of_a_network_are_those_of_its_layers(network: nn.Module) -> None:
    layers = [layer for layer in network.modules() if isinstance(layer, nn.Conv2d) and layer.kernel_size == (3, 3)]
    found = ceiling.convolutions_of(network, torch.zeros(2, 3, 8, 8), torch.zeros(2))
    assert sorted(each.weight for each in found) == sorted(tuple(layer.weight.shape) for layer in layers)
    alone = ceiling.ConvolutionsAlone(found)
    assert alone.flops == measuring.counted(alone.forward).flops
    assert 3 * alone.flops == measuring.counted(alone.forward_and_backward).flops
    assert 0.75 < alone.flops / measuring.counted(lambda: network(torch.zeros(2, 3, 8, 8), torch.zeros(2))).flops < 1


@pytest.mark.parametrize("name", compared.CASES)
def test_networks_that_are_compared_have_the_same_shape(name: str) -> None:
    """Parameters within 2 % where the other library can have them, and the published number."""
    case = compared.CASES[name]
    published = {"ncsnpp": 62.8e6, "ddpm": 35.7e6, "ddpm256": 113.7e6}[name]
    assert case.parameters(compared.OURS) == pytest.approx(published, rel=2e-3)
    assert case.parameters(compared.DIFFUSERS) == pytest.approx(published, rel=0.02)


@pytest.mark.parametrize("name", compared.CASES)
def test_a_forward_pass_needs_at_most_four_fifths_of_the_tensors_of_diffusers(name: str) -> None:
    case = compared.CASES[name].resized(channels=32, size=64, batch=1)
    peaks = {}
    for library in (compared.OURS, compared.DIFFUSERS):
        network, inputs = case.network(library, "channels last").eval(), case.inputs("channels last")
        with torch.no_grad():
            peaks[library] = measuring.counted(lambda network=network, inputs=inputs: network(*inputs)).tensors
    assert peaks[compared.OURS] <= 0.8 * peaks[compared.DIFFUSERS]


@pytest.mark.parametrize("name", ["ncsnpp", "ddpm"])
def test_a_training_step_needs_no_more_tensors_than_that_of_diffusers(name: str) -> None:
    case = compared.CASES[name].resized(channels=32, size=32, batch=2)
    peaks = {}
    for library in (compared.OURS, compared.DIFFUSERS):
        network, inputs = case.network(library, "channels last").train(), case.inputs("channels last")
        step = lambda network=network, inputs=inputs: network(*inputs).square().mean().backward()  # noqa: E731
        peaks[library] = measuring.counted(step).tensors
    assert peaks[compared.OURS] <= peaks[compared.DIFFUSERS]
