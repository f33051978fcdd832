"""Starts or resumes a training run.

The folder of a run holds `config.yaml` (every key), `checkpoints/` (to resume from), `model.safetensors` (the averaged
model, for editing), `previews/` and `metrics.csv` (the log of all restarts).
"""

from __future__ import annotations

import logging
import os
from contextlib import nullcontext
from dataclasses import asdict
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any

import lightning
import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.loggers.logger import Logger
from lightning.pytorch.utilities import rank_zero_only

from sdedit_pl.build.component import build_component
from sdedit_pl.build.model import build_denoiser
from sdedit_pl.build.training_parts import (
    build_averaging,
    build_data,
    build_module,
    build_safeguards,
    resolve_arithmetic,
)
from sdedit_pl.checkpoints.init_from import AUGMENTATION_WEIGHT, initialise
from sdedit_pl.checkpoints.locating import RUN_FILE
from sdedit_pl.checkpoints.native import save_denoiser
from sdedit_pl.configuration.schema import ConfigError, construct
from sdedit_pl.configuration.training_config import TrainingConfig
from sdedit_pl.data import ImageDataModule
from sdedit_pl.denoiser import Denoiser
from sdedit_pl.editing import SDEdit
from sdedit_pl.files import claimed
from sdedit_pl.guides.guide_files import find_guides, read_guide
from sdedit_pl.guides.strokes import stroke_painting
from sdedit_pl.machine import Arithmetic, Machine, check_devices, log_arithmetic, tensor_float32, this_machine
from sdedit_pl.run_folder import (
    CHECKPOINTS,
    HISTORY_FILE,
    PREVIEWS,
    WANDB_FILE,
    newest_checkpoint,
    newest_whole,
    steps_in,
    write_config,
)
from sdedit_pl.training.checkpoint_io import DurableCheckpoints
from sdedit_pl.training.divergence_watch import Diverged, DivergenceWatch
from sdedit_pl.training.editing_checkpoint import EditingCheckpoint
from sdedit_pl.training.freezing import freeze_all_but
from sdedit_pl.training.lightning_internals import configure_ddp, without_notices
from sdedit_pl.training.loss_logging import TrainingLog
from sdedit_pl.training.memory_trial import largest_batch, trial_step
from sdedit_pl.training.module import ScoreModule
from sdedit_pl.training.overdue_validation import OverdueValidation
from sdedit_pl.training.previews import Previews
from sdedit_pl.training.progress_display import progress_display
from sdedit_pl.training.restartable_loggers import ContinuedWandb, CsvHistory
from sdedit_pl.training.resumable_checkpoints import ResumableCheckpoint
from sdedit_pl.training.stop_signals import StopSignals
from sdedit_pl.training.unreadable_images import UnreadableImageCounts
from sdedit_pl.training.weight_averaging import ImageHalfLifeAveraging

logger = logging.getLogger(__name__)


def fit(config: TrainingConfig) -> Path:
    """Trains and returns the path of the editing checkpoint.

    Raises:
        ConfigError: the configuration cannot be used, or the run's folder holds a run of another model.
        ValueError, OSError: data or a checkpoint cannot be read, another process is writing to the folder, or a file
            cannot be written.
        Diverged: the loss or a weight is not finite.
        Interrupted: a signal ended the run; the same call resumes it.
    """
    first = rank_zero_only.rank == 0 and os.environ.get("NODE_RANK", "0") == "0"
    claim = claimed(Path(config.out)) if first else nullcontext()
    with StopSignals() as signals, claim, without_notices():
        return train(config, signals)


