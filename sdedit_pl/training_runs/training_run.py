"""Starts or resumes a training run.

The folder of a run holds `config.yaml` (every key), `checkpoints/` (to resume from), `model.safetensors` (the averaged
model, for editing), `previews/` and `metrics.csv` (the log of all restarts).
"""

from __future__ import annotations

import logging
import os
import time
from contextlib import nullcontext
from functools import partial
from pathlib import Path

import lightning
import torch
from lightning.pytorch.utilities import rank_zero_only

from sdedit_pl.build.training_parts import build_data, build_module, resolve_arithmetic, with_format
from sdedit_pl.checkpoints.loading import describe
from sdedit_pl.checkpoints.locating import RUN_FILE
from sdedit_pl.configuration.schema import ConfigError, construct
from sdedit_pl.configuration.training_config import TrainingConfig
from sdedit_pl.data.folder_source import split_folder
from sdedit_pl.denoiser import Denoiser
from sdedit_pl.files import claimed, require_outside
from sdedit_pl.machine import (
    LONG_TRAINING,
    Arithmetic,
    Machine,
    check_devices,
    log_arithmetic,
    tensor_float32,
    this_machine,
)
from sdedit_pl.training.checkpoint_io import DurableCheckpoints
from sdedit_pl.training.divergence_watch import Diverged
from sdedit_pl.training.lightning_internals import without_notices
from sdedit_pl.training.memory_trial import largest_batch, trial_step
from sdedit_pl.training.module import ScoreModule
from sdedit_pl.training.restartable_loggers import CsvHistory
from sdedit_pl.training.stop_signals import StopSignals
from sdedit_pl.training_runs.run_callbacks import build_callbacks
from sdedit_pl.training_runs.run_folder import HISTORY_FILE, newest_checkpoint, newest_whole, steps_in, write_config
from sdedit_pl.training_runs.run_trainer import build_trainer, continued_loggers, loggers_open, require_loggers
from sdedit_pl.training_runs.starting_weights import starting_denoiser, with_base, with_labels

logger = logging.getLogger(__name__)

LONG_RUN = 24
"""Hours on a CPU at which a warning suggests shorter runs."""


def fit(config: TrainingConfig) -> Path:
    """Trains and returns the path of the editing checkpoint.

    Raises:
        ConfigError: the configuration cannot be used, or the run's folder holds a run of another model.
        ValueError, OSError: data or a checkpoint cannot be read, the folder is in use, or a file cannot be written.
        Diverged: the loss or a weight is not finite.
        Interrupted: a signal ended the run; the same call resumes it.
    """
    first = rank_zero_only.rank == 0 and os.environ.get("NODE_RANK", "0") == "0"
    claim = claimed(Path(config.out)) if first else nullcontext()
    with StopSignals() as signals, claim, without_notices():
        return train(config, signals)


def train(config: TrainingConfig, signals: StopSignals) -> Path:
    folder = Path(config.out)
    require_loggers(config.loggers)
    if config.data.name == "folder":
        images = Path(config.data.values["path"])
        require_outside(folder, split_folder(images, "train") or images)
    if config.image.format is not None:
        bases = [config.ckpt] if isinstance(config.ckpt, str) else [*(config.ckpt or ())]
        known = [newest_whole(folder), *bases]
        for base in filter(None, known):
            config = config.with_range_of(describe(base).image)
        config = with_format(config)
    data = build_data(config)
    config = with_labels(config, data)
    newest, config = newest_checkpoint(folder, config)
    config, machine = for_this_machine(config)
    if newest is None:
        config = with_base(config, data)
    denoiser, trained = starting_denoiser(config, new=newest is None)
    data.setup()
    files = DurableCheckpoints()
    unwritten: dict[Path, str] = {}
    callbacks = build_callbacks(
        config, data, denoiser, files=files, unwritten=unwritten, signals=signals, resumes_from=newest
    )
    module = build_module(config, denoiser)
    history, loggers = CsvHistory(folder / HISTORY_FILE, steps_in(newest)), continued_loggers(config)
    write_config(folder, config)
    parameters = sum(parameter.numel() for parameter in denoiser.parameters())
    logger.info("network: %.2f M parameters, %.2f M trained; run: %s", parameters / 1e6, trained / 1e6, folder)
    log_arithmetic(Arithmetic(config.trainer.precision, config.compile is True, config.channels_last is True), machine)
    if config.compile is True:
        logger.info("compiling the network: the first step takes a minute or two")
    if steps_in(newest) >= config.trainer.max_steps:
        advice = "a larger trainer.max_steps trains it further, another out= trains a new model"
        logger.info("%s holds a finished run of %d steps: %s", folder, steps_in(newest), advice)
    elif newest is not None:
        logger.info("resuming from %s", newest)
    elif machine.device == "cpu":
        warn_of_hours(denoiser, config)
    trainer = build_trainer(config, callbacks, [*loggers, history], files)
    factors = tensor_float32(config.trainer.tf32) if machine.device == "cuda" else nullcontext()
    out_of_memory = False
    try:
        with loggers_open(trainer, loggers, config), factors:
            trainer.fit(module, datamodule=data, ckpt_path=newest, weights_only=True)
    except SystemExit as error:
        raise KeyboardInterrupt from error  # Lightning's translation of a second Ctrl-C
    except torch.OutOfMemoryError:
        out_of_memory = True  # answered below, where no traceback holds the step's tensors
    except Diverged as error:
        last = newest_whole(folder)
        kept = f"the last good checkpoint is {last}" if last else "there was no checkpoint yet"
        raise Diverged(f"{error}; {kept}") from error
    if out_of_memory:
        raise ConfigError(memory_advice(module, trainer, config))
    failures = [*unwritten.values(), *filter(None, (files.failure, history.failure))]
    if failures:
        raise OSError(f"training has finished, but {'; '.join(failures)}; make room; {remedy(folder)}")
    return folder / RUN_FILE


