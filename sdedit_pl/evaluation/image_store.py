"""The folder of an evaluation: its images, and a record of their settings, from which a later command resumes.

    evaluation.json             the settings of the images below
    images/original/            the validation images, 000000.png, 000001.png, ...
    images/TASK/guide, mask     the inputs of a task
    images/TASK/METHOD          the images that a method made from them

Images are named by number, so that they pair up with the outputs of another system for the same inputs.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from sdedit_pl.data.image_format import ImageFormat
from sdedit_pl.evaluation.dependent_images import Partners
from sdedit_pl.evaluation.editing_tasks import EditingTask, TaskInputs
from sdedit_pl.evaluation.evaluation_plan import GUIDE, MASK, ORIGINAL
from sdedit_pl.evaluation.methods import BASELINES
from sdedit_pl.evaluation.numbered_images import NumberedImages, is_own
from sdedit_pl.files import require_folder
from sdedit_pl.result_folder import refuse_others
from sdedit_pl.settings_record import SettingsRecord, require_same_settings

EVALUATION_RECORD = "evaluation.json"
IMAGES = "images"
NUMBERED = "[0-9]" * 6 + ".[pt][ni][gf]"
FEATURE_CACHE = "features"
EVALUATION_FORMAT = "sdedit_pl evaluation, version 1"
_REMEDY = "give another out=, or overwrite=true, which makes all images again"


@dataclass(frozen=True)
class ImageStore:
    """The images of an evaluation in its folder `out`; `partners` are those that compositing pastes on them."""

    out: Path
    count: int
    format: ImageFormat
    partners: Partners

    def pictures(self, folder: str) -> NumberedImages:
        image_format = ImageFormat(self.format.size, 1) if folder.endswith(f"/{MASK}") else self.format
        return NumberedImages(self.out / IMAGES / folder, self.count, image_format)

    @property
    def originals(self) -> NumberedImages:
        return self.pictures(ORIGINAL)

    def inputs(self, name: str, task: EditingTask | None, numbers: Sequence[int]) -> TaskInputs:
        """Inputs of a set; without a task, the validation images themselves."""
        original = self.originals.read(numbers)
        if task is None:
            return TaskInputs(original, original)
        return TaskInputs(
            original,
            self.pictures(f"{name}/{GUIDE}").read(numbers),
            self.pictures(f"{name}/{MASK}").read_masks(numbers) if task.masked else None,
            self.originals.read([self.partners.numbers[number] for number in numbers]) if task.pastes else None,
        )


@dataclass(frozen=True)
class EvaluationRecord:
    """`originals` identifies the validation images; `recipes` maps a folder to all else that its images depend on."""

    originals: Mapping[str, str]
    recipes: Mapping[str, str]

    def write(self, out: Path) -> None:
        _file(out).write({"originals": dict(self.originals), "recipes": dict(self.recipes)})

    def continuing(self, out: Path) -> EvaluationRecord:
        """This record plus the folders that only the one in `out` lists; raises ValueError if an entry differs."""
        check_place(out)
        before = _file(out).read()
        if before is None:
            return self
        recipes = before.get("recipes", {})
        again = {folder: recipe for folder, recipe in self.recipes.items() if folder in recipes}
        require_same_settings(out, before.get("originals", {}) | recipes, {**self.originals, **again}, _REMEDY)
        return EvaluationRecord(self.originals, {**recipes, **self.recipes})


def remove_images(out: Path, recipes: Iterable[str]) -> None:
    """Removes the evaluation's own images from the folders in its record and from those in `recipes`.

    The record stays until a new one replaces it, so that the folder remains an evaluation. Raises ValueError, before it
    removes anything, for an image that is not its own, and OSError for one that it cannot remove.
    """
    try:
        recorded = (_file(out).read() or {}).get("recipes", {})
    except ValueError:  # a damaged record, which overwriting replaces
        recorded = {}
    root = (out / IMAGES).resolve()
    without_recipe = [MASK, *(name for name, baseline in BASELINES.items() if baseline.nearest)]
    folders = {root / name for name in {ORIGINAL, *recipes, *recorded}}
    places = folders | {folder.with_name(name) for folder in folders for name in without_recipe}
    images = [image for place in places if place.resolve().is_relative_to(root) for image in place.glob(NUMBERED)]
    refuse_others(root, [str(image.relative_to(root)) for image in images if not is_own(image)])
    for image in images:
        image.unlink()
        with suppress(OSError):
            image.parent.rmdir()


def check_place(out: Path) -> None:
    """Raises ValueError if `out` is a file, or a folder that holds anything but an evaluation."""
    require_folder(out)
    # Unfinished files have names that begin with a dot.
    if (
        out.is_dir()
        and not (out / EVALUATION_RECORD).is_file()
        and any(not name.name.startswith(".") for name in out.iterdir())
    ):
        raise ValueError(f"{out} already holds files, but no evaluation; give another out=")


def digest_of(parts: Sequence[str]) -> str:
    return hashlib.sha256("\n".join(parts).encode(errors="surrogateescape")).hexdigest()[:16]


def _file(out: Path) -> SettingsRecord:
    return SettingsRecord(out / EVALUATION_RECORD, EVALUATION_FORMAT, _REMEDY)
