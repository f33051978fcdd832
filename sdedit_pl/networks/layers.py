"""Layers of the score networks: label embedding, residual blocks, self-attention, resampling.

A score network takes an image and a number for its noise level, the label. Sinusoidal features and two linear layers
turn the label into a vector, which conditions every residual block. All layers keep the memory layout of their input,
so that a network in channels-last stays in it.

Source: Ho et al. 2020, appendix B; Song et al. 2021, appendix H.
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
from sdedit_pl.networks.initialisation import convolution, group_norm, linear, variance_scaling_
from sdedit_pl.typing import Images, Times

LabelVector: TypeAlias = Float[Tensor, "B label_channels"]


class FourierFeatures(nn.Module):
    """Sines, then cosines, of 2 pi w label, for fixed random frequencies w ~ N(0, scale^2).

    Source: Tancik et al., "Fourier Features", NeurIPS 2020; Song et al. 2021, appendix C.
    """

    frequencies: Tensor

    def __init__(self, channels: int, scale: float) -> None:
        super().__init__()
        self.register_buffer("frequencies", torch.randn(channels) * scale)
        self.features = 2 * channels

    def forward(self, label: Times) -> Float[Tensor, "B features"]:
        angle = torch.outer(label, self.frequencies) * (2 * math.pi)
        return torch.cat([angle.sin(), angle.cos()], dim=1)


class PositionalFeatures(nn.Module):
    """Sines and cosines of the label times frequencies that fall geometrically from 1 to 1/10000.

    1/10000 is the last frequency (`closed`, Ho et al.) or would be the next (Vaswani et al.). With `cosines_first` the
    cosines come before the sines. An odd number of channels ends with a zero.

    Source: Vaswani et al., "Attention Is All You Need" (2017), as spaced by Ho et al. (2020).
    """

    frequencies: Tensor

    def __init__(self, channels: int, *, cosines_first: bool = False, closed: bool = True) -> None:
        super().__init__()
        half = channels // 2
        exponents = torch.arange(half, dtype=torch.float32) * -(math.log(10000) / max(half - closed, 1))
        self.register_buffer("frequencies", exponents.exp(), persistent=False)
        self.features = channels
        self.cosines_first = cosines_first

    def forward(self, label: Times) -> Float[Tensor, "B features"]:
        angle = torch.outer(label, self.frequencies)
        waves = [angle.sin(), angle.cos()]
        return F.pad(torch.cat(waves[::-1] if self.cosines_first else waves, dim=1), (0, self.features % 2))


class LabelEmbedding(nn.Module):
    """Embeds the label as the vector that conditions every residual block, in full precision even under autocast.

    The vectors of augmentation and of the image's own label (`sdedit_pl.conditions`) enter through weights that start
    at zero, without a bias: zeros mean no augmentation and no label. With `condition_last`, as published for ADM, the
    vector of the image's label is added before the last activation, otherwise together with that of augmentation.
    """

    def __init__(
        self,
        features: FourierFeatures | PositionalFeatures,
        channels: int,
        augmentation_labels: int = 0,
        condition_labels: int = 0,
        *,
        condition_last: bool = False,
    ) -> None:
        super().__init__()
        self.features = features
        self.hidden = linear(features.features, channels)
        self.output = linear(channels, channels)
        self.augmentation = _from_zero(augmentation_labels, channels)
        self.condition = _from_zero(condition_labels, channels)
        self.condition_last = condition_last

    def forward(self, label: Times, conditions: Float[Tensor, "B conditions"] | None = None) -> LabelVector:
        with torch.autocast(label.device.type, enabled=False):
            hidden = self.hidden(self.features(label.to(self.features.frequencies.dtype)))
            own = None
            if conditions is not None:
                augmentation, own = self._split(conditions.to(hidden.dtype))
                if self.augmentation is not None and augmentation.shape[1]:
                    hidden = hidden + self.augmentation(augmentation)
                own = None if self.condition is None else self.condition(own)
            if own is not None and not self.condition_last:
                hidden = hidden + own
            result = self.output(F.silu(hidden))
            return F.silu(result + own if own is not None and self.condition_last else result)

    def _split(self, conditions: Float[Tensor, "B conditions"]) -> Sequence[Tensor]:
        """The augmentation labels, if any, and the vector of the image's label; raises ValueError for other lengths."""
        augmentation, own = (layer.in_features if layer else 0 for layer in (self.augmentation, self.condition))
        if conditions.shape[1] not in (own, augmentation + own):
            raise ValueError(
                f"this network takes {augmentation} augmentation labels and {own} condition labels, got "
                f"{conditions.shape[1]} in all; make it with augmentation_labels=N and condition_labels=N"
            )
        return conditions.split([conditions.shape[1] - own, own], dim=1)


