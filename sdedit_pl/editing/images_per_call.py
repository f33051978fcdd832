"""How many images a network receives in one call, so that a result does not depend on its batch where this is cheap."""

from __future__ import annotations

import torch


def images_per_call(device: torch.device | str) -> int | None:
    """The value of `Denoiser.at_once` for editing on a device: 1 on a CPU, None (whole batches) elsewhere.

    Libraries choose kernels by the batch size, and these round differently. One image per call makes a sample's bits
    independent of its batch. That costs little on a CPU and much on a GPU, where samples of different batches therefore
    agree only up to rounding.
    """
    return 1 if torch.device(device).type == "cpu" else None
