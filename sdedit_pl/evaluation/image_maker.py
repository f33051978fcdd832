"""Makes all images of a plan on all devices; after an interruption, only the missing ones.

The first process writes the validation images and the inputs; then every process makes its share of the missing
batches. An image depends only on its inputs and its seed, so that the files are the same for any number of devices.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from lightning.fabric import Fabric
from lightning.fabric.utilities.exceptions import MisconfigurationException
from torch import Tensor
from tqdm import tqdm

from sdedit_pl.data.chosen_images import ChosenImages
from sdedit_pl.denoiser import Denoiser, in_precision
from sdedit_pl.editing.batch_independence import images_per_call
from sdedit_pl.evaluation.editing_tasks import draws_of
from sdedit_pl.evaluation.evaluation_plan import GUIDE, MASK, EvaluationPlan
from sdedit_pl.evaluation.image_store import EvaluationRecord, ImageStore, remove_images
from sdedit_pl.machine import (
    AutoBool,
    check_devices,
    inference_arithmetic,
    log_arithmetic,
    prepare_network,
    this_machine,
)
from sdedit_pl.training.lightning_internals import without_notices

logger = logging.getLogger(__name__)


class PendingImages(NamedTuple):
    folder: str
    numbers: Sequence[int]


@dataclass(frozen=True)
class ComputeSettings:
    """The devices, as for Lightning's Fabric, and the networks' arithmetic."""

    accelerator: str = "auto"
    devices: int | str = "auto"
    num_nodes: int = 1
    precision: str = "float32"
    compile: AutoBool = False

    def resolved(self, evaluations: int) -> ComputeSettings:
        """Replaces `auto` for this machine; raises ValueError if the machine lacks what a setting requires."""
        found = inference_arithmetic(this_machine(self.accelerator), evaluations, self.precision, self.compile)
        return replace(self, precision=found.precision, compile=found.compile)

    @property
    def exact(self) -> bool:
        """Whether an image made on a CPU must be bit-identical in any batch."""
        return not self.recipe

    @property
    def recipe(self) -> str:
        """The arithmetic's part of a recipe; empty for plain float32."""
        parts = [f"precision={self.precision}"] * (self.precision != "float32") + ["compile=true"] * bool(self.compile)
        return "".join(f", {part}" for part in parts)


@dataclass(frozen=True)
class ImageMaker:
    """Makes the images of a plan from the chosen `images`, `batch` at a time, and puts them into `store`."""

    plan: EvaluationPlan
    images: ChosenImages
    store: ImageStore
    record: EvaluationRecord
    batch: int = 16
    overwrite: bool = False

    @without_notices()
    def make(self, models: Mapping[str, Denoiser], computing: ComputeSettings) -> torch.device | None:
        """Makes all missing images; returns the device to measure them on in the first process, and None in the others.

        Raises ValueError or OSError for unusable devices, or an image that cannot be read or written.
        """
        try:
            check_devices(this_machine(computing.accelerator), computing.devices)
            fabric = Fabric(accelerator=computing.accelerator, devices=computing.devices, num_nodes=computing.num_nodes)
        except (MisconfigurationException, ModuleNotFoundError, TypeError, ValueError) as error:
            raise ValueError(f"accelerator={computing.accelerator} devices={computing.devices}: {error}") from error
        fabric.launch()
        if fabric.is_global_zero:
            self.write_inputs()
        fabric.barrier("all inputs are written")
        batches = self.missing()[fabric.global_rank :: fabric.world_size]
        fabric.barrier("missing images are listed")
        if not batches and fabric.is_global_zero:
            logger.info("the images were already there; overwrite=true makes them again")
        machine = this_machine(fabric.device.type)
        arithmetic = inference_arithmetic(machine, 0, computing.precision, computing.compile)
        if computing.recipe and fabric.is_global_zero:
            log_arithmetic(arithmetic, machine)
        on_cpu, compiled_batch = fabric.device.type == "cpu", self.batch if arithmetic.compile else None
        for model in models.values():
            model.to(fabric.device).eval()
            model.at_once = None if on_cpu and not computing.exact else images_per_call(fabric.device, compiled_batch)
            prepare_network(model.network, arithmetic)
        columns = [self.plan.columns[batch.folder] for batch in batches]
        steps = [column.method.total_steps(models[column.model]) for column in columns]
        total = sum(count * len(batch.numbers) for count, batch in zip(steps, batches, strict=True))
        hidden = None if fabric.is_global_zero else True  # all processes have nearly equal work
        with torch.inference_mode(), tqdm(total=total, desc="editing", unit="step", disable=hidden) as progress:
            for batch in batches:
                self.make_batch(batch, models, computing.precision, progress)
        fabric.barrier("all images are made")
        if torch.distributed.is_available() and torch.distributed.is_initialized():
            # Only the first process continues; nothing in it may wait for the others.
            torch.distributed.destroy_process_group()
        return fabric.device if fabric.is_global_zero else None

    def write_inputs(self) -> None:
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
        for name, task in self.plan.inputs.items():
            guides, masks = (self.store.pictures(f"{name}/{kind}") for kind in (GUIDE, MASK))
            for number in tqdm(guides.missing(), desc=f"inputs of {name}", unit="image", disable=None):
                original = originals.read([number])
                other = originals.read([self.store.partners.numbers[number]]) if task.pastes else original
                inputs = task.inputs(original, other, draws_of(self.plan.seed, number, type(task).__name__))
                # The guide is written last: if it exists, so does the mask.
                if inputs.mask is not None:
                    masks.write(number, inputs.mask[0].float() * 2 - 1)
                guides.write(number, inputs.guide[0])

    def missing(self) -> list[PendingImages]:
        missing = {folder: self.store.pictures(folder).missing() for folder in self.plan.columns}
        return [
            PendingImages(folder, numbers[start : start + self.batch])
            for folder, numbers in missing.items()
            for start in range(0, len(numbers), self.batch)
        ]

    def make_batch(self, batch: PendingImages, models: Mapping[str, Denoiser], precision: str, progress: tqdm) -> None:
        column = self.plan.columns[batch.folder]
        model = models[column.model]
        inputs = self.store.inputs(column.inputs, self.plan.inputs.get(column.inputs), batch.numbers)
        inputs = inputs.to(next(model.parameters()).device)
        seeds = [self.plan.seed + number for number in batch.numbers]

        def advance(x: Tensor, _: float) -> None:
            progress.update(len(x))

        with in_precision(model, precision):
            made = column.method(model, inputs, seeds, advance)
        pictures = self.store.pictures(batch.folder)
        for number, image in zip(batch.numbers, made.cpu(), strict=True):
            pictures.write(number, image)
