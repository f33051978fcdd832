"""The parts that the score networks are made of: label embedding, residual blocks, self-attention, resampling.

A score network sees an image and a number for its noise level, the label. The label becomes a vector (sinusoidal
features, then two linear layers) which every residual block adds to its feature maps. All layers keep the layout of
their input, so that a network converted to channels-last stays in it.

Source: Ho et al., "Denoising Diffusion Probabilistic Models" (2020), appendix B; Song et al., "Score-Based Generative
Modeling through Stochastic Differential Equations" (2021), appendix H.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TypeAlias

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from sdedit_pl.networks.fir import FIRDownsample, FIRFilter, FIRUpsample
from sdedit_pl.typing import Images, Times

LabelVector: TypeAlias = Float[Tensor, "B label_channels"]


def variance_scaling_(weight: Tensor, scale: float = 1.0) -> None:
    """Draws `weight` uniformly with variance scale / (mean of fan-in and fan-out), in place.

    A scale of zero stands for 1e-10: such a layer starts as (almost) no contribution, yet with a gradient.

    Source: Ho et al. (2020), the initialisation of their released code, after Glorot and Bengio (2010).
    """
    receptive_field = weight[0, 0].numel()
    fan = (weight.shape[0] + weight.shape[1]) * receptive_field / 2
    bound = math.sqrt(3 * max(scale, 1e-10) / fan)
    nn.init.uniform_(weight, -bound, bound)


def convolution(
    in_channels: int,
    out_channels: int,
    size: int,
    *,
    stride: int = 1,
    padding: int | None = None,
    init_scale: float = 1.0,
) -> nn.Conv2d:
    """Makes a convolution with variance-scaled weights and zero bias; `padding` keeps the size unless given."""
    layer = nn.Conv2d(in_channels, out_channels, size, stride, size // 2 if padding is None else padding)
    variance_scaling_(layer.weight, init_scale)
    nn.init.zeros_(layer.bias)  # pyright: ignore[reportArgumentType]
    return layer


def linear(in_features: int, out_features: int) -> nn.Linear:
    """Makes a linear layer with variance-scaled weights and zero bias."""
    layer = nn.Linear(in_features, out_features)
    variance_scaling_(layer.weight)
    nn.init.zeros_(layer.bias)
    return layer


def group_norm(channels: int, smallest_group: int) -> nn.GroupNorm:
    """Makes a GroupNorm of up to 32 groups with at least `smallest_group` channels in each.

    The number of groups is the largest one that divides `channels`; where the published networks are defined, that is
    their min(channels / smallest_group, 32).
    """
    most = max(1, min(32, channels // smallest_group))
    groups = next(count for count in range(most, 0, -1) if channels % count == 0)
    return nn.GroupNorm(groups, channels, eps=1e-6)


class FourierFeatures(nn.Module):
    """Sines, then cosines, of 2 pi w label, for fixed random frequencies w ~ N(0, scale^2).

    Source: Tancik et al., "Fourier Features Let Networks Learn High Frequency Functions" (2020); Song et al. (2021),
    appendix C.
    """

    frequencies: Tensor

    def __init__(self, channels: int, scale: float) -> None:
        super().__init__()
        self.register_buffer("frequencies", torch.randn(channels) * scale)
        self.features = 2 * channels

    def forward(self, label: Times) -> Float[Tensor, "B features"]:
        """Embeds `label` (B,) as (B, 2 channels)."""
        angle = torch.outer(label, self.frequencies) * (2 * math.pi)
        return torch.cat([angle.sin(), angle.cos()], dim=1)


class PositionalFeatures(nn.Module):
    """Sines, then cosines, of the label times frequencies that fall geometrically from 1 to 1/10000.

    An odd number of channels ends with a zero.

    Source: Vaswani et al., "Attention Is All You Need" (2017), as spaced by Ho et al. (2020).
    """

    frequencies: Tensor

    def __init__(self, channels: int) -> None:
        super().__init__()
        half = channels // 2
        exponents = torch.arange(half, dtype=torch.float32) * -(math.log(10000) / max(half - 1, 1))
        self.register_buffer("frequencies", exponents.exp(), persistent=False)
        self.features = channels

    def forward(self, label: Times) -> Float[Tensor, "B features"]:
        """Embeds `label` (B,) as (B, channels)."""
        angle = torch.outer(label, self.frequencies)
        return F.pad(torch.cat([angle.sin(), angle.cos()], dim=1), (0, self.features % 2))


class LabelEmbedding(nn.Module):
    """Turns the label into the vector that conditions every residual block, in full precision even under autocast.

    Args:
        features: `FourierFeatures` or `PositionalFeatures`.
        channels: Length of the vector.
    """

    def __init__(self, features: FourierFeatures | PositionalFeatures, channels: int) -> None:
        super().__init__()
        self.features = features
        self.hidden = linear(features.features, channels)
        self.output = linear(channels, channels)

    def forward(self, label: Times) -> LabelVector:
        """Returns the activated vector (B, channels) for labels (B,)."""
        with torch.autocast(label.device.type, enabled=False):
            features = self.features(label.to(self.features.frequencies.dtype))
            return F.silu(self.output(F.silu(self.hidden(features))))


class Downsample(nn.Module):
    """Halves height and width, optionally through a learned 3 x 3 convolution.

    Args:
        in_channels: Channels of the input.
        out_channels: Channels of the output; equal to `in_channels` without a convolution.
        convolve: Whether to convolve. Without, samples are averaged (or FIR filtered) and nothing is learned.
        fir_kernel: Taps of the FIR filter, or None for plain averages and strides.
    """

    def __init__(
        self, in_channels: int, out_channels: int, *, convolve: bool, fir_kernel: Sequence[float] | None
    ) -> None:
        super().__init__()
        self.convolution = convolution(in_channels, out_channels, 3, stride=2, padding=0) if convolve else None
        self.filter: nn.Module
        if fir_kernel is None:
            # The published networks pad on the right and below, as TensorFlow's SAME does for stride 2.
            self.filter = nn.ZeroPad2d((0, 1, 0, 1)) if convolve else nn.AvgPool2d(2)
        elif convolve:
            taps = len(fir_kernel)
            self.filter = FIRFilter(in_channels, fir_kernel, before=(taps + 1) // 2, after=taps // 2)
        else:
            self.filter = FIRDownsample(in_channels, fir_kernel)

    def forward(self, x: Images, label: LabelVector | None = None) -> Float[Tensor, "B C_out H//2 W//2"]:
        """Halves `x`; `label` is accepted because residual blocks stand in the same place, and unused."""
        x = self.filter(x)
        return x if self.convolution is None else self.convolution(x)


class Upsample(nn.Module):
    """Doubles height and width, optionally through a learned 3 x 3 convolution.

    Args:
        in_channels: Channels of the input.
        out_channels: Channels of the output; equal to `in_channels` without a convolution.
        convolve: Whether to convolve. Without, samples are repeated (or FIR filtered) and nothing is learned.
        fir_kernel: Taps of the FIR filter, or None for repeated samples.
    """

    def __init__(
        self, in_channels: int, out_channels: int, *, convolve: bool, fir_kernel: Sequence[float] | None
    ) -> None:
        super().__init__()
        self.convolution = convolution(in_channels, out_channels, 3) if convolve else None
        self.fir = fir_kernel is not None
        self.filter: nn.Module
        if fir_kernel is None:
            self.filter = nn.UpsamplingNearest2d(scale_factor=2)
        elif convolve:
            surplus = len(fir_kernel) - 4
            self.filter = FIRFilter(
                out_channels, fir_kernel, before=(surplus + 1) // 2 + 1, after=surplus // 2 + 1, gain=4.0
            )
        else:
            self.filter = FIRUpsample(in_channels, fir_kernel)

    def forward(self, x: Images, label: LabelVector | None = None) -> Float[Tensor, "B C_out 2*H 2*W"]:
        """Doubles `x`; `label` is accepted because residual blocks stand in the same place, and unused."""
        if self.convolution is None:
            return self.filter(x)
        if not self.fir:
            return self.convolution(self.filter(x))
        # Zeros are inserted and convolved in one step; the filter follows, so that the border is padded only once.
        weight = self.convolution.weight.flip(2, 3).transpose(0, 1)
        y = self.filter(F.conv_transpose2d(x, weight, stride=2))
        return y if self.convolution.bias is None else y + self.convolution.bias[:, None, None]


class ResidualBlock(nn.Module):
    """Two normalised, activated 3 x 3 convolutions beside a shortcut, conditioned on the label, optionally resampling.

    h = conv_2(act(norm_2(conv_1(R act(norm_1(x))) + label_projection(label)))) and the result is shortcut(R x) + h,
    times sqrt(1/2) with `skip_rescale`, where R resamples both branches or does nothing.

    Args:
        in_channels: Channels of the input.
        out_channels: Channels of the output.
        label_channels: Length of the label's vector.
        resample: `Downsample` or `Upsample` without a convolution, or None. It makes the shortcut learned.
        dropout: Probability of dropping an activation before the second convolution.
        skip_rescale: Whether to keep the variance of the sum by a factor sqrt(1/2).
        smallest_group: Least number of channels in a group of the normalisations.
        init_scale: Scale of the second convolution's initial weights.
        shortcut_init_scale: Scale of the shortcut's initial weights.

    Source: Ho et al. (2020), appendix B; for the resampling Brock et al., "Large Scale GAN Training" (2019), figure 15.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        label_channels: int,
        *,
        resample: Downsample | Upsample | None = None,
        dropout: float = 0.0,
        skip_rescale: bool = False,
        smallest_group: int = 4,
        init_scale: float = 0.0,
        shortcut_init_scale: float = 1.0,
    ) -> None:
        super().__init__()
        self.norm_1 = group_norm(in_channels, smallest_group)
        self.resample = resample
        self.conv_1 = convolution(in_channels, out_channels, 3)
        self.label_projection = linear(label_channels, out_channels)
        self.norm_2 = group_norm(out_channels, smallest_group)
        self.dropout = nn.Dropout(dropout) if dropout else nn.Identity()
        self.conv_2 = convolution(out_channels, out_channels, 3, init_scale=init_scale)
        learned = in_channels != out_channels or resample is not None
        self.shortcut = convolution(in_channels, out_channels, 1, init_scale=shortcut_init_scale) if learned else None
        self.scale = math.sqrt(0.5) if skip_rescale else 1.0

    def forward(self, x: Images, label: LabelVector) -> Float[Tensor, "B C_out H_out W_out"]:
        """Maps (B, in_channels, H, W) to (B, out_channels, H', W'), where H' is H, H/2 or 2H."""
        h = F.silu(self.norm_1(x))
        if self.resample is not None:
            h, x = self.resample(h), self.resample(x)
        h = self.conv_1(h) + self.label_projection(label)[:, :, None, None]
        h = self.conv_2(self.dropout(F.silu(self.norm_2(h))))
        if self.shortcut is not None:
            x = self.shortcut(x)
        return _scaled_sum(x, h, self.scale)


