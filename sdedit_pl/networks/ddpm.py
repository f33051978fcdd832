"""The U-Net of DDPM, whose weights ermongroup/SDEdit, DDIM and score_sde publish.

Residual blocks at several resolutions, strided convolutions between them, self-attention at some. The label is the
index of the noise level (0 to 999 in the published models), embedded by sinusoids.

Source: Ho et al., "Denoising Diffusion Probabilistic Models" (2020), appendix B.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from sdedit_pl.networks.layers import (
    Downsample,
    OutputHead,
    PositionalFeatures,
    ResidualBlock,
    SelfAttention,
    Upsample,
    attention_heads,
)
from sdedit_pl.networks.unet import LayerFactories, Shape, UNet


class DDPM(UNet):
    """The raw network of DDPM, without preconditioning or an SDE.

    See `UNet` for the other arguments.

    Args:
        attend_after: On the way up, at `attention_levels`, attention follows every "block" (DDPM, DDIM, SDEdit), or
            only the last one of the "level" (score_sde).
        pad_all_sides: Whether downsampling convolutions pad all four sides, or only right and bottom, as published.
        close_frequencies: Whether the label sinusoids' lowest frequency is 1/10000, as published, or one step above it.
        smallest_group: Minimum number of channels in a normalisation group. With 1, as published, a layer of 32 or
            fewer channels has one per group, which removes the label's effect: use 64 channels or larger groups.
        most_groups: Maximum number of groups of the normalisations.
        epsilon: Added to the variance in the normalisations.
    """

    def __init__(
        self,
        *,
        image_channels: int = 3,
        output_channels: int | None = None,
        channels: int = 128,
        channel_multipliers: Sequence[int] = (1, 2, 2, 2),
        blocks_per_level: int = 2,
        attention_levels: Sequence[int] = (1,),
        attend_after: str = "block",
        head_channels: int | None = None,
        dropout: float = 0.0,
        resample_with_convolution: bool = True,
        pad_all_sides: bool = False,
        close_frequencies: bool = True,
        smallest_group: int = 1,
        most_groups: int = 32,
        epsilon: float = 1e-6,
        init_scale: float = 0.0,
        patch: int = 1,
        checkpoint_gradients: bool = False,
        augmentation_labels: int = 0,
        condition_labels: int = 0,
    ) -> None:
        shape = Shape(
            image_channels=image_channels,
            output_channels=image_channels if output_channels is None else output_channels,
            channels=channels,
            channel_multipliers=tuple(channel_multipliers),
            blocks_per_level=blocks_per_level,
            attention_levels=tuple(attention_levels),
            attend_after=attend_after,
            patch=patch,
        )

        convolve = resample_with_convolution
        normalised = {"smallest_group": smallest_group, "most_groups": most_groups, "epsilon": epsilon}
        super().__init__(
            shape,
            LayerFactories(
                residual=partial(
                    ResidualBlock,
                    label_channels=shape.label_channels,
                    dropout=dropout,
                    init_scale=init_scale,
                    shortcut_init_scale=0.1,
                    **normalised,
                ),
                attention=lambda width: SelfAttention(
                    width, heads=attention_heads(width, head_channels), init_scale=init_scale, **normalised
                ),
                downsample=lambda width: Downsample(
                    width, width, convolve=convolve, fir_kernel=None, pad_all_sides=pad_all_sides
                ),
                upsample=lambda width: Upsample(width, width, convolve=convolve, fir_kernel=None),
                head=partial(OutputHead, init_scale=init_scale, **normalised),
            ),
            PositionalFeatures(channels, closed=close_frequencies),
            checkpoint_gradients=checkpoint_gradients,
            augmentation_labels=augmentation_labels,
            condition_labels=condition_labels,
        )
