"""Translation between the domains of two models, and encoding of images along the probability-flow ODE.

The ODE maps an image to a noisy state and back. If one model encodes and another decodes (DDIB), states of equal noise
level are exchanged; in the variance-exploding form y = x / alpha they need no change, whatever the two SDEs.

Source: Song, Meng and Ermon, "Denoising Diffusion Implicit Models", ICLR 2021, section 4.3 (encoding); Su et al., "Dual
Diffusion Implicit Bridges", ICLR 2023, Algorithm 1; Zhao et al., "EGSDE", NeurIPS 2022.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import torch
from jaxtyping import Float
from torch import Tensor

from sdedit_pl.denoiser import Denoiser
from sdedit_pl.editing.guidance import guided
from sdedit_pl.grids import LogSNR
from sdedit_pl.noise import SeededNoise
from sdedit_pl.sampling import Callback, integrate
from sdedit_pl.sde import SDE
from sdedit_pl.solvers import DDIM
from sdedit_pl.typing import Images, over_images


def ddim_encode(
    denoiser: Denoiser, images: Images, times: Float[Tensor, "levels"], callback: Callback | None = None
) -> Images:
    """Integrates the probability-flow ODE from images up to the first of `times`, by DDIM's steps.

        dy / dr = -sigma score,   y = x / alpha, r = sigma / alpha

    The images are treated as states at the last time but one of `times`, whose noise is invisible.

    Args:
        images: in [-1, 1].
        times: the decreasing times of decoding, at least three; the last, where the ODE has no slope, is not used.
        callback: called after each step with the state and the time it has reached.
    """
    sde, y = denoiser.sde, images
    alpha = over_images(sde.alpha(images.new_full((len(images),), times[0].item())))
    with torch.no_grad():
        for now, later in pairwise(times.flip(0)[1:].tolist()):
            t, s = (images.new_full((len(images),), time) for time in (now, later))
            slope = -over_images(sde.sigma(t)) * denoiser.score(over_images(sde.alpha(t)) * y, t)
            y = y + over_images(sde.noise_level(s) - sde.noise_level(t)) * slope
            if callback is not None:
                callback(y, later)
    return alpha * y


def ddim_round_trip(
    denoiser: Denoiser, images: Images, times: Float[Tensor, "levels"], callback: Callback | None = None
) -> Images:
    return _decoded(denoiser, ddim_encode(denoiser, images, times, callback), times, callback)


@dataclass(frozen=True)
class Bridge:
    """DDIB: encodes images of a source model's domain and decodes them with the target model.

    Args:
        level: noise level of the exchanged state; None for the highest that both models were trained on.
        steps: solver steps of each model, at least 2.
    """

    level: float | None = None
    steps: int = 50

    def __post_init__(self) -> None:
        if self.steps < 2 or (self.level is not None and not self.level > 0):
            raise ValueError(
                f"ddib needs at least 2 steps and a noise level above 0, got steps={self.steps} and level={self.level}"
            )

    def common_level(self, source: Denoiser, target: Denoiser) -> float:
        """The noise level of the exchanged state; raises ValueError if a model was not trained up to it."""
        highest = min(model.highest_noise_level for model in (source, target))
        if self.level is not None and self.level > highest * (1 + 1e-6):
            raise ValueError(f"these models were trained up to noise level {highest:.4g}, got {self.level:g}")
        return self.level or highest

    def __call__(self, source: Denoiser, target: Denoiser, images: Images, callback: Callback | None = None) -> Images:
        """Translates images in [-1, 1]; `callback` is called after each of the 2 `steps` - 1 steps."""
        level = self.common_level(source, target)
        grids = [self._times(model.sde, level) for model in (source, target)]
        alphas = [
            over_images(model.sde.alpha(images.new_full((len(images),), times[0].item())))
            for model, times in zip((source, target), grids, strict=True)
        ]
        state = ddim_encode(source, images, grids[0], callback) * (alphas[1] / alphas[0])
        return _decoded(target, state, grids[1], callback)

    def _times(self, sde: SDE, level: float) -> Float[Tensor, "levels"]:
        start = float(sde.time_at_noise_level(torch.tensor(level, dtype=torch.float64)))
        return LogSNR().times(sde, min(start, 1.0), self.steps)


def away_from(source: Denoiser, target: Denoiser, weight: float) -> Denoiser:
    """The target model with `weight` (target score - source score) added to its score.

    It replaces EGSDE's realism expert, the features of a classifier of noised images: the added score is the gradient
    of the log odds that the best such classifier gives to the target domain, and needs no training. Raises ValueError
    if the models differ in SDE, parameterisation or labels.
    """
    if (source.sde, source.parameterisation) != (target.sde, target.parameterisation) or source.condition is not None:
        raise ValueError(
            "the second energy needs a source model with the SDE and parameterisation of the target model, and without "
            "source_label; omit two_energies from methods"
        )
    return guided(target, source, 1 + weight)


def _decoded(denoiser: Denoiser, state: Images, times: Float[Tensor, "levels"], callback: Callback | None) -> Images:
    # DDIM draws no noise.
    return integrate(denoiser, DDIM(), state, times, noise=SeededNoise(range(len(state))), callback=callback)
