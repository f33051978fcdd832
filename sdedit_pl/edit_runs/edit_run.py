"""One run of `sdedit edit`: from its settings to the files of its results."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace
from importlib.metadata import version
from itertools import chain, islice
from pathlib import Path
from typing import Any

from sdedit_pl.checkpoints.guidance_settings import with_guidance
from sdedit_pl.checkpoints.loading import describe, load_for_editing
from sdedit_pl.checkpoints.native import Description
from sdedit_pl.configuration.resolving import as_data
from sdedit_pl.data.array_formats import stem_of, suffixes_of
from sdedit_pl.denoiser import Denoiser, in_precision
from sdedit_pl.edit_runs.edit_plan import build_edits, default_t0, edits_of, seeds_of
from sdedit_pl.edit_runs.edit_results import (
    FREE_EDIT_SETTINGS,
    SHEET_FILE,
    SHEET_ROWS,
    finished_samples,
    hashes,
    sample_file,
)
from sdedit_pl.edit_runs.edit_settings import AUTO_T0, EditSettings
from sdedit_pl.edit_runs.edit_share import EditShare, Progress
from sdedit_pl.edit_runs.edit_warnings import warn_of_far_guides, warn_of_few_steps
from sdedit_pl.edit_runs.finishing import finish
from sdedit_pl.edit_runs.processes import ProcessShare
from sdedit_pl.edit_runs.result_shards import member, shard_name
from sdedit_pl.edit_runs.unfinished_edits import EDIT_RECORD, UnfinishedEdits
from sdedit_pl.editing import SDEdit
from sdedit_pl.editing.batch_independence import prepare_for_batches
from sdedit_pl.editing.guidance import unguided
from sdedit_pl.editing.many_guides import default_batch
from sdedit_pl.editing.windows import windowed
from sdedit_pl.guides.edit_inputs import GuideReader
from sdedit_pl.guides.guide_lists import TABLES, ListedGuide, list_guides
from sdedit_pl.machine import Arithmetic, prepare_for_inference
from sdedit_pl.result_folder import ALREADY_THERE, refuse_others

logger = logging.getLogger(__name__)

ONE_PROCESS = ProcessShare()


def run_edit(
    settings: EditSettings, loaded: tuple[Denoiser, Description] | None = None, share: ProcessShare = ONE_PROCESS
) -> int:
    """Edits the guides and writes samples, contact sheet and record to `settings.out`; returns the number of samples.

    An interrupted edit resumes. Each of several processes edits its share and counts all guides finished so far; the
    last to end writes sheet and record. `loaded` is the model, if already read. Raises ValueError, and writes no
    result, if settings, files or the device do not allow the edit, or no guide can be read.
    """
    edits = build_edits(settings)
    unfinished = UnfinishedEdits(Path(settings.out), share)
    record, finished = unfinished.out / EDIT_RECORD, None
    if record.is_file() and not settings.overwrite:
        finished = finished_samples(with_defaults(settings, describe(settings.ckpt)), record, settings.overwrite)
    with unfinished.claimed(settings.overwrite or finished is not None):
        if finished is not None:
            unfinished.tidy()
            logger.info(ALREADY_THERE)
            return finished
        denoiser, description = loaded or load_for_editing(settings.ckpt, share.device(settings.device))
        given, settings = settings, with_defaults(settings, description)
        if given.guidance is None and settings.guidance != 1 and loaded is None:
            logger.info("guidance = %g, as the model's training chose; guidance=1 halves the time", settings.guidance)
        denoiser = with_guidance(denoiser, description, settings)
        edits = build_edits(settings)
        work = prepared_share(settings, edits, denoiser, description, unfinished)
        tables = [Path(settings.guide)] * settings.guide.endswith(TABLES)
        model_files = hashes([*settings.model_files(description.path), *tables])
        unfinished.begin(recorded_settings(settings, work.listed, model_files), settings.overwrite)
        todo = [] if unfinished.ready else work.todo()
        batches = work.batches(todo)
        first = [*islice(batches, 1)]
        warn_of_few_steps(description)
        if loaded is None and first:
            plain = over_windows(unguided(denoiser), settings, description)  # guidance changes the error
            warn_of_far_guides(plain, description, first[0][0].guides[:SHEET_ROWS])
        arithmetic = prepare(work, denoiser)
        progress = Progress(len(todo), work.steps)
        with in_precision(work.denoiser, arithmetic.precision), progress.bar:
            for inputs, facts in chain(first, batches):
                work.edit(inputs, facts, progress)
        settings = replace(settings, precision=arithmetic.precision, compile=arithmetic.compile)
        return finish(replace(work, settings=settings), model_files)


def with_defaults(settings: EditSettings, description: Description) -> EditSettings:
    """The settings with the t0 and the guidance that null stands for."""
    settings = settings.for_edits(description)
    return replace(settings, t0=default_t0(description.path)) if settings.t0 is None else settings


def prepared_share(
    settings: EditSettings,
    edits: Sequence[SDEdit],
    denoiser: Denoiser,
    description: Description,
    unfinished: UnfinishedEdits,
) -> EditShare:
    """Lists the guides; raises ValueError if there are none, or a result would replace a file that is not a result."""
    shape = description.image
    window = settings.window_size(shape)
    kind, place = ("mask", settings.mask) if settings.strength is None else ("strength", settings.strength)
    listed = list_guides(settings.guide, kind, place, suffixes_of(shape))
    paste = settings.pasted_object
    if paste is not None and len(listed) > 1:
        raise ValueError(f"paste needs exactly one guide, the background, got {len(listed)} in {settings.guide}")
    if settings.t0 == AUTO_T0 and any(guide.seed is not None or guide.t0 is not None for guide in listed):
        raise ValueError(
            f"t0=auto finds a t0 for each guide with the same seeds; drop the columns t0 and seed of {settings.guide}"
        )
    for t0 in {guide.t0 for guide in listed} - {None}:
        replace(edits[0], t0=t0).check(denoiser)
    refuse_others(unfinished.out, result_files(settings, edits, listed) - unfinished.earlier)
    reader = GuideReader(
        shape,
        unfinished.place / f"inputs-{unfinished.share}",
        kind,
        paste,
        window,
        settings.side,
        settings.fit,
        settings.focus,
    )
    if window is not None:
        shape = replace(shape, size=window)
        denoiser = over_windows(denoiser, settings, description)
    batch = settings.batch or default_batch(next(denoiser.parameters()).device, shape.pixels)
    return EditShare(settings, edits, denoiser, reader, listed, unfinished, batch)


def over_windows(denoiser: Denoiser, settings: EditSettings, description: Description) -> Denoiser:
    """The denoiser for guides of any size if the settings have windows, else the same."""
    window = settings.window_size(description.image)
    if window is None:
        return denoiser
    overlap = min(replace(description.image, size=window).sides) // 2 if settings.overlap is None else settings.overlap
    return windowed(denoiser, window, overlap, trained_size=description.image.size)


def result_files(settings: EditSettings, edits: Sequence[SDEdit], listed: Sequence[ListedGuide]) -> set[str]:
    """The names of the results; raises ValueError if two guides would have the same ones."""
    found, shards = {EDIT_RECORD, SHEET_FILE}, set[str]()
    if settings.shards is not None:
        shards = {shard_name(number, settings.shards) for number in range(len(listed))}
    shared = [*settings.reductions, *["trajectory"] * settings.trajectory]
    for guide in listed:
        for _, mark in edits_of(guide, edits):
            names = (*(f"seed{seed}" for seed in seeds_of(guide, settings)), *shared)
            files = {sample_file(guide.guide, mark, name) for name in names}
            files = {"".join(member(file)) for file in files} if shards else files
            if files & found:
                same = f" with the same t0, for one {' and '.join(shared)}" if shared else " with the same t0 and seed"
                raise ValueError(
                    f"guides need different names, got several called {stem_of(guide.guide)}"
                    + (same if mark or guide.seed is not None else "")
                )
            found |= files
    return shards | {EDIT_RECORD, SHEET_FILE} if shards else found


def prepare(work: EditShare, denoiser: Denoiser) -> Arithmetic:
    """Prepares the network for the guides of all processes, so that each resolves `auto` alike."""
    settings, pixels = work.settings, work.reader.shape.pixels
    together = settings.samples * (1 if settings.trajectory else len(work.listed))
    evaluations = work.steps * len(work.listed) * denoiser.evaluations
    computing = (evaluations, settings.precision, settings.compile)
    if work.reader.window is not None:
        return prepare_for_inference(denoiser.network, *computing)
    return prepare_for_batches(work.denoiser, min(work.batch, together), pixels, *computing)


def recorded_settings(
    settings: EditSettings, listed: Sequence[ListedGuide], model_files: Mapping[str, str]
) -> dict[str, Any]:
    """All that the samples depend on, except the contents of the guides."""
    names = "\n".join(map(repr, listed)).encode(errors="surrogateescape")
    return {
        **{key: value for key, value in as_data(settings).items() if key not in FREE_EDIT_SETTINGS},
        "checkpoint": model_files,
        "guides": f"{len(listed)} with sha256 {hashlib.sha256(names).hexdigest()}",
        "sdedit_pl": version("sdedit_pl"),
    }