class Downsample(nn.Module):
    """Halves height and width by a 3 x 3 convolution (`convolve`) or by averaging.

    `fir_kernel` are the taps of an anti-aliasing filter, or None. The plain convolution pads right and bottom, like
    TensorFlow's SAME with stride 2, or all sides (`pad_all_sides`).
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        *,
        convolve: bool,
        fir_kernel: Sequence[float] | None,
        pad_all_sides: bool = False,
    ) -> None:
        super().__init__()
        self.convolution = convolution(in_channels, out_channels, 3, stride=2, padding=0) if convolve else None
        self.filter: nn.Module
        if fir_kernel is None:
            before = int(pad_all_sides)
            self.filter = nn.ZeroPad2d((before, 1, before, 1)) if convolve else nn.AvgPool2d(2)
        elif convolve:
            taps = len(fir_kernel)
            self.filter = FIRFilter(in_channels, fir_kernel, before=(taps + 1) // 2, after=taps // 2)
        else:
            self.filter = FIRDownsample(in_channels, fir_kernel)

    def forward(self, x: Images, label: LabelVector | None = None) -> Float[Tensor, "B C_out H//2 W//2"]:
        """`label` is ignored; a residual block in the same place needs it."""
        x = self.filter(x)
        return x if self.convolution is None else self.convolution(x)


class Upsample(nn.Module):
    """Doubles height and width by repeating samples, or by the anti-aliasing filter of taps `fir_kernel`.

    With `convolve`, a 3 x 3 convolution follows the repetition or precedes the filter.
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
        """`label` is ignored; a residual block in the same place needs it."""
        if self.convolution is None:
            return self.filter(x)
        if not self.fir:
            return self.convolution(self.filter(x))
        # One step inserts zeros and convolves; the filter follows, so that the border is padded only once.
        weight = self.convolution.weight.flip(2, 3).transpose(0, 1)
        y = self.filter(F.conv_transpose2d(x, weight, stride=2))
        bias = self.convolution.bias  # cast below, because float32 would promote the features under autocast
        return y if bias is None else y + bias.to(y.dtype)[:, None, None]


