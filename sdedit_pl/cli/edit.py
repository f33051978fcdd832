"""`sdedit edit`: turn guides into images of a model's domain."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import torch
from tqdm import tqdm

from sdedit_pl.build import build_component
from sdedit_pl.calibration.t0_search import FoundT0, t0_for_l2
from sdedit_pl.calibration.t0_sidecar import calibrated_t0
from sdedit_pl.checkpoints import files_of
from sdedit_pl.cli import say
from sdedit_pl.cli.arguments import configuration
from sdedit_pl.cli.edit_inputs import Inputs, image_shape, read_inputs
from sdedit_pl.cli.edit_model import load_for_editing, prepared
from sdedit_pl.cli.edit_results import RECORD_KEY, SHEET_FILE, SHEET_ROWS, Writer, earlier_results
from sdedit_pl.cli.results import Results
from sdedit_pl.config import Family, Key, Schema, read_file, require_at_least
from sdedit_pl.denoiser import Denoiser, in_precision
from sdedit_pl.editing import SDEdit
from sdedit_pl.editing.many_guides import Area, Edited, edit_guides
from sdedit_pl.editing.sdedit import DEFAULT_GRID, DEFAULT_SOLVER
from sdedit_pl.editing.trajectories import SHOWN_SAMPLES, RecordingDenoiser, Trajectory
from sdedit_pl.grids import GRIDS
from sdedit_pl.guides.guide_files import Guide
from sdedit_pl.solvers import SOLVERS

logger = logging.getLogger(__name__)

AUTO = "auto"
DEFAULT_T0 = 0.5

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
        strength: in place of a mask, an image that says how far each pixel is noised (white from t0 on, black kept), or
            a folder of such images.
        paste: the picture of an object that is pasted on the guide; it and a border around it may change.
        paste_mask: a picture of its size, white where the object is; null takes what is not transparent.
        at: x,y of its upper left corner, in pixels of the guide's file.
        scale: the size at which it is pasted, 1 for its own.
        grow: how far around the object pixels may change, in pixels of the model.
        feather: over how many pixels further the strength falls to 0.
        out: folder of the results.
        t0: how far guides are noised, a time in (0, 1] or a noise level such as sigma:1.2, or a list of them; higher is
            more realistic, lower more faithful. auto takes the highest that changes a guide by no more than `l2`;
            null what sdedit calibrate has found for the checkpoint, or else 0.5.
        l2: with t0=auto, the squared difference allowed between a guide and its edit, summed over pixels in [0, 1].
        steps: solver steps from t0 to 0; null for as many as the variant needs.
        repeats: how often the edit is repeated on its own result (K).
        anneal: the t0 of a repeat relative to that of the one before, in (0, 1].
        resample: j,r takes each j steps r times, which harmonises kept and new pixels; with a mask or strength map.
        lowpass: N keeps what an image N times smaller shows of the guide; null for nothing.
        lowpass_range: the times, from,to, at which it does.
        samples: how many samples of each guide.
        seed: of the first sample; the next has the next seed.
        variant: exact, or paper or reference, which follow the published algorithms and code to the letter.
        windows: edit guides at their own size, in overlapping windows: true for windows of the model's size, or theirs
            in pixels.
        overlap: pixels that neighbouring windows share at the least; null for half a window.
        side: with windows, the shorter side that guides are resampled to; null for their own.
        trajectory: leave besides, for each guide, the x_0 estimates along the way as an animation and a strip.
        batch: samples made at once; null for as many as the memory holds. It changes nothing but speed and memory.
        device: auto, cpu, cuda, cuda:1, mps.
        precision: of the network; the state is always float32.
        compile: compile the network, which pays for many samples.
        overwrite: replace the results in `out`.
    """

    ckpt: str
    guide: str
    mask: str | None = None
    strength: str | None = None
    paste: str | None = None
    paste_mask: str | None = None
    at: tuple[int, int] | None = None
    scale: float = 1.0
    grow: int = 3
    feather: int = 0
    out: str = "outputs/edit"
    t0: float | str | tuple[float | str, ...] | None = None
    l2: float | None = None
    steps: int | None = None
    repeats: int = 1
    anneal: float = 1.0
    resample: tuple[int, int] | None = None
    lowpass: int | None = None
    lowpass_range: tuple[float, float] = (0.0, 1.0)
    samples: int = 4
    seed: int = 0
    variant: str = "exact"
    windows: bool | int = False
    overlap: int | None = None
    side: int | None = None
    trajectory: bool = False
    batch: int | None = None
    device: str = "auto"
    precision: Literal["float32", "bfloat16", "float16"] = "float32"
    compile: bool = False
    overwrite: bool = False

    def __post_init__(self) -> None:
        require_at_least(self, samples=1, batch=1, seed=0)
        areas = [name for name in ("mask", "strength", "paste") if getattr(self, name) is not None]
        if len(areas) > 1:
            raise ValueError(f"{' and '.join(areas)} each say what may change; give one of them")
        if (self.paste is None) != (self.at is None):
            raise ValueError("paste and at go together: paste=IMAGE at=X,Y puts its upper left corner there")
        if self.paste is None and (self.paste_mask, self.scale, self.grow, self.feather) != (None, 1.0, 3, 0):
            raise ValueError("paste_mask, scale, grow and feather are for a paste; give paste=IMAGE at=X,Y")
        if not self.windows and (self.overlap is not None or self.side is not None):
            raise ValueError("overlap and side are for windows; give windows=true")
        if (self.t0 == AUTO) != (self.l2 is not None):
            raise ValueError("t0=auto and l2 go together: l2=NUMBER says how much a guide may change")
        if isinstance(self.t0, tuple):
            if len(set(self.t0)) != len(self.t0) or not self.t0:
                raise ValueError(f"t0 is a list of different values, got {list(self.t0)}")
            if self.trajectory:
                raise ValueError("trajectory shows one t0 at a time; give one")


