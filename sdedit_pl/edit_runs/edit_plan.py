"""Which guides an edit run edits, and from which t0."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from tqdm import tqdm

from sdedit_pl.build.component import build_unless_default
from sdedit_pl.calibration.t0_search import t0_for_l2
from sdedit_pl.calibration.t0_sidecar import calibrated_t0
from sdedit_pl.denoiser import Denoiser
from sdedit_pl.edit_runs.edit_settings import AUTO_T0, EditSettings
from sdedit_pl.editing import SDEdit
from sdedit_pl.guides.edit_inputs import EditInputs
from sdedit_pl.guides.guide_lists import ListedGuide

logger = logging.getLogger(__name__)

DEFAULT_T0 = 0.5


@dataclass(frozen=True)
class EditTask:
    """An edit of the guides with these indices; `mark` is the part of the samples' names that states t0, or empty."""

    edit: SDEdit
    guides: list[int]
    mark: str = ""


def build_edits(settings: EditSettings) -> list[SDEdit]:
    """The edits, one for each t0, or one with a provisional t0 if it is not known yet; raises ValueError."""
    edit = SDEdit(
        steps=settings.steps,
        repeats=settings.repeats,
        solver=build_unless_default(settings.solver),
        grid=build_unless_default(settings.grid),
        variant=settings.variant,
        anneal=settings.anneal,
        resample=settings.resample,
        lowpass=settings.lowpass,
        lowpass_range=settings.lowpass_range,
        lowpass_energy=settings.lowpass_energy,
        match_colours=settings.match_colours,
    )
    if settings.t0 is None or settings.t0 == AUTO_T0:
        return [edit]
    return [replace(edit, t0=t0) for t0 in (settings.t0 if isinstance(settings.t0, tuple) else [settings.t0])]


def default_t0(checkpoint: Path) -> float | str:
    calibrated = calibrated_t0(checkpoint)
    if calibrated is None:
        return DEFAULT_T0
    logger.info("t0 = %s, as calibrated for %s", calibrated, checkpoint)
    return calibrated


def edit_tasks(
    settings: EditSettings, edits: Sequence[SDEdit], denoiser: Denoiser, inputs: EditInputs
) -> list[EditTask]:
    """The tasks: one per t0 for the guides that have it, or one per guide if its t0 has to be found."""
    if settings.t0 == AUTO_T0:
        return found_tasks(settings, edits[0], denoiser, inputs)
    for edit in edits:  # all of them, before the first is run
        edit.check(denoiser)
    tasks: dict[str, EditTask] = {}
    for index, listed in enumerate(inputs.listed):
        for edit, mark in edits_of(listed, edits):
            tasks.setdefault(f"{edit.t0}{mark}", EditTask(edit, [], mark)).guides.append(index)
    return list(tasks.values())


def edits_of(listed: ListedGuide, edits: Sequence[SDEdit]) -> list[tuple[SDEdit, str]]:
    """The edits of a guide, from its own t0 or else `edits`, each with the mark (`_t0_0.5`) in its samples' names."""
    if listed.t0 is not None:
        edits = [replace(edits[0], t0=listed.t0)]
    elif len(edits) == 1:
        return [(edits[0], "")]
    return [(edit, f"_t0_{str(edit.t0).replace(':', '')}") for edit in edits]


def seeds_of(listed: ListedGuide, settings: EditSettings) -> range:
    first = settings.seed if listed.seed is None else listed.seed
    return range(first, first + settings.samples)


def found_tasks(settings: EditSettings, edit: SDEdit, denoiser: Denoiser, inputs: EditInputs) -> list[EditTask]:
    """One task per guide, with the highest t0 that changes the guide by at most `settings.l2`."""
    assert settings.l2 is not None
    with tqdm(unit="step", desc="searching for t0", disable=None) as progress:
        found = t0_for_l2(
            denoiser,
            edit,
            inputs.guides,
            inputs.areas,
            settings.seeds,
            settings.l2,
            batch=settings.batch,
            on_step=progress.update,
        )
    for guide, result in zip(inputs.guides, found, strict=True):
        logger.info("%s: t0 = %.3g, which changes it by %.3g", guide.path, result.t0, result.distance)
    return [EditTask(replace(edit, t0=result.t0), [number]) for number, result in enumerate(found)]
