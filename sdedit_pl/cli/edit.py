"""`sdedit edit`: turn guides into images of a model's domain."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from sdedit_pl.build.components import build_unless_usual
from sdedit_pl.calibration.t0_search import FoundT0, t0_for_l2
from sdedit_pl.calibration.t0_sidecar import calibrated_t0
from sdedit_pl.checkpoints import files_of
from sdedit_pl.cli import say
from sdedit_pl.cli.edit_arguments import AUTO, Arguments
from sdedit_pl.cli.edit_inputs import Inputs, image_shape, read_inputs
from sdedit_pl.cli.edit_model import load_for_editing, prepared
from sdedit_pl.cli.edit_results import RECORD_KEY, SHEET_FILE, SHEET_ROWS, Writer, earlier_results
from sdedit_pl.cli.results import Results
from sdedit_pl.configuration.command_line import Command
from sdedit_pl.configuration.yaml_text import read_file
from sdedit_pl.denoiser import Denoiser, in_precision
from sdedit_pl.editing import SDEdit
from sdedit_pl.editing.many_guides import Area, Edited, edit_guides
from sdedit_pl.editing.trajectories import SHOWN_SAMPLES, RecordingDenoiser, Trajectory
from sdedit_pl.guides.guide_files import Guide

logger = logging.getLogger(__name__)

DEFAULT_T0 = 0.5

USAGE = """sdedit edit ckpt=FILE guide=FILE|FOLDER|GLOB [mask=FILE|FOLDER] [key=value ...]

Noises each guide to t0 and brings it back with the checkpoint's model. Leaves in `out` a PNG for each sample, sheet.png
and edit.yaml, which repeats the edit: sdedit edit config=outputs/edit/edit.yaml out=..."""
COMMAND = Command(USAGE, Arguments, "a YAML file of these keys, such as the edit.yaml of an edit")


@dataclass(frozen=True)
class Task:
    """An edit of some of the guides.

    Args:
        edit: the edit.
        guides: the guides' numbers.
        mark: what tells the names of its samples from those of other tasks.
    """

    edit: SDEdit
    guides: Sequence[int]
    mark: str = ""


def run(words: list[str]) -> None:
    """Reads the arguments, edits, and writes the results."""
    arguments = COMMAND.parse(words, read=without_record)
    edits = build_edits(arguments)
    folder = Path(arguments.out)
    with Results(folder, earlier_results(folder, arguments.overwrite)) as results:
        denoiser, description = load_for_editing(arguments.ckpt, arguments.device)
        if arguments.t0 is None:
            arguments = replace(arguments, t0=default_t0(description.path))
            edits = build_edits(arguments)
        denoiser = prepared(denoiser, arguments, image_shape(description)[1])
        inputs = read_inputs(arguments, image_shape(description))
        writer = Writer(results, arguments, inputs, files_of(description.path))
        with in_precision(denoiser, arguments.precision):
            tasks = plan(arguments, edits, denoiser, inputs)
            for task, edited, trajectory in edit_all(arguments, tasks, denoiser, inputs):
                writer.write(task.edit.t0, task.mark, edited, trajectory)
        writer.finish()
    if len(inputs.guides) > SHEET_ROWS:
        logger.info("%s shows the first %d of %d guides", SHEET_FILE, SHEET_ROWS, len(inputs.guides))
    say(f"{writer.count} samples in {folder}; see {folder / SHEET_FILE}")


def without_record(file: str) -> dict[str, Any]:
    """The keys in a YAML file, without the record that an edit leaves beside them."""
    return {key: value for key, value in read_file(Path(file)).items() if key != RECORD_KEY}


def build_edits(arguments: Arguments) -> list[SDEdit]:
    """The edits: one for each t0, with a placeholder where it is still to be found.

    Raises:
        ValueError: an argument out of range.
    """
    edit = SDEdit(
        steps=arguments.steps,
        repeats=arguments.repeats,
        solver=build_unless_usual(arguments.solver),
        grid=build_unless_usual(arguments.grid),
        variant=arguments.variant,
        anneal=arguments.anneal,
        resample=arguments.resample,
        lowpass=arguments.lowpass,
        lowpass_range=arguments.lowpass_range,
    )
    if arguments.t0 is None or arguments.t0 == AUTO:
        return [edit]
    given = arguments.t0 if isinstance(arguments.t0, tuple) else [arguments.t0]
    return [replace(edit, t0=t0) for t0 in given]


def default_t0(checkpoint: Path) -> float | str:
    """What calibration has found for a checkpoint, or the middle of the paper's range."""
    found = calibrated_t0(checkpoint)
    if found is None:
        return DEFAULT_T0
    logger.info("t0 = %s, as calibrated for %s", found, checkpoint)
    return found


