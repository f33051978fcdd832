"""The compared networks: ours at published sizes, and networks of other libraries of the same shape.

    ncsnpp   NCSN++ for CIFAR-10, continuous VE (score_sde): 62.8 M parameters
    ddpm     DDPM's U-Net for CIFAR-10: 35.7 M
    ddpm256  DDPM's U-Net for 256 px, as SDEdit's bedroom and church models: 113.7 M

diffusers has both kinds of U-Net. Its NCSN++ adds the image at every level of both paths. The published CIFAR-10
model, like ours, adds it only on the way down, through convolutions, so ours has 1 % more parameters.
denoising-diffusion-pytorch has a single U-Net, which is smaller at the same widths: linear attention at every level,
and one block fewer per level on the way up. Compare its rate, not its time.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from benchmark_command import Results, refuse_unknown
from torch import Tensor, nn

from sdedit_pl.configuration import require_at_least
from sdedit_pl.networks import DDPM, NCSNpp
from sdedit_pl.typing import Images, Times

OURS = "sdedit_pl"
DIFFUSERS = "diffusers"
DENOISING_DIFFUSION = "denoising-diffusion-pytorch"
LIBRARIES = (OURS, DIFFUSERS, DENOISING_DIFFUSION)
LAYOUTS = {"channels last": torch.channels_last, "contiguous": torch.contiguous_format}


@dataclass(frozen=True)
class Case:
    """Networks of one shape and their inputs.

    Args:
        networks: library -> constructor of the network from its width and the size of images.
        channels: width, the number of channels at full resolution.
        size: height and width of the images in pixels.
    """

    title: str
    networks: Mapping[str, Callable[[int, int], nn.Module]]
    channels: int
    size: int
    batch: int

    def described(self) -> dict[str, Any]:
        return {"title": self.title, "channels": self.channels, "size": self.size, "batch": self.batch}

    def rows(self, libraries: Collection[str]) -> dict[str, tuple[str, str]]:
        """Name of a row -> library and layout, for those of `libraries` that have this network."""
        chosen = [library for library in self.networks if library in libraries]
        return {f"{library}, {layout}": (library, layout) for library in chosen for layout in LAYOUTS}

    def network(self, library: str, layout: str) -> nn.Module:
        """The network of a library, initialised with seed 0, in a layout of `LAYOUTS`."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            network = self.networks[library](self.channels, self.size)
        return network.to(memory_format=LAYOUTS[layout])  # pyright: ignore[reportCallIssue]

    def parameters(self, library: str) -> int:
        with torch.device("meta"):
            network = self.networks[library](self.channels, self.size)
        return sum(parameter.numel() for parameter in network.parameters())

    def inputs(self, layout: str) -> tuple[Images, Times]:
        """Images and labels, always the same."""
        generator = torch.Generator().manual_seed(0)
        images = torch.randn(self.batch, 3, self.size, self.size, generator=generator)
        return images.contiguous(memory_format=LAYOUTS[layout]), torch.linspace(0.1, 2.0, self.batch)


class Sample(nn.Module):
    """Unwraps the output of a network of diffusers."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, images: Images, label: Times) -> Tensor:
        return self.network(images, label, return_dict=False)[0]


def diffusers_unet(channels: int, size: int, multipliers: tuple[int, ...], **options: object) -> nn.Module:
    """A UNet2DModel with one attention head, like its published checkpoints."""
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


@dataclass(frozen=True, kw_only=True)
class NetworkResults(Results):
    """The keys of a benchmark of the networks.

    Args:
        cases: networks, some of ncsnpp, ddpm and ddpm256.
        libraries: libraries that provide the networks.
        rounds: number of timings of each network.
        channels: width of the networks; null for the published one.
        size: height and width of the images in pixels; null for the published one.
        batch: batch size; null for the usual one.
    """

    cases: tuple[str, ...] = ("ncsnpp", "ddpm")
    libraries: tuple[str, ...] = LIBRARIES
    rounds: int = 8
    channels: int | None = None
    size: int | None = None
    batch: int | None = None

    def __post_init__(self) -> None:
        require_at_least(self, rounds=1, threads=1, channels=1, size=1, batch=1)
        refuse_unknown("cases", self.cases, CASES)
        refuse_unknown("libraries", self.libraries, LIBRARIES)

    @property
    def resized(self) -> dict[str, Case]:
        return resized_cases(self.cases, self.channels, self.size, self.batch)


def resized_cases(names: Collection[str], channels: int | None, size: int | None, batch: int | None) -> dict[str, Case]:
    """Some of CASES, with the width, size and batch size replaced where given."""
    changes = {key: value for key, value in {"channels": channels, "size": size, "batch": batch}.items() if value}
    return {name: replace(CASES[name], **changes) for name in names}
