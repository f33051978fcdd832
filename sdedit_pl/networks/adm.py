"""ADM, the ablated diffusion model: the U-Net of guided-diffusion (and, by its options, of improved-diffusion).

DDPM's U-Net with multi-head attention at several resolutions, resampling inside residual blocks, and a label that
scales and shifts the normalised features. The label of the published networks is the index of the noise level, 0 to
999. They have twice as many output channels as the image: the noise, then the learned variance of a step.

Source: Dhariwal and Nichol, "Diffusion Models Beat GANs on Image Synthesis" (2021), section 3; Nichol and Dhariwal,
"Improved Denoising Diffusion Probabilistic Models" (2021).
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
from sdedit_pl.networks.unet import LayerFactories, Shape, UNet, check_resampling, resampling

_EPSILON = 1e-5


class ADM(UNet):
    """The raw network of ADM, without preconditioning or an SDE.

    See `UNet` for the other arguments.

    Args:
        head_channels: Channels of each attention head, 64 as published; null for `heads` heads everywhere.
        heads: Heads of each attention layer if `head_channels` is null.
        modulate: Whether the label scales and shifts the normalised features instead of being added to them.
        block: "biggan" resamples inside residual blocks, "ddpm" between them.
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
        head_channels: int | None = None,
        heads: int = 1,
        modulate: bool = True,
        block: str = "biggan",
        resample_with_convolution: bool = True,
        dropout: float = 0.0,
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
            attend_after="block",
            patch=patch,
        )
        check_resampling(block, resample_with_convolution)
        if head_channels is not None and heads != 1:
            raise ValueError(
                f"give head_channels or heads, not both, got {head_channels} and {heads}; heads=N needs "
                f"head_channels=null"
            )
        norms = {"smallest_group": 1, "epsilon": _EPSILON}
        residual = partial(
            ResidualBlock,
            label_channels=shape.label_channels,
            learn_resampled_shortcut=False,
            modulate=modulate,
            dropout=dropout,
            init_scale=init_scale,
            **norms,
        )

        def attention(width: int) -> SelfAttention:
            count = heads if head_channels is None else attention_heads(width, head_channels)
            return SelfAttention(width, heads=count, init_scale=init_scale, **norms)

        super().__init__(
            shape,
            LayerFactories(
                residual=residual,
                attention=attention,
                downsample=resampling(
                    partial(Downsample, pad_all_sides=True, fir_kernel=None), block, residual, resample_with_convolution
                ),
                upsample=resampling(partial(Upsample, fir_kernel=None), block, residual, resample_with_convolution),
                head=partial(OutputHead, init_scale=init_scale, **norms),
            ),
            PositionalFeatures(channels, cosines_first=True, closed=False),
            checkpoint_gradients=checkpoint_gradients,
            augmentation_labels=augmentation_labels,
            condition_labels=condition_labels,
            condition_last=True,
        )
