"""`sdedit calibrate`: find the t0 of a checkpoint from a user's images."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor
from tqdm import tqdm

from sdedit_pl.build.components import build_component, build_unless_usual
from sdedit_pl.calibration.calibration_report import CalibrationReport
from sdedit_pl.calibration.knee import trade_off
from sdedit_pl.calibration.sweep import LEAST_IMAGES, Sweep, measure_batch, usual_times
from sdedit_pl.calibration.t0_sidecar import sidecar_of, write_calibration
from sdedit_pl.calibration.unfinished_sweep import UnfinishedSweep
from sdedit_pl.checkpoints.fingerprint import fingerprint
from sdedit_pl.cli import say
from sdedit_pl.cli.edit_model import load_for_editing
from sdedit_pl.cli.results import Results, refuse_replacing
from sdedit_pl.configuration import Component, ConfigError, family, require_at_least
from sdedit_pl.configuration.command_line import Command
from sdedit_pl.configuration.resolution import as_data
from sdedit_pl.data.chosen_images import ChosenImages, choose_images
from sdedit_pl.denoiser import Denoiser, in_precision
from sdedit_pl.editing import SDEdit
from sdedit_pl.editing.sdedit import DEFAULT_GRID, DEFAULT_SOLVER
from sdedit_pl.files import require_folder
from sdedit_pl.grids import GRIDS, Grid, start_time
from sdedit_pl.metrics.feature_table import FEATURES
from sdedit_pl.metrics.features import FeatureExtractor, features_of
from sdedit_pl.solvers import SOLVERS, Solver
from sdedit_pl.typing import Images

logger = logging.getLogger(__name__)

USAGE = """sdedit calibrate ckpt=FILE data=FOLDER|SHARDS [key=value ...]

Edits simulated strokes of images that the model has not seen from several t0, and finds the knee of KID (realism)
against L2 (faithfulness). Leaves NAME.t0.yaml and NAME.t0.png beside the checkpoint, where sdedit edit finds the t0.
The same command goes on where it was interrupted."""


@dataclass(kw_only=True)
class Arguments:
    """What to calibrate, and on what.

    Args:
        ckpt: the checkpoint; see sdedit edit.
        data: images of the domain: a folder, or shards (a folder, file, pattern or URL).
        out: folder of the results; null for the checkpoint's, the only one where sdedit edit looks for them.
        t0: where edits start from, times or noise levels, two at least; null for the times with the noise levels of
            0.2, 0.3, 0.4, 0.5, 0.6, 0.8 and 1 of the VP SDE, as far as the model was trained. The knee is one of them.
        images: how many images, spread evenly over those there are; null for all.
        split: val, the images that training holds out of data, or all, for data that training has not seen.
        val_fraction: share of the images held out where data has no val of its own; as in training.
        steps: solver steps of an edit; null for as many as sdedit edit takes.
        seed: of the first image's edits; the next has the next seed.
        batch: images edited at once.
        device: auto, cpu, cuda, cuda:1, mps.
        precision: of the network; the state is always float32.
        overwrite: replace earlier results.
    """

    ckpt: str
    data: str
    out: str | None = None
    t0: tuple[float | str, ...] | None = None
    images: int | None = 100
    split: Literal["val", "all"] = "val"
    val_fraction: float = 0.05
    steps: int | None = None
    seed: int = 0
    batch: int = 16
    device: str = "auto"
    precision: Literal["float32", "bfloat16", "float16"] = "float32"
    overwrite: bool = False
    solver: Component[Solver] = family(SOLVERS, DEFAULT_SOLVER, supplied=("predictor",))
    grid: Component[Grid] = family(GRIDS, DEFAULT_GRID)
    features: Component[FeatureExtractor] = family(FEATURES, "efficientnet_lite0")

    def __post_init__(self) -> None:
        require_at_least(self, images=LEAST_IMAGES, seed=0, batch=1)
        if self.t0 is not None and len(self.t0) < 2:
            raise ValueError(f"a sweep has at least two t0, got {list(self.t0)}; t0=[0.3,0.4,0.5] has three")


COMMAND = Command(USAGE, Arguments)

FREE = ("ckpt", "out", "device", "batch", "overwrite")
"""Keys that change no number, or nothing but its rounding."""


def run(words: list[str]) -> None:
    """Sweeps t0, and writes the knee, the numbers and the plot of the curve."""
    arguments = COMMAND.parse(words)
    denoiser, description = load_for_editing(arguments.ckpt, arguments.device)
    checkpoint = description.path
    file = results_file(arguments, checkpoint)
    edits = edits_of(arguments, denoiser)
    with results_in(file.parent, arguments.out) as results:
        chosen = choose_images(
            arguments.data,
            description.model.image.size,
            description.model.image.channels,
            arguments.split,
            arguments.val_fraction,
            arguments.images,
            least=LEAST_IMAGES,
        )
        settings = settings_of(arguments, edits, chosen)
        depends = {**settings, "checkpoint": fingerprint(checkpoint)}
        unfinished = UnfinishedSweep(file.with_suffix(".unfinished"), depends)
        if arguments.overwrite:
            unfinished.discard()
        sweep = swept(arguments, denoiser, edits, chosen, unfinished)
        report = CalibrationReport(trade_off(sweep), [edit.t0 for edit in edits], noise_levels(edits, denoiser))
        t0 = None if report.knee is None else report.knee.t0
        write_calibration(results / file.name, checkpoint, t0, {**report.as_data(), "settings": settings})
        report.plot(checkpoint.name, sweep.shown).save(results / file.with_suffix(".png").name)
    unfinished.discard()
    say(f"{report.table()}\n{report.verdict()}\n{file}, {file.with_suffix('.png')}{use_of(t0, arguments.out)}")


def results_file(arguments: Arguments, checkpoint: Path) -> Path:
    """The file that the t0 goes into.

    Raises:
        ConfigError: it is there and not to be overwritten.
        ValueError: `out` is a file.
    """
    beside = sidecar_of(checkpoint)
    file = beside if arguments.out is None else Path(arguments.out) / beside.name
    require_folder(file.parent)
    refuse_replacing(file, arguments.overwrite)
    return file


def results_in(folder: Path, out: str | None) -> Results:
    """`Results`, whose refusal says what to do where the checkpoint's own folder cannot be written."""
    try:
        return Results(folder)
    except ConfigError as error:
        if out is not None:
            raise
        raise ConfigError(
            f"the checkpoint's folder {folder} cannot be written; give another as out=FOLDER, and sdedit edit the t0 "
            "that comes out"
        ) from error