def train(config: TrainingConfig, signals: StopSignals) -> Path:
    folder = Path(config.out)
    newest = newest_checkpoint(folder, config)
    config, machine = for_this_machine(config)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        denoiser = build_denoiser(config.model)
    if newest is None:
        initialise_new_run(denoiser, config)
    trained = freeze_untrained(denoiser, config)
    data = build_data(config)
    data.setup()
    averaging = build_averaging(config)
    sheets = previews(config, data, averaging, folder, denoiser)
    safeguards = build_safeguards(config, data, averaging, denoiser)
    module = build_module(config, denoiser)
    write_config(folder, config)

    history, files, watch = CsvHistory(folder / HISTORY_FILE, steps_in(newest)), DurableCheckpoints(), DivergenceWatch()
    log = TrainingLog(config.trainer.log_every_n_steps, watch)
    unwritten: dict[Path, str] = {}
    editing = editing_checkpoint(config, folder, averaging, unwritten)
    parameters = sum(parameter.numel() for parameter in denoiser.parameters())
    logger.info("network: %.2f M parameters, %.2f M trained; run: %s", parameters / 1e6, trained / 1e6, folder)
    log_arithmetic(Arithmetic(config.trainer.precision, config.compile is True, config.channels_last is True), machine)
    if newest is not None:
        logger.info("resuming from %s", newest)
    resumable = ResumableCheckpoint(
        folder / CHECKPOINTS,
        every_steps=config.checkpoint.every_steps,
        every_minutes=config.checkpoint.every_minutes,
        keep=config.checkpoint.keep,
        best=config.checkpoint.best,
        files=files,
        watch=watch,
        signals=signals,
        resumes_from=newest,
    )
    bar = progress_display(log) if config.trainer.enable_progress_bar else []
    safeguards = [UnreadableImageCounts(data.source), *safeguards]
    callbacks = [OverdueValidation(), *bar, log, sheets, averaging, editing, *safeguards, resumable]
    trainer = build_trainer(folder, config, callbacks, [*wandb_loggers(folder, config), history], files)
    out_of_memory = False
    try:
        open_wandb(trainer, config)
        with tensor_float32(config.trainer.tf32) if machine.device == "cuda" else nullcontext():
            trainer.fit(module, datamodule=data, ckpt_path=newest, weights_only=True)
    except torch.OutOfMemoryError:
        out_of_memory = True  # answered below, where no traceback holds the step's tensors
    except Diverged as error:
        last = newest_whole(folder)
        kept = f"the last good checkpoint is {last}" if last else "there was no checkpoint yet"
        raise Diverged(f"{error}; {kept}") from error
    finally:
        if trainer.is_global_zero:
            close_wandb(trainer, folder, config)
    if out_of_memory:
        raise ConfigError(memory_advice(module, trainer, config))
    failures = [*unwritten.values(), *filter(None, (files.failure, history.failure))]
    if failures:
        raise OSError(f"training has finished, but {'; '.join(failures)}; make room and {remedy(folder)}")
    return folder / RUN_FILE


def for_this_machine(config: TrainingConfig) -> tuple[TrainingConfig, Machine]:
    """The configuration without `auto` in its arithmetic, and the machine that decided.

    Raises:
        ConfigError: the machine does not have what a key asks for, or the strategy is not supported.
    """
    settings = config.trainer
    sharded = [name for name in ("fsdp", "deepspeed", "model_parallel") if settings.strategy.startswith(name)]
    if sharded:
        raise ConfigError(
            f"trainer.strategy={settings.strategy} spreads one network over several devices, and averages, previews "
            f"and checkpoints need it whole; take ddp, since a network that edits images fits on one device"
        )
    machine = this_machine(settings.accelerator)
    construct("", check_devices, machine=machine, devices=settings.devices)
    return resolve_arithmetic(config, machine), machine


def memory_advice(module: ScoreModule, trainer: lightning.Trainer, config: TrainingConfig) -> str:
    batch, accumulated = config.data.values["batch_size"], config.trainer.accumulate_grad_batches
    shape = (config.image.channels, config.image.size, config.image.size)
    fitting = largest_batch(partial(trial_step, module, trainer, shape), batch)
    problem = f"{trainer.strategy.root_device} has too little memory for data.batch_size={batch}"
    if fitting is None:
        return f"{problem}, and for a single image; take a smaller network, or network.checkpoint_gradients=true"
    images = accumulated * batch
    return (
        f"{problem}; data.batch_size={fitting} trainer.accumulate_grad_batches={images // fitting} fits and keeps "
        f"{images} images a step"
    )


