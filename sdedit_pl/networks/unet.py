"""The common structure of the U-Nets: levels, their widths and their connections.

    image -> stem -> down levels -> middle -> up levels -> head -> image

Every feature map of the way down, including the stem's, is concatenated to the input of one block on the way up. An
input and an output pyramid are optional; a joint at each level connects them with the features.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import cast

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from sdedit_pl.networks.initialisation import convolution
from sdedit_pl.networks.layers import (
    Downsample,
    FourierFeatures,
    LabelEmbedding,
    LabelVector,
    OutputHead,
    PositionalFeatures,
    Resample,
    ResidualBlock,
    SelfAttention,
    Upsample,
)
from sdedit_pl.networks.pyramids import InputJoint, OutputJoint
from sdedit_pl.typing import Images, Times


@dataclass(frozen=True)
class Shape:
    """The sizes of a U-Net; see `UNet`, `NCSNpp` and `DDPM`."""

    image_channels: int
    output_channels: int
    channels: int
    channel_multipliers: tuple[int, ...]
    blocks_per_level: int
    attention_levels: tuple[int, ...]
    attend_after: str
    patch: int

    def __post_init__(self) -> None:
        counts = (self.image_channels, self.output_channels, self.channels, self.blocks_per_level)
        if not self.channel_multipliers or min(*counts, *self.channel_multipliers) < 1:
            raise ValueError(
                "image_channels, output_channels, channels, blocks_per_level and one or more channel_multipliers must "
                f"be positive, got {counts} and {self.channel_multipliers}"
            )
        if unknown := [level for level in self.attention_levels if not 0 <= level < self.levels]:
            raise ValueError(
                "attention_levels are indices of channel_multipliers, from 0 (full resolution) to "
                f"{self.levels - 1} here, got {unknown}"
            )
        check_choice("attend_after", self.attend_after, ("block", "level"))
        if self.patch not in (1, 2, 4):
            raise ValueError(f"patch must be 1, 2 or 4, got {self.patch}")

    @property
    def levels(self) -> int:
        return len(self.channel_multipliers)

    @property
    def widths(self) -> tuple[int, ...]:
        return tuple(self.channels * multiplier for multiplier in self.channel_multipliers)

    @property
    def label_channels(self) -> int:
        return 4 * self.channels

    @property
    def size_divisor(self) -> int:
        return self.patch * 2 ** (self.levels - 1)


@dataclass(frozen=True)
class LayerFactories:
    """Factories of a U-Net's parts; a width is a number of channels.

    Attributes:
        residual: maps (width in, width out) to a residual block.
        attention, downsample, upsample: map the width to a layer.
        head: maps (width in, width out) to the last layer; None if the output pyramid is the output.
        input_joint: maps (width of the pyramid, width of the features) to a joint after a `downsample`.
        output_joint: maps (width of the features, width one level below, if any) to a joint after a level's last block.
    """

    residual: Callable[[int, int], ResidualBlock]
    attention: Callable[[int], SelfAttention]
    downsample: Callable[[int], Resample]
    upsample: Callable[[int], Resample]
    head: Callable[[int, int], OutputHead] | None
    input_joint: Callable[[int, int], InputJoint] | None = None
    output_joint: Callable[[int, int | None], OutputJoint] | None = None


class UNetBlock(nn.Module):
    def __init__(self, residual: ResidualBlock, attention: SelfAttention | None = None) -> None:
        super().__init__()
        self.residual = residual
        self.attention = attention

    def forward(self, x: Images, label: LabelVector) -> Float[Tensor, "B C_out H W"]:
        x = self.residual(x, label)
        return x if self.attention is None else self.attention(x)


class Level(nn.Module):
    """One side of a U-Net at one resolution: its blocks, then the step to the next resolution, if any."""

    def __init__(self, blocks: Sequence[UNetBlock], resample: Resample | None) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(blocks)
        self.resample = resample


class Refinement(nn.Module):
    """Convolutions over the features of unfolded patches and the network's input, which remove the patches' grid."""

    def __init__(self, image_channels: int, channels: int, output_channels: int) -> None:
        super().__init__()
        self.entry = convolution(image_channels, channels, 3)
        self.middle = convolution(2 * channels, channels, 3)
        self.exit = convolution(channels, output_channels, 3, init_scale=0.0)

    def forward(self, h: Images, images: Float[Tensor, "B C_in H W"]) -> Float[Tensor, "B C_out H W"]:
        joined = F.silu(torch.cat([h, self.entry(images)], dim=1))
        return self.exit(F.silu(self.middle(joined)))


class UNet(nn.Module):
    """A U-Net of the sizes `shape`, built from `layers`; its subclasses choose both.

    Height and width of its images must be multiples of `size_divisor`. The arguments below are the subclasses'.

    Args:
        image_channels: Channels of the input.
        output_channels: Channels of the output; those of the input if None.
        channels: Channels at full resolution, before the multipliers. The noise level's vector is four times as long.
        channel_multipliers: One for each level, from full resolution down.
        blocks_per_level: Residual blocks of each level on the way down; one more on the way up.
        attention_levels: Levels (0 is full resolution) whose blocks are followed by attention, as is the middle.
        head_channels: Channels of each attention head; null makes one head of all channels.
        dropout: Probability of dropping an activation inside a residual block, in training.
        resample_with_convolution: Whether resampling between levels, outside residual blocks, is learned.
        init_scale: Initial scale of every residual branch's last convolution; 0 means nearly no contribution.
        patch: 1, 2 or 4. Above 1 the network folds patches of that size into channels and works at 1/patch of the
            resolution: cheaper, slightly less sharp. Not in the paper.
        checkpoint_gradients: Whether to recompute activations in the backward pass, which takes time and saves memory.
        augmentation_labels: Length of the augmentation vector that the network is conditioned on; 0 for none.
        condition_labels: Length of the vector of the image's label (`sdedit_pl.conditions`); 0 for none.
    """

    def __init__(
        self,
        shape: Shape,
        layers: LayerFactories,
        features: FourierFeatures | PositionalFeatures,
        *,
        checkpoint_gradients: bool,
        augmentation_labels: int = 0,
        condition_labels: int = 0,
        condition_last: bool = False,
        refine: int = 0,
    ) -> None:
        super().__init__()
        if refine < 0 or (refine and shape.patch == 1):
            raise ValueError(
                f"refine must be 0, or a number of channels with patch=2 or patch=4, got refine={refine} with "
                f"patch={shape.patch}"
            )
        self.shape = shape
        self.checkpoint_gradients = checkpoint_gradients
        self.label_embedding = LabelEmbedding(
            features, shape.label_channels, augmentation_labels, condition_labels, condition_last=condition_last
        )
        self.stem = convolution(shape.image_channels * shape.patch**2, shape.channels, 3)
        down, input_joints, kept = _way_down(shape, layers)
        self.down = nn.ModuleList(down)
        self.input_pyramid = nn.ModuleList(input_joints)
        width = kept[-1]
        first = UNetBlock(layers.residual(width, width), layers.attention(width))
        self.middle = nn.ModuleList([first, UNetBlock(layers.residual(width, width))])
        up, output_joints = _way_up(shape, layers, kept)
        self.up = nn.ModuleList(up)
        self.output_pyramid = nn.ModuleList(output_joints)
        outside = (refine or shape.output_channels) * shape.patch**2
        self.head = None if layers.head is None else layers.head(shape.widths[0], outside)
        self.refinement = Refinement(shape.image_channels, refine, shape.output_channels) if refine else None

    @property
    def size_divisor(self) -> int:
        return self.shape.size_divisor

    def forward(
        self, images: Images, label: Times, conditions: Float[Tensor, "B conditions"] | None = None
    ) -> Float[Tensor, "B C_out H W"]:
        """Maps images (B, image_channels, H, W) to (B, output_channels, H, W); raises ValueError for other shapes.

        Args:
            label: One number for each image, embedded without scaling.
            conditions: Augmentation labels, if any, then the vector of the image's label, if any; None for neither.
        """
        check_images(images, self.shape.image_channels, self.size_divisor)
        patch = self.shape.patch
        # The label's embedding stays in float32 when the rest is converted to 16 bits.
        dtype = self.stem.weight.dtype
        x = (F.pixel_unshuffle(images, patch) if patch > 1 else images).to(dtype)
        vector = self.label_embedding(label, conditions).to(dtype)
        kept = self._descend(x, vector)
        h = kept[-1]
        for block in self.middle:
            h = self._run(block, h, vector)
        h = self._ascend(h, kept, vector)
        h = F.pixel_shuffle(h, patch) if patch > 1 else h
        return h if self.refinement is None else self.refinement(h, images.to(dtype))

    def _descend(self, x: Images, vector: LabelVector) -> list[Tensor]:
        h, pyramid = self.stem(x), x
        kept = [h]
        for index, level in enumerate(cast(Sequence[Level], self.down)):
            for block in level.blocks:
                h = self._run(block, h, vector)
                kept.append(h)
            if level.resample is not None:
                h = self._run(level.resample, h, vector)
                if self.input_pyramid:
                    h, pyramid = self.input_pyramid[index](h, pyramid)
                kept.append(h)
        return kept

    def _ascend(self, h: Images, kept: list[Tensor], vector: LabelVector) -> Float[Tensor, "B C_out H_out W_out"]:
        pyramid = None
        for index, level in reversed(list(enumerate(cast(Sequence[Level], self.up)))):
            for block in level.blocks:
                # A statement of its own: inside the call, the narrower h would stay in memory while the block runs.
                h = torch.cat([h, kept.pop()], dim=1)
                h = self._run(block, h, vector)
            if self.output_pyramid:
                h, pyramid = self.output_pyramid[index](h, pyramid)
            if level.resample is not None:
                h = self._run(level.resample, h, vector)
        if self.head is not None:
            return self.head(h)
        assert pyramid is not None
        return pyramid

    def _run(self, block: nn.Module, h: Images, vector: LabelVector) -> Float[Tensor, "B C_out H_out W_out"]:
        if self.checkpoint_gradients and torch.is_grad_enabled():
            return checkpoint(block, h, vector, use_reentrant=False)
        return block(h, vector)


def resampling(
    direction: Callable[..., Downsample | Upsample], block: str, residual: Callable[..., ResidualBlock], convolve: bool
) -> Callable[[int], Resample]:
    """A factory of the steps between levels: "biggan" resamples inside a residual block, "ddpm" without one.

    `convolve` is whether a step without a residual block has weights.
    """
    if block == "ddpm":
        return lambda width: direction(width, width, convolve=convolve)
    return lambda width: residual(width, width, resample=direction(width, width, convolve=False))


def check_resampling(block: str, resample_with_convolution: bool) -> None:
    check_choice("block", block, ("biggan", "ddpm"))
    if not resample_with_convolution and block != "ddpm":
        raise ValueError(
            "resample_with_convolution=False needs block='ddpm'; block='biggan' resamples inside its blocks"
        )


def check_choice(option: str, value: str, choices: Sequence[str]) -> None:
    if value not in choices:
        raise ValueError(f"{option} must be one of {', '.join(map(repr, choices))}, got {value!r}")


def check_images(images: Images, channels: int, divisor: int) -> None:
    _, found, height, width = images.shape
    if found != channels:
        raise ValueError(f"the network takes images of {channels} channels, got {found}")
    if height % divisor or width % divisor:
        smaller = [max(side // divisor, 1) * divisor for side in (height, width)]
        larger = [-(-side // divisor) * divisor for side in (height, width)]
        raise ValueError(
            f"height and width must be multiples of {divisor}, got {height} x {width}; the nearest sizes are "
            f"{smaller[0]} x {smaller[1]} and {larger[0]} x {larger[1]}"
        )


def _way_down(shape: Shape, layers: LayerFactories) -> tuple[list[Level], list[InputJoint], list[int]]:
    """The levels and joints of the way down, and the width of every feature map that it keeps."""
    levels: list[Level] = []
    joints: list[InputJoint] = []
    width, pyramid_width = shape.channels, shape.image_channels * shape.patch**2
    kept = [width]
    for index, target in enumerate(shape.widths):
        blocks = []
        for _ in range(shape.blocks_per_level):
            attention = layers.attention(target) if index in shape.attention_levels else None
            blocks.append(UNetBlock(layers.residual(width, target), attention))
            width = target
            kept.append(width)
        if index == shape.levels - 1:
            levels.append(Level(blocks, None))
            break
        levels.append(Level(blocks, layers.downsample(width)))
        if layers.input_joint is not None:
            joint = layers.input_joint(pyramid_width, width)
            joints.append(joint)
            width, pyramid_width = joint.width, joint.pyramid_width
        kept.append(width)
    return levels, joints, kept


def _way_up(shape: Shape, layers: LayerFactories, kept: Sequence[int]) -> tuple[list[Level], list[OutputJoint]]:
    """The levels and joints of the way up, in order from full resolution, which runs last."""
    levels: list[Level] = []
    joints: list[OutputJoint] = []
    rest = list(kept)
    width = rest[-1]
    for index in reversed(range(shape.levels)):
        below = width if levels else None
        blocks = []
        for remaining in reversed(range(shape.blocks_per_level + 1)):
            attends = index in shape.attention_levels and (shape.attend_after == "block" or not remaining)
            residual = layers.residual(width + rest.pop(), shape.widths[index])
            width = shape.widths[index]
            blocks.append(UNetBlock(residual, layers.attention(width) if attends else None))
        levels.append(Level(blocks, layers.upsample(width) if index else None))
        if layers.output_joint is not None:
            joints.append(layers.output_joint(width, below))
    assert not rest
    return levels[::-1], joints[::-1]
