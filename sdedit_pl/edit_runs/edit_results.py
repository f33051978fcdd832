"""The result files of an edit: samples, sheets, and a record from which the edit can be repeated."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from sdedit_pl.checkpoints.sampler_settings import SamplerSettings
from sdedit_pl.configuration.resolving import as_data
from sdedit_pl.configuration.yaml_reading import read_file, yaml_text
from sdedit_pl.data.array_formats import stem_of
from sdedit_pl.data.image_format import shown_bands
from sdedit_pl.data.value_decoding import result_file, result_suffix
from sdedit_pl.edit_runs.unfinished_edits import EDIT_RECORD, RECORD_KEY, GuideFacts
from sdedit_pl.editing.contact_sheets import contact_sheet, variation_sheet
from sdedit_pl.editing.many_guides import Edited
from sdedit_pl.editing.trajectories import Trajectory, save_animation, strip
from sdedit_pl.files import result_name, sha256_of, write_whole
from sdedit_pl.guides.focus import cut_out, put_back
from sdedit_pl.guides.guide_files import Guide, read_whole, resampled
from sdedit_pl.picture_grid import png_bytes, to_picture
from sdedit_pl.result_folder import files_recorded_in, own_files, refuse_used

logger = logging.getLogger(__name__)

SHEET_FILE = "sheet.png"
SHEET_ROWS = 32

REDUCTIONS: dict[str, Callable[[Float[Tensor, "N C H W"]], Float[Tensor, "C H W"]]] = {
    "mean": lambda samples: samples.clamp(-1, 1).mean(0),
    "std": lambda samples: samples.clamp(-1, 1).std(0) - 1,  # black is no deviation
}
FREE_EDIT_SETTINGS = ("out", "device", "devices", "batch", "strict", "overwrite")
"""Settings that may change when an edit is resumed or repeated: they change samples at most by rounding."""
SEARCH = "search"
"""The entry of a record with the settings that asked for a search for t0."""
_RESOLVED = {"precision": "auto", "compile": "auto"}
"""Values that the record replaces by what they resolved to."""
INTEGER_SUFFIXES = (".png", ".dcm")
"""Suffixes of formats without float32."""


class SampleWriter:
    """Writes samples, and `reductions` of them, to a folder as they arrive."""

    def __init__(self, folder: Path, reductions: Sequence[str]) -> None:
        self.folder, self.reductions = folder, reductions
        self._unfinished: dict[str, tuple[Float[Tensor, "C H W"], Bool[Tensor, "H W"]]] = {}

    def write(
        self, facts: GuideFacts, t0: float | str, mark: str, edited: Edited, trajectory: Trajectory | None
    ) -> None:
        """Writes a guide's samples, with `mark` in their names, and the trajectory; adds the files to `facts`.

        A picture that is edited in parts is written with its last part.
        """
        guide = edited.guide
        for image, seed in zip(edited.samples, edited.seeds, strict=True):
            file = sample_file(guide.path, mark, f"seed{seed}")
            self._save_part(facts, file, edited, image)
            facts["samples"][file] = {"guide": facts["guide"], "t0": t0, "seed": seed}
        for name in self.reductions:
            file = sample_file(guide.path, mark, name)
            self._save_part(facts, file, edited, REDUCTIONS[name](edited.samples), name == "std")
        if trajectory is not None:
            still, animation = trajectory_files(guide, mark)
            shown = trajectory.images.shape[1]
            results, seeds = shown_bands(edited.samples[:shown], guide.format), edited.seeds[:shown]
            self._save(facts, still, png_bytes(strip(trajectory, results, seeds)))
            save_animation(self.folder / animation, trajectory, results, seeds)
            facts["files"][animation] = sha256_of(self.folder / animation)

    def _save(self, facts: GuideFacts, file: str, content: bytes) -> None:
        (self.folder / file).write_bytes(content)
        facts["files"][file] = hashlib.sha256(content).hexdigest()

    def _save_part(
        self, facts: GuideFacts, file: str, edited: Edited, image: Float[Tensor, "C H W"], blank: bool = False
    ) -> None:
        """Saves an image, or puts it back into the guide's picture, or into a black one if `blank`."""
        guide = edited.guide
        if guide.part is None:
            kept = None if edited.area is None else edited.area[0, 0] == 0
            self._save(facts, file, result_content(image, edited, kept, blank))
            return
        picture, kept = self._unfinished.pop(file, (None, None))
        if picture is None or kept is None:
            picture = read_whole(guide.path, guide.shape)
            picture = torch.full_like(picture, -1) if blank else picture
            kept = torch.ones(picture.shape[1:], dtype=torch.bool)
        put_back(picture, guide, image)
        cut_out(kept, guide.part)[guide.part.alpha > 0] = False
        if guide.part.last:
            self._save(facts, file, result_content(picture, edited, kept, blank))
        else:
            self._unfinished[file] = picture, kept


