"""The callbacks of a training run."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch.callbacks import Callback

from sdedit_pl.build.training_parts import build_averaging
from sdedit_pl.checkpoints.locating import RUN_FILE
from sdedit_pl.checkpoints.native import save_denoiser
from sdedit_pl.configuration.schema import ConfigError, construct
from sdedit_pl.configuration.training_config import TrainingConfig
from sdedit_pl.data.array_formats import suffixes_of
from sdedit_pl.data.datamodule import ImageDataModule
from sdedit_pl.denoiser import Denoiser
from sdedit_pl.editing import SDEdit
from sdedit_pl.guides.guide_files import find_guides, read_guide
from sdedit_pl.guides.strokes import stroke_painting
from sdedit_pl.training.checkpoint_io import DurableCheckpoints
from sdedit_pl.training.divergence_watch import DivergenceWatch
from sdedit_pl.training.early_stopping import Patience
from sdedit_pl.training.editing_checkpoint import EditingCheckpoint
from sdedit_pl.training.loss_logging import TrainingLog
from sdedit_pl.training.memorisation_alarm import SIDE, MemorisationAlarm
from sdedit_pl.training.previews import Previews
from sdedit_pl.training.progress_display import progress_display
from sdedit_pl.training.resumable_checkpoints import DueValidations, ResumableCheckpoint
from sdedit_pl.training.stop_signals import StopSignals
from sdedit_pl.training.unreadable_images import UnreadableImageCounts
from sdedit_pl.training.weight_averaging import ImageHalfLifeAveraging
from sdedit_pl.training_runs.run_folder import CHECKPOINTS, PREVIEWS

logger = logging.getLogger(__name__)


def build_callbacks(
    config: TrainingConfig,
    data: ImageDataModule,
    denoiser: Denoiser,
    *,
    files: DurableCheckpoints,
    unwritten: dict[Path, str],
    signals: StopSignals,
    resumes_from: Path | None,
) -> list[Callback]:
    """All callbacks of a run, in order; `unwritten` receives editing checkpoints that cannot be written, and why."""
    folder, averaging, watch = Path(config.out), build_averaging(config), DivergenceWatch()
    log = TrainingLog(config.trainer.log_every_n_steps, watch)
    resumable = ResumableCheckpoint(
        folder / CHECKPOINTS,
        every_steps=config.checkpoint.every_steps,
        every_minutes=config.checkpoint.every_minutes,
        keep=config.checkpoint.keep,
        best=config.checkpoint.best,
        files=files,
        watch=watch,
        signals=signals,
        resumes_from=resumes_from,
    )
    return [
        DueValidations(),
        *(progress_display(log) if config.trainer.enable_progress_bar else []),
        log,
        previews(config, data, averaging, denoiser),
        averaging,
        editing_checkpoint(config, averaging, unwritten),
        UnreadableImageCounts(data.source),
        *safeguards(config, data, averaging, denoiser),
        resumable,
    ]


def previews(
    config: TrainingConfig, data: ImageDataModule, averaging: ImageHalfLifeAveraging, denoiser: Denoiser
) -> Previews:
    """Edits of the given guides, or of simulated strokes of validation images, and samples.

    Raises ConfigError or ValueError if the model or its SDE does not reach preview.t0, or for an unreadable guide.
    """
    settings, image = config.preview, config.image
    if settings.guides and settings.count:
        files = find_guides(settings.guides, suffixes_of(image))[: settings.count]
        guides = torch.cat([read_guide(file, image, data.source.format.fit).image for file in files])
    else:
        originals = data.val_images(settings.count)
        guides = stroke_painting(originals) if len(originals) else originals
    edit, samples = SDEdit(t0=settings.t0, steps=settings.steps), settings.samples
    if settings.count:
        construct("preview", edit.check, denoiser=denoiser)
    if samples and denoiser.t_max < 1:
        logger.info("no samples in previews: a model trained up to t = %g cannot start from noise", denoiser.t_max)
        samples = 0
    return Previews(averaging, Path(config.out) / PREVIEWS, guides, edit, image.tensor_shape, samples, image.format)


def editing_checkpoint(
    config: TrainingConfig, averaging: ImageHalfLifeAveraging, unwritten: dict[Path, str]
) -> EditingCheckpoint:
    """The callback; keeps errors in `unwritten` until a later write succeeds."""
    settings = config.checkpoint

    def save(path: Path, averaged: Denoiser, facts: dict[str, Any]) -> bool:
        dtype = getattr(torch, settings.dtype)
        try:
            save_denoiser(path, averaged, config.model, {**facts, "config": config.as_data()}, dtype=dtype)
        except (OSError, ValueError) as error:  # ValueError: a weight that checkpoint.dtype cannot hold
            unwritten[path] = f"{path} cannot be written: {getattr(error, 'strerror', None) or error}"
            logger.warning("%s; training continues", unwritten[path])
            return False
        unwritten.pop(path, None)
        return True

    path, best = Path(config.out) / RUN_FILE, settings.export == "best"
    return EditingCheckpoint(averaging, path, save, best=best, all_averages=settings.all_averages, early=settings.early)


def safeguards(
    config: TrainingConfig, data: ImageDataModule, averaging: ImageHalfLifeAveraging, denoiser: Denoiser
) -> list[Callback]:
    """The alarm for memorised images, and early stopping; raises ConfigError for patience without validation images."""
    settings = config.validation
    originals = data.val_images(settings.memory_edits)
    watching: list[Callback] = []
    if settings.patience is not None:
        if not len(originals):
            raise ConfigError("validation.patience needs validation images, and there are none; see data.val_fraction")
        watching.append(Patience(averaging, settings.patience))
    if settings.memory_images and len(originals):
        logger.info("preparing the check for memorised images: reading the training images at %d px", SIDE)
    seen = data.small_training_images(SIDE, settings.memory_images)
    if seen is not None and len(originals):
        watching.append(MemorisationAlarm(averaging, denoiser, originals, seen))
    return watching
