"""What an edit leaves in its folder: samples, sheets, and a record that repeats it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
import yaml

from sdedit_pl.cli.edit_arguments import Arguments
from sdedit_pl.cli.edit_inputs import Inputs
from sdedit_pl.cli.results import refuse_used
from sdedit_pl.configuration.resolution import as_data
from sdedit_pl.configuration.yaml_text import read_file
from sdedit_pl.editing.contact_sheets import contact_sheet, variation_sheet
from sdedit_pl.editing.many_guides import Edited
from sdedit_pl.editing.trajectories import Trajectory, save_animation, strip
from sdedit_pl.files import sha256_of
from sdedit_pl.picture_grid import to_picture

RECORD_FILE = "edit.yaml"
SHEET_FILE = "sheet.png"
SHEET_ROWS = 32
"""Guides on the contact sheet, at the most."""
RECORD_KEY = "record"
RESULT_SUFFIXES = (".png", ".webp")


class Writer:
    """Writes edits as they come, and in the end what shows and repeats them.

    Args:
        folder: where.
        arguments: the verb's arguments.
        inputs: what was edited.
        checkpoint: the files of the model.
    """

    def __init__(self, folder: Path, arguments: Arguments, inputs: Inputs, checkpoint: Sequence[Path]) -> None:
        self.folder = folder
        self.arguments = arguments
        self.files = [*checkpoint, *inputs.files]
        self.samples: dict[str, dict[str, Any]] = {}
        self.others: list[str] = []
        self.shown: dict[float | str, list[Edited]] = {}

    @property
    def count(self) -> int:
        """How many samples have been written."""
        return len(self.samples)

    def write(self, t0: float | str, mark: str, edited: Edited, trajectory: Trajectory | None) -> None:
        """Writes a PNG for each sample of a guide, and its trajectory if there is one.

        Args:
            t0: where the samples started.
            mark: a part of their names.
            edited: the samples.
            trajectory: the way there.
        """
        name = f"{edited.guide.path.stem}{mark}"
        for image, seed in zip(edited.samples, edited.seeds, strict=True):
            file = f"{name}_seed{seed}.png"
            to_picture(image).save(self.folder / file)
            self.samples[file] = {"guide": str(edited.guide.path), "t0": t0, "seed": seed}
        if trajectory is not None:
            self.others += [f"{name}_trajectory.png", f"{name}_trajectory.webp"]
            shown = trajectory.images.shape[1]
            strip(trajectory, edited.samples[:shown], edited.seeds[:shown]).save(self.folder / self.others[-2])
            save_animation(self.folder / self.others[-1], trajectory, edited.samples[:shown], edited.seeds[:shown])
        if len(self.shown.setdefault(t0, [])) < SHEET_ROWS:
            self.shown[t0].append(edited)

    def finish(self) -> None:
        """Writes the sheet and the record."""
        if isinstance(self.arguments.t0, tuple):
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
        # A repetition asks anew whether it may overwrite.
        repeated = {key: value for key, value in as_data(self.arguments).items() if key != "overwrite"}
        (self.folder / RECORD_FILE).write_text(yaml.safe_dump({**repeated, RECORD_KEY: record}, sort_keys=False))


def earlier_results(folder: Path, overwrite: bool) -> list[Path]:
    """The files of an earlier edit in `folder`, which a new one replaces: those that its record names.

    Raises:
        ValueError: if `folder` is a file, holds anything that is not to be overwritten, or an unreadable record.
    """
    refuse_used(folder, overwrite)
    file = folder / RECORD_FILE
    record = read_file(file).get(RECORD_KEY) if file.is_file() else None
    named = [record.get(kind) for kind in ("samples", "others")] if isinstance(record, Mapping) else []
    names = [name for kind in named if isinstance(kind, Mapping | list) for name in kind if isinstance(name, str)]
    return [folder / name for name in names if Path(name).name == name and Path(name).suffix in RESULT_SUFFIXES]
