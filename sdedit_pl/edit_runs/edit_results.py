"""The result files of an edit: samples, sheets, and a record from which the edit can be repeated."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from sdedit_pl.configuration.resolving import as_data
from sdedit_pl.configuration.yaml_reading import read_file, yaml_text
from sdedit_pl.data.image_format import ImageFormat
from sdedit_pl.edit_runs.edit_plan import EditTask
from sdedit_pl.edit_runs.edit_settings import EditSettings
from sdedit_pl.editing.contact_sheets import contact_sheet, variation_sheet
from sdedit_pl.editing.many_guides import Edited
from sdedit_pl.editing.trajectories import Trajectory, save_animation, strip
from sdedit_pl.files import sha256_of
from sdedit_pl.guides.focus import put_back
from sdedit_pl.guides.guide_files import Guide, image_size, read_pixels
from sdedit_pl.picture_grid import to_picture
from sdedit_pl.result_folder import files_recorded_in, hashes_of, refuse_others, refuse_used

RECORD_FILE = "edit.yaml"
SHEET_FILE = "sheet.png"
SHEET_ROWS = 32
"""Maximal number of guides on the contact sheet."""
RECORD_KEY = "record"
REDUCTIONS: dict[str, Callable[[Float[Tensor, "N C H W"]], Float[Tensor, "C H W"]]] = {
    "mean": lambda samples: samples.clamp(-1, 1).mean(0),
    "std": lambda samples: samples.clamp(-1, 1).std(0) - 1,  # black is no deviation
}


class EditWriter:
    """Writes samples as they arrive, then the sheet and the record, which contains the hashes of `files`."""

    def __init__(self, folder: Path, settings: EditSettings, files: Sequence[Path]) -> None:
        self.folder = folder
        self.settings = settings
        self.files = files
        self.samples: dict[str, dict[str, Any]] = {}
        self.shown: dict[float | str, list[Edited]] = {}
        self._unfinished: dict[str, UInt8[Tensor, "C H W"]] = {}

    @property
    def count(self) -> int:
        return len(self.samples)

    def write(self, t0: float | str, mark: str, edited: Edited, trajectory: Trajectory | None) -> None:
        """Writes a PNG file for each sample of a guide, with `mark` in its name, and the trajectory if there is one.

        A picture that is edited in parts is written with its last one.
        """
        guide = edited.guide
        for image, seed in zip(edited.samples, edited.seeds, strict=True):
            file = sample_file(guide.path, mark, f"seed{seed}")
            self._save(file, guide, image)
            self.samples[file] = {"guide": str(guide.path), "t0": t0, "seed": seed}
        for name in self.settings.reductions:
            self._save(sample_file(guide.path, mark, name), guide, REDUCTIONS[name](edited.samples), name == "std")
        if trajectory is not None:
            still, animation = (self.folder / file for file in trajectory_files(guide, mark))
            shown = trajectory.images.shape[1]
            results, seeds = edited.samples[:shown], edited.seeds[:shown]
            strip(trajectory, results, seeds).save(still)
            save_animation(animation, trajectory, results, seeds)
        if len(self.shown.setdefault(t0, [])) < SHEET_ROWS:
            self.shown[t0].append(edited)

    def finish(self) -> None:
        """Writes the sheet and the record."""
        if isinstance(self.settings.t0, tuple):
            sheet = variation_sheet(list(zip(*self.shown.values(), strict=True)), list(self.shown))
        else:
            sheet = contact_sheet([edited for edits in self.shown.values() for edited in edits][:SHEET_ROWS])
        sheet.save(self.folder / SHEET_FILE)
        write_record(self.folder / RECORD_FILE, self.settings, self.files, self.samples)

    def _save(self, file: str, guide: Guide, image: Float[Tensor, "C H W"], blank: bool = False) -> None:
        """Writes an image, or puts it back into the guide's picture, or into a black one if `blank`."""
        part = guide.part
        if part is None:
            to_picture(image).save(self.folder / file)
            return
        picture = self._unfinished.pop(file, None)
        if picture is None:
            width, height = image_size(guide.path)
            picture = read_pixels(guide.path, ImageFormat((height, width), len(image)), whole=True)
            picture = torch.zeros_like(picture) if blank else picture
        put_back(picture, part, image)
        if part.last:
            to_picture(picture).save(self.folder / file)
        else:
            self._unfinished[file] = picture


def write_record(file: Path, settings: object, read: Sequence[Path], samples: Mapping[str, Mapping[str, Any]]) -> None:
    """Writes settings that repeat a run, with the hashes of the files that it read and of the results beside `file`."""
    record = {
        "sdedit_pl": version("sdedit_pl"),
        "torch": str(torch.__version__),
        "sha256": {str(path): sha256_of(path) for path in read},
        "samples": samples,
        "results": hashes_of(file.parent),
    }
    # A repetition must ask for overwriting again.
    repeated = {key: value for key, value in as_data(settings).items() if key != "overwrite"}
    file.write_text(yaml_text({**repeated, RECORD_KEY: record}))


def sample_file(guide: Path, mark: str, name: str) -> str:
    """`name` is `seed7` for a sample, or that of a reduction."""
    return f"{guide.stem}{mark}_{name}.png"


def trajectory_files(guide: Guide, mark: str) -> tuple[str, str]:
    """The strip and the animation."""
    name = f"{guide.path.stem}{mark}" + (f"_part{guide.part.number}" if guide.part else "")
    return f"{name}_trajectory.png", f"{name}_trajectory.webp"


def read_settings_file(file: str) -> dict[str, Any]:
    """The settings in a YAML file, such as the record of an edit, without the facts that the record adds to them."""
    return {key: value for key, value in read_file(Path(file)).items() if key != RECORD_KEY}


def earlier_results(folder: Path, overwrite: bool, name: str = RECORD_FILE) -> set[str]:
    """The files of an earlier run in `folder`, listed in its record `name` and not changed since.

    Raises:
        ValueError: `folder` is a file, holds files that may not be overwritten, or has an unreadable record.
    """
    refuse_used(folder, overwrite)
    return files_recorded_in(folder / name, RECORD_KEY, "results")


def refuse_foreign(
    folder: Path, earlier: set[str], tasks: Sequence[EditTask], settings: EditSettings, guides: Sequence[Guide]
) -> None:
    """Raises ValueError if a result of the tasks would replace a file that no earlier edit wrote."""
    written = {RECORD_FILE, SHEET_FILE}
    for task in tasks:
        for guide in (guides[number] for number in task.guides):
            names = [*(f"seed{seed}" for seed in settings.seeds), *settings.reductions]
            written |= {sample_file(guide.path, task.mark, name) for name in names}
            written |= set(trajectory_files(guide, task.mark) if settings.trajectory else ())
    refuse_others(folder, written - earlier)
