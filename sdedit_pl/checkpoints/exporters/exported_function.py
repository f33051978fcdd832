"""The function that graph formats (ONNX, torch.export) export: a denoiser with the SDE's arithmetic inside.

    (x_t, t) -> x_0, score[, variance_weight]

x_t is float32 (B, C, H, W), images in [-1, 1] plus noise, of the model's size and any B; t is float32 (B,) in (0, 1].
Outputs have the shape of x_t; `variance_weight` exists if the variance was learned (see `sdedit_pl.denoiser`). ONNX has
no `expm1`, so functions of t are in float64. The metadata entry METADATA_KEY is the model's configuration as JSON.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn

from sdedit_pl.checkpoints.exporters.export_format import ExportError
from sdedit_pl.configuration.model_config import ModelConfig
from sdedit_pl.denoiser import Denoiser
from sdedit_pl.noise import SeededNoise
from sdedit_pl.typing import Times, over_images

logger = logging.getLogger(__name__)

INPUTS = ("x_t", "t")
METADATA_KEY = "sdedit_pl"
TOLERANCE = 1e-4
"""Largest error allowed, relative to the largest absolute value in an image."""
TIMES = (0.01, 0.1, 0.3, 0.5, 1.0)
"""Times at which an export is compared with the network, as shares of t_max."""


class Estimator(nn.Module):
    def __init__(self, denoiser: Denoiser) -> None:
        super().__init__()
        # Without `at_once`, which would fix the size of the batch.
        self.denoiser = denoiser.changed(at_once=None)
        self.outputs = ("x_0", "score", "variance_weight")[: 2 + denoiser.parameterisation.learned_variance]
        self.eval()

    def forward(self, x_t: Float[Tensor, "B C H W"], t: Times) -> tuple[Tensor, ...]:
        estimates = self.denoiser.estimates(x_t, t.double())
        return tuple(estimate.to(x_t.dtype) for estimate in estimates if estimate is not None)


def example_inputs(model: ModelConfig, batch: int) -> tuple[Float[Tensor, "B C H W"], Float[Tensor, "B"]]:
    return torch.zeros(batch, *model.image.tensor_shape), torch.full((batch,), 0.5)


def compare_with_denoiser(
    denoiser: Denoiser, model: ModelConfig, run: Callable[[Tensor, Tensor], Sequence[Tensor]]
) -> None:
    """Logs the largest error of an exported graph, read back from its file; raises ExportError above `TOLERANCE`."""
    estimator, largest = Estimator(denoiser), 0.0
    for batch in (1, len(TIMES)):
        t = torch.tensor(TIMES[-batch:]) * denoiser.t_max
        like, _ = example_inputs(model, batch)
        x_t = denoiser.sde.perturb(like, t, SeededNoise(range(batch), denoiser.noise)(0, 0, like))
        with torch.no_grad():
            expected = estimator(x_t, t)
        for name, found, wanted in zip(estimator.outputs, run(x_t, t), expected, strict=True):
            scale = over_images(wanted.flatten(1).abs().amax(1))
            error = ((found - wanted).abs() / scale).max().item()
            largest = max(largest, error)
            if not error <= TOLERANCE:
                raise ExportError(
                    f"the exported {name} differs from the network's by {error:.1e} of its largest number, more than "
                    f"{TOLERANCE:.0e}; nothing was written; try another version of torch or of the runtime"
                )
    logger.info("largest relative error of the export against the network: %.1e", largest)