class SelfAttention(nn.Module):
    """Single-head self-attention over the pixels of a normalised feature map, added to it.

    Args:
        channels: Channels of the feature map, which is also the size of the head.
        skip_rescale: Whether to keep the variance of the sum by a factor sqrt(1/2).
        smallest_group: Least number of channels in a group of the normalisation.
        init_scale: Scale of the output projection's initial weights.

    Source: Ho et al. (2020), appendix B.
    """

    def __init__(
        self, channels: int, *, skip_rescale: bool = False, smallest_group: int = 4, init_scale: float = 0.0
    ) -> None:
        super().__init__()
        self.norm = group_norm(channels, smallest_group)
        self.qkv = convolution(channels, 3 * channels, 1)
        for part in self.qkv.weight.data.chunk(3):
            variance_scaling_(part, 0.1)
        self.output = convolution(channels, channels, 1, init_scale=init_scale)
        self.scale = math.sqrt(0.5) if skip_rescale else 1.0

    def forward(self, x: Images) -> Images:
        """Attends over all pixels of `x` (B, C, H, W) and returns the same shape."""
        tokens = self.qkv(self.norm(x)).flatten(2).transpose(1, 2).unsqueeze(1)
        query, key, value = tokens.chunk(3, dim=-1)
        h = F.scaled_dot_product_attention(query, key, value)
        h = self.output(h.squeeze(1).transpose(1, 2).unflatten(2, x.shape[2:]))
        return _scaled_sum(x, h, self.scale)


class OutputHead(nn.Module):
    """Normalises, activates and convolves feature maps to `out_channels`."""

    def __init__(self, in_channels: int, out_channels: int, *, smallest_group: int, init_scale: float) -> None:
        super().__init__()
        self.norm = group_norm(in_channels, smallest_group)
        self.convolution = convolution(in_channels, out_channels, 3, init_scale=init_scale)

    def forward(self, x: Images) -> Float[Tensor, "B C_out H W"]:
        """Maps (B, in_channels, H, W) to (B, out_channels, H, W)."""
        return self.convolution(F.silu(self.norm(x)))


Resample: TypeAlias = ResidualBlock | Downsample | Upsample
"""What may stand between two levels of a U-Net."""


def _scaled_sum(x: Tensor, h: Tensor, scale: float) -> Tensor:
    return x + h if scale == 1.0 else (x + h) * scale