def result_content(
    image: Float[Tensor, "C H W"], edited: Edited, kept: Bool[Tensor, "H W"] | None = None, deviation: bool = False
) -> bytes:
    """The file of a result, in the format of its guide.

    Args:
        kept: pixels that have the guide's own values, unless the image is a deviation.
        deviation: whether the image is a `std`, whose values begin at 0 and not at the low end of the format's range.
            It is float32 where the guide's format allows, because whole numbers would round small values to 0.
    """
    guide = edited.guide
    suffix, pixels = result_suffix(guide.path), guide.format
    if pixels is None and suffix == ".png":
        return png_bytes(to_picture(image))
    shape, exact = guide.shape, deviation and pixels is not None and suffix not in INTEGER_SUFFIXES
    if deviation and pixels is not None:
        low, high = pixels.limits
        kind = "float32" if exact else pixels.dtype
        shape = replace(shape, format=replace(pixels, range=(0.0, high - low), alpha=False, dtype=kind))
    shape = replace(shape, size=(image.shape[1], image.shape[2]))
    return result_file(image, shape, suffix, guide.path, None if deviation else kept, own_type=exact, fit=guide.fit)


def read_sample(file: Path, guide: Guide) -> Float[Tensor, "C H W"]:
    """The part of a sample's file that shows a guide."""
    image = read_whole(file, guide.shape)
    return image if guide.part is None else resampled(cut_out(image, guide.part), guide.shape, guide.shape.sides)


def save_sheet(file: Path, shown: Sequence[Mapping[float | str, Edited]], several: bool) -> None:
    if several:
        sheet = variation_sheet(shown)
    else:
        sheet = contact_sheet([edited for edits in shown for edited in edits.values()][:SHEET_ROWS])
    sheet.save(file)


def write_record(
    file: Path,
    settings: object,
    read: Mapping[str, str],
    samples: Mapping[str, Mapping[str, Any]],
    results: Mapping[str, str],
    **facts: Any,
) -> None:
    record = {
        "sdedit_pl": version("sdedit_pl"),
        "torch": str(torch.__version__),
        "sha256": read,
        "samples": samples,
        "results": results,
        **facts,
    }
    # A rerun must ask to overwrite again.
    repeated = {key: value for key, value in as_data(settings).items() if key not in ("devices", "overwrite")}
    write_whole(file, yaml_text({**repeated, RECORD_KEY: record}))


def hashes(files: Iterable[Path]) -> dict[str, str]:
    return {str(file): sha256_of(file) for file in files}


def sample_file(guide: Path, mark: str, name: str) -> str:
    """`name` is, for example, `seed7` for a sample or `mean` for a reduction."""
    return result_name(stem_of(guide), f"{mark}_{name}{result_suffix(guide)}")


def trajectory_files(guide: Guide, mark: str) -> tuple[str, str]:
    ending = mark + (f"_part{guide.part.number}" if guide.part else "") + "_trajectory"
    stem = stem_of(guide.path)
    return result_name(stem, f"{ending}.png"), result_name(stem, f"{ending}.webp")


def read_settings_file(file: str) -> dict[str, Any]:
    """The settings in a YAML file, without the record of an edit; logs files in that record that have changed."""
    settings = read_file(Path(file))
    record = settings.pop(RECORD_KEY, None)
    changed = _changed(record.get("sha256")) if isinstance(record, Mapping) else []
    if changed:
        logger.info("%s has changed since %s was written: the results may differ", ", ".join(changed[:3]), file)
    return settings


def _changed(recorded: Any) -> list[str]:
    """The files among `recorded`, name -> SHA-256, that exist with another content."""
    named = recorded.items() if isinstance(recorded, Mapping) else ()
    return [str(name) for name, sha256 in named if Path(str(name)).is_file() and sha256_of(Path(str(name))) != sha256]


def earlier_results(folder: Path, overwrite: bool, name: str = EDIT_RECORD) -> set[str]:
    """The unchanged files of an earlier run, by its record `name` in `folder`; raises ValueError like `refuse_used`."""
    refuse_used(folder, overwrite)
    return files_recorded_in(folder / name, RECORD_KEY, "results")


def recorded_samples(record: Mapping[str, Any]) -> int:
    return record.get("count", len(record["samples"]))


def finished_samples(settings: SamplerSettings, file: Path, overwrite: bool) -> int | None:
    """The samples of a finished run with these settings, if `file` records one with intact inputs and results.

    `settings` hold the t0 and the guidance that null stands for.
    """
    if overwrite or not file.is_file():
        return None
    before = read_file(file)
    record = before.get(RECORD_KEY)
    if not isinstance(record, dict) or not {"sha256", "samples", "results"} <= record.keys():
        return None
    now = {key: value for key, value in as_data(settings).items() if key not in FREE_EDIT_SETTINGS}
    if not any(
        all(asked.get(key) == value or _RESOLVED.get(key, ...) == value for key, value in now.items())
        for asked in (before, {**before, **record.get(SEARCH, {})})
    ):
        return None
    results = record["results"]
    unchanged = not _changed(record["sha256"])
    return recorded_samples(record) if unchanged and own_files(file.parent, results) == results.keys() else None
