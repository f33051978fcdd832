"""The folder of an evaluation: its images, and a record of what they are, by which it is gone on with.

    evaluation.json             what the images below were made of
    images/original/            the validation images, 000000.png, 000001.png, ...
    images/TASK/guide, mask     the inputs of a task
    images/TASK/METHOD          what a method made of them

Images are named by their number everywhere, so that the outputs of another system, made of the same inputs and named
like them, can be put beside.
"""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from sdedit_pl.configuration import ConfigError
from sdedit_pl.data.images import ImageFormat
from sdedit_pl.evaluation.pictures import Pictures
from sdedit_pl.evaluation.plan import GUIDE, MASK, ORIGINAL
from sdedit_pl.evaluation.tasks import Inputs, Partners, Task
from sdedit_pl.files import require_folder
from sdedit_pl.settings_record import SettingsRecord, require_same_settings

RECORD_FILE = "evaluation.json"
IMAGES = "images"
FEATURE_CACHE = "features"
FORMAT = "sdedit_pl evaluation, version 1"
REMEDY = "give another out=, or overwrite=true, which makes all images anew"


@dataclass(frozen=True)
class Store:
    """The images of an evaluation.

    Args:
        out: the evaluation's folder.
        count: how many validation images there are.
        format: their size and channels.
        partners: which image is pasted on which; empty where no task pastes.
    """

    out: Path
    count: int
    format: ImageFormat
    partners: Partners

    def pictures(self, folder: str) -> Pictures:
        """The images of a folder, INPUTS/NAME."""
        channels = 1 if folder.endswith(f"/{MASK}") else self.format.channels
        return Pictures(self.out / IMAGES / folder, self.count, ImageFormat(self.format.size, channels))

    @property
    def originals(self) -> Pictures:
        """The validation images."""
        return self.pictures(ORIGINAL)

    def inputs(self, name: str, task: Task | None, numbers: Sequence[int]) -> Inputs:
        """Some of the inputs of a set; without a task, the validation images themselves."""
        original = self.originals.read(numbers)
        if task is None:
            return Inputs(original, original)
        return Inputs(
            original,
            self.pictures(f"{name}/{GUIDE}").read(numbers),
            self.pictures(f"{name}/{MASK}").read_masks(numbers) if task.masked else None,
            self.originals.read([self.partners.numbers[number] for number in numbers]) if task.pastes else None,
        )


@dataclass(frozen=True)
class Record:
    """What the images of an evaluation were made of.

    Args:
        originals: what the validation images are: facts by name.
        recipes: folder -> what its images depend on besides.
    """

    originals: Mapping[str, str]
    recipes: Mapping[str, str]

    def write(self, out: Path) -> None:
        """Writes the record into the evaluation's folder."""
        _file(out).write({"originals": dict(self.originals), "recipes": dict(self.recipes)})

    def continuing(self, out: Path) -> Record:
        """This record, with the folders that an earlier evaluation in `out` has made besides.

        Raises:
            ValueError: `out` is a file, or holds other things than an evaluation, or one whose images or recipes
                differ.
        """
        check_place(out)
        before = _file(out).read()
        if before is None:
            return self
        recipes = before.get("recipes", {})
        again = {folder: recipe for folder, recipe in self.recipes.items() if folder in recipes}
        require_same_settings(out, before.get("originals", {}) | recipes, {**self.originals, **again}, REMEDY)
        return Record(self.originals, {**recipes, **self.recipes})


def forget(out: Path) -> None:
    """Removes an evaluation's images; the record stays until another replaces it, so that it is still an evaluation.

    Raises:
        OSError: an image cannot be removed, and would be taken for one of the new evaluation's.
    """
    if (out / IMAGES).exists():
        shutil.rmtree(out / IMAGES)


def check_place(out: Path) -> None:
    """Raises ValueError if `out` is a file, or a folder that holds other things than an evaluation."""
    require_folder(out)
    # Names that begin with a dot are of what is being written.
    if (
        out.is_dir()
        and not (out / RECORD_FILE).is_file()
        and any(not name.name.startswith(".") for name in out.iterdir())
    ):
        raise ConfigError(f"{out} already holds files, and no evaluation; give another out=")


def digest_of(parts: Sequence[str]) -> str:
    """A short hash of texts, hexadecimal."""
    return hashlib.sha256("\n".join(parts).encode(errors="surrogateescape")).hexdigest()[:16]


def _file(out: Path) -> SettingsRecord:
    return SettingsRecord(out / RECORD_FILE, FORMAT, REMEDY)
