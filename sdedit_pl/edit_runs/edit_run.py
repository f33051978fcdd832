"""One run of `sdedit edit`: from its settings to the files of its results."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from tqdm import tqdm

from sdedit_pl.checkpoints.guidance import load_guided
from sdedit_pl.checkpoints.native import Description
from sdedit_pl.data.image_format import ImageShape
from sdedit_pl.denoiser import Denoiser, in_precision
from sdedit_pl.edit_runs.edit_plan import EditTask, build_edits, default_t0, edit_tasks
from sdedit_pl.edit_runs.edit_results import SHEET_FILE, SHEET_ROWS, EditWriter, earlier_results, refuse_foreign
from sdedit_pl.edit_runs.edit_settings import AUTO, EditSettings
from sdedit_pl.edit_runs.expectations import warn_of_far_guides, warn_of_few_steps
from sdedit_pl.editing.images_per_call import prepare_for_batches
from sdedit_pl.editing.many_guides import Edited, default_batch, edit_guides
from sdedit_pl.editing.trajectories import Trajectory, edit_with_trajectory
from sdedit_pl.editing.windows import windowed
from sdedit_pl.guides.edit_inputs import EditInputs, read_edit_inputs
from sdedit_pl.machine import prepare_for_inference
from sdedit_pl.result_folder import result_folder

logger = logging.getLogger(__name__)


def run_edit(settings: EditSettings, loaded: tuple[Denoiser, Description] | None = None) -> int:
    """Edits the guides and writes samples, contact sheet and record to `settings.out`; returns the number of samples.

    `loaded` is the model of `settings.ckpt`, if it has been read before.

    Raises:
        ValueError: settings, files or the device do not allow the edit. No result is written then.
    """
    edits = build_edits(settings)
    folder = Path(settings.out)
    earlier: set[str] = set()
    with result_folder(folder, replaced=earlier) as unpublished:
        earlier |= earlier_results(folder, settings.overwrite)
        denoiser, description = loaded or load_guided(settings.ckpt, settings.device, settings)
        if settings.t0 is None:
            settings = replace(settings, t0=default_t0(description.path))
            edits = build_edits(settings)
        shape = description.image
        network, network_evaluations = denoiser.network, denoiser.evaluations
        denoiser = with_windows(denoiser, settings, shape)
        inputs = read_edit_inputs(
            settings.guide,
            shape,
            mask=settings.mask,
            strength=settings.strength,
            paste=settings.pasted_object,
            window=settings.window_size(shape),
            side=settings.side,
            fit=settings.fit,
            focus=settings.focus,
        )
        warn_of_few_steps(description)
        if network_evaluations == 1:  # guidance changes the error
            warn_of_far_guides(denoiser, description, inputs.guides)
        steps = sum(edit.total_steps(denoiser.sde) for edit in edits)
        evaluations = steps * len(inputs.guides) * settings.samples * network_evaluations
        computing = (evaluations, settings.precision, settings.compile)
        if settings.window_size(shape) is None:
            arithmetic = prepare_for_batches(denoiser, *batch_of(settings, denoiser, inputs), *computing)
        else:
            arithmetic = prepare_for_inference(network, *computing)
        settings = replace(settings, precision=arithmetic.precision, compile=arithmetic.compile)
        writer = EditWriter(unpublished, settings, [*settings.model_files(description.path), *inputs.files])
        with in_precision(denoiser, settings.precision):
            tasks = edit_tasks(settings, edits, denoiser, inputs)
            if settings.t0 == AUTO and len(tasks) == 1:  # a repetition need not search again
                writer.settings = replace(settings, t0=tasks[0].edit.t0, l2=None)
            refuse_foreign(folder, earlier, tasks, settings, inputs.guides)
            for task, edited, trajectory in edit_all(settings, tasks, denoiser, inputs):
                writer.write(task.edit.t0, task.mark, edited, trajectory)
        writer.finish()
    if len(inputs.guides) > SHEET_ROWS:
        logger.info("%s shows the first %d of %d guides", SHEET_FILE, SHEET_ROWS, len(inputs.guides))
    return writer.count


def batch_of(settings: EditSettings, denoiser: Denoiser, inputs: EditInputs) -> tuple[int, int]:
    """The samples of a batch, and the pixels of the largest one."""
    pixels = max(guide.image[0, 0].numel() for guide in inputs.guides)
    samples = settings.samples * (1 if settings.trajectory else len(inputs.guides))
    default = default_batch(next(denoiser.parameters()).device, pixels)
    return min(settings.batch or default, samples), pixels


def with_windows(denoiser: Denoiser, settings: EditSettings, shape: ImageShape) -> Denoiser:
    """The denoiser, with windows if the settings say so; `shape` is that of its images."""
    window = settings.window_size(shape)
    if window is None:
        return denoiser
    shorter = window if isinstance(window, int) else min(window)
    overlap = shorter // 2 if settings.overlap is None else settings.overlap
    return windowed(denoiser, window, overlap, trained_size=shape.size)


def edit_all(
    settings: EditSettings, tasks: Sequence[EditTask], denoiser: Denoiser, inputs: EditInputs
) -> Iterator[tuple[EditTask, Edited, Trajectory | None]]:
    """Yields the edits of all guides in the order of the tasks and shows a progress bar."""
    seeds, batch = settings.seeds, settings.batch
    total = sum(task.edit.total_steps(denoiser.sde) * len(task.guides) * len(seeds) for task in tasks)
    with tqdm(total=total, unit="step", desc="editing", disable=None) as progress:
        step = progress.update
        for task in tasks:
            edit = task.edit
            guides = [inputs.guides[number] for number in task.guides]
            areas = [inputs.areas[number] for number in task.guides]
            if settings.trajectory:
                for guide, area in zip(guides, areas, strict=True):
                    yield task, *edit_with_trajectory(denoiser, edit, guide, area, seeds, batch=batch, on_step=step)
            else:
                for edited in edit_guides(denoiser, edit, guides, areas, seeds, batch=batch, on_step=step):
                    yield task, edited, None
