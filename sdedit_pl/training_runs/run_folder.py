"""The folder of a training run: its files, and the checkpoint that a run resumes from."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from lightning.pytorch.utilities import rank_zero_only

from sdedit_pl.checkpoints.init_from import MAY_DIFFER, network_from
from sdedit_pl.checkpoints.loading import describe
from sdedit_pl.checkpoints.locating import RUN_FILE, resumable_checkpoints
from sdedit_pl.checkpoints.safe_reading import CheckpointError, read_plain
from sdedit_pl.configuration import ConfigError
from sdedit_pl.configuration.model_config import ModelConfig, model_of_run
from sdedit_pl.configuration.training_config import TrainingConfig
from sdedit_pl.configuration.yaml_reading import yaml_text
from sdedit_pl.files import require_folder, write_whole
from sdedit_pl.settings_record import require_same_settings
from sdedit_pl.training.checkpoint_io import damage

logger = logging.getLogger(__name__)

CONFIG_FILE = "config.yaml"
CHECKPOINTS = "checkpoints"
HISTORY_FILE = "metrics.csv"
PREVIEWS = "previews"
_ENTRIES = {
    *(
        "state_dict",
        "current_model_state",
        "averaging_state",
        "optimizer_states",
        "lr_schedulers",
        "loops",
        "callbacks",
    ),
    *("ImageDataModule", "sdedit_batches_done", "epoch", "global_step", "pytorch-lightning_version"),
}
_CALLBACKS = {"ImageHalfLifeAveraging", "EditingCheckpoint", "ResumableCheckpoint"}


def newest_checkpoint(folder: Path, config: TrainingConfig) -> tuple[Path | None, TrainingConfig]:
    """The checkpoint in a run's folder to resume from, or None for a new run; and the configuration.

    A resumed run's configuration has the network that the run began with, and its choice among several `ckpt`. Raises
    ConfigError if the folder holds a run that cannot be resumed, or resume=false; SettingsChanged for another model.
    """
    require_folder(folder)
    newest = newest_whole(folder)
    if newest is None:
        if (folder / RUN_FILE).exists():
            raise ConfigError(
                f"{folder} holds a trained model and nothing to resume from; give another out=, with "
                f"ckpt={folder / RUN_FILE} to train that model further"
            )
        return None, config
    if not config.resume:
        raise ConfigError(f"{folder} already holds a run and resume=false; give another out=, or remove the folder")
    try:
        run = describe(newest).training["config"]
        model = model_of_run(run)
        before = fixed_settings(model, run)
    except (KeyError, TypeError, AttributeError) as error:
        raise ConfigError(f"the configuration in {newest} cannot be read ({error}); give another out=") from error
    config = config.with_range_of(model.image)
    if config.ckpt:
        base = run.get("ckpt", run.get("init_from")) if isinstance(config.ckpt, tuple) else config.ckpt
        config = replace(config, ckpt=base, network=network_from(model.network, config.network))
    remedy = f"give another out=, or use the configuration of that run, {folder / CONFIG_FILE}"
    require_same_settings(folder, before, fixed_settings(config.model, config.as_data()), remedy)
    return newest, config


def newest_whole(folder: Path) -> Path | None:
    """The newest intact checkpoint; raises ConfigError if all are damaged."""
    checkpoints = resumable_checkpoints(folder)
    for checkpoint in reversed(checkpoints):
        problem = damage(checkpoint) or missing_entries(checkpoint)
        if problem is None:
            return checkpoint
        logger.warning("%s is damaged (%s) and is skipped", checkpoint, problem)
    if checkpoints:
        raise ConfigError(
            f"all checkpoints in {folder / CHECKPOINTS} are damaged; restore a copy of one, or give another out="
        )
    return None


def missing_entries(checkpoint: Path) -> str | None:
    """A sentence with the missing entries, without which some part of a run would start anew; None if all are there."""
    try:
        found = read_plain(checkpoint)
    except CheckpointError as error:
        return str(error)
    found = found if isinstance(found, Mapping) else {}
    missing = [*(_ENTRIES - found.keys()), *(_CALLBACKS - found.get("callbacks", {}).keys())]
    return f"it lacks {', '.join(sorted(missing))}" if missing else None


def steps_in(checkpoint: Path | None) -> int:
    return 0 if checkpoint is None else int(checkpoint.stem.removeprefix("step="))


def fixed_settings(model: ModelConfig, run: Mapping[str, Any]) -> dict[str, Any]:
    """The settings that a resumed run cannot change; `run` may come from an earlier version with fewer keys."""
    described = model.as_data()
    network = {key: value for key, value in described["network"].items() if key not in MAY_DIFFER}
    muon = run.get("optimizer", {}).get("name") == "muon"  # its state has other groups than that of adam and adamw
    trained = {
        "optimizer": {"name": "muon" if muon else "adam or adamw"},
        "seed": run.get("seed", 0),
        "uncertainty": run.get("uncertainty", False),
        "train": run.get("train", {"only": []}),
    }
    return {**described, "network": network, **trained}


@rank_zero_only
def write_config(folder: Path, config: TrainingConfig) -> None:
    """Writes every key of the configuration; raises ConfigError if the folder cannot be written."""
    try:
        # Completely or not at all, because other devices may be reading it.
        write_whole(folder / CONFIG_FILE, yaml_text(config.as_data()))
    except OSError as error:
        raise ConfigError(f"out={folder} cannot be written: {error.strerror}; name another folder") from error