class ResidualBlock(nn.Module):
    """Two normalised, activated 3 x 3 convolutions and a shortcut, conditioned on the label, with optional resampling.

    h = conv_2(act(norm_2(conv_1(R act(norm_1(x))) + label_projection(label)))) and the result is shortcut(R x) + h,
    times sqrt(1/2) with `skip_rescale`. R is `resample` or the identity. With `modulate`, the label gives a scale and a
    shift for each channel, and norm_2(...) (1 + scale) + shift replaces norm_2(... + label_projection(label)).

    Args:
        learn_resampled_shortcut: Whether a resampled shortcut has weights, as one that changes the channels does.
        smallest_group: Minimum number of channels in a group of the normalisations.
        most_groups: Maximum number of groups of the normalisations.
        init_scale: Initial scale of the second convolution.

    Source: Ho et al. (2020), appendix B; for the resampling Brock et al., "Large Scale GAN Training" (2019), figure 15;
    for the modulation Nichol and Dhariwal 2021.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        label_channels: int,
        *,
        resample: Downsample | Upsample | None = None,
        learn_resampled_shortcut: bool = True,
        modulate: bool = False,
        dropout: float = 0.0,
        skip_rescale: bool = False,
        smallest_group: int = 4,
        epsilon: float = 1e-6,
        most_groups: int = 32,
        init_scale: float = 0.0,
        shortcut_init_scale: float = 1.0,
    ) -> None:
        super().__init__()
        self.norm_1 = group_norm(in_channels, smallest_group, epsilon, most_groups)
        self.resample = resample
        self.conv_1 = convolution(in_channels, out_channels, 3)
        self.modulate = modulate
        self.label_projection = linear(label_channels, out_channels * (2 if modulate else 1))
        self.norm_2 = group_norm(out_channels, smallest_group, epsilon, most_groups)
        self.dropout = nn.Dropout(dropout) if dropout else nn.Identity()
        self.conv_2 = convolution(out_channels, out_channels, 3, init_scale=init_scale)
        learned = in_channels != out_channels or (resample is not None and learn_resampled_shortcut)
        self.shortcut = convolution(in_channels, out_channels, 1, init_scale=shortcut_init_scale) if learned else None
        self.scale = math.sqrt(0.5) if skip_rescale else 1.0

    def forward(self, x: Images, label: LabelVector) -> Float[Tensor, "B C_out H_out W_out"]:
        h = _activated(self.norm_1(x))
        if self.resample is not None:
            h, x = self.resample(h), self.resample(x)
        h = self.conv_1(h)
        # In place from here: a convolution's gradient does not need its result, and new memory costs time.
        projection = self.label_projection(label)[:, :, None, None]
        if self.modulate:
            scale, shift = projection.chunk(2, dim=1)
            h = torch.addcmul(shift, self.norm_2(h), 1 + scale)
        else:
            h = self.norm_2(h.add_(projection))
        h = self.conv_2(self.dropout(_activated(h)))
        return scaled_(h.add_(x if self.shortcut is None else self.shortcut(x)), self.scale)


class SelfAttention(nn.Module):
    """Self-attention over the pixels of a normalised feature map, with a residual sum.

    Each head has an equal, contiguous share of the channels. See `ResidualBlock` for the other options.

    Source: Ho et al. (2020), appendix B.
    """

    def __init__(
        self,
        channels: int,
        *,
        heads: int = 1,
        skip_rescale: bool = False,
        smallest_group: int = 4,
        epsilon: float = 1e-6,
        most_groups: int = 32,
        init_scale: float = 0.0,
    ) -> None:
        super().__init__()
        if heads < 1 or channels % heads:
            raise ValueError(f"heads must divide the {channels} channels of an attention layer, got {heads}")
        self.heads = heads
        self.norm = group_norm(channels, smallest_group, epsilon, most_groups)
        self.qkv = convolution(channels, 3 * channels, 1)
        for part in self.qkv.weight.data.chunk(3):
            variance_scaling_(part, 0.1)
        self.output = convolution(channels, channels, 1, init_scale=init_scale)
        self.scale = math.sqrt(0.5) if skip_rescale else 1.0

    def forward(self, x: Images) -> Images:
        tokens = self.qkv(self.norm(x)).flatten(2).transpose(1, 2)
        query, key, value = (part.unflatten(2, (self.heads, -1)).transpose(1, 2) for part in tokens.chunk(3, dim=2))
        h = F.scaled_dot_product_attention(query, key, value).transpose(1, 2).flatten(2)
        h = self.output(h.transpose(1, 2).unflatten(2, x.shape[2:]))
        return scaled_(h.add_(x), self.scale)


def attention_heads(channels: int, head_channels: int | None) -> int:
    """Number of heads of `head_channels` channels, which must divide `channels`; one if None."""
    if head_channels is None:
        return 1
    if head_channels < 1 or channels % head_channels:
        raise ValueError(
            f"head_channels must divide the {channels} channels of each attention layer, got {head_channels}; null "
            "makes one head of all channels"
        )
    return channels // head_channels


class OutputHead(nn.Module):
    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        *,
        smallest_group: int,
        init_scale: float,
        epsilon: float = 1e-6,
        most_groups: int = 32,
    ) -> None:
        super().__init__()
        self.norm = group_norm(in_channels, smallest_group, epsilon, most_groups)
        self.convolution = convolution(in_channels, out_channels, 3, init_scale=init_scale)

    def forward(self, x: Images) -> Float[Tensor, "B C_out H W"]:
        return self.convolution(_activated(self.norm(x)))


Resample: TypeAlias = ResidualBlock | Downsample | Upsample
"""A module between two levels of a U-Net."""


def _from_zero(inputs: int, channels: int) -> nn.Linear | None:
    """A linear layer without a bias whose weights start at zero; None for no inputs."""
    if not inputs:
        return None
    layer = nn.Linear(inputs, channels, bias=False)
    nn.init.zeros_(layer.weight)
    return layer


def scaled_(x: Tensor, scale: float) -> Tensor:
    return x if scale == 1.0 else x.mul_(scale)


def _activated(x: Tensor) -> Tensor:
    """SiLU of a temporary result, in place unless the gradient needs the input."""
    return F.silu(x, inplace=not x.requires_grad)
