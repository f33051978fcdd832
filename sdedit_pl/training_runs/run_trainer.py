"""Lightning's Trainer of a training run, and its loggers."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from datetime import timedelta
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import lightning
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.loggers.logger import Logger

from sdedit_pl.checkpoints.locating import RUN_FILE, early_average
from sdedit_pl.configuration.schema import ConfigError
from sdedit_pl.configuration.training_config import TrainingConfig
from sdedit_pl.training.checkpoint_io import DurableCheckpoints
from sdedit_pl.training.lightning_internals import configure_ddp
from sdedit_pl.training.restartable_loggers import Continued, ContinuedMlflow, ContinuedTensorBoard, ContinuedWandb


def build_trainer(
    config: TrainingConfig, callbacks: list[Callback], loggers: Sequence[Logger], files: DurableCheckpoints
) -> lightning.Trainer:
    """The Trainer of a configuration without `auto` in its arithmetic; raises ConfigError if Lightning refuses it."""
    settings = config.trainer
    if settings.precision in ("bf16-true", "16-true"):
        raise ConfigError(
            f"trainer.precision={settings.precision} would keep the average of the weights in 16 bits, too few for its "
            f"small updates; set trainer.precision={settings.precision.replace('true', 'mixed')}"
        )
    # Lightning counts batches, and validating between the batches of a step would be useless.
    interval = settings.val_check_interval * settings.accumulate_grad_batches
    given: dict[str, Any] = {key: value for key, value in asdict(settings).items() if value is not None}
    given["val_check_interval"] = interval
    given["benchmark"] = given.pop("cudnn_benchmark")
    timeout = timedelta(minutes=given.pop("ddp_timeout_minutes"))
    del given["tf32"]
    try:
        trainer = lightning.Trainer(
            **given,
            default_root_dir=config.out,
            logger=[*loggers],
            plugins=[files],
            max_epochs=-1,
            check_val_every_n_epoch=None,
            num_sanity_val_steps=0,
            use_distributed_sampler=False,
            enable_model_summary=False,
            callbacks=callbacks,
        )
    except (MisconfigurationException, ModuleNotFoundError, TypeError, ValueError) as error:
        raise ConfigError(f"trainer: {error}") from error
    # With accumulation some steps exchange no gradients, which a static graph does not allow.
    static = not config.train.only and not config.uncertainty and settings.accumulate_grad_batches == 1
    configure_ddp(trainer, timeout=timeout, static_graph=static)
    return trainer


def require_loggers(names: Iterable[str]) -> None:
    for name in names:
        if name in ("tensorboard", "mlflow") and find_spec(name) is None:
            raise ConfigError(f"logger={name} needs the package {name}; pip install 'sdedit-pl[{name}]'")


def continued_loggers(config: TrainingConfig) -> list[Continued]:
    wandb, folder = config.wandb, Path(config.out)
    makers: dict[str, Callable[[Path], Continued]] = {
        "wandb": partial(
            ContinuedWandb,
            name=wandb.name or folder.name,
            save_dir=folder,
            project=wandb.project,
            entity=wandb.entity,
            group=wandb.group,
            tags=list(wandb.tags),
        ),
        "tensorboard": partial(ContinuedTensorBoard, folder=folder / "tensorboard"),
        "mlflow": partial(ContinuedMlflow, folder=folder / "mlruns", run_name=folder.name),
    }
    return [makers[name](folder / f"{name}.json") for name in config.loggers if name != "csv"]


@contextmanager
def loggers_open(trainer: lightning.Trainer, loggers: Sequence[Continued], config: TrainingConfig) -> Iterator[None]:
    """Logs the configuration before the block, and the editing checkpoint to W&B after it; then ends the runs."""
    try:
        for destination in loggers:
            destination.log_hyperparams(config.as_data())
            destination.remember()
        yield
    finally:
        for destination in loggers if trainer.is_global_zero else ():
            if trainer.state.finished and isinstance(destination, ContinuedWandb):
                _log_model(destination, config)
            destination.close(trainer.state.finished)


def _log_model(destination: ContinuedWandb, config: TrainingConfig) -> None:
    model = Path(config.out) / RUN_FILE
    if config.wandb.log_model and model.is_file():
        import wandb

        artifact = wandb.Artifact(f"model-{destination.version}", type="model", metadata=config.as_data())
        for file in filter(Path.is_file, (model, early_average(model))):
            artifact.add_file(str(file))
        destination.experiment.log_artifact(artifact, aliases=["latest"])