FAMILIES = {
    "solver": Family(SOLVERS, DEFAULT_SOLVER, supplied=("predictor",)),  # a predictor is an object, not plain data
    "grid": Family(GRIDS, DEFAULT_GRID),
}
SCHEMA = Schema(top=Arguments, settings={}, families=FAMILIES)


@dataclass(frozen=True)
class Task:
    """An edit of some of the guides.

    Args:
        edit: the edit.
        guides: the guides' numbers.
        mark: what tells the names of its samples from those of other tasks.
    """

    edit: SDEdit
    guides: Sequence[int]
    mark: str = ""


def run(arguments: list[str]) -> None:
    """Reads the arguments, edits, and writes the results."""
    config = configuration(arguments, SCHEMA, USAGE, file_key=CONFIG_KEY, read=without_record)
    if config is None:
        return
    edits = build_edits(config)
    folder = Path(config["out"])
    with Results(folder, earlier_results(folder, config["overwrite"])) as results:
        denoiser, description = load_for_editing(config["ckpt"], config["device"])
        if config["t0"] is None:
            config["t0"] = default_t0(description.path)
            edits = build_edits(config)
        denoiser = prepared(denoiser, config, image_shape(description)[1])
        inputs = read_inputs(config, image_shape(description))
        writer = Writer(results, config, inputs, files_of(description.path))
        with in_precision(denoiser, config["precision"]):
            tasks = plan(config, edits, denoiser, inputs)
            for task, edited, trajectory in edit_all(config, tasks, denoiser, inputs):
                writer.write(task.edit.t0, task.mark, edited, trajectory)
        writer.finish()
    if len(inputs.guides) > SHEET_ROWS:
        logger.info("%s shows the first %d of %d guides", SHEET_FILE, SHEET_ROWS, len(inputs.guides))
    say(f"{writer.count} samples in {folder}; see {folder / SHEET_FILE}")


def without_record(file: str) -> dict[str, Any]:
    """The keys in a YAML file, without the record that an edit leaves beside them."""
    return {key: value for key, value in read_file(Path(file)).items() if key != RECORD_KEY}


def build_edits(config: Mapping[str, Any]) -> list[SDEdit]:
    """The edits of a resolved configuration: one for each t0, with a placeholder where it is still to be found.

    Raises:
        ValueError: an argument out of range.
    """
    parts = {name: build_component(config, name, family) for name, family in FAMILIES.items()}
    defaults = {name: config[name]["name"] for name, family in FAMILIES.items() if parts[name] == default_of(family)}
    options = ("steps", "repeats", "variant", "anneal", "lowpass")
    edit = SDEdit(
        resample=None if config["resample"] is None else tuple(config["resample"]),
        lowpass_range=tuple(config["lowpass_range"]),
        **{name: config[name] for name in options},
        **{**parts, **defaults},
    )
    if config["t0"] in (None, AUTO):
        return [edit]
    given = config["t0"] if isinstance(config["t0"], list) else [config["t0"]]
    return [replace(edit, t0=t0) for t0 in given]


