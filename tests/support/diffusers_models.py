"""Small models of the diffusers library with random weights, and the folders in which it saves them."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from diffusers import (
    DDPMPipeline,
    DDPMScheduler,
    DiffusionPipeline,
    ScoreSdeVePipeline,
    ScoreSdeVeScheduler,
    UNet2DModel,
)

PLAIN = {
    "sample_size": 16,
    "block_out_channels": (32, 64),
    "layers_per_block": 1,
    "down_block_types": ("DownBlock2D", "AttnDownBlock2D"),
    "up_block_types": ("AttnUpBlock2D", "UpBlock2D"),
}
"""The rest at the library's defaults, which its training example keeps."""
AS_DDPM = {
    **PLAIN,
    "flip_sin_to_cos": False,
    "freq_shift": 1,
    "downsample_padding": 0,
    "attention_head_dim": None,
    "norm_eps": 1e-6,
}
"""As google/ddpm-*: Ho et al.'s own conventions."""
SKIP = {
    "sample_size": 16,
    "block_out_channels": (16, 32, 128),
    "layers_per_block": 1,
    "down_block_types": ("SkipDownBlock2D", "SkipDownBlock2D", "AttnSkipDownBlock2D"),
    "up_block_types": ("AttnSkipUpBlock2D", "SkipUpBlock2D", "SkipUpBlock2D"),
    "mid_block_scale_factor": math.sqrt(2),
    "norm_num_groups": None,
    "norm_eps": 1e-6,
    "attention_head_dim": None,
}
AS_NCSNPP = {**SKIP, "time_embedding_type": "fourier", "center_input_sample": True}
"""As google/ncsnpp-*."""
NETWORKS: dict[str, dict[str, Any]] = {
    "defaults": PLAIN,
    "ddpm": AS_DDPM,
    "few groups, three levels, grey": {
        **PLAIN,
        "block_out_channels": (16, 32, 32),
        "down_block_types": ("AttnDownBlock2D", "DownBlock2D", "AttnDownBlock2D"),
        "up_block_types": ("AttnUpBlock2D", "UpBlock2D", "AttnUpBlock2D"),
        "layers_per_block": 2,
        "norm_num_groups": 8,
        "in_channels": 1,
        "out_channels": 1,
    },
    "ncsnpp": AS_NCSNPP,
    "ncsnpp with heads": {**AS_NCSNPP, "attention_head_dim": 32, "norm_eps": 1e-5, "layers_per_block": 2},
    "skips given an index": SKIP,
}
SIGMA_MAX = 50.0


def random_unet(options: Mapping[str, Any], seed: int = 0) -> UNet2DModel:
    """A UNet2DModel none of whose weights is zero, in evaluation mode."""
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(seed)
        unet = UNet2DModel(**options)
        for name, parameter in unet.named_parameters():
            if name != "time_proj.weight":
                parameter.add_(0.05 * torch.randn_like(parameter))
    return unet.eval()


def pipeline_of(unet: UNet2DModel, **scheduler: Any) -> DiffusionPipeline:
    """The pipeline that goes with a network: of a VE model, or of a table of betas."""
    if unet.config["time_embedding_type"] == "fourier":
        return ScoreSdeVePipeline(unet, ScoreSdeVeScheduler(**{"sigma_max": SIGMA_MAX, **scheduler}))
    return DDPMPipeline(unet, DDPMScheduler(**scheduler))


def save_pipeline(folder: Path, options: Mapping[str, Any], **scheduler: Any) -> UNet2DModel:
    """Saves the pipeline of a random network as the library does, and returns the network."""
    unet = random_unet(options)
    pipeline_of(unet, **scheduler).save_pretrained(folder)
    return unet
