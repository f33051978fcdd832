"""Folders of results with a report; after an interruption, the same command resumes."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sdedit_pl.evaluation.report_document import METRICS_FILE
from sdedit_pl.files import read_json
from sdedit_pl.result_folder import (
    ALREADY_THERE,
    RECORDED,
    SETTINGS,
    files_recorded_in,
    own_files,
    refuse_used,
    result_folder,
)
from sdedit_pl.settings_record import SettingsRecord, require_same_settings

logger = logging.getLogger(__name__)

_REMEDY = "resume it with its own settings, give another out=, or overwrite=true, which drops it"


@dataclass(frozen=True)
class UnfinishedReport:
    """Results in the hidden folder `results` that will replace those in `out`."""

    out: Path
    results: Path
    overwrite: bool
    replaced: set[str]

    def begin(self, settings: Mapping[str, Any], inputs: Mapping[str, str]) -> dict[str, Any] | None:
        """Keeps the results of an interrupted run with these settings, or returns the numbers of a finished one.

        `inputs` are hashes of files that may change before the run is finished. Raises SettingsChanged if either run
        had other settings, or the finished one other inputs.
        """
        finished = None if self.overwrite else finished_report(self.out)
        if finished is not None:
            now, remedy = {**settings, **inputs}, "give another out=, or overwrite=true"
            require_same_settings(self.out, finished["settings"], now, remedy)
            self.replaced.clear()
            logger.info(ALREADY_THERE)
            return finished
        record = SettingsRecord(self.results / SETTINGS, "sdedit_pl unfinished report, version 1", _REMEDY)
        record.begin(self.out, settings, self.overwrite)
        return None


@contextmanager
def unfinished_report(out: Path, overwrite: bool) -> Iterator[UnfinishedReport]:
    """Yields the place of results, which move to `out` after a successful block; the block writes the report last.

    Raises ValueError as `result_folder` does, or if `out` holds other files without `overwrite`.
    """
    replaced: set[str] = set()
    with result_folder(out, replaced=replaced, resumes=True) as results:
        refuse_used(out, overwrite or finished_report(out) is not None)
        replaced |= files_recorded_in(out / METRICS_FILE)
        yield UnfinishedReport(out, results, overwrite, replaced)


def finished_report(out: Path) -> dict[str, Any] | None:
    """The numbers of the report in `out` if it is complete and its files are unchanged."""
    numbers = read_json(out / METRICS_FILE) if (out / METRICS_FILE).is_file() else {}
    recorded = numbers.get(RECORDED)
    return numbers if "settings" in numbers and recorded and own_files(out, recorded) == recorded.keys() else None
