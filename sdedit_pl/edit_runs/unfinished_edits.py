"""The folder of an edit that is not finished, from which the same command resumes it, in any number of processes.

    OUT/.sdedit.unfinished/     settings.json, samples, and for each process a journal with a line for each guide

A guide's line is written after its files and has their hashes, so that a killed process or a crashed machine costs only
the guides being edited. The process that finds every guide done writes sheet and record and moves all files to OUT, the
record last; then the folder is removed.
"""

from __future__ import annotations

import json
import logging
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from filelock import FileLock

from sdedit_pl.configuration.yaml_reading import read_file
from sdedit_pl.edit_runs.processes import ProcessShare
from sdedit_pl.files import claimed
from sdedit_pl.result_folder import files_recorded_in, own_files, publish_results, refuse_used
from sdedit_pl.settings_record import LOCK, SettingsRecord

logger = logging.getLogger(__name__)

EDIT_RECORD = "edit.yaml"
RECORD_KEY = "record"
GuideFacts = dict[str, Any]
"""A finished guide: `samples` (file -> facts), `files` and `inputs` (file -> SHA-256); or why it is `bad`."""
_REMEDY = "resume it with its own settings, give another out=, or overwrite=true, which drops it"


class UnfinishedEdits:
    """The unfinished results in the folder `out`, for one of the processes that make them."""

    def __init__(self, out: Path, share: ProcessShare) -> None:
        self.out, self.share = out, share
        self.place = out / ".sdedit.unfinished"
        self.settings = SettingsRecord(self.place / "settings.json", "sdedit_pl unfinished edit, version 1", _REMEDY)
        self.earlier: set[str] = set()
        self.noted = False

    @contextmanager
    def claimed(self, used: bool) -> Iterator[None]:
        """Reserves this process's share and lists the files in `out` that the results may replace.

        After an error, nothing is left unless a guide is finished. Raises ValueError if another process has the share,
        or `out` holds other files and `used` is not set.
        """
        with claimed(self.out, "" if self.share.count == 1 else str(self.share)):
            if not self.settings.file.is_file():
                refuse_used(self.out, used)
            self.earlier = files_recorded_in(self.out / EDIT_RECORD, RECORD_KEY, "results")
            self.earlier |= own_files(self.out, self._ready_results())  # a killed process has moved these
            try:
                yield
            finally:
                if self.place.is_dir() and self.share.count == 1:
                    done = sum("samples" in facts for facts in self.facts().values())
                    if not done:
                        self.tidy()
                    elif self.noted:
                        logger.info("%d finished guides are kept; the same command resumes the edit", done)

    def begin(self, settings: Mapping[str, Any], overwrite: bool) -> None:
        """Records the settings of a new edit; raises SettingsChanged if they differ from the unfinished one's."""
        with self._locked():
            self.settings.begin(self.out, settings, overwrite)

    def facts(self) -> dict[int, GuideFacts]:
        """Number -> facts of each finished guide, of all processes."""
        found: dict[int, GuideFacts] = {}
        for journal in sorted(self.place.glob("*.jsonl")):
            for line in journal.read_text(encoding="utf-8").split("\n"):
                try:
                    number, facts = json.loads(line)
                except ValueError:  # a process was killed while it wrote the line
                    continue
                found[number] = facts
        return found

    def intact(self, facts: GuideFacts) -> bool:
        return "bad" in facts or own_files(self.place, facts["files"]) == facts["files"].keys()

    def note(self, number: int, facts: GuideFacts) -> None:
        with open(self.place / f"{self.share}.jsonl", "a", encoding="utf-8") as journal:
            journal.write(f"\n{json.dumps([number, facts])}\n")
        self.noted = True

    @contextmanager
    def finishing(self) -> Iterator[bool]:
        """Yields whether this process writes sheet and record; if so, publishes all results after the block."""
        if not self.settings.file.is_file():  # another process has finished
            yield False
            return
        with self._locked():
            mine = self.settings.file.is_file()
            yield mine
            if mine:
                publish_results(self.place, self.out, [*self._ready_results(), EDIT_RECORD], self.earlier)
            self.tidy()

    def tidy(self) -> None:
        """Removes the folder of the unfinished edit, and the claims of killed processes."""
        shutil.rmtree(self.place, ignore_errors=True)
        for claim in self.out.glob(".sdedit-*-of-*.lock"):
            claim.unlink(missing_ok=True)

    @property
    def ready(self) -> bool:
        """Whether all results are written and not all of them published."""
        return (self.place / EDIT_RECORD).is_file()

    def _ready_results(self) -> dict[str, str]:
        return read_file(self.place / EDIT_RECORD)[RECORD_KEY]["results"] if self.ready else {}

    @contextmanager
    def _locked(self) -> Iterator[None]:
        self.place.mkdir(parents=True, exist_ok=True)
        with FileLock(self.place / LOCK):
            yield
