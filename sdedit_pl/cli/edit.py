"""`sdedit edit`: turn guides into images of a model's domain."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal

import torch
import yaml
from jaxtyping import Bool
from torch import Tensor
from tqdm import tqdm

from sdedit_pl.build import build_component
from sdedit_pl.checkpoints import Description, files_of, load_described
from sdedit_pl.checkpoints.formats import sha256
from sdedit_pl.cli import say
from sdedit_pl.cli.arguments import configuration
from sdedit_pl.cli.results import Results
from sdedit_pl.config import ConfigError, Family, Key, Schema, read_file, require_at_least
from sdedit_pl.denoiser import Denoiser
from sdedit_pl.editing import SDEdit
from sdedit_pl.editing.files import Guide, find_guides, read_guide, read_mask
from sdedit_pl.editing.runs import Edited, edit_guides
from sdedit_pl.editing.sheets import contact_sheet, to_picture
from sdedit_pl.grids import GRIDS
from sdedit_pl.solvers import SOLVERS

logger = logging.getLogger(__name__)

RECORD_FILE = "edit.yaml"
SHEET_FILE = "sheet.png"
SHEET_ROWS = 32
"""Guides on the contact sheet, at the most."""
RECORD_KEY = "record"

USAGE = """sdedit edit ckpt=FILE guide=FILE|FOLDER|GLOB [mask=FILE|FOLDER] [key=value ...]

Noises each guide to t0 and brings it back with the checkpoint's model. Leaves in `out` a PNG for each sample, sheet.png
and edit.yaml, which repeats the edit: sdedit edit config=outputs/edit/edit.yaml out=..."""
CONFIG_KEY = Key(str, None, "a YAML file of these keys, such as the edit.yaml of an edit")


@dataclass
class Arguments:
    """What to edit, and how.

    Args:
        ckpt: an editing checkpoint (.safetensors), a training checkpoint (.ckpt), the folder of a run, or a checkpoint
            of another program that can be told by itself (otherwise: sdedit import); or where one is published,
            wandb:entity/project/name:alias or https://host/file#sha256=... (fetched once).
        guide: an image, a folder of images, a glob, or a [mask, image] file (.pth) of SDEdit's reference runner.
        mask: the image whose white pixels may change, or a folder of such images named like their guides; it takes the
            place of a mask that comes with the guide.
        out: folder of the results.
        t0: how far guides are noised: a time in (0, 1], or a noise level such as sigma:1.2. Higher is more realistic,
            lower more faithful.
        steps: solver steps from t0 to 0.
        repeats: how often the edit is repeated on its own result (K).
        samples: how many samples of each guide.
        seed: of the first sample; the next has the next seed.
        variant: exact, or paper or reference, which follow the published algorithms and code to the letter.
        batch: samples made at once; it changes nothing but speed and memory.
        device: auto, cpu, cuda, cuda:1, mps.
        precision: of the network; the state is always float32.
        overwrite: replace the results in `out`.
    """

    ckpt: str
    guide: str
    mask: str | None = None
    out: str = "outputs/edit"
    t0: float | str = 0.5
    steps: int = 100
    repeats: int = 1
    samples: int = 4
    seed: int = 0
    variant: str = "exact"
    batch: int = 16
    device: str = "auto"
    precision: Literal["float32", "bfloat16", "float16"] = "float32"
    overwrite: bool = False

    def __post_init__(self) -> None:
        require_at_least(self, samples=1, batch=1, seed=0)


FAMILIES = {
    "solver": Family(SOLVERS, "ancestral", supplied=("predictor",)),  # a predictor is an object, not plain data
    "grid": Family(GRIDS, "uniform"),
}
SCHEMA = Schema(top=Arguments, settings={}, families=FAMILIES)


def run(arguments: list[str]) -> None:
    """Reads the arguments, edits, and writes the results."""
    config = configuration(arguments, SCHEMA, USAGE, file_key=CONFIG_KEY, read=without_record)
    if config is None:
        return
    edit = build_edit(config)
    folder = Path(config["out"])
    with Results(folder, earlier_samples(folder, config["overwrite"])) as results:
        denoiser, description = load_for_editing(config["ckpt"], config["device"])
        guides = read_guides(config["guide"], image_shape(description))
        masks = read_masks(config["mask"], guides)
        seeds = range(config["seed"], config["seed"] + config["samples"])
        total = len(guides) * len(seeds) * edit.steps * edit.repeats
        with tqdm(total=total, unit="step", desc="editing", disable=None) as progress, precision(config, denoiser):
            edits = edit_guides(denoiser, edit, guides, masks, seeds, batch=config["batch"], on_step=progress.update)
            samples = write_samples(results, edits)
        write_record(results, samples, guides, config, files_of(description.path))
    if len(guides) > SHEET_ROWS:
        logger.info("%s shows the first %d of %d guides", SHEET_FILE, SHEET_ROWS, len(guides))
    say(f"{len(guides) * len(seeds)} samples in {folder}; see {folder / SHEET_FILE}")


def without_record(file: str) -> dict[str, Any]:
    """The keys in a YAML file, without the record that an edit leaves beside them."""
    return {key: value for key, value in read_file(Path(file)).items() if key != RECORD_KEY}


def build_edit(config: Mapping[str, Any]) -> SDEdit:
    """The edit of a resolved configuration.

    Raises:
        ValueError: an argument out of range.
    """
    parts = {name: build_component(config, name, family) for name, family in FAMILIES.items()}
    defaults = {name: config[name]["name"] for name, family in FAMILIES.items() if parts[name] == default_of(family)}
    return SDEdit(
        t0=config["t0"],
        steps=config["steps"],
        repeats=config["repeats"],
        variant=config["variant"],
        **{**parts, **defaults},
    )


def default_of(family: Family) -> Any:
    """The component that a family's default name makes."""
    return family.table[family.default]()


