"""Learned weighting of the loss by the uncertainty at each noise level.

With u(s), a learned function of the noise level s, the objective loss / e^u + u is minimal at u = ln E[loss at s].
There the loss of each level is divided by its own mean: all levels have the same weight. Denoising does not use u.

Source: Karras et al., "Analyzing and Improving the Training Dynamics of Diffusion Models", CVPR 2024, section 2 and
appendix B.1, after Kendall and Gal, NeurIPS 2017.
"""

from __future__ import annotations

import math

import torch
from jaxtyping import Float
from torch import Tensor, nn

from sdedit_pl.sde import SDE
from sdedit_pl.typing import Times

_HARMONICS = 32
_PERIOD = 32.0  # in ln s; longer than the range of noise levels of any SDE here


class LogUncertainty(nn.Module):
    """u(s), a Fourier series in ln s that starts as 0; unlike the source's, its frequencies need no buffer."""

    def __init__(self) -> None:
        super().__init__()
        self.weights = nn.Linear(2 * _HARMONICS, 1)
        nn.init.zeros_(self.weights.weight)
        nn.init.zeros_(self.weights.bias)

    def forward(self, sde: SDE, t: Times) -> Times:
        with torch.autocast(t.device.type, enabled=False):
            log_level = -sde.log_snr(t.float()) / 2
            harmonics = torch.arange(1, _HARMONICS + 1, device=t.device, dtype=log_level.dtype)
            phase = torch.outer(log_level, harmonics * (2 * math.pi / _PERIOD))
            return self.weights(torch.cat([phase.cos(), phase.sin()], dim=1)).squeeze(1)

    def objective(self, losses: Float[Tensor, "B"], sde: SDE, t: Times) -> Float[Tensor, "B"]:
        u = self(sde, t)
        return losses * (-u).exp() + u
