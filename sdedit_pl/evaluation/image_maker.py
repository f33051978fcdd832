"""Makes all images of a plan on all devices; after an interruption, only the missing ones.

The first process writes the validation images and the inputs; then every process lists the missing batches and makes
its share of them. An image depends only on its inputs and its seed, not on the process or the batch, so that the files
are the same for any number of devices.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import lightning
import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException
from tqdm import tqdm

from sdedit_pl.data.chosen_images import ChosenImages
from sdedit_pl.denoiser import Denoiser, in_precision
from sdedit_pl.editing.images_per_call import images_per_call
from sdedit_pl.evaluation.editing_tasks import TaskInputs, draws_of
from sdedit_pl.evaluation.evaluation_plan import GUIDE, MASK, EvaluationPlan
from sdedit_pl.evaluation.image_store import EvaluationRecord, ImageStore, remove_images
from sdedit_pl.machine import AutoBool, inference_arithmetic, log_arithmetic, prepare_network, this_machine
from sdedit_pl.training.lightning_internals import without_notices


class PendingImages(NamedTuple):
    """A batch of missing images of a column."""

    folder: str
    numbers: Sequence[int]


class EvaluationData(lightning.LightningDataModule):
    """The inputs of an evaluation, and the batches of images that this process makes and puts into `store`."""

    def __init__(
        self,
        plan: EvaluationPlan,
        images: ChosenImages,
        store: ImageStore,
        record: EvaluationRecord,
        batch: int = 16,
        overwrite: bool = False,
    ) -> None:
        super().__init__()
        # Nodes share the folder: only the first process of all prepares it.
        self.prepare_data_per_node = False
        # A process may have no batch left to make.
        self.allow_zero_length_dataloader_with_multiple_devices = True
        self.plan = plan
        self.images = images
        self.store = store
        self.record = record
        self.batch = batch
        self.overwrite = overwrite
        self.batches: list[PendingImages] = []

    def prepare_data(self) -> None:
        """Writes the missing validation images and inputs; called in the first process."""
        if self.overwrite:
            remove_images(self.store.out, self.record.recipes)
        self.record.write(self.store.out)
        originals = self.store.originals
        missing = set(originals.missing())
        for number in tqdm(range(len(originals)), desc="reading images", unit="image", disable=None):
            image = self.images.image(number)
            if number in missing:
                originals.write(number, image)
            elif not torch.equal(originals.read([number])[0], image):
                raise ValueError(
                    f"{self.images.names[number]} has changed: it is not the image that this evaluation started with "
                    f"({originals.file(number)}); give another out=, or overwrite=true, which makes all images again"
                )
        for name in self.plan.inputs:
            self._write_inputs(name)

    def setup(self, stage: str | None = None) -> None:
        """Lists the missing images; called in every process, before any of them starts to edit."""
        self.batches = []
        for folder in self.plan.columns:
            missing = self.store.pictures(folder).missing()
            self.batches += [
                PendingImages(folder, missing[start : start + self.batch])
                for start in range(0, len(missing), self.batch)
            ]

    def predict_dataloader(self) -> list[int]:
        """The numbers of this process's batches."""
        rank, world_size = (0, 1) if self.trainer is None else (self.trainer.global_rank, self.trainer.world_size)
        return list(range(rank, len(self.batches), world_size))

    def inputs_of(self, batch: PendingImages) -> TaskInputs:
        name = self.plan.columns[batch.folder].inputs
        return self.store.inputs(name, self.plan.inputs.get(name), batch.numbers)

    def _write_inputs(self, name: str) -> None:
        task, store = self.plan.inputs[name], self.store
        guides, masks = (store.pictures(f"{name}/{kind}") for kind in (GUIDE, MASK))
        for number in tqdm(guides.missing(), desc=f"inputs of {name}", unit="image", disable=None):
            original = store.originals.read([number])
            other = store.originals.read([store.partners.numbers[number]]) if task.pastes else original
            inputs = task.inputs(original, other, draws_of(self.plan.settings.seed, number, type(task).__name__))
            # The guide is written last: if it exists, so does the mask.
            if inputs.mask is not None:
                masks.write(number, inputs.mask[0].float() * 2 - 1)
            guides.write(number, inputs.guide[0])


