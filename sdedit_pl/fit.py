"""A training run, from its start or from where it was, to its end.

The folder of a run holds `config.yaml` (every key), `checkpoints/` (to resume from), `model.safetensors` (the averaged
model, to edit with), `previews/` and the logs.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import lightning
import torch
import yaml
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch.callbacks import Callback, LearningRateMonitor
from lightning.pytorch.loggers import CSVLogger, Logger, WandbLogger
from lightning.pytorch.utilities import rank_zero_only

from sdedit_pl.build import build_averaging, build_component, build_data, build_denoiser, build_module, model_config
from sdedit_pl.checkpoints.native import RUN_FILE, describe, load_denoiser, resumable_checkpoints, save_denoiser
from sdedit_pl.config import ConfigError, read_file
from sdedit_pl.data import ImageDataModule
from sdedit_pl.denoiser import Denoiser
from sdedit_pl.editing import SDEdit
from sdedit_pl.editing.files import find_guides, read_guide
from sdedit_pl.editing.strokes import stroke_painting
from sdedit_pl.training.callbacks import EditingCheckpoint, ImagesSeen, Previews, ResumableCheckpoint, RunProgress

logger = logging.getLogger(__name__)

CONFIG_FILE = "config.yaml"
WANDB_ID_FILE = "wandb_run_id"


def fit(config: Mapping[str, Any]) -> Path:
    """Trains as a resolved configuration says, and returns the editing checkpoint.

    Raises:
        ConfigError: the configuration cannot be used, or the run's folder holds a run of another model.
        ValueError, OSError: data or a checkpoint cannot be read, or the folder not written.
    """
    folder = Path(config["out"])
    newest = newest_checkpoint(folder, config)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config["seed"])
        denoiser = build_denoiser(model_config(config))
    if config["init_from"] and newest is None:
        initialise(denoiser, config["init_from"])
    data = build_data(config)
    data.setup()
    averaging = build_averaging(config)
    sheets = previews(config, data, averaging, folder)
    module = build_module(config, denoiser)
    write_config(folder, config)

    def save(trained: Denoiser, facts: dict[str, Any]) -> None:
        dtype = getattr(torch, config["checkpoint"]["dtype"])
        save_denoiser(folder / RUN_FILE, trained, model_config(config), {**facts, "config": plain(config)}, dtype=dtype)

    callbacks = [
        ImagesSeen(config["trainer"]["log_every_n_steps"]),
        LearningRateMonitor(),
        sheets,
        averaging,
        EditingCheckpoint(averaging, save),
        ResumableCheckpoint(folder / "checkpoints", config["checkpoint"]["every_steps"], config["checkpoint"]["keep"]),
    ]
    trainer = build_trainer(folder, config, callbacks)
    parameters = sum(parameter.numel() for parameter in denoiser.parameters())
    logger.info("network: %.2f M parameters; run: %s", parameters / 1e6, folder)
    if newest is not None:
        logger.info("resuming from %s", newest)
    try:
        announce(trainer, folder, config)
        trainer.fit(module, datamodule=data, ckpt_path=newest, weights_only=True)
    finally:
        if trainer.is_global_zero:
            publish(trainer, folder, config)
    return folder / RUN_FILE


def build_trainer(folder: Path, config: Mapping[str, Any], callbacks: list[Callback]) -> lightning.Trainer:
    """Lightning's Trainer of a run.

    Raises:
        ConfigError: devices, a precision or another setting that Lightning refuses or this machine has not.
    """
    settings = config["trainer"]
    if settings["max_steps"] < 1:
        raise ConfigError(f"trainer.max_steps must be at least 1, got {settings['max_steps']}")
    if settings["enable_progress_bar"]:
        callbacks = [RunProgress(), *callbacks]
    try:
        return lightning.Trainer(
            **{key: value for key, value in settings.items() if value is not None},
            default_root_dir=folder,
            logger=build_loggers(folder, config),
            max_epochs=-1,
            check_val_every_n_epoch=None,
            num_sanity_val_steps=0,
            use_distributed_sampler=False,
            enable_model_summary=False,
            callbacks=callbacks,
        )
    except (MisconfigurationException, TypeError, ValueError) as error:
        raise ConfigError(f"trainer: {error}") from error


def newest_checkpoint(folder: Path, config: Mapping[str, Any]) -> Path | None:
    """The checkpoint in a run's folder to resume from, or None where the run is new.

    Raises:
        ConfigError: the folder is a file, or holds a run of another model, or one that is not to be resumed.
    """
    if folder.exists() and not folder.is_dir():
        raise ConfigError(f"out={folder} is a file; name a folder")
    checkpoints = resumable_checkpoints(folder)
    if not checkpoints:
        if (folder / RUN_FILE).exists():
            raise ConfigError(f"{folder} holds a trained model and nothing to resume from; give another out=")
        return None
    if not config["resume"]:
        raise ConfigError(f"{folder} already holds a run and resume=false; give another out=, or remove the folder")
    before = folder / CONFIG_FILE
    if before.is_file():
        try:
            old = model_config(read_file(before))
        except (KeyError, TypeError) as error:
            raise ConfigError(f"{before} is not the configuration of a run ({error}); give another out=") from error
        changed = [section for section, value in plain(model_config(config)).items() if old[section] != value]
        if changed:
            raise ConfigError(
                f"{folder} holds a run of another model ({', '.join(changed)} differ); give another out=, "
                f"or its own configuration, {before}"
            )
    return checkpoints[-1]


@rank_zero_only
def write_config(folder: Path, config: Mapping[str, Any]) -> None:
    """Makes the run's folder and writes every key of the configuration there.

    Raises:
        ConfigError: the folder cannot be written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        # Whole or not at all: other devices may be reading it.
        unfinished = folder / f".{CONFIG_FILE}.tmp"
        unfinished.write_text(yaml.safe_dump(plain(config), sort_keys=False))
        unfinished.replace(folder / CONFIG_FILE)
    except OSError as error:
        raise ConfigError(f"out={folder} cannot be written: {error.strerror}; name another folder") from error