def remedy(folder: Path) -> str:
    """The advice after a training that could not write every file."""
    if newest_whole(folder) is not None:
        return "run the same command again to write what is missing"
    if (folder / RUN_FILE).exists():
        return "nothing else is needed, because the model was written; to train it further, give it as init_from="
    return "train again, because neither a model nor a checkpoint was written"


def editing_checkpoint(
    config: TrainingConfig, folder: Path, averaging: ImageHalfLifeAveraging, unwritten: dict[Path, str]
) -> EditingCheckpoint:
    """The callback; keeps errors in `unwritten` until a later write succeeds."""
    settings = config.checkpoint

    def save(path: Path, averaged: Denoiser, facts: dict[str, Any]) -> None:
        dtype = getattr(torch, settings.dtype)
        try:
            save_denoiser(path, averaged, config.model, {**facts, "config": config.as_data()}, dtype=dtype)
        except OSError as error:
            unwritten[path] = f"{path} cannot be written: {error.strerror or error}"
            logger.warning("%s; training continues", unwritten[path])
        else:
            unwritten.pop(path, None)

    best = settings.export == "best"
    return EditingCheckpoint(averaging, folder / RUN_FILE, save, best=best, all_averages=settings.all_averages)


def build_trainer(
    folder: Path,
    config: TrainingConfig,
    callbacks: list[Callback],
    loggers: list[Logger],
    files: DurableCheckpoints,
) -> lightning.Trainer:
    """Raises ConfigError if Lightning refuses a setting or this machine does not have the devices."""
    settings = resolve_arithmetic(config, this_machine(config.trainer.accelerator)).trainer
    if settings.max_steps < 1:
        raise ConfigError(f"trainer.max_steps must be at least 1, got {settings.max_steps}")
    if settings.precision in ("bf16-true", "16-true"):
        raise ConfigError(
            f"trainer.precision={settings.precision} would keep the average of the weights in 16 bits, too few for its "
            f"small updates; set trainer.precision={settings.precision.replace('true', 'mixed')}"
        )
    # Lightning counts batches, and validating between the batches of a step would be useless. A run that is shorter
    # than the interval validates once at its end.
    interval = min(settings.val_check_interval, settings.max_steps) * settings.accumulate_grad_batches
    given: dict[str, Any] = {key: value for key, value in asdict(settings).items() if value is not None}
    given["val_check_interval"] = interval
    given["benchmark"] = given.pop("cudnn_benchmark")
    timeout = timedelta(minutes=given.pop("ddp_timeout_minutes"))
    del given["tf32"]
    try:
        trainer = lightning.Trainer(
            **given,
            default_root_dir=folder,
            logger=loggers,
            plugins=[files],
            max_epochs=-1,
            check_val_every_n_epoch=None,
            num_sanity_val_steps=0,
            use_distributed_sampler=False,
            enable_model_summary=False,
            callbacks=callbacks,
        )
    except (MisconfigurationException, TypeError, ValueError) as error:
        raise ConfigError(f"trainer: {error}") from error
    # With accumulation some steps exchange no gradients, which a static graph does not allow.
    static = not config.train.only and not config.uncertainty and settings.accumulate_grad_batches == 1
    configure_ddp(trainer, timeout=timeout, static_graph=static)
    return trainer


