"""Images and configurations for runs of a few seconds."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torchvision.utils import save_image

from sdedit_pl.configuration.command_line import read_arguments
from sdedit_pl.configuration.resolving import merge, resolve
from sdedit_pl.configuration.training_config import TrainingConfig

TINY: dict[str, Any] = {
    "data": {"size": 8, "batch_size": 4, "workers": 0, "val_fraction": 0.3},
    "network": {
        "name": "ncsnpp",
        "channels": 8,
        "channel_multipliers": [1],
        "blocks_per_level": 1,
        "attention_levels": [],
        "dropout": 0.1,
    },
    "optimizer": {"rate": 1e-3},
    "average": {"half_life_images": 50},
    "trainer": {
        "max_steps": 4,
        "accelerator": "cpu",
        "devices": 1,
        "val_check_interval": 4,
        "log_every_n_steps": 1,
        "enable_progress_bar": False,
    },
    "checkpoint": {"every_steps": 4, "keep": 3},
    "validation": {"memory_images": 0},
    "preview": {"count": 2, "samples": 1, "steps": 2},
}
"""A run of seconds on 8 px images, without `data.path`, `out` and the 20 network calls to find memorised images."""


def tiny_config(*arguments: str) -> TrainingConfig:
    """The resolved configuration of a tiny run, changed by a command line's arguments."""
    given, typed = read_arguments(TrainingConfig, arguments)
    return resolve(TrainingConfig, merge(TrainingConfig, TINY, given), typed)


def two_colour_images(count: int, size: int, seed: int = 0) -> Float[Tensor, "B 3 H W"]:
    """Images in [-1, 1] whose left and right halves each have one of two colours: a domain of four images."""
    generator = torch.Generator().manual_seed(seed)
    colours = torch.tensor([[0.9, -0.6, -0.8], [-0.8, 0.1, 0.8]])
    halves = colours[torch.randint(0, 2, (count, 2), generator=generator)]
    return halves.repeat_interleave(size // 2, dim=1).transpose(1, 2)[:, :, None, :].expand(-1, -1, size, -1).clone()


def write_images(folder: Path, count: int = 20, size: int = 8) -> Path:
    """Writes two-colour images as PNG files and returns the folder."""
    folder.mkdir(parents=True, exist_ok=True)
    for number, image in enumerate(two_colour_images(count, size)):
        save_image((image + 1) / 2, folder / f"{number:03d}.png")
    return folder
