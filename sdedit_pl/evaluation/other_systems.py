"""Outputs of other systems for the inputs of an evaluation, paired with them by file name."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from sdedit_pl.data.array_formats import stem_of, suffixes_of
from sdedit_pl.data.image_files import list_images
from sdedit_pl.data.image_format import ImageFormat
from sdedit_pl.evaluation.numbered_images import NumberedImages

LISTED_FILES = 3


def find_outputs(
    folders: Mapping[str, str], tasks: Sequence[str], count: int, image_format: ImageFormat
) -> dict[str, dict[str, NumberedImages]]:
    """The outputs of other systems, task -> system -> images.

    A system's folder holds one folder per task, or the images of a single task. Images are named like their inputs,
    000000.png and so on, with any image suffix. Raises ValueError for missing or surplus files, or another image size.
    """
    found: dict[str, dict[str, NumberedImages]] = {task: {} for task in tasks}
    for name, place in folders.items():
        folder = Path(place)
        if not folder.is_dir():
            raise ValueError(f"outputs.{name}={place} is not a folder; give a folder of images named like the inputs")
        done = {task: folder / task for task in tasks if (folder / task).is_dir()}
        if not done and len(tasks) == 1:
            done = {tasks[0]: folder}
        if not done:
            raise ValueError(
                f"outputs.{name}={place} must hold a folder for each task with outputs ({', '.join(tasks)}), "
                "and holds none of them"
            )
        for task, images in done.items():
            found[task][name] = _paired(f"outputs.{name}", images, count, image_format)
    return found


def _paired(key: str, folder: Path, count: int, image_format: ImageFormat) -> NumberedImages:
    files: dict[str, Path] = {}
    for file in (folder / name for name in list_images(folder, suffixes=suffixes_of(image_format))):
        if stem_of(file) in files:
            raise ValueError(f"{key}: {folder} holds {files[stem_of(file)].name} and {file.name}; remove one of them")
        files[stem_of(file)] = file
    inputs = NumberedImages(folder, count, image_format)
    expected = [inputs.file(number).stem for number in range(count)]
    missing = [f"{stem}.png" for stem in expected if stem not in files]
    extra = [files[stem].name for stem in sorted(files.keys() - set(expected))]
    if missing or extra:
        differences = [
            f"{problem} {', '.join(names[:LISTED_FILES])}"
            + (f" and {len(names) - LISTED_FILES} more" if len(names) > LISTED_FILES else "")
            for problem, names in (("missing", missing), ("without an input", extra))
            if names
        ]
        raise ValueError(
            f"{key}: the images in {folder} do not pair up with the {count} inputs: {'; '.join(differences)}; give one "
            "image for each input, of its name"
        )
    pictures = NumberedImages(folder, count, image_format, tuple(files[stem] for stem in expected))
    pictures.check_sizes()
    return pictures
