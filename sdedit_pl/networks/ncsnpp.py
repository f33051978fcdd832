"""NCSN++ and DDPM++: the U-Nets of score-based generative modelling through SDEs.

DDPM's U-Net with resampling inside residual blocks, sums that preserve the variance, FIR anti-aliasing, and pyramids,
which feed the image into each level on the way down and assemble the output on the way up.

NCSN++ embeds its label (the logarithm of the noise level in the published models) by Fourier features. DDPM++ is the
same class with a positional embedding, no FIR and no pyramids.

Source: Song et al. 2021, section 4.4 and appendix H.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from sdedit_pl.networks.layers import (
    Downsample,
    FourierFeatures,
    OutputHead,
    PositionalFeatures,
    ResidualBlock,
    SelfAttention,
    Upsample,
    attention_heads,
)
from sdedit_pl.networks.pyramids import InputResidual, InputSkip, OutputResidual, OutputSkip
from sdedit_pl.networks.unet import LayerFactories, Shape, UNet, check_choice, check_resampling, resampling


class NCSNpp(UNet):
    """The raw network of NCSN++ and DDPM++, without preconditioning or an SDE.

    See `UNet` for the other arguments.

    Args:
        attention_levels: Levels whose blocks are followed by attention, 0 being full resolution; on the way up only the
            level's last block. The middle of the network always attends.
        label_embedding: "fourier" (random frequencies) or "positional" (DDPM's).
        fourier_scale: Standard deviation of the random frequencies.
        close_frequencies: Whether the lowest "positional" frequency is 1/10000, as published, or one step above it.
        block: "biggan" resamples inside residual blocks, "ddpm" between them.
        fir: Whether to resample with an anti-aliasing filter.
        fir_kernel: The filter's taps, which are normalised.
        skip_rescale: Whether sums of two branches are multiplied by sqrt(1/2).
        progressive: Assembly of the output: "none" (at full resolution), "output_skip" (a sum of images from every
            level) or "residual" (features, upsampled, added to the next level's).
        progressive_input: How the image enters below full resolution: "none", "input_skip" or "residual".
        progressive_combine: Whether "input_skip" adds ("sum") or concatenates ("cat").
        epsilon: Added to the variance in the normalisations.
        refine: Channels of the convolutions at full resolution that follow the patches and remove their grid from
            smooth areas; 0 for none. Not in the paper.
    """

    def __init__(
        self,
        *,
        image_channels: int = 3,
        output_channels: int | None = None,
        channels: int = 128,
        channel_multipliers: Sequence[int] = (1, 2, 2, 2),
        blocks_per_level: int = 4,
        attention_levels: Sequence[int] = (1,),
        head_channels: int | None = None,
        dropout: float = 0.0,
        label_embedding: str = "fourier",
        fourier_scale: float = 16.0,
        close_frequencies: bool = True,
        block: str = "biggan",
        fir: bool = True,
        fir_kernel: Sequence[float] = (1.0, 3.0, 3.0, 1.0),
        skip_rescale: bool = True,
        progressive: str = "none",
        progressive_input: str = "none",
        progressive_combine: str = "sum",
        resample_with_convolution: bool = True,
        epsilon: float = 1e-6,
        init_scale: float = 0.0,
        patch: int = 1,
        refine: int = 0,
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
            attend_after="level",
            patch=patch,
        )
        check_resampling(block, resample_with_convolution)
        check_choice("label_embedding", label_embedding, ("fourier", "positional"))
        _check_pyramids(shape, progressive, progressive_input, progressive_combine)
        taps = tuple(fir_kernel) if fir else None
        image_width = (refine or shape.output_channels) * patch**2
        residual = partial(
            ResidualBlock,
            label_channels=shape.label_channels,
            dropout=dropout,
            skip_rescale=skip_rescale,
            epsilon=epsilon,
            init_scale=init_scale,
            shortcut_init_scale=1.0 if block == "biggan" else 0.1,
        )

        input_joints = {
            "none": None,
            "input_skip": partial(InputSkip, combine=progressive_combine, fir_kernel=taps),
            "residual": partial(InputResidual, skip_rescale=skip_rescale, fir_kernel=taps),
        }
        output_joints = {
            "none": None,
            "output_skip": lambda width, below: OutputSkip(
                width, image_width, lowest=below is None, epsilon=epsilon, init_scale=init_scale, fir_kernel=taps
            ),
            "residual": partial(OutputResidual, skip_rescale=skip_rescale, epsilon=epsilon, fir_kernel=taps),
        }
        head = partial(OutputHead, smallest_group=4, epsilon=epsilon, init_scale=init_scale)
        super().__init__(
            shape,
            LayerFactories(
                residual=residual,
                attention=lambda width: SelfAttention(
                    width,
                    heads=attention_heads(width, head_channels),
                    skip_rescale=skip_rescale,
                    epsilon=epsilon,
                    init_scale=init_scale,
                ),
                downsample=resampling(partial(Downsample, fir_kernel=taps), block, residual, resample_with_convolution),
                upsample=resampling(partial(Upsample, fir_kernel=taps), block, residual, resample_with_convolution),
                head=None if progressive == "output_skip" else head,
                input_joint=input_joints[progressive_input],
                output_joint=output_joints[progressive],
            ),
            FourierFeatures(channels, fourier_scale)
            if label_embedding == "fourier"
            else PositionalFeatures(channels, closed=close_frequencies),
            checkpoint_gradients=checkpoint_gradients,
            augmentation_labels=augmentation_labels,
            condition_labels=condition_labels,
            refine=refine,
        )


def _check_pyramids(shape: Shape, progressive: str, progressive_input: str, progressive_combine: str) -> None:
    """Raises ValueError for an unknown value, and for an option that would have no effect."""
    check_choice("progressive", progressive, ("none", "output_skip", "residual"))
    check_choice("progressive_input", progressive_input, ("none", "input_skip", "residual"))
    check_choice("progressive_combine", progressive_combine, ("sum", "cat"))
    if progressive_combine == "cat" and progressive_input != "input_skip":
        raise ValueError(
            "progressive_combine='cat' needs progressive_input='input_skip', but progressive_input is "
            f"{progressive_input!r}; use progressive_combine='sum'"
        )
    if shape.levels == 1 and (progressive == "residual" or progressive_input != "none"):
        raise ValueError(
            f"progressive={progressive!r} with progressive_input={progressive_input!r} needs at least two levels, got "
            f"channel_multipliers={shape.channel_multipliers}"
        )
