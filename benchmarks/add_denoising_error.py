"""Stores the denoising error of validation images in a checkpoint, for `sdedit edit` to warn of guides unlike them.

    python benchmarks/add_denoising_error.py ckpt=model.safetensors data=photos/

Training stores it; this is for checkpoints made otherwise, such as averages of others. The tensors keep their bytes.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from benchmark_command import run_command

from sdedit_pl.checkpoints import load_described
from sdedit_pl.checkpoints.native import read_weights, save_weights
from sdedit_pl.configuration.schema import Command
from sdedit_pl.configuration.training_config import ValidationSettings
from sdedit_pl.data.chosen_images import choose_images
from sdedit_pl.edit_runs.edit_warnings import binned_denoising_error
from sdedit_pl.training.noise_level_buckets import BUCKETS_MEAN


@dataclass
class Arguments:
    """The checkpoint and its images.

    Args:
        ckpt: editing checkpoint (.safetensors), which is rewritten.
        data: folder or shards of its training data.
        split: val, or all for images that training has not seen.
        val_fraction: share of the images held out if data has no val split; as in training.
        images: how many images.
        edges: noise levels between which the error is averaged.
    """

    ckpt: str
    data: str
    split: Literal["val", "all"] = "val"
    val_fraction: float = 0.05
    images: int = 200
    edges: tuple[float, ...] = ValidationSettings().sigma_edges


def store(arguments: Arguments) -> str:
    path = Path(arguments.ckpt)
    description, tensors = read_weights(path)
    denoiser, _ = load_described(path)
    keys = {key: getattr(arguments, key) for key in ("split", "val_fraction")}
    images = choose_images(arguments.data, description.image, count=arguments.images, **keys)
    error = float(
        np.mean([binned_denoising_error(denoiser, images.batch(n, 1), arguments.edges) for n in range(len(images))])
    )
    training = {**description.training, f"val/loss/{BUCKETS_MEAN}": error}
    config = training.get("config", {})
    validation = {**config.get("validation", {}), "sigma_edges": list(arguments.edges)}
    training["config"] = {**config, "validation": validation}
    save_weights(path, tensors, description.model, training, description.origin)
    return f"{path}: denoising error {error:.4f} on {len(images)} images"


COMMAND = Command("python benchmarks/add_denoising_error.py ckpt=FILE data=FOLDER|SHARDS [key=value ...]", Arguments)


def main(words: list[str]) -> int:
    return run_command(words, COMMAND, store)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
