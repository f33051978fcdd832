"""Anti-aliased resampling by a finite impulse response (FIR) filter, in plain PyTorch.

Doubling an image inserts a zero after each sample and low-passes the result; halving low-passes and keeps every second
sample. The filter is the outer product of a few taps with itself, with sum one. Pixels outside the image are zero.

Under `torch.compile` a filter is a weighted sum of shifted (and strided) views along each axis, which fuses into one
kernel, and so does its gradient, without atomics. Otherwise it is a depthwise (transposed) convolution without
temporary tensors. Autocast does not lower its precision: bfloat16 is 15 times slower on CPUs.

Source: Zhang, "Making Convolutional Networks Shift-Invariant Again" (2019); Karras et al., "Analyzing and Improving the
Image Quality of StyleGAN" (2020), appendix B; Song et al. 2021, appendix H.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TypeAlias

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from sdedit_pl.typing import Images

Kernel: TypeAlias = Float[Tensor, "channels 1 taps taps"]


def depthwise_kernel(channels: int, taps: Sequence[float], gain: float = 1.0) -> Kernel:
    """The filter of one-dimensional `taps` for each channel, summing to `gain`; raises ValueError for bad taps."""
    total = math.fsum(taps)
    if len(taps) < 2 or total == 0:
        raise ValueError(
            f"fir_kernel must hold at least two numbers that do not sum to zero, got {tuple(taps)}; "
            "the published networks use (1, 3, 3, 1)"
        )
    square = torch.tensor([[gain * (row / total) * (column / total) for column in taps] for row in taps])
    return square.expand(channels, 1, -1, -1).contiguous()


class FIRFilter(nn.Module):
    """Low-pass filters each channel, extended by `before` and `after` zeros, and keeps every `stride`-th sample."""

    kernel: Tensor

    def __init__(
        self,
        channels: int,
        taps: Sequence[float],
        *,
        before: int,
        after: int,
        stride: int = 1,
        gain: float = 1.0,
    ) -> None:
        super().__init__()
        self.register_buffer("kernel", depthwise_kernel(channels, taps, gain).flip(2, 3), persistent=False)
        self.taps = normalised(taps, math.sqrt(gain))[::-1]
        self.margins = (before, after)
        self.stride = stride
        self.padding = min(before, after)
        self.extra = (before - self.padding, after - self.padding)

    def forward(self, x: Images) -> Float[Tensor, "B C H_out W_out"]:
        if torch.compiler.is_compiling():
            return self.fused(x)
        if any(self.extra):
            x = F.pad(x, self.extra * 2)
        with torch.autocast(x.device.type, enabled=False):
            y = F.conv2d(
                x.to(self.kernel.dtype), self.kernel, stride=self.stride, padding=self.padding, groups=x.shape[1]
            )
        return y.to(x.dtype)

    def fused(self, x: Images) -> Float[Tensor, "B C H_out W_out"]:
        x = F.pad(x, self.margins * 2)
        for axis in (2, 3):
            length = (x.shape[axis] - len(self.taps)) // self.stride + 1
            x = weighted_sum(x, list(enumerate(self.taps)), axis, length, self.stride)
        return x


class FIRDownsample(FIRFilter):
    """Halves height and width: (B, C, H, W) to (B, C, H/2, W/2)."""

    def __init__(self, channels: int, taps: Sequence[float]) -> None:
        surplus = len(taps) - 2
        super().__init__(channels, taps, before=(surplus + 1) // 2, after=surplus // 2, stride=2)


class FIRUpsample(nn.Module):
    """Doubles height and width: (B, C, H, W) to (B, C, 2H, 2W).

    The filter's gain is 4, because three of four samples are inserted zeros. Equivalently, even and odd output
    samples come from two filters of the input; for the taps (1, 3, 3, 1), these interpolate bilinearly.
    """

    kernel: Tensor

    def __init__(self, channels: int, taps: Sequence[float]) -> None:
        super().__init__()
        self.register_buffer("kernel", depthwise_kernel(channels, taps, gain=4.0), persistent=False)
        surplus = len(taps) - 2
        self.padding = surplus // 2
        self.crop = surplus - 2 * self.padding
        # Output 2 i + phase is the sum of weights[k] x[i + (phase + padding - k) / 2] over the k of its parity.
        weights = list(enumerate(normalised(taps, gain=2.0)))
        self.phases = [
            [((phase + self.padding - k) // 2, weight) for k, weight in weights if (phase + self.padding - k) % 2 == 0]
            for phase in (0, 1)
        ]
        offsets = [offset for phase in self.phases for offset, _ in phase]
        self.margins = (max(0, -min(offsets)), max(0, *offsets))

    def forward(self, x: Images) -> Float[Tensor, "B C 2*H 2*W"]:
        if torch.compiler.is_compiling():
            return self.fused(x)
        with torch.autocast(x.device.type, enabled=False):
            y = F.conv_transpose2d(
                x.to(self.kernel.dtype), self.kernel, stride=2, padding=self.padding, groups=x.shape[1]
            )
        y = y.to(x.dtype)
        return y[..., : -self.crop, : -self.crop] if self.crop else y

    def fused(self, x: Images) -> Float[Tensor, "B C 2*H 2*W"]:
        for axis in (2, 3):
            length = x.shape[axis]
            padded = F.pad(x, (0, 0) * (3 - axis) + self.margins)
            parts = [
                weighted_sum(padded, [(self.margins[0] + offset, weight) for offset, weight in phase], axis, length)
                for phase in self.phases
            ]
            x = torch.stack(parts, axis + 1).flatten(axis, axis + 1)
        return x


def normalised(taps: Sequence[float], gain: float) -> list[float]:
    total = math.fsum(taps)
    return [gain * tap / total for tap in taps]


def weighted_sum(x: Tensor, terms: Sequence[tuple[int, float]], axis: int, length: int, stride: int = 1) -> Tensor:
    """Sums weight * (`length` samples of `x` along `axis` from `start` on, `stride` apart) over (start, weight)."""

    def samples(start: int) -> Tensor:
        kept = slice(start, start + (length - 1) * stride + 1, stride)
        return x[(slice(None),) * axis + (kept,)]

    (first, weight), *rest = terms
    total = samples(first) * weight
    for start, weight in rest:
        total = total + samples(start) * weight
    return total
