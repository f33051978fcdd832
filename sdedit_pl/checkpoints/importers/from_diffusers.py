"""Folders of diffusers: a pipeline of a UNet2DModel and a scheduler, or the network's folder alone.

A pipeline's components are in subfolders (`unet`, `scheduler`); the first releases put them beside `model_index.json`.
A training checkpoint of diffusers' example scripts has `unet`, `unet_ema` and no scheduler.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

from torch import Tensor

from sdedit_pl.checkpoints.importers.checkpoint_format import CheckpointFormat, Imported
from sdedit_pl.checkpoints.importers.diffusers_config import read_scheduler, read_unet
from sdedit_pl.checkpoints.importers.diffusers_tensor_names import has_old_names, network_sources, without_copies
from sdedit_pl.checkpoints.importers.presets import CENTERED, UNIT
from sdedit_pl.checkpoints.importers.state_dict_import import ONLY, StoredTensors, import_network
from sdedit_pl.checkpoints.importers.tensor_mapping import named_tensors
from sdedit_pl.checkpoints.safe_reading import CheckpointError, read_plain, tensor_names_in
from sdedit_pl.files import read_json, sha256_of

INDEX = "model_index.json"
CONFIG = "config.json"
SCHEDULER_CONFIG = "scheduler_config.json"
NETWORK_CLASS = "UNet2DModel"
AVERAGED = "unet_ema"

WEIGHTS_FILE = "diffusion_pytorch_model.safetensors"
_WEIGHTS = re.compile(r"diffusion_pytorch_model(?:\.(\w+))?(?:-\d+-of-(\d+))?\.(safetensors|bin)")
"""File names of weights: a variant, the number of parts, the suffix."""
_VARIANTS = {"ema": ("", "bf16", "fp16", "non_ema"), "raw": ("non_ema", "", "bf16", "fp16")}
"""In order of preference. Where a `non_ema` file exists, the file without a variant holds the averaged weights."""


class DiffusersFormat(CheckpointFormat):
    """`config` is the scheduler's configuration, for a folder that has none. A file of weights alone needs a preset."""

    def recognises(self, path: Path) -> bool:
        if path.is_dir():
            return (path / INDEX).is_file() or any(_is_network(folder) for folder in _network_folders(path))
        return any(name.startswith("down_blocks.0.resnets.0.") for name in tensor_names_in(path))

    def _read(self, path: Path, weights: str, preset: str | None, config: Mapping[str, Any] | None) -> Imported:
        folder = path if path.is_dir() else path.parent
        check_pipeline(folder)
        place = _network_folder(folder, weights)
        configs = FolderConfig()
        if preset is None:
            configs = _read_configs(folder, place, config)
        elif config is not None or _is_network(place):
            raise CheckpointError(
                f"{place} has a configuration, and preset={preset} would describe the model twice; omit preset"
            )
        variant, files = _weights_files(place, weights) if path.is_dir() else ("", [path])
        file = files[0]
        stored = {name: tensor for part in files for name, tensor in _tensors(part).items()}
        tensors, ignored = without_copies(stored)
        imported = import_network(
            file,
            "diffusers",
            StoredTensors(tensors, "raw" if variant == "non_ema" else _kind(folder, place), ignored=ignored),
            partial(network_sources, old_names=has_old_names(tensors), cosines_first=configs.cosines_first),
            preset=preset,
            configured=configs.model,
            data_range=configs.data_range,
        )
        facts: dict[str, Any] = {"file": str(file.relative_to(folder.parent))}
        if len(files) > 1:
            facts["sha256"] = {part.name: sha256_of(part) for part in files}
        if configs.sampling is not None:
            facts["sampling"] = configs.sampling
        return replace(imported, origin=imported.origin | facts)


@dataclass(frozen=True)
class FolderConfig:
    """The configurations in a folder: `sampling` is the scheduler's; training added noise to images in `data_range`."""

    model: dict[str, Any] | None = None
    cosines_first: bool = False
    sampling: dict[str, Any] | None = None
    data_range: tuple[float, float] = CENTERED


