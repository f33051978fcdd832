"""The networks that are compared: ours at published sizes, and those of other libraries of the same shape.

    ncsnpp   NCSN++ for CIFAR-10, continuous VE (score_sde): 62.8 M parameters
    ddpm     DDPM's U-Net for CIFAR-10: 35.7 M
    ddpm256  DDPM's U-Net for 256 px, as SDEdit's bedroom and church models: 113.7 M

diffusers has both kinds of U-Net. Its NCSN++ adds the image at every level on both ways, the CIFAR-10 model on the way
down through convolutions, so that ours has 1 % more parameters. denoising-diffusion-pytorch has one U-Net only, at the
same widths smaller: linear attention at every level and a block less at each on the way up. Compare rates there.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from sdedit_pl.networks import DDPM, NCSNpp
from sdedit_pl.typing import Images, Times

OURS = "sdedit_pl"
DIFFUSERS = "diffusers"
DENOISING_DIFFUSION = "denoising-diffusion-pytorch"
LIBRARIES = (OURS, DIFFUSERS, DENOISING_DIFFUSION)
LAYOUTS = {"channels last": torch.channels_last, "contiguous": torch.contiguous_format}


@dataclass(frozen=True)
class Case:
    """Networks of one shape, and what they are run on.

    Args:
        title: what it is.
        networks: library -> the network, from its width (channels at full resolution) and the size of images.
        channels: the width.
        size: height and width of images.
        batch: images at once.
    """

    title: str
    networks: Mapping[str, Callable[[int, int], nn.Module]]
    channels: int
    size: int
    batch: int

    def resized(self, channels: int | None, size: int | None, batch: int | None) -> Case:
        """The case with what is not None in place of its own."""
        return replace(self, channels=channels or self.channels, size=size or self.size, batch=batch or self.batch)

    def described(self) -> dict[str, Any]:
        """What a report says of it."""
        return {"title": self.title, "channels": self.channels, "size": self.size, "batch": self.batch}

    def rows(self, libraries: Collection[str]) -> dict[str, tuple[str, str]]:
        """Name of a row -> library and layout, of those `libraries` that have this network."""
        chosen = [library for library in self.networks if library in libraries]
        return {f"{library}, {layout}": (library, layout) for library in chosen for layout in LAYOUTS}

    def network(self, library: str, layout: str) -> nn.Module:
        """The network of a library with the weights that the seed 0 gives, in a layout of `LAYOUTS`."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            network = self.networks[library](self.channels, self.size)
        return network.to(memory_format=LAYOUTS[layout])  # pyright: ignore[reportCallIssue]

    def parameters(self, library: str) -> int:
        """How many numbers the network of a library learns."""
        with torch.device("meta"):
            network = self.networks[library](self.channels, self.size)
        return sum(parameter.numel() for parameter in network.parameters())

    def inputs(self, layout: str) -> tuple[Images, Times]:
        """Images and labels, the same ones each time."""
        generator = torch.Generator().manual_seed(0)
        images = torch.randn(self.batch, 3, self.size, self.size, generator=generator)
        return images.contiguous(memory_format=LAYOUTS[layout]), torch.linspace(0.1, 2.0, self.batch)


class Sample(nn.Module):
    """A network of diffusers, which wraps its output, as one that returns it."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, images: Images, label: Times) -> Tensor:
        """The network's output."""
        return self.network(images, label, return_dict=False)[0]


def diffusers_unet(channels: int, size: int, multipliers: tuple[int, ...], **options: object) -> nn.Module:
    """A UNet2DModel with attention in one head, as its published checkpoints have it."""
    from diffusers import UNet2DModel

    widths = tuple(channels * multiplier for multiplier in multipliers)
    network = UNet2DModel(
        sample_size=size, block_out_channels=widths, attention_head_dim=None, norm_eps=1e-6, **options
    )
    return Sample(network)


def _ncsnpp(channels: int, size: int) -> nn.Module:
    return NCSNpp(channels=channels, progressive_input="residual")


def _ddpm(channels: int, size: int, multipliers: tuple[int, ...] = (1, 2, 2, 2), attends: int = 1) -> nn.Module:
    return DDPM(channels=channels, channel_multipliers=multipliers, attention_levels=(attends,))


def _diffusers_ncsnpp(channels: int, size: int) -> nn.Module:
    return diffusers_unet(
        channels,
        size,
        (1, 2, 2, 2),
        layers_per_block=4,
        down_block_types=("SkipDownBlock2D", "AttnSkipDownBlock2D", "SkipDownBlock2D", "SkipDownBlock2D"),
        up_block_types=("SkipUpBlock2D", "SkipUpBlock2D", "AttnSkipUpBlock2D", "SkipUpBlock2D"),
        norm_num_groups=None,
        time_embedding_type="fourier",
        mid_block_scale_factor=2**0.5,
    )


def _diffusers_ddpm(
    channels: int, size: int, multipliers: tuple[int, ...] = (1, 2, 2, 2), attends: int = 1
) -> nn.Module:
    levels = range(len(multipliers))
    return diffusers_unet(
        channels,
        size,
        multipliers,
        layers_per_block=2,
        down_block_types=tuple("AttnDownBlock2D" if level == attends else "DownBlock2D" for level in levels),
        up_block_types=tuple("AttnUpBlock2D" if level == attends else "UpBlock2D" for level in reversed(levels)),
        downsample_padding=0,
        flip_sin_to_cos=False,
        freq_shift=1,
    )


def _denoising_diffusion(channels: int, size: int) -> nn.Module:
    from denoising_diffusion_pytorch import Unet

    return Unet(channels, dim_mults=(1, 2, 2, 2), flash_attn=True)


_256_PX = {"multipliers": (1, 1, 2, 2, 4, 4), "attends": 4}
CASES: dict[str, Case] = {
    "ncsnpp": Case(
        "NCSN++, CIFAR-10, continuous VE",
        {OURS: _ncsnpp, DIFFUSERS: _diffusers_ncsnpp},
        channels=128,
        size=32,
        batch=8,
    ),
    "ddpm": Case(
        "DDPM's U-Net, CIFAR-10",
        {OURS: _ddpm, DIFFUSERS: _diffusers_ddpm, DENOISING_DIFFUSION: _denoising_diffusion},
        channels=128,
        size=32,
        batch=8,
    ),
    "ddpm256": Case(
        "DDPM's U-Net, 256 px",
        {OURS: partial(_ddpm, **_256_PX), DIFFUSERS: partial(_diffusers_ddpm, **_256_PX)},
        channels=128,
        size=256,
        batch=1,
    ),
}
