"""The end of an edit, once every guide is done."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import replace
from itertools import islice
from typing import Any

import torch

from sdedit_pl.edit_runs.edit_plan import edits_of, seeds_of
from sdedit_pl.edit_runs.edit_results import (
    SEARCH,
    SHEET_FILE,
    SHEET_ROWS,
    read_sample,
    sample_file,
    save_sheet,
    write_record,
)
from sdedit_pl.edit_runs.edit_settings import AUTO_T0
from sdedit_pl.edit_runs.edit_share import EditShare
from sdedit_pl.edit_runs.result_shards import shard_name, unpack_results
from sdedit_pl.edit_runs.unfinished_edits import EDIT_RECORD, GuideFacts
from sdedit_pl.editing.many_guides import Edited, edited
from sdedit_pl.files import sha256_of

logger = logging.getLogger(__name__)


def finish(work: EditShare, model_files: Mapping[str, str]) -> int:
    """Publishes results, sheet and record if every guide is done; returns the number of samples so far."""
    facts = dict(sorted(work.unfinished.facts().items()))
    good = {number: guide for number, guide in facts.items() if "samples" in guide}
    bad = {guide["guide"]: guide["bad"] for guide in facts.values() if "bad" in guide}
    count, left = sum(len(guide["samples"]) for guide in good.values()), len(work.listed) - len(facts)
    if left:
        logger.info("%d of %d guides are left to other processes", left, len(work.listed))
        return count
    if not good:
        raise ValueError(f"no guide can be edited; the first: {next(iter(bad.values()))}")
    with work.unfinished.finishing() as mine:
        if mine and not work.unfinished.ready:
            write_sheet_and_record(work, model_files, good, bad)
    if len(good) > SHEET_ROWS:
        logger.info("%s shows the first %d of %d guides", SHEET_FILE, SHEET_ROWS, len(good))
    if bad:
        logger.warning("%d of %d guides could not be edited:", len(bad), len(facts))
    for reason in bad.values():
        logger.warning("%s", reason)
    return count


def write_sheet_and_record(
    work: EditShare, model_files: Mapping[str, str], good: Mapping[int, GuideFacts], bad: Mapping[str, str]
) -> None:
    place, settings = work.unfinished.place, work.settings
    shown = sheet_rows(work, dict(islice(good.items(), SHEET_ROWS)))
    save_sheet(place / SHEET_FILE, shown, several=len(work.edits) > 1)
    facts: dict[str, Any] = {"bad": bad} if bad else {}
    if settings.t0 == AUTO_T0 and len(work.listed) == 1 and len(good[0]["found"]) == 1:
        facts[SEARCH] = {"t0": AUTO_T0, "l2": settings.l2}
        settings = replace(settings, t0=good[0]["found"][0], l2=None)  # a rerun need not search again
    inputs, samples, files = ({}, {}, {})
    if settings.t0 != AUTO_T0:
        used = {edit.t0: edit for number in good for edit, _ in edits_of(work.listed[number], work.edits)}
        facts["evaluations"] = {t0: edit.evaluations(work.denoiser) for t0, edit in used.items()}
    if settings.shards is None:
        for guide in good.values():
            inputs |= guide["inputs"]
            samples |= guide["samples"]
            files |= guide["files"]
    else:
        names = (shard_name(number, settings.shards) for number in range(0, len(work.listed), settings.shards))
        files = {name: sha256_of(place / name) for name in names}
        facts["count"] = sum(len(guide["samples"]) for guide in good.values())
    files[SHEET_FILE] = sha256_of(place / SHEET_FILE)
    write_record(place / EDIT_RECORD, settings, {**model_files, **inputs}, samples, files, **facts)


def sheet_rows(work: EditShare, facts: Mapping[int, GuideFacts]) -> list[dict[float | str, Edited]]:
    """The edits of each guide, or of each part of a picture, by t0."""
    rows: list[dict[float | str, Edited]] = []
    place = work.unfinished.place
    for number, guide_facts in facts.items():
        listed = work.listed[number]
        seeds = seeds_of(listed, work.settings)
        if work.settings.shards is not None:
            unpack_results(place, shard_name(number, work.settings.shards), guide_facts)
        for index, (guide, area) in enumerate(work.reader.read(work.reader.on_disk(listed))):
            rows.append({})
            for edit, mark in edits_of(listed, work.edits):
                files = [place / sample_file(guide.path, mark, f"seed{seed}") for seed in seeds]
                samples = torch.stack([read_sample(file, guide) for file in files])
                edit = replace(edit, t0=guide_facts["found"][index]) if work.settings.t0 == AUTO_T0 else edit
                rows[-1][edit.t0] = edited(work.denoiser, edit, guide, area, samples, seeds)
    return rows
