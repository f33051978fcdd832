"""The keys of a training run."""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any, Literal

from sdedit_pl.conditions import CONDITIONS, Condition
from sdedit_pl.configuration.model_config import SUPPLIED_TO_NETWORK, ModelConfig
from sdedit_pl.configuration.resolving import as_data
from sdedit_pl.configuration.schema import Component, construct, family, require_at_least
from sdedit_pl.data.datamodule import ImageDataModule
from sdedit_pl.data.image_format import ImageShape
from sdedit_pl.data.source import Source
from sdedit_pl.data.source_table import DATA_SOURCES
from sdedit_pl.losses import TIME_SAMPLERS, WEIGHTINGS, TimeSampler, Weighting
from sdedit_pl.machine import AutoBool
from sdedit_pl.networks import NETWORKS
from sdedit_pl.networks.unet import UNet
from sdedit_pl.noise import NOISES, Distribution
from sdedit_pl.parameterisations import PARAMETERISATIONS, Parameterisation
from sdedit_pl.sde import SDE, SDES
from sdedit_pl.training.augmentation import Augmentation
from sdedit_pl.training.optimizers import OPTIMIZERS, SCHEDULES, Adam, Schedule

LoggerName = Literal["csv", "wandb", "tensorboard", "mlflow"]


@dataclass(frozen=True)
class TrainerSettings:
    """Arguments of Lightning's Trainer.

    Args:
        max_steps: total number of optimiser steps, over all restarts.
        accelerator: auto, cpu, gpu, ...
        devices: devices on each node; auto uses all.
        num_nodes: number of machines.
        strategy: auto, ddp, ...; strategies that split one network between devices (fsdp, deepspeed) are refused.
        ddp_timeout_minutes: how long devices wait for one another before the run ends.
        precision: precision of the network: 32-true, bf16-mixed, 16-mixed, ...; auto is bf16-mixed on GPUs with bf16
            and, in long runs, on CPUs with AMX or AVX-512 bf16, and 32-true elsewhere.
        tf32: round factors in float32 products and convolutions to TF32 on GPUs that can, which is faster.
        cudnn_benchmark: let cuDNN choose its algorithms by trial, which is faster; false lets a resumed run on a GPU
            repeat an uninterrupted one bit for bit.
        accumulate_grad_batches: batches in one optimiser step.
        gradient_clip_val: largest norm of the gradient; null switches clipping off.
        val_check_interval: optimiser steps between two validations; another one follows the last step.
        limit_val_batches: batches in a validation; null uses all.
        log_every_n_steps: optimiser steps between two log entries.
        enable_progress_bar: show progress, as a bar in a terminal and as a line a minute elsewhere.
    """

    max_steps: int = 100_000
    accelerator: str = "auto"
    devices: int | str = "auto"
    num_nodes: int = 1
    strategy: str = "auto"
    ddp_timeout_minutes: float = 30.0
    precision: str = "auto"
    tf32: bool = True
    cudnn_benchmark: bool = True
    accumulate_grad_batches: int = 1
    gradient_clip_val: float | None = 1.0
    val_check_interval: int = 1000
    limit_val_batches: int | None = None
    log_every_n_steps: int = 50
    enable_progress_bar: bool = True

    def __post_init__(self) -> None:
        counts = {"max_steps": 1, "num_nodes": 1, "accumulate_grad_batches": 1, "val_check_interval": 1}
        require_at_least(self, **counts, log_every_n_steps=1, limit_val_batches=0)
        if self.gradient_clip_val is not None and not self.gradient_clip_val > 0:
            raise ValueError(f"gradient_clip_val must be positive, got {self.gradient_clip_val}; null does not clip")
        if not self.ddp_timeout_minutes > 0:
            raise ValueError(f"ddp_timeout_minutes must be positive, got {self.ddp_timeout_minutes}")