def initialise_new_run(denoiser: Denoiser, config: TrainingConfig) -> None:
    """Loads the weights of `init_from` and refuses configurations that cannot be learned.

    Raises:
        ConfigError: `init_from` does not fit, or the network could not use the noise level or the augmentation label.
    """
    if not config.init_from:
        if config.network.values.get("label_embedding") == "fourier" and _counts_time(denoiser):
            raise ConfigError(
                f"network.label_embedding=fourier needs labels of order one, and those of parameterisation="
                f"{config.parameterisation.name} go up to {denoiser.parameterisation.label_scale:g}; "
                f"set network.label_embedding=positional"
            )
        return
    initialise(denoiser, config.model, config.init_from, rate=build_component(config.optimizer).rate)
    only, weight = config.train.only, denoiser.network.state_dict().get(AUGMENTATION_WEIGHT)
    if only and "label" not in only and weight is not None and not weight.any():
        raise ConfigError(
            f"train.only={list(only)} freezes the augmentation label, which init_from was not trained with, so that "
            f"edits would be rotated and shifted like training images; add label to train.only, or set "
            f"augment.probability=0"
        )


def _counts_time(denoiser: Denoiser) -> bool:
    """Whether the label of the noise level is too large for Fourier features."""
    return denoiser.parameterisation.label == "time" and abs(denoiser.parameterisation.label_scale) > 100


def freeze_untrained(denoiser: Denoiser, config: TrainingConfig) -> int:
    """Freezes the parts outside `train.only` and returns the number of trained parameters.

    Raises:
        ConfigError: a part is unknown, or there is no `init_from`.
    """
    only = config.train.only
    if only and not config.init_from:
        raise ConfigError(f"train.only={list(only)} trains a part of a trained model; give the model as init_from=")
    try:
        return freeze_all_but(denoiser.network, only)
    except ValueError as error:
        raise ConfigError(f"train.only: {error}") from error


def wandb_loggers(folder: Path, config: TrainingConfig) -> list[ContinuedWandb]:
    if config.logger != "wandb":
        return []
    settings = config.wandb
    return [
        ContinuedWandb(
            folder / WANDB_FILE,
            name=settings.name or folder.name,
            save_dir=folder,
            project=settings.project,
            entity=settings.entity,
            group=settings.group,
            tags=list(settings.tags),
        )
    ]


def open_wandb(trainer: lightning.Trainer, config: TrainingConfig) -> None:
    for destination in trainer.loggers:
        if isinstance(destination, ContinuedWandb):
            destination.log_hyperparams(config.as_data())
            destination.remember()


def close_wandb(trainer: lightning.Trainer, folder: Path, config: TrainingConfig) -> None:
    finished = trainer.state.finished
    for destination in trainer.loggers:
        if not isinstance(destination, ContinuedWandb):
            continue
        if finished and config.wandb.log_model and (folder / RUN_FILE).is_file():
            import wandb

            artifact = wandb.Artifact(f"model-{destination.version}", type="model", metadata=config.as_data())
            artifact.add_file(str(folder / RUN_FILE))
            destination.experiment.log_artifact(artifact, aliases=["latest"])
        destination.experiment.finish(exit_code=0 if finished else 1)


def previews(
    config: TrainingConfig, data: ImageDataModule, averaging: Any, folder: Path, denoiser: Denoiser
) -> Callback:
    """Edits of the given guides, or of simulated strokes of validation images, and samples.

    Raises:
        ConfigError: the model is not trained up to preview.t0.
        ValueError: a guide cannot be read, or the SDE does not reach preview.t0.
    """
    settings, size = config.preview, config.image.size
    if settings.guides and settings.count:
        files = find_guides(settings.guides)[: settings.count]
        guides = torch.cat([read_guide(file, size, data.source.format.channels).image for file in files])
    else:
        originals = data.val_images(settings.count)
        guides = stroke_painting(originals) if len(originals) else originals
    edit, samples = SDEdit(t0=settings.t0, steps=settings.steps), settings.samples
    if settings.count:
        try:
            edit.check(denoiser)
        except ValueError as error:
            raise ConfigError(f"preview: {error}") from error
    if samples and denoiser.t_max < 1:
        logger.info("no samples in previews: a model trained up to t = %g cannot start from noise", denoiser.t_max)
        samples = 0
    shape = (data.source.format.channels, size, size)
    return Previews(averaging, folder / PREVIEWS, guides, edit, shape, samples)
