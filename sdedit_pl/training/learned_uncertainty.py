"""How uncertain the denoiser must be at each noise level, learned beside it.

Levels of noise differ in how well images can be told from them, so that a weighting made by hand lets some dominate
the gradient. With u(s), a learned number of the noise level s, the objective

    loss / e^u + u

is least at u = ln E[loss at s], where every level's loss is divided by its own mean: all levels weigh alike, and go on
doing so while they fall at different rates. u has no part in denoising.

Source: Karras et al., "Analyzing and Improving the Training Dynamics of Diffusion Models", CVPR 2024, section 2 and
appendix B.1, after Kendall and Gal, "What Uncertainties Do We Need in Bayesian Deep Learning for Computer Vision?",
NeurIPS 2017.
"""

from __future__ import annotations

import math

import torch
from jaxtyping import Float
from torch import Tensor, nn

from sdedit_pl.sde import SDE
from sdedit_pl.typing import Times

_HARMONICS = 32
_PERIOD = 32.0  # of the slowest wave, in ln s: all levels that any SDE here reaches lie well within one


class LogUncertainty(nn.Module):
    """u(s): a sum of waves in ln s, 0 everywhere at first.

    The source draws the waves' frequencies at random; here they are harmonics, so that no buffer has to be kept.
    """

    def __init__(self) -> None:
        super().__init__()
        self.weights = nn.Linear(2 * _HARMONICS, 1)
        nn.init.zeros_(self.weights.weight)
        nn.init.zeros_(self.weights.bias)

    def forward(self, sde: SDE, t: Times) -> Times:
        """The logarithm of the loss to be expected at the times `t`, (B,)."""
        with torch.autocast(t.device.type, enabled=False):
            log_level = -sde.log_snr(t.float()) / 2
            harmonics = torch.arange(1, _HARMONICS + 1, device=t.device, dtype=log_level.dtype)
            phase = torch.outer(log_level, harmonics * (2 * math.pi / _PERIOD))
            return self.weights(torch.cat([phase.cos(), phase.sin()], dim=1)).squeeze(1)

    def objective(self, losses: Float[Tensor, "B"], sde: SDE, t: Times) -> Float[Tensor, "B"]:
        """What training minimises in place of the `losses` of images at the times `t`."""
        u = self(sde, t)
        return losses * (-u).exp() + u
