"""The formats of other programs that this package reads."""

from __future__ import annotations

from sdedit_pl.checkpoints.ddim import DDIMFormat
from sdedit_pl.checkpoints.diffusers_folder import DiffusersFormat
from sdedit_pl.checkpoints.formats import CheckpointFormat
from sdedit_pl.checkpoints.guided_diffusion import GuidedDiffusionFormat
from sdedit_pl.checkpoints.lightning import LightningFormat
from sdedit_pl.checkpoints.score_sde import ScoreSDEFormat

FORMATS: dict[str, type[CheckpointFormat]] = {
    "lightning": LightningFormat,
    "score_sde": ScoreSDEFormat,
    "ddim": DDIMFormat,
    "diffusers": DiffusersFormat,
    "guided_diffusion": GuidedDiffusionFormat,
}
