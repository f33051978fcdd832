"""The ceiling of a network's speed: its own 3 x 3 convolutions and nothing else.

Nearly all arithmetic of a diffusion model's U-Net is in its 3 x 3 convolutions. Run alone at their real shapes, in
channels-last order, they show the rate (FLOP/s) that this machine's library reaches. Any further time of the network is
spent on normalisation, activation, attention, copies and Python.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch._subclasses import FakeTensorMode
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode

from sdedit_pl.typing import Images, Times

_OPTIONS = ((1, 1), False, (0, 0), 1, (True, True, False))  # dilation, transposed, its padding, groups, gradients


@dataclass(frozen=True)
class Convolution:
    """A 3 x 3 convolution of a network; `images` and `weight` are the shapes of its input and weight."""

    images: tuple[int, ...]
    weight: tuple[int, ...]
    stride: tuple[int, ...]
    padding: tuple[int, ...]

    @property
    def flops(self) -> int:
        """Number of floating-point operations; a multiply-add counts as two."""
        batch, _, *sides = self.images
        pixels = [
            (side + 2 * edge - 3) // step + 1 for side, edge, step in zip(sides, self.padding, self.stride, strict=True)
        ]
        return 2 * batch * math.prod(pixels) * math.prod(self.weight)


class _Recorder(TorchDispatchMode):
    """Records the 3 x 3 convolutions that are computed while it is active."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[Convolution] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is torch.ops.aten.convolution.default:
            images, weight, _, stride, padding, _, transposed, _, groups = args
            if weight.shape[2:] == (3, 3) and not transposed and groups == 1:
                found = Convolution(tuple(images.shape), tuple(weight.shape), tuple(stride), tuple(padding))
                self.found.append(found)
        return func(*args, **(kwargs or {}))


def convolutions_of(network: nn.Module, images: Images, label: Times) -> list[Convolution]:
    """The 3 x 3 convolutions of a network in order, found on fake tensors without computing anything."""
    with FakeTensorMode(allow_non_fake_inputs=True), torch.no_grad(), _Recorder() as recorder:
        network(images, label)
    return recorder.found


class ConvolutionsAlone:
    """Runs convolutions on random numbers one after the other, each with its own weights."""

    def __init__(self, convolutions: Sequence[Convolution]) -> None:
        self._convolutions = convolutions
        inputs = {each.images: _random(each.images) for each in convolutions}
        self._calls = [(each, inputs[each.images], _random(each.weight)) for each in convolutions]

    @property
    def flops(self) -> int:
        """Number of floating-point operations of `forward`; the backward pass has twice as many."""
        return sum(each.flops for each in self._convolutions)

    def forward(self) -> None:
        with torch.inference_mode():
            for each, images, weight in self._calls:
                F.conv2d(images, weight, None, each.stride, each.padding)

    def forward_and_backward(self) -> None:
        """Computes each convolution and the gradients of its input and weight from those of its output."""
        with torch.no_grad():
            for each, images, weight in self._calls:
                output = F.conv2d(images, weight, None, each.stride, each.padding)
                torch.ops.aten.convolution_backward(output, images, weight, None, each.stride, each.padding, *_OPTIONS)


def _random(shape: tuple[int, ...]) -> Float[Tensor, "N C H W"]:
    return torch.randn(shape).contiguous(memory_format=torch.channels_last)
