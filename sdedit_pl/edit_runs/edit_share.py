"""The guides that one process edits, a batch of them at a time, so that memory does not grow with their number."""

from __future__ import annotations

import logging
import shutil
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import torch
from tqdm import tqdm

from sdedit_pl.data.shard_cache import StreamInterrupted
from sdedit_pl.denoiser import Denoiser
from sdedit_pl.edit_runs.edit_plan import EditTask, edit_tasks, seeds_of
from sdedit_pl.edit_runs.edit_results import SHEET_ROWS, SampleWriter, hashes
from sdedit_pl.edit_runs.edit_settings import AUTO_T0, EditSettings
from sdedit_pl.edit_runs.result_shards import pack_results, shard_name
from sdedit_pl.edit_runs.unfinished_edits import GuideFacts, UnfinishedEdits
from sdedit_pl.editing import SDEdit
from sdedit_pl.editing.many_guides import Edited, edit_guides
from sdedit_pl.editing.trajectories import Trajectory, edit_with_trajectory
from sdedit_pl.files import in_words
from sdedit_pl.guides.edit_inputs import EditInputs, GuideReader
from sdedit_pl.guides.guide_files import description_of_resizing
from sdedit_pl.guides.guide_lists import ListedGuide

logger = logging.getLogger(__name__)

LOG_SECONDS = 60.0
"""Time between two log lines on the progress, where no bar is shown."""


class Progress:
    """A progress bar, or a line a minute in a log file, for a number of guides with `steps` each."""

    def __init__(self, guides: int, steps: int) -> None:
        self.guides, self.steps, self.done = guides, steps, 0
        self.bar = tqdm(total=guides * steps, unit="step", desc="editing", disable=None)
        self._began = self._said = time.monotonic()

    def finished(self) -> None:
        self.done += 1
        now = time.monotonic()
        if self.bar.disable and now - self._said > LOG_SECONDS:
            self._said, rate = now, self.done / (now - self._began)
            left = tqdm.format_interval((self.guides - self.done) / rate)
            logger.info("%d of %d guides, %.3g a second, %s left", self.done, self.guides, rate, left)