@dataclass(frozen=True)
class ComputeSettings:
    """The devices of Lightning's Trainer, and the networks' arithmetic.

    Args:
        precision: float32, tf32, bfloat16, float16 or auto.
        compile: whether to compile the networks, or auto.
    """

    accelerator: str = "auto"
    devices: int | str = "auto"
    num_nodes: int = 1
    precision: str = "float32"
    compile: AutoBool = False

    def resolved(self, evaluations: int) -> ComputeSettings:
        """The settings with `auto` replaced for this machine and this number of network evaluations.

        Raises:
            ValueError: the machine does not have what the settings ask for.
        """
        found = inference_arithmetic(this_machine(self.accelerator), evaluations, self.precision, self.compile)
        return replace(self, precision=found.precision, compile=found.compile)

    @property
    def exact(self) -> bool:
        """Whether an image made on a CPU must be the same to the last bit in any batch."""
        return not self.recipe

    @property
    def recipe(self) -> str:
        """The arithmetic's part of a recipe, since it changes images; empty for plain float32."""
        parts = [f"precision={self.precision}"] * (self.precision != "float32") + ["compile=true"] * bool(self.compile)
        return "".join(f", {part}" for part in parts)


class ImageMaker(lightning.LightningModule):
    """Makes and writes batches of images."""

    def __init__(self, models: Mapping[str, Denoiser], data: EvaluationData, computing: ComputeSettings) -> None:
        super().__init__()
        self.networks = torch.nn.ModuleDict(models)
        self.models = dict(models)
        self.data = data
        self.computing = computing
        self.progress: tqdm | None = None

    def on_predict_start(self) -> None:
        """Prepares the models and starts the first process's progress bar; all processes have nearly equal work."""
        machine = this_machine(self.device.type)
        arithmetic = inference_arithmetic(machine, 0, self.computing.precision, self.computing.compile)
        if self.computing.recipe and self.trainer.is_global_zero:
            log_arithmetic(arithmetic, machine)
        on_cpu, batch = self.device.type == "cpu", self.data.batch if arithmetic.compile else None
        for model in self.models.values():
            model.at_once = None if on_cpu and not self.computing.exact else images_per_call(self.device, batch)
            prepare_network(model.network, arithmetic)
        batches = [self.data.batches[number] for number in self.data.predict_dataloader()]
        hidden = True if not self.trainer.is_global_zero else None
        self.progress = tqdm(total=sum(map(self._steps, batches)), desc="editing", unit="step", disable=hidden)

    def predict_step(self, batch_number: int, batch_idx: int) -> int:
        """Makes the images of a batch and returns their number."""
        batch = self.data.batches[batch_number]
        column = self.data.plan.columns[batch.folder]
        inputs = self.data.inputs_of(batch).to(self.device)
        seeds = [self.data.plan.settings.seed + number for number in batch.numbers]
        model = self.models[column.model]
        with in_precision(model, self.computing.precision):
            made = column.method(model, inputs, seeds, lambda x, t: self._advance(len(x)))
        pictures = self.data.store.pictures(batch.folder)
        for number, image in zip(batch.numbers, made.cpu(), strict=True):
            pictures.write(number, image)
        return len(seeds)

    def on_predict_end(self) -> None:
        if self.progress is not None:
            self.progress.close()

    def _advance(self, images: int) -> None:
        if self.progress is not None:
            self.progress.update(images)

    def _steps(self, batch: PendingImages) -> int:
        column = self.data.plan.columns[batch.folder]
        return len(batch.numbers) * column.method.total_steps(self.models[column.model])


@without_notices()
def make_images(
    models: Mapping[str, Denoiser], data: EvaluationData, computing: ComputeSettings
) -> torch.device | None:
    """Makes all missing images of a plan on the devices of Lightning's Trainer.

    Returns:
        The device of the first process, which measures the images; None in the others.

    Raises:
        ValueError: devices that Lightning refuses or this machine lacks, or an image that cannot be read.
        OSError: an image cannot be read or written.
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
        raise ValueError(f"accelerator={computing.accelerator} devices={computing.devices}: {error}") from error
    try:
        with warnings.catch_warnings():
            # A finished evaluation that is measured again has nothing to make.
            warnings.filterwarnings("ignore", message="Total length of .* across ranks is zero")
            trainer.predict(ImageMaker(models, data, computing), datamodule=data, return_predictions=False)
    except SystemExit as error:
        # Lightning turns Ctrl-C into SystemExit.
        raise KeyboardInterrupt from error
    trainer.strategy.barrier("all images are made")
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        # Only the first process continues; nothing in it may wait for the others.
        torch.distributed.destroy_process_group()
    return trainer.strategy.root_device if trainer.is_global_zero else None