def default_of(family: Family) -> Any:
    """The component that a family's default name makes."""
    return family.table[family.default]()


def default_t0(checkpoint: Path) -> float | str:
    """What calibration has found for a checkpoint, or the middle of the paper's range."""
    found = calibrated_t0(checkpoint)
    if found is None:
        return DEFAULT_T0
    logger.info("t0 = %s, as calibrated for %s", found, checkpoint)
    return found


def plan(config: Mapping[str, Any], edits: Sequence[SDEdit], denoiser: Denoiser, inputs: Inputs) -> list[Task]:
    """Which guides are edited how."""
    everything = range(len(inputs.guides))
    if config["t0"] != AUTO:
        for edit in edits:  # not when the first of them has been run
            edit.check(denoiser)
    if config["t0"] == AUTO:
        found = search(config, edits[0], denoiser, inputs)
        return [Task(replace(edits[0], t0=its.t0), [number]) for number, its in enumerate(found)]
    if len(edits) == 1:
        return [Task(edits[0], everything)]
    return [Task(edit, everything, f"_t0_{str(edit.t0).replace(':', '')}") for edit in edits]


def search(config: Mapping[str, Any], edit: SDEdit, denoiser: Denoiser, inputs: Inputs) -> list[FoundT0]:
    """The t0 of each guide that changes its samples by no more than is allowed."""
    with tqdm(unit="step", desc="searching t0", disable=None) as progress:
        found = t0_for_l2(
            denoiser,
            edit,
            inputs.guides,
            inputs.areas,
            seeds_of(config),
            config["l2"],
            batch=config["batch"],
            on_step=progress.update,
        )
    for guide, its in zip(inputs.guides, found, strict=True):
        logger.info("%s: t0 = %.3g, which changes it by %.3g", guide.path, its.t0, its.distance)
    return found


def seeds_of(config: Mapping[str, Any]) -> range:
    """The samples' seeds."""
    return range(config["seed"], config["seed"] + config["samples"])


def edit_all(
    config: Mapping[str, Any], tasks: Sequence[Task], denoiser: Denoiser, inputs: Inputs
) -> Iterator[tuple[Task, Edited, Trajectory | None]]:
    """Every guide's edits, in the order of the tasks, with a progress bar."""
    seeds = seeds_of(config)
    total = sum(task.edit.total_steps(denoiser.sde) * len(task.guides) * len(seeds) for task in tasks)
    with tqdm(total=total, unit="step", desc="editing", disable=None) as progress:
        for task in tasks:
            guides = [inputs.guides[number] for number in task.guides]
            areas = [inputs.areas[number] for number in task.guides]
            if config["trajectory"]:
                for guide, area in zip(guides, areas, strict=True):
                    yield task, *recorded(config, task.edit, denoiser, guide, area, progress)
                continue
            for edited in edit_guides(
                denoiser, task.edit, guides, areas, seeds, batch=config["batch"], on_step=progress.update
            ):
                yield task, edited, None


def recorded(
    config: Mapping[str, Any], edit: SDEdit, denoiser: Denoiser, guide: Guide, area: Area | None, progress: tqdm
) -> tuple[Edited, Trajectory]:
    """A guide's samples, and the way to the first of them: as many as are made at once and shown."""
    seeds = seeds_of(config)
    shown = min(config["batch"] or len(seeds), SHOWN_SAMPLES)
    recording = RecordingDenoiser(denoiser)
    (edited,) = edit_guides(recording, edit, [guide], [area], seeds[:shown], batch=shown, on_step=progress.update)
    rest = edit_guides(denoiser, edit, [guide], [area], seeds[shown:], batch=config["batch"], on_step=progress.update)
    samples = torch.cat([edited.samples, *(others.samples for others in rest)])
    return replace(edited, samples=samples, seeds=tuple(seeds)), recording.trajectory()
