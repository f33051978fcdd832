"""One run of `sdedit calibrate`: from its settings to the t0 file and the plot of the trade-off."""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from tqdm import tqdm

from sdedit_pl.build.component import build_component, build_unless_default
from sdedit_pl.calibration.calibration_report import CalibrationReport
from sdedit_pl.calibration.calibration_settings import CalibrationSettings
from sdedit_pl.calibration.knee import trade_off
from sdedit_pl.calibration.sweep import Sweep, default_times, measure_batch
from sdedit_pl.calibration.t0_sidecar import sidecar_of, write_calibration
from sdedit_pl.calibration.unfinished_sweep import UnfinishedSweep
from sdedit_pl.checkpoints import describe
from sdedit_pl.configuration.yaml_reading import read_file
from sdedit_pl.data.chosen_images import ChosenImages, choose_images
from sdedit_pl.data.image_format import shown_bands
from sdedit_pl.denoiser import Denoiser, in_precision
from sdedit_pl.editing import SDEdit
from sdedit_pl.files import require_folder
from sdedit_pl.grids import start_time
from sdedit_pl.metrics.features import features_of
from sdedit_pl.metrics.kid import LEAST_IMAGES
from sdedit_pl.result_folder import (
    ALREADY_THERE,
    RECORDED,
    files_recorded_in,
    hashes_of,
    refuse_others,
    refuse_replacing,
    result_folder,
)
from sdedit_pl.settings_record import require_same_settings
from sdedit_pl.typing import Images

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Calibration:
    text: str
    t0: float | str | None
    file: Path
    plot: Path


def calibrate(settings: CalibrationSettings) -> Calibration:
    """Measures a sweep, or resumes an interrupted one, and writes the t0 file and the plot, unless they are there.

    Raises ValueError if settings or files do not allow the sweep, or an interrupted one had other settings.
    """
    settings = settings.for_edits(describe(settings.ckpt))
    denoiser, description = settings.load()
    checkpoint = description.path
    val_fraction = description.val_fraction(settings.val_fraction)
    settings = replace(settings, val_fraction=val_fraction)
    file = t0_file(settings, checkpoint)
    plot = file.with_suffix(".png")
    edits = edits_by_noise_level(settings, denoiser)
    replaced: set[str] = set()
    with result_folder(file.parent, file.name, replaced) as unpublished:
        chosen = choose_images(
            settings.data,
            description.image,
            split=settings.split,
            val_fraction=val_fraction,
            count=settings.images,
            fit=description.fit,
            least=LEAST_IMAGES,
        )
        steps = sum(edit.total_steps(denoiser.sde) for edit in edits)
        settings = settings.prepared(denoiser, len(chosen), description.image.pixels, steps)
        recorded = measurement_settings(settings, edits, chosen, checkpoint)
        finished = read_file(file) if file.is_file() and not settings.overwrite else None
        if finished is not None and {file.name, plot.name} == files_recorded_in(file):
            require_same_settings(file, finished["settings"], recorded, "give another out=, or overwrite=true")
            logger.info(ALREADY_THERE)
            return Calibration(finished["verdict"], finished["t0"], file, plot)
        refuse_replacing(file, settings.overwrite)
        replaced |= files_recorded_in(file)
        refuse_others(file.parent, {file.name, plot.name} - replaced)
        unfinished = UnfinishedSweep(file.with_suffix(".unfinished"), recorded)
        if settings.overwrite:
            unfinished.discard()
        sweep = measured_sweep(settings, denoiser, edits, chosen, unfinished)
        report = CalibrationReport(trade_off(sweep), [edit.t0 for edit in edits], noise_levels(edits, denoiser))
        report.plot(checkpoint.name, shown_bands(sweep.shown, description.image.format)).save(unpublished / plot.name)
        found = {**report.as_data(), "settings": recorded, RECORDED: hashes_of(unpublished)}
        write_calibration(unpublished / file.name, checkpoint, report.t0, found)
        replaced.add(unfinished.file.name)
    return Calibration(f"{report.table()}\n{report.verdict()}", report.t0, file, plot)


def t0_file(settings: CalibrationSettings, checkpoint: Path) -> Path:
    """The path of the t0 file; raises ValueError if its folder is a file, or the checkpoint's and not writable."""
    beside = sidecar_of(checkpoint)
    file = beside if settings.out is None else Path(settings.out) / beside.name
    require_folder(file.parent)
    if settings.out is None and not os.access(file.parent, os.W_OK):
        raise ValueError(
            f"the checkpoint's folder {file.parent} cannot be written; give another as out=FOLDER, and pass the t0 "
            "found to sdedit edit"
        )
    return file


def edits_by_noise_level(settings: CalibrationSettings, denoiser: Denoiser) -> list[SDEdit]:
    """The edit of each level, in ascending order of noise levels; raises ValueError for an unusable t0."""
    solver, grid = build_unless_default(settings.solver), build_unless_default(settings.grid)
    t0s = default_times(denoiser) if settings.t0 is None else settings.t0
    edits = [SDEdit(t0, settings.steps, solver=solver, grid=grid) for t0 in t0s]
    for edit in edits:
        edit.check(denoiser)
    edits.sort(key=lambda edit: start_time(edit.t0, denoiser.sde))
    if len({start_time(edit.t0, denoiser.sde) for edit in edits}) < len(edits):
        raise ValueError(f"a t0 is given twice in {list(t0s)}")
    return edits


def noise_levels(edits: Sequence[SDEdit], denoiser: Denoiser) -> list[float]:
    """sigma / alpha at each edit's t0."""
    times = torch.tensor([start_time(edit.t0, denoiser.sde) for edit in edits], dtype=torch.float64)
    return denoiser.sde.noise_level(times).tolist()


def measurement_settings(
    settings: CalibrationSettings, edits: Sequence[SDEdit], chosen: ChosenImages, checkpoint: Path
) -> dict[str, Any]:
    return {
        **settings.recorded(checkpoint),
        "t0": [edit.t0 for edit in edits],
        "steps": edits[0].step_count,
        "images": len(chosen),
        "images_sha256": chosen.digest(),
        "sdedit_pl": version("sdedit_pl"),
        "torch": str(torch.__version__),
    }


def measured_sweep(
    settings: CalibrationSettings,
    denoiser: Denoiser,
    edits: Sequence[SDEdit],
    chosen: ChosenImages,
    unfinished: UnfinishedSweep,
) -> Sweep:
    device = next(denoiser.parameters()).device
    extractor = build_component(settings.features).to(device)

    def extract(images: Images) -> Float[Tensor, "B D"]:
        return features_of(extractor, images.to(device)).cpu()

    steps = sum(edit.total_steps(denoiser.sde) for edit in edits)
    sweep = unfinished.read()
    done = 0 if sweep is None else len(sweep)
    if done:
        logger.info("resuming after %d of %d images: %s", done, len(chosen), unfinished.file)
    with (
        tqdm(total=steps * len(chosen), initial=steps * done, unit="step", desc="editing", disable=None) as progress,
        in_precision(denoiser, settings.precision),
    ):

        def advance(x: Images, t: float) -> None:
            progress.update(len(x))

        for start in range(done, len(chosen), settings.batch):
            originals = chosen.batch(start, settings.batch).to(device)
            seeds = [settings.seed + start + number for number in range(len(originals))]
            batch = measure_batch(denoiser, edits, originals, seeds, extract, advance)
            sweep = batch if sweep is None else sweep.joined(batch)
            unfinished.write(sweep)
    assert sweep is not None
    return sweep