def _read_configs(folder: Path, place: Path, config: Mapping[str, Any] | None) -> FolderConfig:
    network_config = _read_json(place / CONFIG)
    if network_config.get("_class_name") != NETWORK_CLASS:
        raise CheckpointError(
            f"{place / CONFIG} describes a {network_config.get('_class_name')!r}, expected a {NETWORK_CLASS}: models "
            f"of other classes, such as text-to-image models, cannot be read"
        )
    scheduler = _scheduler(folder) if config is None else dict(config)
    try:
        network = read_unet(network_config)
        convention = read_scheduler(scheduler, network)
    except (TypeError, AttributeError, IndexError, ZeroDivisionError) as error:
        raise CheckpointError(f"the configuration of {folder} has a value of the wrong type: {error}") from error
    return FolderConfig(
        model={"image": network.image, "network": network.section, **convention},
        cosines_first=network.cosines_first,
        sampling={key.removeprefix("_"): value for key, value in scheduler.items() if key != "_diffusers_version"},
        data_range=UNIT if network.fourier else CENTERED,
    )


def _pipeline(folder: Path) -> Path | None:
    return next((place for place in (folder, folder.parent) if (place / INDEX).is_file()), None)


def check_pipeline(folder: Path) -> None:
    """Raises CheckpointError for a pipeline of more components than a network and a scheduler."""
    pipeline = _pipeline(folder)
    index = {} if pipeline is None else _read_json(pipeline / INDEX)
    others = [name for name in index if not name.startswith("_") and name not in ("unet", "scheduler")]
    if others:
        raise CheckpointError(
            f"{folder} is a {index.get('_class_name', 'pipeline')} with {', '.join(others)}, expected unet and "
            f"scheduler alone: its network does not work on pixels alone"
        )


def _network_folders(folder: Path) -> tuple[Path, ...]:
    return folder / AVERAGED, folder / "unet", folder


def _is_network(folder: Path) -> bool:
    return (folder / CONFIG).is_file()


def _network_folder(folder: Path, weights: str) -> Path:
    """The network's folder; of two, the averaged network's if `weights` is "ema"."""
    places = _network_folders(folder)[0 if weights == "ema" else 1 :]
    return next((place for place in places if _is_network(place)), folder)


def _kind(folder: Path, place: Path) -> str:
    if place.name == AVERAGED:
        return "ema"
    return "raw" if _is_network(folder / AVERAGED) else ONLY


def _scheduler(folder: Path) -> dict[str, Any]:
    places = [place for base in (folder, _pipeline(folder) or folder) for place in (base / "scheduler", base)]
    found = next((place / SCHEDULER_CONFIG for place in places if (place / SCHEDULER_CONFIG).is_file()), None)
    if found is None:
        raise CheckpointError(
            f"{folder} holds a network and no scheduler/{SCHEDULER_CONFIG}, so that the noise it was trained on is "
            f"unknown; give the configuration of that scheduler, config=FILE.json"
        )
    return _read_json(found)


def _weights_files(place: Path, weights: str) -> tuple[str, list[Path]]:
    found: dict[tuple[str, str], dict[int, list[Path]]] = {}  # by the number of parts
    for file in sorted(place.iterdir()):
        if name := _WEIGHTS.fullmatch(file.name):
            found.setdefault((name[1] or "", name[3]), {}).setdefault(int(name[2] or 1), []).append(file)
    for variant, suffix in product(_VARIANTS[weights], ("safetensors", "bin")):
        if (variant, suffix) in found:
            count, files = min(found[variant, suffix].items())
            if len(files) != count:
                raise CheckpointError(f"{place} holds {len(files)} of the {count} parts of its weights; copy them all")
            return variant, files
    raise CheckpointError(f"{place} holds no weights; expected {WEIGHTS_FILE} beside {CONFIG}")


def _tensors(file: Path) -> dict[str, Tensor]:
    return named_tensors(read_plain(file), f"the weights in {file}")


def _read_json(file: Path) -> dict[str, Any]:
    if not file.is_file():
        raise CheckpointError(
            f"there is no {file}, which describes the weights in a diffusers folder; weights alone need preset=NAME"
        )
    try:
        return read_json(file)
    except ValueError as error:
        raise CheckpointError(f"{error}; copy or download it again") from error