def edits_of(arguments: Arguments, denoiser: Denoiser) -> list[SDEdit]:
    """The edit of each level, from the lowest noise level to the highest.

    Raises:
        ValueError: an argument out of range, or a t0 that is given twice or that the model does not know.
    """
    solver, grid = build_unless_usual(arguments.solver), build_unless_usual(arguments.grid)
    wanted = usual_times(denoiser) if arguments.t0 is None else arguments.t0
    edits = [SDEdit(t0, arguments.steps, solver=solver, grid=grid) for t0 in wanted]
    for edit in edits:
        edit.check(denoiser)
    edits.sort(key=lambda edit: start_time(edit.t0, denoiser.sde))
    if len({start_time(edit.t0, denoiser.sde) for edit in edits}) < len(edits):
        raise ConfigError(f"a t0 is given twice in {list(wanted)}")
    return edits


def noise_levels(edits: Sequence[SDEdit], denoiser: Denoiser) -> list[float]:
    """The noise level sigma / alpha of each edit's t0."""
    times = torch.tensor([start_time(edit.t0, denoiser.sde) for edit in edits], dtype=torch.float64)
    return denoiser.sde.noise_level(times).tolist()


def settings_of(arguments: Arguments, edits: Sequence[SDEdit], chosen: ChosenImages) -> dict[str, Any]:
    """What the numbers of a sweep depend on, but for the checkpoint."""
    return {
        **{key: value for key, value in as_data(arguments).items() if key not in FREE},
        "t0": [edit.t0 for edit in edits],
        "steps": edits[0].step_count,
        "images": len(chosen),
        "names_sha256": hashlib.sha256("\n".join(chosen.names).encode()).hexdigest(),
        "sdedit_pl": version("sdedit_pl"),
        "torch": str(torch.__version__),
    }


def swept(
    arguments: Arguments,
    denoiser: Denoiser,
    edits: Sequence[SDEdit],
    chosen: ChosenImages,
    unfinished: UnfinishedSweep,
) -> Sweep:
    """The sweep over all images, batch by batch, from where it was interrupted."""
    device = next(denoiser.parameters()).device
    features = build_component(arguments.features).to(device)

    def extract(images: Images) -> Float[Tensor, "B D"]:
        return features_of(features, images.to(device)).cpu()

    steps = sum(edit.total_steps(denoiser.sde) for edit in edits)
    sweep = unfinished.read()
    done = 0 if sweep is None else len(sweep)
    if done:
        logger.info("going on after %d of %d images: %s", done, len(chosen), unfinished.file)
    with (
        tqdm(total=steps * len(chosen), initial=steps * done, unit="step", desc="editing", disable=None) as progress,
        in_precision(denoiser, arguments.precision),
    ):

        def advance(x: Images, t: float) -> None:
            progress.update(len(x))

        for start in range(done, len(chosen), arguments.batch):
            originals = chosen.batch(start, arguments.batch).to(device)
            seeds = [arguments.seed + start + number for number in range(len(originals))]
            found = measure_batch(denoiser, edits, originals, seeds, extract, advance)
            sweep = found if sweep is None else sweep.joined(found)
            unfinished.write(sweep)
    assert sweep is not None
    return sweep


def use_of(t0: float | str | None, out: str | None) -> str:
    """What the result is good for, behind the names of its files."""
    if t0 is None:
        return ": sdedit edit goes on with its own t0"
    return ": sdedit edit takes t0 from there" if out is None else f": give sdedit edit t0={t0}"
