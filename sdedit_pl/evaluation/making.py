"""Making all images of a plan, on all devices, and going on where an earlier attempt was interrupted.

Lightning's Trainer starts the processes and places the models. The first process writes the validation images and the
inputs; then every process lists what is missing and takes every so many-th batch of it. An image depends on its inputs
and its seed alone, not on who makes it or in which batch, so that the files are the same for any number of devices.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import lightning
import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException
from tqdm import tqdm

from sdedit_pl.configuration import ConfigError
from sdedit_pl.data.chosen_images import ChosenImages
from sdedit_pl.denoiser import Denoiser, in_precision
from sdedit_pl.evaluation.plan import GUIDE, MASK, Plan
from sdedit_pl.evaluation.store import Record, Store, forget
from sdedit_pl.evaluation.tasks import Inputs, draws_of


class Job(NamedTuple):
    """A batch of images to make.

    Args:
        folder: the column's folder.
        numbers: of the images.
    """

    folder: str
    numbers: Sequence[int]


class EvaluationData(lightning.LightningDataModule):
    """The inputs of an evaluation, and the jobs of this process.

    Args:
        plan: what is made.
        images: the validation images.
        store: where everything lies.
        record: what it is made of.
        batch: images of a job.
        overwrite: whether to begin anew.
    """

    def __init__(
        self, plan: Plan, images: ChosenImages, store: Store, record: Record, batch: int = 16, overwrite: bool = False
    ) -> None:
        super().__init__()
        # The folder is shared between nodes: the first process of all prepares it.
        self.prepare_data_per_node = False
        # A process may have nothing left to do.
        self.allow_zero_length_dataloader_with_multiple_devices = True
        self.plan = plan
        self.images = images
        self.store = store
        self.record = record
        self.batch = batch
        self.overwrite = overwrite
        self.jobs: list[Job] = []

    def prepare_data(self) -> None:
        """Writes the validation images and the inputs that are missing. Lightning calls it in the first process."""
        if self.overwrite:
            forget(self.store.out)
        self.record.write(self.store.out)
        originals = self.store.originals
        missing = set(originals.missing())
        for number in tqdm(range(len(originals)), desc="reading images", unit="image", disable=None):
            image = self.images.image(number)
            if number in missing:
                originals.write(number, image)
            elif not torch.equal(originals.read([number])[0], image):
                raise ConfigError(
                    f"{self.images.names[number]} has changed: it is not the image that this evaluation was begun with "
                    f"({originals.file(number)}); give another out=, or overwrite=true, which makes all images anew"
                )
        for name in self.plan.inputs:
            self._write_inputs(name)

    def setup(self, stage: str | None = None) -> None:
        """Lists what is missing. Lightning calls it in every process, before any of them begins to edit."""
        self.jobs = []
        for folder in self.plan.columns:
            missing = self.store.pictures(folder).missing()
            self.jobs += [
                Job(folder, missing[start : start + self.batch]) for start in range(0, len(missing), self.batch)
            ]

    def predict_dataloader(self) -> list[int]:
        """The numbers of this process's jobs."""
        rank, world_size = (0, 1) if self.trainer is None else (self.trainer.global_rank, self.trainer.world_size)
        return list(range(rank, len(self.jobs), world_size))

    def inputs_of(self, job: Job) -> Inputs:
        """The inputs of a job."""
        name = self.plan.columns[job.folder].inputs
        return self.store.inputs(name, self.plan.inputs.get(name), job.numbers)

    def _write_inputs(self, name: str) -> None:
        task, store = self.plan.inputs[name], self.store
        guides, masks = (store.pictures(f"{name}/{kind}") for kind in (GUIDE, MASK))
        for number in tqdm(guides.missing(), desc=f"inputs of {name}", unit="image", disable=None):
            original = store.originals.read([number])
            other = store.originals.read([store.partners.numbers[number]]) if task.pastes else original
            inputs = task.inputs(original, other, draws_of(self.plan.settings.seed, number, type(task).__name__))
            # The guide is written last: where it is, the mask is as well.
            if inputs.mask is not None:
                masks.write(number, inputs.mask[0].float() * 2 - 1)
            guides.write(number, inputs.guide[0])