def for_this_machine(config: TrainingConfig) -> tuple[TrainingConfig, Machine]:
    """The configuration without `auto` in its arithmetic, and the machine that decided; raises ConfigError."""
    settings = config.trainer
    sharded = [name for name in ("fsdp", "deepspeed", "model_parallel") if settings.strategy.startswith(name)]
    if sharded:
        raise ConfigError(
            f"trainer.strategy={settings.strategy} spreads one network over several devices, and averages, previews "
            f"and checkpoints need it whole; use ddp, since a network that edits images fits on one device"
        )
    if settings.strategy.startswith("ddp_spawn"):
        raise ConfigError(
            f"trainer.strategy={settings.strategy} would have to copy the open run into new processes; use ddp"
        )
    machine = this_machine(settings.accelerator)
    construct("trainer", check_devices, machine=machine, devices=settings.devices)
    return resolve_arithmetic(config, machine), machine


def warn_of_hours(denoiser: Denoiser, config: TrainingConfig) -> None:
    """Warns of a run of a day or more on a CPU, by the time of one evaluation; a training step takes about three."""
    images = config.trainer.max_steps * config.trainer.accumulate_grad_batches * config.batch_size
    shape = (1, *config.image.tensor_shape)
    if images * config.image.pixels < LONG_TRAINING["cpu"]:
        return
    denoiser.eval()
    seconds = []
    for _ in range(4):  # the first allocates memory, and another program may delay one
        began = time.perf_counter()
        with torch.no_grad():
            denoiser(torch.zeros(shape), torch.full((1,), 0.5 * denoiser.t_max))
        seconds.append(time.perf_counter() - began)
    denoiser.train()
    hours = 3 * images * min(seconds) / 3600
    if hours >= LONG_RUN:
        trained = "" if config.ckpt else "config=finetune64 starts from a trained model and takes 128,000 images; "
        logger.warning(
            "this configuration is meant for a GPU, and none is used: %s images may take about %.0f hours; "
            "%sa smaller trainer.max_steps or data.batch_size shortens a run",
            *(f"{images:,}", hours, trained),
        )


def memory_advice(module: ScoreModule, trainer: lightning.Trainer, config: TrainingConfig) -> str:
    batch, accumulated = config.batch_size, config.trainer.accumulate_grad_batches
    fitting = largest_batch(partial(trial_step, module, trainer, config.image.tensor_shape), batch)
    problem = f"{trainer.strategy.root_device} has too little memory for data.batch_size={batch}"
    if fitting is None:
        return f"{problem}, even for a single image; take a smaller network, or network.checkpoint_gradients=true"
    images = accumulated * batch
    return (
        f"{problem}; data.batch_size={fitting} trainer.accumulate_grad_batches={images // fitting} fits and keeps "
        f"{images} images a step"
    )


def remedy(folder: Path) -> str:
    if newest_whole(folder) is not None:
        return "run the same command again to write what is missing"
    if (folder / RUN_FILE).exists():
        steps = describe(folder / RUN_FILE).training["steps"]
        return f"{folder / RUN_FILE} is the model after step {steps}; to train it further, give it as ckpt="
    return "train again, because neither a model nor a checkpoint was written"
