"""The result files of an edit: samples, sheets, and a record from which the edit can be repeated."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from sdedit_pl.configuration.resolving import as_data
from sdedit_pl.configuration.yaml_reading import read_file, yaml_text
from sdedit_pl.edit_runs.edit_settings import EditSettings
from sdedit_pl.editing.contact_sheets import contact_sheet, variation_sheet
from sdedit_pl.editing.many_guides import Edited
from sdedit_pl.editing.trajectories import Trajectory, save_animation, strip
from sdedit_pl.files import sha256_of
from sdedit_pl.picture_grid import to_picture
from sdedit_pl.result_folder import refuse_used

RECORD_FILE = "edit.yaml"
SHEET_FILE = "sheet.png"
SHEET_ROWS = 32
"""Maximal number of guides on the contact sheet."""
RECORD_KEY = "record"
RESULT_SUFFIXES = (".png", ".webp")


class EditWriter:
    """Writes samples as they come, and at the end the sheet and the record, which has the hashes of `files`."""

    def __init__(self, folder: Path, settings: EditSettings, files: Sequence[Path]) -> None:
        self.folder = folder
        self.settings = settings
        self.files = files
        self.samples: dict[str, dict[str, Any]] = {}
        self.others: list[str] = []
        self.shown: dict[float | str, list[Edited]] = {}

    @property
    def count(self) -> int:
        return len(self.samples)

    def write(self, t0: float | str, mark: str, edited: Edited, trajectory: Trajectory | None) -> None:
        """Writes a PNG file for each sample of a guide, with `mark` in its name, and the trajectory if there is one."""
        name = f"{edited.guide.path.stem}{mark}"
        for image, seed in zip(edited.samples, edited.seeds, strict=True):
            file = f"{name}_seed{seed}.png"
            to_picture(image).save(self.folder / file)
            self.samples[file] = {"guide": str(edited.guide.path), "t0": t0, "seed": seed}
        if trajectory is not None:
            self._write_trajectory(name, edited, trajectory)
        if len(self.shown.setdefault(t0, [])) < SHEET_ROWS:
            self.shown[t0].append(edited)

    def finish(self) -> None:
        """Writes the sheet and the record."""
        if isinstance(self.settings.t0, tuple):
            sheet = variation_sheet(list(zip(*self.shown.values(), strict=True)), list(self.shown))
        else:
            sheet = contact_sheet([edited for edits in self.shown.values() for edited in edits][:SHEET_ROWS])
        sheet.save(self.folder / SHEET_FILE)
        record = {
            "sdedit_pl": version("sdedit_pl"),
            "torch": str(torch.__version__),
            "sha256": {str(file): sha256_of(file) for file in self.files},
            "samples": self.samples,
            "others": self.others,
        }
        # A repetition must ask for overwriting again.
        repeated = {key: value for key, value in as_data(self.settings).items() if key != "overwrite"}
        (self.folder / RECORD_FILE).write_text(yaml_text({**repeated, RECORD_KEY: record}))

    def _write_trajectory(self, name: str, edited: Edited, trajectory: Trajectory) -> None:
        still, animation = f"{name}_trajectory.png", f"{name}_trajectory.webp"
        shown = trajectory.images.shape[1]
        results, seeds = edited.samples[:shown], edited.seeds[:shown]
        strip(trajectory, results, seeds).save(self.folder / still)
        save_animation(self.folder / animation, trajectory, results, seeds)
        self.others += [still, animation]


def read_settings_file(file: str) -> dict[str, Any]:
    """The settings in a YAML file, such as the record of an edit, without what the edit has recorded beside them."""
    return {key: value for key, value in read_file(Path(file)).items() if key != RECORD_KEY}


def earlier_results(folder: Path, overwrite: bool) -> list[Path]:
    """The result files of an earlier edit in `folder`, listed in its record, which a new edit replaces.

    Raises:
        ValueError: `folder` is a file, holds files that may not be overwritten, or has an unreadable record.
    """
    refuse_used(folder, overwrite)
    file = folder / RECORD_FILE
    record = read_file(file).get(RECORD_KEY) if file.is_file() else None
    named = [record.get(kind) for kind in ("samples", "others")] if isinstance(record, Mapping) else []
    names = [name for kind in named if isinstance(kind, Mapping | list) for name in kind if isinstance(name, str)]
    return [folder / name for name in names if Path(name).name == name and Path(name).suffix in RESULT_SUFFIXES]
