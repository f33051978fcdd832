"""Training score models with Lightning."""

from sdedit_pl.training.augmentation import Augmentation
from sdedit_pl.training.average import ImageHalfLifeAveraging
from sdedit_pl.training.module import ScoreModule
from sdedit_pl.training.optimizers import OPTIMIZERS, SCHEDULES
from sdedit_pl.training.previews import Previews
from sdedit_pl.training.progress import TrainingLog
from sdedit_pl.training.resumption import ResumableCheckpoint
from sdedit_pl.training.selection import EditingCheckpoint

__all__ = [
    "OPTIMIZERS",
    "SCHEDULES",
    "Augmentation",
    "EditingCheckpoint",
    "ImageHalfLifeAveraging",
    "Previews",
    "ResumableCheckpoint",
    "ScoreModule",
    "TrainingLog",
]