def plan(arguments: Arguments, edits: Sequence[SDEdit], denoiser: Denoiser, inputs: Inputs) -> list[Task]:
    """Which guides are edited how."""
    everything = range(len(inputs.guides))
    if arguments.t0 != AUTO:
        for edit in edits:  # not when the first of them has been run
            edit.check(denoiser)
    if arguments.t0 == AUTO:
        found = search(arguments, edits[0], denoiser, inputs)
        return [Task(replace(edits[0], t0=its.t0), [number]) for number, its in enumerate(found)]
    if len(edits) == 1:
        return [Task(edits[0], everything)]
    return [Task(edit, everything, f"_t0_{str(edit.t0).replace(':', '')}") for edit in edits]


def search(arguments: Arguments, edit: SDEdit, denoiser: Denoiser, inputs: Inputs) -> list[FoundT0]:
    """The t0 of each guide that changes its samples by no more than is allowed."""
    assert arguments.l2 is not None
    with tqdm(unit="step", desc="searching t0", disable=None) as progress:
        found = t0_for_l2(
            denoiser,
            edit,
            inputs.guides,
            inputs.areas,
            seeds_of(arguments),
            arguments.l2,
            batch=arguments.batch,
            on_step=progress.update,
        )
    for guide, its in zip(inputs.guides, found, strict=True):
        logger.info("%s: t0 = %.3g, which changes it by %.3g", guide.path, its.t0, its.distance)
    return found


def seeds_of(arguments: Arguments) -> range:
    """The samples' seeds."""
    return range(arguments.seed, arguments.seed + arguments.samples)


def edit_all(
    arguments: Arguments, tasks: Sequence[Task], denoiser: Denoiser, inputs: Inputs
) -> Iterator[tuple[Task, Edited, Trajectory | None]]:
    """Every guide's edits, in the order of the tasks, with a progress bar."""
    seeds = seeds_of(arguments)
    total = sum(task.edit.total_steps(denoiser.sde) * len(task.guides) * len(seeds) for task in tasks)
    with tqdm(total=total, unit="step", desc="editing", disable=None) as progress:
        for task in tasks:
            guides = [inputs.guides[number] for number in task.guides]
            areas = [inputs.areas[number] for number in task.guides]
            if arguments.trajectory:
                for guide, area in zip(guides, areas, strict=True):
                    yield task, *recorded(arguments, task.edit, denoiser, guide, area, progress)
                continue
            for edited in edit_guides(
                denoiser, task.edit, guides, areas, seeds, batch=arguments.batch, on_step=progress.update
            ):
                yield task, edited, None


def recorded(
    arguments: Arguments, edit: SDEdit, denoiser: Denoiser, guide: Guide, area: Area | None, progress: tqdm
) -> tuple[Edited, Trajectory]:
    """A guide's samples, and the way to the first of them: as many as are made at once and shown."""
    seeds = seeds_of(arguments)
    shown = min(arguments.batch or len(seeds), SHOWN_SAMPLES)
    recording = RecordingDenoiser(denoiser)
    (edited,) = edit_guides(recording, edit, [guide], [area], seeds[:shown], batch=shown, on_step=progress.update)
    rest = edit_guides(denoiser, edit, [guide], [area], seeds[shown:], batch=arguments.batch, on_step=progress.update)
    samples = torch.cat([edited.samples, *(others.samples for others in rest)])
    return replace(edited, samples=samples, seeds=tuple(seeds)), recording.trajectory()