def plain(value: Any) -> Any:
    """Nested tuples as lists, for YAML."""
    if isinstance(value, Mapping):
        return {key: plain(item) for key, item in value.items()}
    return [plain(item) for item in value] if isinstance(value, list | tuple) else value


def initialise(denoiser: Denoiser, path: str) -> None:
    """Gives a denoiser the weights of an editing checkpoint.

    Raises:
        ConfigError: if its network has other weights, or another parameterisation or SDE gives them another meaning.
    """
    model = describe(path).model
    for section, trained in (("parameterisation", denoiser.parameterisation), ("sde", denoiser.sde)):
        if build_component(model, section) != trained:
            raise ConfigError(
                f"init_from={path} was trained with another {section}, which gives its weights another meaning: "
                f"{model[section]}; train with that {section}"
            )
    try:
        denoiser.network.load_state_dict(load_denoiser(path).network.state_dict(), strict=True)
    except RuntimeError as error:
        raise ConfigError(
            f"init_from={path} has another network than this configuration; train with its network section "
            f"(`sdedit info ckpt={path}` shows it): {str(error).splitlines()[1].strip()}"
        ) from error


def build_loggers(folder: Path, config: Mapping[str, Any]) -> list[Logger]:
    """The loggers of a run. A resumed run goes on in the same Weights & Biases run."""
    if config["logger"] == "csv":
        return [CSVLogger(folder, name="logs")]
    settings = config["wandb"]
    id_file = folder / WANDB_ID_FILE
    run_id = id_file.read_text().strip() if id_file.is_file() else None
    wandb = WandbLogger(
        name=settings["name"] or folder.name,
        save_dir=folder,
        project=settings["project"],
        entity=settings["entity"],
        group=settings["group"],
        tags=list(settings["tags"]),
        id=run_id,
        resume="allow",
    )
    return [wandb, CSVLogger(folder, name="logs")]


def announce(trainer: lightning.Trainer, folder: Path, config: Mapping[str, Any]) -> None:
    """Opens the Weights & Biases run, if there is one, with the configuration, and remembers it for a resumed run."""
    for destination in trainer.loggers:
        if isinstance(destination, WandbLogger):
            destination.log_hyperparams(plain(config))
            if trainer.is_global_zero and destination.version is not None:
                (folder / WANDB_ID_FILE).write_text(str(destination.version))


def publish(trainer: lightning.Trainer, folder: Path, config: Mapping[str, Any]) -> None:
    """Ends the Weights & Biases run, if there is one; a finished training hands it the editing checkpoint."""
    finished = trainer.state.finished
    for destination in trainer.loggers:
        if not isinstance(destination, WandbLogger):
            continue
        if finished and config["wandb"]["log_model"]:
            import wandb

            artifact = wandb.Artifact(f"model-{destination.version}", type="model", metadata=plain(config))
            artifact.add_file(str(folder / RUN_FILE))
            destination.experiment.log_artifact(artifact, aliases=["latest"])
        destination.experiment.finish(exit_code=0 if finished else 1)


def previews(config: Mapping[str, Any], data: ImageDataModule, averaging: Any, folder: Path) -> Callback:
    """The previews of a run: given guides, or simulated strokes of the first validation images."""
    settings, size = config["preview"], config["data"]["size"]
    if settings["guides"] and settings["count"]:
        files = find_guides(settings["guides"])[: settings["count"]]
        guides = torch.cat([read_guide(file, size, data.source.format.channels).image for file in files])
    else:
        originals = data.val_images(settings["count"])
        guides = stroke_painting(originals) if len(originals) else originals
    edit = SDEdit(t0=settings["t0"], steps=settings["steps"])
    shape = (data.source.format.channels, size, size)
    return Previews(averaging, folder / "previews", guides, edit, shape, settings["samples"])
