"""SDEdit on any image domain: train a score model, then edit with it.

from sdedit_pl import SDEdit, load_denoiser

denoiser = load_denoiser("portraits64")
images = SDEdit(t0=0.5)(denoiser, guide, edit_mask=mask, seeds=[0, 1])

Images are float32 (B, C, H, W) in [-1, 1], and `mask` is True where pixels may change. `ScoreModule` trains a denoiser
in any Lightning Trainer. A denoiser consists of a network, a parameterisation and an SDE. The tables (`NETWORKS`,
`SOLVERS`, ...) hold the classes that configurations and checkpoints can name.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from sdedit_pl.lazy_names import lazy_names

if TYPE_CHECKING:
    from sdedit_pl.build.model import build_denoiser
    from sdedit_pl.checkpoints import describe, load_denoiser, save_denoiser
    from sdedit_pl.configuration.model_config import ModelConfig
    from sdedit_pl.data.datamodule import ImageDataModule
    from sdedit_pl.data.folder_source import FolderSource
    from sdedit_pl.data.source_table import DATA_SOURCES
    from sdedit_pl.denoiser import Denoiser
    from sdedit_pl.editing import SDEdit
    from sdedit_pl.grids import GRIDS
    from sdedit_pl.losses import TIME_SAMPLERS, WEIGHTINGS
    from sdedit_pl.networks import NETWORKS
    from sdedit_pl.parameterisations import PARAMETERISATIONS
    from sdedit_pl.sampling import sample
    from sdedit_pl.sde import SDE, SDES, VESDE, VPSDE, DiscreteVPSDE, SubVPSDE
    from sdedit_pl.solvers import SOLVERS
    from sdedit_pl.training.module import ScoreModule
    from sdedit_pl.training.optimizers import OPTIMIZERS, SCHEDULES

__version__ = "0.1.0"
__all__ = [
    "DATA_SOURCES",
    "GRIDS",
    "NETWORKS",
    "OPTIMIZERS",
    "PARAMETERISATIONS",
    "SCHEDULES",
    "SDE",
    "SDES",
    "SOLVERS",
    "TIME_SAMPLERS",
    "VESDE",
    "VPSDE",
    "WEIGHTINGS",
    "Denoiser",
    "DiscreteVPSDE",
    "FolderSource",
    "ImageDataModule",
    "ModelConfig",
    "SDEdit",
    "ScoreModule",
    "SubVPSDE",
    "build_denoiser",
    "describe",
    "load_denoiser",
    "sample",
    "save_denoiser",
]

__getattr__, __dir__ = lazy_names(
    __name__,
    {
        "build.model": "build_denoiser",
        "checkpoints": "describe load_denoiser save_denoiser",
        "configuration.model_config": "ModelConfig",
        "data.datamodule": "ImageDataModule",
        "data.folder_source": "FolderSource",
        "data.source_table": "DATA_SOURCES",
        "denoiser": "Denoiser",
        "editing": "SDEdit",
        "grids": "GRIDS",
        "losses": "TIME_SAMPLERS WEIGHTINGS",
        "networks": "NETWORKS",
        "parameterisations": "PARAMETERISATIONS",
        "sampling": "sample",
        "sde": "SDE SDES VESDE VPSDE DiscreteVPSDE SubVPSDE",
        "solvers": "SOLVERS",
        "training.module": "ScoreModule",
        "training.optimizers": "OPTIMIZERS SCHEDULES",
    },
)