@dataclass(frozen=True)
class CheckpointSettings:
    """Checkpoints to resume from, in the folder `checkpoints` of the run.

    Args:
        every_steps: optimiser steps between two checkpoints; another is written before each validation.
        every_minutes: minutes between two checkpoints, independent of steps; null counts steps only.
        keep: number of newest checkpoints to keep.
        best: also keep the checkpoint with the lowest val/loss (mean over validation.sigma_edges, if set) as best.ckpt.
        dtype: type of the weights in the editing checkpoint `model.safetensors`.
        export: weights in `model.safetensors`: best (of the validation and average with the lowest loss) or last.
        all_averages: also write the newest weights of each average, as model-HALFLIFE.safetensors.
        early: share of the run after which its average is also written, as model-early.safetensors, the weaker model of
            autoguidance (guidance= of sdedit edit); null writes none.
        guidance: weight with which the early average guides edits by default; 1 is none.
        guidance_range: lowest,highest noise level at which the early average guides; null for all.
    """

    every_steps: int = 1000
    every_minutes: float | None = 30.0
    keep: int = 2
    best: bool = True
    dtype: Literal["float32", "float16", "bfloat16"] = "float32"
    export: Literal["best", "last"] = "best"
    all_averages: bool = False
    early: float | None = None
    guidance: float = 1.0
    guidance_range: tuple[float, float] | None = None

    def __post_init__(self) -> None:
        require_at_least(self, every_steps=1, keep=1, guidance=0)
        if self.guidance != 1 and self.early is None:
            raise ValueError(
                f"guidance={self.guidance:g} needs the early average; set checkpoint.early=0.07, or "
                "checkpoint.guidance=1 for edits without guidance"
            )
        if self.guidance_range is not None and not 0 <= self.guidance_range[0] < self.guidance_range[1]:
            low, high = self.guidance_range
            raise ValueError(f"guidance_range needs noise levels 0 <= lowest < highest, got {low:g} to {high:g}")
        if self.early is not None and not 0 < self.early < 1:
            raise ValueError(f"early is a share of the run, above 0 and below 1, got {self.early}; try 0.07")
        if self.every_minutes is not None and not self.every_minutes > 0:
            raise ValueError(f"every_minutes must be positive, got {self.every_minutes}; null counts steps alone")


@dataclass(frozen=True)
class TrainSettings:
    """The trained part of the network.

    Args:
        only: parts of the model in ckpt to train: attention, biases, normalisation, label; [] trains all.
    """

    only: tuple[str, ...] = ()


@dataclass(frozen=True)
class ValidationSettings:
    """Validation, which uses the same noise every time.

    Args:
        sigma_edges: edges of noise-level ranges whose loss is logged separately, as val/loss/sigma_A-B; [] for none.
        patience: number of validations without a lower loss (the best average's mean over sigma_edges) that ends the
            run; null never ends it early.
        memory_images: largest training set that is searched for memorised images; 0 disables the search.
        memory_edits: number of edits of simulated strokes that are compared with the training set.
    """

    sigma_edges: tuple[float, ...] = (0.05, 0.2, 0.8, 3.2)
    patience: int | None = None
    memory_images: int = 5000
    memory_edits: int = 16

    def __post_init__(self) -> None:
        require_at_least(self, patience=1, memory_images=0, memory_edits=1)
        edges = self.sigma_edges
        if len(edges) == 1 or any(not 0 < low < high for low, high in pairwise(edges)):
            raise ValueError(f"sigma_edges must be at least two increasing numbers above 0, or none, got {list(edges)}")


@dataclass(frozen=True)
class AverageSettings:
    """Exponential moving averages of the weights, used by previews and editing.

    Args:
        half_life_images: images after which the contribution of an update has halved. A list keeps and validates one
            average for each entry; previews show the first.
        ramp: largest half-life as a fraction of the images seen so far; 0 disables the ramp.
    """

    half_life_images: int | tuple[int, ...] = 500_000
    ramp: float = 0.05


@dataclass(frozen=True)
class PreviewSettings:
    """Sheets of edits and samples, written after each validation.

    Args:
        guides: folder, file or glob of guides; null uses simulated strokes of the first validation images.
        count: number of guides.
        samples: number of unconditional samples.
        t0: start of the edits: a time in (0, 1], or a noise level such as sigma:1.2.
        steps: solver steps of an edit and of a sample.
    """

    guides: str | None = None
    count: int = 8
    samples: int = 8
    t0: float | str = 0.5
    steps: int = 50

    def __post_init__(self) -> None:
        require_at_least(self, count=0, samples=0, steps=1)


