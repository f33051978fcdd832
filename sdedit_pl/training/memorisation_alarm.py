"""Detects models that reproduce their training images instead of generating new ones.

After each validation, simulated strokes of validation images are edited. Edits count as memorised if they are much
closer to the nearest training image, or mirror image of one, than the validation images are. The distance is the mean
squared difference at 16 px: at full resolution, edits that lack detail would be far from every image.
A model that does reproduce the 838 bundled portraits had ratios of 0.82 at noise level 1.2, 0.52 at 3.4 and 0.35 at 25.
"""

from __future__ import annotations

import logging

import lightning
import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import interpolate

from sdedit_pl.denoiser import Denoiser
from sdedit_pl.editing import SDEdit
from sdedit_pl.guides.strokes import stroke_painting
from sdedit_pl.metrics.image_distances import nearest_by_distance
from sdedit_pl.training.module import ScoreModule
from sdedit_pl.training.weight_averaging import ImageHalfLifeAveraging
from sdedit_pl.typing import Images

logger = logging.getLogger(__name__)

SIDE = 16
NOISE_LEVEL, STEPS = 10.0, 20
"""Start and number of steps of the edits. Little of the strokes is left at this level, so that the model decides."""
ALARMING = 0.5
"""Ratio of the two median distances below which edits count as memorised."""


class MemorisationAlarm(lightning.Callback):
    """Logs after each validation how close edits are to the training images, and warns once of memorisation.

    Logs the median distances `val/memory/edits` and `val/memory/originals` (mean square over pixels and channels of
    images in [-1, 1]) and their quotient `val/memory/ratio`. `originals` are validation images in [-1, 1], `seen`
    training images downscaled to `SIDE`.
    """

    def __init__(
        self,
        averaging: ImageHalfLifeAveraging,
        denoiser: Denoiser,
        originals: Images,
        seen: Float[Tensor, "N C side side"],
    ) -> None:
        self.averaging = averaging
        self.edit = SDEdit(t0=f"sigma:{min(NOISE_LEVEL, 0.999 * denoiser.highest_noise_level)}", steps=STEPS)
        self._seen = torch.cat([seen, seen.flip(-1)]).flatten(1)
        self._guides = stroke_painting(originals)
        self._distance_of_originals = self.distance(originals)
        self._warned = False

    def on_validation_epoch_end(self, trainer: lightning.Trainer, pl_module: ScoreModule) -> None:
        if not trainer.is_global_zero:
            return
        guides = self._guides.to(pl_module.device)
        with self.averaging.evaluated(trainer, pl_module) as denoiser:
            model = denoiser.labelled(denoiser.labels.examples[0]) if denoiser.labels.required else denoiser
            edits = self.edit(model, guides, seeds=list(range(len(guides)))).clamp(-1, 1).float().cpu()
        distances = {"edits": self.distance(edits), "originals": self._distance_of_originals}
        ratio = distances["edits"] / max(distances["originals"], 1e-6)
        for name, value in {**distances, "ratio": ratio}.items():
            pl_module.log(f"val/memory/{name}", value, rank_zero_only=True)
        if ratio < ALARMING and not self._warned:
            self._warned = True
            logger.warning(
                "step %d: edits are %.2f times as far from the nearest training image as validation images are, so the "
                "model repeats its training images; try more images, data.flip=true, augment.probability, "
                "network.dropout, a smaller network or fewer steps (validation.patience stops a run in time)",
                *(trainer.global_step, ratio),
            )

    def distance(self, images: Images) -> float:
        side = min(SIDE, *images.shape[2:])
        small = interpolate(images, size=(side, side), mode="area").flatten(1)
        return (nearest_by_distance(small, self._seen).squared_distance.median() / small.shape[1]).item()
