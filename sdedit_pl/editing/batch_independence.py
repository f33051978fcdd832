"""The batch size of one network call, chosen so that a result does not depend on its batch if this is cheap."""

from __future__ import annotations

import torch

from sdedit_pl.denoiser import Denoiser
from sdedit_pl.machine import Arithmetic, AutoBool, prepare_for_inference


def images_per_call(device: torch.device | str, compiled_batch: int | None = None) -> int | None:
    """`Denoiser.at_once` for editing on a device: 1 on a CPU, elsewhere `compiled_batch` (None: whole batches).

    Libraries choose kernels by the batch size, and kernels round differently. One image per call makes a sample's bits
    independent of its batch, at little cost on a CPU. On a GPU, samples of different batches agree only up to rounding,
    and a network compiled for `compiled_batch` gets only such batches, since any other would recompile it.
    """
    return 1 if torch.device(device).type == "cpu" else compiled_batch


def prepare_for_batches(
    denoiser: Denoiser, batch: int, pixels: int, evaluations: int, precision: str, compile: AutoBool
) -> Arithmetic:
    arithmetic = prepare_for_inference(denoiser.network, evaluations, precision, compile, batch * pixels)
    device = next(denoiser.parameters()).device
    denoiser.at_once = images_per_call(device, batch if arithmetic.compile else None)
    return arithmetic