@dataclass(frozen=True)
class Computing:
    """What computes, and how.

    Args:
        accelerator: of Lightning's Trainer.
        devices: on each node, of Lightning's Trainer.
        num_nodes: of Lightning's Trainer.
        precision: float32, bfloat16 or float16, of the networks.
        compile: whether networks are compiled.
    """

    accelerator: str = "auto"
    devices: int | str = "auto"
    num_nodes: int = 1
    precision: str = "float32"
    compile: bool = False

    @property
    def exact(self) -> bool:
        """Whether an image on a CPU is to be the same to the last bit in any batch."""
        return not self.told

    @property
    def told(self) -> str:
        """What recipes say of the arithmetic, which changes images; nothing of float32."""
        parts = [f"precision={self.precision}"] * (self.precision != "float32") + ["compile=true"] * self.compile
        return "".join(f", {part}" for part in parts)


class ImageMaker(lightning.LightningModule):
    """Makes the images of jobs and writes them.

    Args:
        models: name -> denoiser.
        data: the jobs.
        computing: how their networks compute.
    """

    def __init__(self, models: Mapping[str, Denoiser], data: EvaluationData, computing: Computing) -> None:
        super().__init__()
        self.networks = torch.nn.ModuleDict(models)
        self.models = dict(models)
        self.data = data
        self.computing = computing
        self.progress: tqdm | None = None

    def on_predict_start(self) -> None:
        """Shows the progress of the first process; all have nearly equally much to do."""
        for model in self.models.values():
            # As in `sdedit_pl.checkpoints.load_denoiser`: one by one where that makes results exact.
            model.at_once = 1 if self.device.type == "cpu" and self.computing.exact else None
            if self.computing.compile:
                model.network.compile()
        jobs = [self.data.jobs[number] for number in self.data.predict_dataloader()]
        hidden = True if not self.trainer.is_global_zero else None
        self.progress = tqdm(total=sum(map(self._steps, jobs)), desc="editing", unit="step", disable=hidden)

    def predict_step(self, job_number: int, batch_idx: int) -> int:
        """Makes the images of a job; returns how many."""
        job = self.data.jobs[job_number]
        column = self.data.plan.columns[job.folder]
        inputs = self.data.inputs_of(job).to(self.device)
        seeds = [self.data.plan.settings.seed + number for number in job.numbers]
        model = self.models[column.model]
        with in_precision(model, self.computing.precision):
            made = column.way(model, inputs, seeds, lambda x, t: self._advance(len(x)))
        pictures = self.data.store.pictures(job.folder)
        for number, image in zip(job.numbers, made.cpu(), strict=True):
            pictures.write(number, image)
        return len(seeds)

    def on_predict_end(self) -> None:
        """Ends the progress bar."""
        if self.progress is not None:
            self.progress.close()

    def _advance(self, images: int) -> None:
        if self.progress is not None:
            self.progress.update(images)

    def _steps(self, job: Job) -> int:
        column = self.data.plan.columns[job.folder]
        return len(job.numbers) * column.way.total_steps(self.models[column.model])


def make_images(models: Mapping[str, Denoiser], data: EvaluationData, computing: Computing) -> torch.device | None:
    """Makes all images of a plan that are not there yet, on the devices of Lightning's Trainer.

    Returns:
        The device of the first process, whose part it is to measure the images; None in the others, which are done.

    Raises:
        ConfigError: devices that Lightning refuses or this machine has not.
        ValueError, OSError: images cannot be read or written.
    """
    try:
        trainer = lightning.Trainer(
            accelerator=computing.accelerator,
            devices=computing.devices,
            num_nodes=computing.num_nodes,
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            use_distributed_sampler=False,
        )
    except (MisconfigurationException, TypeError, ValueError) as error:
        raise ConfigError(f"accelerator={computing.accelerator} devices={computing.devices}: {error}") from error
    try:
        with warnings.catch_warnings():
            # Of a finished evaluation that is measured again.
            warnings.filterwarnings("ignore", message="Total length of .* across ranks is zero")
            trainer.predict(ImageMaker(models, data, computing), datamodule=data, return_predictions=False)
    except SystemExit as error:
        # What Lightning makes of Ctrl-C.
        raise KeyboardInterrupt from error
    trainer.strategy.barrier("all images are made")
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        # What follows is the first process's alone, and nothing in it may wait for the others.
        torch.distributed.destroy_process_group()
    return trainer.strategy.root_device if trainer.is_global_zero else None
