"""Importers of other programs' checkpoints, one file each, imported when they are needed."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from sdedit_pl.checkpoints.importers.checkpoint_format import CheckpointFormat

CHECKPOINT_FORMATS = {
    "lightning": "from_lightning.LightningFormat",
    "score_sde": "from_score_sde.ScoreSDEFormat",
    "ddim": "from_ddim.DDIMFormat",
    "diffusers": "from_diffusers.DiffusersFormat",
    "edm": "from_edm.EDMFormat",
    "guided_diffusion": "from_guided_diffusion.GuidedDiffusionFormat",
}
"""Name of a format -> module in this folder and class. Files are offered to them in this order."""


def importer(format: str) -> CheckpointFormat:
    module, _, name = CHECKPOINT_FORMATS[format].partition(".")
    return getattr(import_module(f"{__name__}.{module}"), name)()
