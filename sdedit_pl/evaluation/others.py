"""Columns that are not made but found: other systems' outputs, and for each guide the nearest of a set of samples."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import interpolate

from sdedit_pl.configuration import ConfigError
from sdedit_pl.data.image_files import list_images
from sdedit_pl.data.images import ImageFormat
from sdedit_pl.evaluation.pictures import Pictures
from sdedit_pl.files import whole_file
from sdedit_pl.metrics.distances import nearest_by_distance

NAMED = 3
"""Files that an error names."""
COMPARED_SIDE = 32
"""Height and width at which images are compared to find the nearest, in pixels."""


def find_outputs(
    folders: Mapping[str, str], tasks: Sequence[str], count: int, image_format: ImageFormat
) -> dict[str, dict[str, Pictures]]:
    """The outputs of other systems for each task.

    A system's folder holds a folder for each task that it has done, or the images themselves where there is one task.
    Its images are named like the inputs that they were made of, 000000.png and so on, with any image suffix.

    Args:
        folders: name of a system -> its folder.
        tasks: names of the tasks.
        count: inputs of each task.
        image_format: of the inputs.

    Returns:
        Task -> system -> images; systems that have not done a task are not there.

    Raises:
        ConfigError: a folder that is not there, is not for the tasks, or does not pair up with the inputs.
        ValueError: images of another size.
    """
    found: dict[str, dict[str, Pictures]] = {task: {} for task in tasks}
    for name, place in folders.items():
        folder = Path(place)
        if not folder.is_dir():
            raise ConfigError(f"outputs.{name}={place} is no folder; give one of images named like the inputs")
        done = {task: folder / task for task in tasks if (folder / task).is_dir()}
        if not done and len(tasks) == 1:
            done = {tasks[0]: folder}
        if not done:
            raise ConfigError(
                f"outputs.{name}={place} must hold a folder for each task that the system has done "
                f"({', '.join(tasks)}), and holds none of them"
            )
        for task, images in done.items():
            found[task][name] = _paired(f"outputs.{name}", images, count, image_format)
    return found


def choose_nearest(guides: Pictures, samples: Pictures, chosen: Pictures, batch: int) -> None:
    """Copies, for each guide, the sample at the smallest squared distance to it, both averaged down to 32 px.

    Args:
        guides: the guides.
        samples: what is chosen of.
        chosen: where the copies go; those that are there stay.
        batch: images read at a time.
    """
    missing = chosen.missing()
    if not missing:
        return
    small_samples = torch.cat([_small(images) for images in samples.batches(batch)])
    for start in range(0, len(missing), batch):
        numbers = missing[start : start + batch]
        nearest = nearest_by_distance(_small(guides.read(numbers)), small_samples).index
        for number, index in zip(numbers, nearest, strict=True):
            with whole_file(chosen.file(number)) as unfinished:
                unfinished.write_bytes(samples.file(int(index)).read_bytes())


def _paired(key: str, folder: Path, count: int, image_format: ImageFormat) -> Pictures:
    """The images of a folder in the order of the inputs."""
    files: dict[str, Path] = {}
    for file in (folder / name for name in list_images(folder)):
        if file.stem in files:
            raise ConfigError(f"{key}: {folder} holds {files[file.stem].name} and {file.name}; leave one of them")
        files[file.stem] = file
    inputs = Pictures(folder, count, image_format)
    expected = [inputs.file(number).stem for number in range(count)]
    missing = [f"{stem}.png" for stem in expected if stem not in files]
    extra = [files[stem].name for stem in sorted(files.keys() - set(expected))]
    if missing or extra:
        differences = [
            f"{what} {', '.join(names[:NAMED])}" + (f" and {len(names) - NAMED} more" if len(names) > NAMED else "")
            for what, names in (("missing", missing), ("without an input", extra))
            if names
        ]
        raise ConfigError(
            f"{key}: the images in {folder} do not pair up with the {count} inputs: {'; '.join(differences)}"
        )
    pictures = Pictures(folder, count, image_format, tuple(files[stem] for stem in expected))
    pictures.check_sizes()
    return pictures


def _small(images: Float[Tensor, "B C H W"]) -> Float[Tensor, "B D"]:
    side = min(COMPARED_SIDE, images.shape[-1])
    return interpolate(images, size=(side, side), mode="area").flatten(1)
