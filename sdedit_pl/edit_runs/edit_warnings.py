"""Warnings before an edit: of a model with little training, and of guides unlike the images that it was trained on."""

from __future__ import annotations

import logging
from collections.abc import Sequence

import torch

from sdedit_pl.checkpoints.native import Description
from sdedit_pl.denoiser import Denoiser
from sdedit_pl.guides.guide_files import Guide
from sdedit_pl.noise import SeededNoise
from sdedit_pl.training.noise_level_buckets import BUCKETS_MEAN, noise_buckets
from sdedit_pl.typing import Images

logger = logging.getLogger(__name__)

FEW_STEPS = 1000
FAR = 4.0
"""A guide counts as far from the domain if its denoising error exceeds that of validation images by this factor.

With the bundled portraits, the factor is up to 3 for stroke paintings, 7 for plain colours and 27 for white noise.
"""


def warn_of_few_steps(description: Description) -> None:
    steps, config = description.training.get("steps"), description.config
    if isinstance(steps, int) and steps < FEW_STEPS and not (config.get("ckpt") or config.get("init_from")):
        logger.warning("%s was trained for %d steps, too few to edit well; train it longer", description.path, steps)


def warn_of_far_guides(denoiser: Denoiser, description: Description, guides: Sequence[Guide]) -> None:
    """Warns of guides whose denoising error exceeds `FAR` times that of validation images, if that is recorded."""
    usual = description.training.get(f"val/loss/{BUCKETS_MEAN}")
    edges = (description.config.get("validation") or {}).get("sigma_edges")
    if not isinstance(usual, float) or not usual > 0 or not edges:
        return
    for guide in guides:
        ratio = binned_denoising_error(denoiser, guide.image, edges) / usual
        if ratio > FAR:
            logger.warning(
                "%s is unlike the images that the model was trained on: its denoising error is %.1f times that of the "
                "validation images",
                *(guide.path, ratio),
            )


@torch.no_grad()
def binned_denoising_error(denoiser: Denoiser, image: Images, edges: Sequence[float]) -> float:
    """Weighted error of an image's estimates, averaged over the ranges of noise levels between `edges`."""
    image = image.to(next(denoiser.parameters()).device)
    noise, uniform = SeededNoise([0], denoiser.noise)(0, 0, image), torch.full((1,), 0.5, device=image.device)
    losses = [bucket.losses(denoiser, image, uniform, noise).item() for bucket in noise_buckets(edges, denoiser)]
    return sum(losses) / len(losses)
