"""What the graph formats export of a denoiser: one function of tensors, with the SDE's arithmetic inside.

    (x_t, t) -> x_0, score[, variance_weight]

x_t: float32 (B, C, H, W) in [-1, 1] plus noise, of the model's own size, any B; t: float32 (B,) in (0, 1]. Out come the
estimate of x_0, the score and, for a model with a learned variance, where that lies (see `sdedit_pl.denoiser`), each in
the shape of x_t. Times are turned into alpha, sigma and labels in float64, because a graph has no `expm1`. What a
sampler needs besides, alpha and sigma at the times that it visits, follows from the model's configuration, which goes
into the file as JSON under METADATA_KEY.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn

from sdedit_pl.checkpoints.exporters.export_format import ExportError
from sdedit_pl.configuration.model_config import ModelConfig
from sdedit_pl.denoiser import Denoiser
from sdedit_pl.noise import SeededNoise
from sdedit_pl.typing import over_images

logger = logging.getLogger(__name__)

INPUTS = ("x_t", "t")
METADATA_KEY = "sdedit_pl"
TOLERANCE = 1e-4
"""Largest error allowed, relative to the largest number of an image."""
TIMES = (0.01, 0.1, 0.3, 0.5, 1.0)
"""Where an export is compared with the network, as shares of the times that it was trained on."""


class Estimator(nn.Module):
    """The exported function."""

    def __init__(self, denoiser: Denoiser) -> None:
        super().__init__()
        # Without `at_once`: whole batches, whose size is then free.
        self.denoiser = Denoiser(denoiser.network, denoiser.parameterisation, denoiser.sde)
        self.outputs = ("x_0", "score", "variance_weight")[: 2 + denoiser.parameterisation.learned_variance]
        self.eval()

    def forward(self, x_t: Float[Tensor, "B C H W"], t: Float[Tensor, "B"]) -> tuple[Tensor, ...]:
        """The estimates, in the order of `outputs`."""
        estimates = self.denoiser.estimates(x_t, t.double())
        return tuple(estimate.to(x_t.dtype) for estimate in estimates if estimate is not None)


def example(model: ModelConfig, batch: int) -> tuple[Float[Tensor, "B C H W"], Float[Tensor, "B"]]:
    """Inputs of the shape that a graph is made for."""
    size = model.image.size
    return torch.zeros(batch, model.image.channels, size, size), torch.full((batch,), 0.5)


def metadata(model: ModelConfig) -> str:
    """The model's configuration, as it goes into the file."""
    return json.dumps(model.as_data())


def check(denoiser: Denoiser, model: ModelConfig, run: Callable[[Tensor, Tensor], Sequence[Tensor]]) -> float:
    """Compares an exported graph with the denoiser, over times and sizes of the batch.

    Args:
        denoiser: the model.
        model: its configuration.
        run: the graph that was read back from its file, as a function of x_t and t.

    Returns:
        The largest error, relative to the largest number of an image.

    Raises:
        ExportError: if it exceeds `TOLERANCE`.
    """
    estimator, largest = Estimator(denoiser), 0.0
    for batch in (1, len(TIMES)):
        t = torch.tensor(TIMES[-batch:]) * denoiser.t_max
        like, _ = example(model, batch)
        x_t = denoiser.sde.perturb(like, t, SeededNoise(range(batch))(0, 0, like))
        with torch.no_grad():
            expected = estimator(x_t, t)
        for name, found, wanted in zip(estimator.outputs, run(x_t, t), expected, strict=True):
            scale = over_images(wanted.flatten(1).abs().amax(1))
            error = ((found - wanted).abs() / scale).max().item()
            largest = max(largest, error)
            if not error <= TOLERANCE:
                raise ExportError(
                    f"the exported {name} differs from the network's by {error:.1e} of its largest number, more than "
                    f"{TOLERANCE:.0e}, so that nothing was written; another version of torch or of the runtime may do "
                    "better"
                )
    logger.info("largest relative error of the export against the network: %.1e", largest)
    return largest
