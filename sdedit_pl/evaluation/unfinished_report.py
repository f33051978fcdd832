"""Results with a report, from which the same command resumes after an interruption."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sdedit_pl.evaluation.report_document import METRICS_FILE
from sdedit_pl.files import read_json
from sdedit_pl.result_folder import RECORDED, SETTINGS, files_recorded_in, own_files, refuse_used, result_folder
from sdedit_pl.settings_record import SettingsRecord

REMEDY = "resume it with these settings, give another out=, or overwrite=true, which drops it"


@dataclass(frozen=True)
class UnfinishedReport:
    """Results in the hidden folder `results` that will replace those in `out`."""

    out: Path
    results: Path
    overwrite: bool

    def begin(self, settings: Mapping[str, Any]) -> None:
        """Keeps the results of an interrupted run with these settings; raises SettingsChanged for others."""
        record = SettingsRecord(self.results / SETTINGS, "sdedit_pl unfinished report, version 1", REMEDY)
        record.begin(self.out, settings, self.overwrite)


@contextmanager
def unfinished_report(out: Path, overwrite: bool) -> Iterator[UnfinishedReport]:
    """Yields the place of results, which move to `out` if the block, which ends with the report, succeeds.

    Raises:
        ValueError: see `result_folder`, or `out` holds other files and `overwrite` is not set.
    """
    replaced: set[str] = set()
    with result_folder(out, replaced=replaced, resumes=True) as results:
        staged = results / METRICS_FILE
        if staged.is_file():  # a killed process has moved some of its files
            replaced |= own_files(out, read_json(staged).get(RECORDED))
        else:
            refuse_used(out, overwrite)
            replaced |= files_recorded_in(out / METRICS_FILE)
        yield UnfinishedReport(out, results, overwrite)
