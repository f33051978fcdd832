"""Training score models with Lightning."""

from sdedit_pl.training.average import ImageHalfLifeAveraging
from sdedit_pl.training.callbacks import EditingCheckpoint, ImagesSeen, Previews, ResumableCheckpoint
from sdedit_pl.training.module import ScoreModule
from sdedit_pl.training.optimizers import OPTIMIZERS, SCHEDULES

__all__ = [
    "OPTIMIZERS",
    "SCHEDULES",
    "EditingCheckpoint",
    "ImageHalfLifeAveraging",
    "ImagesSeen",
    "Previews",
    "ResumableCheckpoint",
    "ScoreModule",
]