@dataclass(frozen=True)
class WandbSettings:
    """Weights & Biases, for logger=wandb. WANDB_MODE=offline needs no account.

    Args:
        project: name of the project.
        entity: user or team; null uses the default of the account.
        name: name of the run; null uses the name of its folder.
        group: group of the run.
        tags: tags of the run.
        log_model: upload the editing checkpoint as an artifact at the end.
    """

    project: str = "sdedit_pl"
    entity: str | None = None
    name: str | None = None
    group: str | None = None
    tags: tuple[str, ...] = ()
    log_model: bool = True


@dataclass(frozen=True, kw_only=True)
class TrainingConfig:
    """A training run.

    Args:
        out: folder of the run: checkpoints, previews, logs, the resolved configuration.
        seed: seed of all random numbers.
        ckpt: editing checkpoint to start from, which also sets the network keys that the configuration leaves at their
            defaults; of a list, the one that denoises the validation images best; null starts from random weights.
        resume: continue from the newest checkpoint in `out`, if there is one.
        compile: compile the loss with torch.compile; auto compiles in long runs on GPUs and CPUs with fast bf16.
        channels_last: keep weights and feature maps in channels-last order; auto uses it if the loss is compiled.
        reduction: reduction of the squared error over the pixels of an image, mean or sum.
        uncertainty: learn the size of the loss at each noise level and divide the loss by it.
        logger: wandb, tensorboard, mlflow or csv, or a list of them; metrics.csv and PNG previews are always written.
    """

    out: str = "runs/default"
    seed: int = 0
    ckpt: str | tuple[str, ...] | None = None
    resume: bool = True
    compile: AutoBool = "auto"
    channels_last: AutoBool = "auto"
    reduction: Literal["mean", "sum"] = "mean"
    uncertainty: bool = False
    logger: LoggerName | tuple[LoggerName, ...] = "csv"
    trainer: TrainerSettings
    checkpoint: CheckpointSettings
    preview: PreviewSettings
    wandb: WandbSettings
    average: AverageSettings
    augment: Augmentation
    train: TrainSettings
    validation: ValidationSettings
    data: Component[Source] = family(
        DATA_SOURCES, "folder", shared=ImageDataModule, supplied=("source", "seed", "image_size"), place="path"
    )
    sde: Component[SDE] = family(SDES, "vp")
    network: Component[UNet] = family(NETWORKS, "ncsnpp", supplied=SUPPLIED_TO_NETWORK)
    parameterisation: Component[Parameterisation] = family(PARAMETERISATIONS, "edm")
    condition: Component[Condition] = family(CONDITIONS, "class")
    noise: Component[Distribution] = family(NOISES, "gaussian")
    weighting: Component[Weighting] = family(WEIGHTINGS, "edm")
    times: Component[TimeSampler] = family(TIME_SAMPLERS, "log_normal")
    optimizer: Component[Adam] = family(OPTIMIZERS, "adam")
    schedule: Component[Schedule] = family(SCHEDULES, "constant")

    def __post_init__(self) -> None:
        require_at_least(self, seed=0)
        if self.seed >= 2**63:
            raise ValueError(f"seed must be below 2^63, got {self.seed}")
        self.augment.check_data(self.image.format is None, self.data.values["flip"])

    @property
    def loggers(self) -> tuple[LoggerName, ...]:
        return (self.logger,) if isinstance(self.logger, str) else tuple(dict.fromkeys(self.logger))

    @property
    def image(self) -> ImageShape:
        values = {key: self.data.values.get(key) for key in ("size", "channels", "format")}
        return construct("data", ImageShape, **values)

    def with_range_of(self, image: ImageShape) -> TrainingConfig:
        """The configuration, with the range of a trained model's values unless it states one."""
        own, known = self.image.format, image.format
        if own is None or known is None or own.range is not None:
            return self
        values = {**self.data.values, "format": replace(own, range=known.range)}
        return replace(self, data=replace(self.data, values=values))

    @property
    def batch_size(self) -> int:
        return self.data.values["batch_size"]

    @property
    def model(self) -> ModelConfig:
        return ModelConfig(
            image=self.image,
            t_max=self.times.values["t_max"],
            augmentation_labels=self.augment.labels,
            sde=self.sde,
            network=self.network,
            parameterisation=self.parameterisation,
            condition=self.condition,
            noise=self.noise,
        )

    def as_data(self) -> dict[str, Any]:
        return as_data(self)