@dataclass
class EditShare:
    """The unfinished guides of this process and what editing them takes; `batch` guides are in memory at a time."""

    settings: EditSettings
    edits: Sequence[SDEdit]
    denoiser: Denoiser
    reader: GuideReader
    listed: Sequence[ListedGuide]
    unfinished: UnfinishedEdits
    batch: int
    done: dict[int, GuideFacts] = field(default_factory=dict)

    @property
    def steps(self) -> int:
        """Solver steps of all samples of a guide."""
        return sum(edit.total_steps(self.denoiser.sde) for edit in self.edits) * self.settings.samples

    def todo(self) -> list[int]:
        """The numbers of the guides that this process has to edit; it takes every n-th guide or shard."""
        share, facts = self.unfinished.share, self.unfinished.facts()
        mine = [n for n in range(len(self.listed)) if n // (self.settings.shards or 1) % share.count == share.rank]
        self.done = {n: facts[n] for n in mine if n in facts and (self._packed(n) or self.unfinished.intact(facts[n]))}
        if self.done:
            logger.info("resuming after %d of %d guides", len(self.done), len(mine))
        self.pack()
        return [number for number in mine if number not in self.done]

    def pack(self) -> None:
        """Packs the finished guides of this process into the shards that they complete."""
        count = self.settings.shards
        if count is None:
            return
        for first in sorted({number - number % count for number in self.done}):
            guides = range(first, min(first + count, len(self.listed)))
            if not self._packed(first) and all(number in self.done for number in guides):
                place, shard = self.unfinished.place, shard_name(first, count)
                pack_results(place, shard, {number: self.done[number] for number in guides})

    def _packed(self, number: int) -> bool:
        count = self.settings.shards
        return count is not None and (self.unfinished.place / shard_name(number, count)).is_file()

    def _note(self, number: int, facts: GuideFacts) -> None:
        self.unfinished.note(number, facts)
        self.done[number] = facts

    def batches(self, todo: Sequence[int]) -> Iterator[tuple[EditInputs, dict[int, GuideFacts]]]:
        """The inputs of each batch, and its guides' entries in the record, still without samples; notes bad guides.

        Raises ValueError for an unreadable guide if it is the only one, or `strict` is set.
        """
        for start in range(0, len(todo), self.batch):
            inputs = EditInputs([], [], [], [])
            facts: dict[int, GuideFacts] = {}
            for number in todo[start : start + self.batch]:
                listed = self.listed[number]
                try:
                    stored = self.reader.on_disk(listed)
                    parts = self.reader.read(stored)
                    names = dict(zip(map(str, stored.files), listed.names, strict=True))
                    read = hashes(self.reader.files(stored)).items()
                    inputs_read = {names.get(file, file): sha256 for file, sha256 in read}
                    facts[number] = {"guide": listed.names[0], "samples": {}, "files": {}, "inputs": inputs_read}
                except StreamInterrupted:
                    raise
                except (ValueError, OSError) as error:
                    if self.settings.strict or len(self.listed) == 1:
                        raise
                    reason = in_words(error).replace(str(self.reader.scratch), listed.names[0].rpartition("/")[0])
                    self._note(number, {"bad": reason, "guide": listed.names[0]})
                    continue
                if parts[0][0].resized and number < SHEET_ROWS:
                    logger.info("%s", description_of_resizing(parts[0][0]))
                for guide, area in parts:
                    inputs.guides.append(guide)
                    inputs.areas.append(area)
                    inputs.listed.append(listed)
                    inputs.numbers.append(number)
            yield inputs, facts

    def edit(self, inputs: EditInputs, facts: dict[int, GuideFacts], progress: Progress) -> None:
        tasks = edit_tasks(self.settings, self.edits, self.denoiser, inputs)
        left = Counter(inputs.numbers[index] for task in tasks for index in task.guides)
        progress.bar.total += progress.steps * (len(inputs.guides) - len(facts))  # parts of a picture
        writer = SampleWriter(self.unfinished.place, self.settings.reductions)
        for task in tasks:
            for index, (edited, trajectory) in zip(task.guides, self._edited(task, inputs, progress), strict=True):
                number = inputs.numbers[index]
                writer.write(facts[number], task.edit.t0, task.mark, edited, trajectory)
                if self.settings.t0 == AUTO_T0:
                    facts[number].setdefault("found", []).append(task.edit.t0)
                left[number] -= 1
                if not left[number]:
                    self._note(number, facts[number])
                    progress.finished()
        self.pack()
        shutil.rmtree(self.reader.scratch, ignore_errors=True)

    def _edited(
        self, task: EditTask, inputs: EditInputs, progress: Progress
    ) -> Iterator[tuple[Edited, Trajectory | None]]:
        guides = [inputs.guides[index] for index in task.guides]
        areas = [inputs.areas[index] for index in task.guides]
        if self.settings.resample is not None and any(listed.area is not None for listed in self.listed):
            # Otherwise a guide without a mask would be refused if no other guide of its batch has one.
            dtype = torch.bool if self.reader.kind == "mask" else torch.float32
            everywhere = (torch.ones(1, 1, *guide.image.shape[2:], dtype=dtype) for guide in guides)
            areas = [whole if area is None else area for whole, area in zip(everywhere, areas, strict=True)]
        seeds = [seeds_of(inputs.listed[index], self.settings) for index in task.guides]
        batch, step = self.settings.batch, progress.bar.update
        if not self.settings.trajectory:
            for edited in edit_guides(self.denoiser, task.edit, guides, areas, seeds, batch=batch, on_step=step):
                yield edited, None
            return
        for guide, area, own in zip(guides, areas, seeds, strict=True):
            yield edit_with_trajectory(self.denoiser, task.edit, guide, area, own, batch=batch, on_step=step)