def precision(config: Mapping[str, Any], denoiser: Denoiser) -> AbstractContextManager[object]:
    """The context in which the network computes in the precision asked for.

    Autocast leaves the label's embedding in float32: its phases of many turns mean nothing in half precision.
    """
    if config["precision"] == "float32":
        return nullcontext()
    device = next(denoiser.parameters()).device
    return torch.autocast(device.type, dtype=getattr(torch, config["precision"]))


def load_for_editing(ckpt: str, device: str) -> tuple[Denoiser, Description]:
    """The denoiser of a checkpoint, on a device by name, and what the checkpoint says of itself.

    Raises:
        ConfigError: a device that torch does not know or have.
        CheckpointError: see `sdedit_pl.checkpoints.load_denoiser`.
    """
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        raise ConfigError(f"device={device} cannot be used here: {str(error).splitlines()[0]}") from error
    return load_described(ckpt, device)


def image_shape(description: Description) -> tuple[int, int]:
    """(channels, size) of the images of a checkpoint's domain."""
    image = description.model["image"]
    return image["channels"], image["size"]


def read_guides(guide: str, shape: tuple[int, int]) -> list[Guide]:
    """The guides of a path, folder or glob, with a notice for each that was resized."""
    channels, size = shape
    guides = [read_guide(path, size, channels) for path in find_guides(guide)]
    for item in guides:
        if item.resized:
            width, height = item.original_size
            cropped = " cropped to its central square and" if width != height else ""
            logger.info("%s is %dx%d,%s resized to the model's %dx%d", item.path, width, height, cropped, size, size)
    names = [item.path.stem for item in guides]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise ConfigError(f"guides need names of their own, got several called {', '.join(twice)}")
    return guides


def read_masks(mask: str | None, guides: Sequence[Guide]) -> list[Bool[Tensor, "1 1 H W"] | None]:
    """The mask of each guide, its own where none is given, with a notice of those that have none; see `find_masks`."""
    pairs = list(zip(guides, find_masks(mask, guides), strict=True))
    masks = [guide.mask if file is None else read_mask(file, guide) for guide, file in pairs]
    free = [guide.path.stem for guide, found in zip(guides, masks, strict=True) if found is None]
    if free and mask is not None:
        logger.info("no mask for %s: edited everywhere", ", ".join(free))
    return masks


def find_masks(mask: str | None, guides: Sequence[Guide]) -> list[Path | None]:
    """The mask's file for each guide: one for all, or a folder's file of the guide's name, where there is one.

    Raises:
        ConfigError: if there is no such file, or none for any guide.
    """
    if mask is None:
        return [None] * len(guides)
    path = Path(mask)
    if not path.is_dir():
        if not path.exists():
            raise ConfigError(f"there is no mask at {mask}; give an image or a folder, white marks what may change")
        return [path] * len(guides)
    named = {file.stem: file for file in find_guides(mask)}
    files = [named.get(guide.path.stem) for guide in guides]
    if all(file is None for file in files):
        raise ConfigError(f"no mask in {mask} is named like a guide; {guides[0].path.stem}.png would be")
    return files


def earlier_samples(folder: Path, overwrite: bool) -> list[Path]:
    """The samples of an earlier edit in `folder`, which a new one replaces: those that its record names.

    Raises:
        ConfigError: if `folder` is a file, holds anything that is not to be overwritten, or an unreadable record.
    """
    if folder.exists() and not folder.is_dir():
        raise ConfigError(f"out={folder} is a file; name a folder")
    if folder.is_dir() and any(folder.iterdir()) and not overwrite:
        raise ConfigError(f"{folder} already holds files; give another out=, or overwrite=true")
    file = folder / RECORD_FILE
    record = read_file(file).get(RECORD_KEY) if file.is_file() else None
    samples = record.get("samples") if isinstance(record, Mapping) else None
    names = [name for name in samples if isinstance(name, str)] if isinstance(samples, Mapping) else []
    return [folder / name for name in names if Path(name).name == name and Path(name).suffix == ".png"]


def write_samples(folder: Path, edits: Iterable[Edited]) -> dict[str, dict[str, Any]]:
    """Writes a PNG for each sample as it comes, and the contact sheet; returns the guide and seed of each file."""
    samples, shown = {}, []
    for edit in edits:
        for image, seed in zip(edit.samples, edit.seeds, strict=True):
            name = f"{edit.guide.path.stem}_seed{seed}.png"
            to_picture(image).save(folder / name)
            samples[name] = {"guide": str(edit.guide.path), "seed": seed}
        if len(shown) < SHEET_ROWS:
            shown.append(edit)
    contact_sheet(shown).save(folder / SHEET_FILE)
    return samples


def write_record(
    folder: Path,
    samples: Mapping[str, Any],
    guides: Sequence[Guide],
    config: Mapping[str, Any],
    checkpoint: Sequence[Path],
) -> None:
    """Writes what repeats the edit, with the hashes of the files that went in, those of the checkpoint among them."""
    files = [guide.path for guide in guides] + [path for path in find_masks(config["mask"], guides) if path]
    record = {
        "sdedit_pl": version("sdedit_pl"),
        "torch": str(torch.__version__),
        "sha256": {str(file): sha256(file) for file in [*checkpoint, *files]},
        "samples": dict(samples),
    }
    # A repetition asks anew whether it may overwrite.
    repeated = {key: value for key, value in config.items() if key != "overwrite"}
    (folder / RECORD_FILE).write_text(yaml.safe_dump({**repeated, RECORD_KEY: record}, sort_keys=False))
