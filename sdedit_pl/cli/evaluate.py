"""`sdedit evaluate`: the paper's evaluation of a model, on a user's own images."""

from __future__ import annotations

import json
import logging
import shlex
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, fields
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal

import torch

from sdedit_pl.build.components import build_component, build_unless_usual
from sdedit_pl.checkpoints import Description
from sdedit_pl.checkpoints.fingerprint import fingerprint
from sdedit_pl.checkpoints.loading import load_for_editing
from sdedit_pl.cli import say, speaks
from sdedit_pl.configuration import Component, ConfigError, family, require_at_least
from sdedit_pl.configuration.command_line import Command
from sdedit_pl.configuration.resolution import as_data
from sdedit_pl.data.chosen_images import ChosenImages, choose_images
from sdedit_pl.data.images import ImageFormat
from sdedit_pl.denoiser import Denoiser
from sdedit_pl.edit_runs.edit_plan import default_t0
from sdedit_pl.editing import SDEdit
from sdedit_pl.editing.sdedit import DEFAULT_GRID, DEFAULT_SOLVER
from sdedit_pl.evaluation.ablations import ABLATIONS, COMPARED, MODEL, AblationValues
from sdedit_pl.evaluation.editing_tasks import TASKS
from sdedit_pl.evaluation.evaluation_plan import (
    GUIDE,
    MASK,
    ORIGINAL,
    OURS,
    EvaluationPlan,
    EvaluationSettings,
    make_plan,
)
from sdedit_pl.evaluation.image_groups import Partners, group_numbers, partners, read_groups, short_name
from sdedit_pl.evaluation.image_maker import ComputeSettings, EvaluationData, make_images
from sdedit_pl.evaluation.image_store import EvaluationRecord, ImageStore, check_place, digest_of
from sdedit_pl.evaluation.measurement import LEAST_GROUPS, LEAST_IMAGES, Instruments, Measurement
from sdedit_pl.evaluation.methods import BASELINES
from sdedit_pl.evaluation.other_systems import find_outputs
from sdedit_pl.evaluation.report_document import METRICS_FILE, REPORT_HTML, log_to_wandb
from sdedit_pl.evaluation.report_sections import make_report
from sdedit_pl.grids import GRIDS, Grid, start_time
from sdedit_pl.metrics.feature_table import FEATURES
from sdedit_pl.metrics.features import FeatureExtractor
from sdedit_pl.metrics.masked_lpips import SMALLEST, MaskedLPIPS
from sdedit_pl.metrics.published_weights import WeightsUnavailable
from sdedit_pl.result_folder import ResultFolder
from sdedit_pl.solvers import SOLVERS, Solver

logger = logging.getLogger(__name__)

USAGE = """sdedit evaluate ckpt=FILE data=FOLDER|SHARDS [key=value ...]

Makes the inputs of the paper's tasks from validation images, edits them, measures the edits and what they are compared
with, and writes report.html, report.md and metrics.json to `out`, with all images. The same command goes on where it
was interrupted; with other tasks, baselines, ablations or outputs it adds them."""

FREE = ("out", "accelerator", "devices", "num_nodes", "batch", "wandb", "overwrite")
"""Keys that change no number."""


@dataclass(kw_only=True)
class Arguments:
    """What to evaluate, and how.

    Args:
        ckpt: the checkpoint; see sdedit edit.
        data: images of the domain: a folder, or shards (a folder, file, pattern or URL).
        out: folder of the results.
        compare: another checkpoint for images of the same size, for the ablation sde: VE against VP, say.
        split: val, the images that training holds out of `data`, or all, for data that training has not seen.
        val_fraction: share of the images held out where data has no val of its own; as in training.
        images: how many images, spread evenly over those there are; null for all.
        groups: CSV file of lines `name,group`: images of one group (of one scene or person) are not taken for
            independent by KID, nor pasted on each other; null for independent images.
        tasks: of stroke_synthesis, stroke_editing, compositing.
        baselines: of ddim, poisson, laplacian, nearest_sample; the guide itself is always one.
        ablations: of t0, colours, repeats, steps, solver, sde; their values are the keys of the section ablation.
        outputs: images of other systems, outputs.NAME=FOLDER: a folder for each task, named like it, of images named
            like the guides in `out`.
        t0: how far guides are noised; null for what sdedit calibrate has found for the checkpoint, or else 0.5.
        steps: solver steps from t0 to 0; null for as many as the variant needs.
        repeats: how often edits are repeated on their own result (K).
        variant: exact, or paper or reference, which follow the published algorithms and code to the letter.
        seed: of the inputs; edit number n has the seed `seed` + n.
        lpips: network of the masked LPIPS, alex, vgg or squeeze; none leaves it out.
        lpips_weights: torchvision's file of that network; null looks in torch's cache and then fetches it.
        kid_subset: KID also as the mean over 100 random subsets of so many images, as other programs give it (1000 is
            usual); null without.
        batch: images edited at once on each device; it changes nothing but speed and memory, and the last bit where a
            device's arithmetic depends on it.
        precision: of the network in edits; the state is always float32. On a CPU float32 is the exact and slow way, in
            which images go through the network one by one.
        compile: compile the network, which pays for many images.
        accelerator: auto, cpu, gpu, ...
        devices: devices on each node; auto takes all.
        num_nodes: machines; they share the folder `out`.
        wandb: project of Weights & Biases that the report goes to as well; null for none.
        overwrite: make all images in `out` anew.
    """

    ckpt: str
    data: str
    out: str = "outputs/evaluation"
    compare: str | None = None
    split: Literal["val", "all"] = "val"
    val_fraction: float = 0.05
    images: int | None = None
    groups: str | None = None
    tasks: tuple[str, ...] = tuple(TASKS)
    baselines: tuple[str, ...] = tuple(BASELINES)
    ablations: tuple[str, ...] = ("t0", "colours")
    outputs: dict[str, str] | None = None
    t0: float | str | None = None
    steps: int | None = None
    repeats: int = 1
    variant: str = "exact"
    seed: int = 0
    lpips: Literal["alex", "vgg", "squeeze", "none"] = "alex"
    lpips_weights: str | None = None
    kid_subset: int | None = None
    batch: int = 16
    precision: Literal["float32", "bfloat16", "float16"] = "float32"
    compile: bool = False
    accelerator: str = "auto"
    devices: int | str = "auto"
    num_nodes: int = 1
    wandb: str | None = None
    overwrite: bool = False
    ablation: AblationValues
    solver: Component[Solver] = family(SOLVERS, DEFAULT_SOLVER, supplied=("predictor",))
    grid: Component[Grid] = family(GRIDS, DEFAULT_GRID)
    features: Component[FeatureExtractor] = family(FEATURES, "efficientnet_lite0")

    def __post_init__(self) -> None:
        require_at_least(self, images=LEAST_IMAGES, kid_subset=2, batch=1, seed=0, num_nodes=1)
        wants_two = [name for name in self.ablations if name in ABLATIONS and ABLATIONS[name].compares]
        if bool(wants_two) != (self.compare is not None):
            raise ValueError("compare=CHECKPOINT and ablations=[sde] go together: one is measured by the other")
        known = [ORIGINAL, GUIDE, MASK, *BASELINES]
        for name in self.outputs or {}:
            if name in known or name.lower().startswith(OURS) or not name.replace("_", "").replace("-", "").isalnum():
                raise ValueError(
                    f"outputs.{name}: another system needs a name of letters, digits, - and _ that is none of "
                    f"{', '.join(known)} and does not begin with {OURS}"
                )


COMMAND = Command(USAGE, Arguments)


def run(words: list[str]) -> None:
    """Makes what is missing, measures everything and writes the report."""
    arguments = COMMAND.parse(words)
    check_packages()
    out = Path(arguments.out)
    check_place(out)
    models, descriptions = load_models(arguments)
    plan = make_plan(settings_of(arguments, descriptions[MODEL]))
    plan.check(models)
    shape = descriptions[MODEL].image_shape
    images = choose_images(
        arguments.data,
        shape,
        split=arguments.split,
        val_fraction=arguments.val_fraction,
        count=arguments.images,
        least=LEAST_IMAGES,
    )
    names = [short_name(name) for name in images.names]
    groups = group_numbers(names, None if arguments.groups is None else read_groups(arguments.groups))
    store = ImageStore(out, len(names), ImageFormat(shape[1], shape[0]), paired(plan, groups))
    check_counts(arguments, plan, store, groups)
    computing = ComputeSettings(**{field.name: getattr(arguments, field.name) for field in fields(ComputeSettings)})
    record = record_of(arguments, plan, images, groups, descriptions, computing)
    record = record if arguments.overwrite else record.continuing(out)
    outputs = find_outputs(arguments.outputs or {}, arguments.tasks, store.count, store.format)
    features = build_component(arguments.features)
    lpips, notes = build_lpips(arguments, plan, store)
    with first_process(out) as results:
        data = EvaluationData(plan, images, store, record, arguments.batch, arguments.overwrite)
        device = make_images(models, data, computing)
        if device is None or results is None:
            return
        instruments = Instruments(features, lpips, device, kid_subset=arguments.kid_subset)
        evaluation = Measurement(plan, store, groups, outputs, instruments)
        numbers = {
            **facts(arguments, words, models, descriptions, evaluation),
            "notes": notes,
            **evaluation.measure(),
        }
        report = make_report(numbers, evaluation)
        report.write(results)
        (results / METRICS_FILE).write_text(json.dumps(numbers, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    if arguments.wandb is not None:
        log_to_wandb(report, arguments.wandb, out, numbers)
    say(f"{summary(numbers)}\nthe report: {out / REPORT_HTML}")


def check_packages() -> None:
    """Raises ConfigError where a package is missing that the report needs, which is written hours later."""
    missing = [name for name in ("jinja2", "matplotlib") if find_spec(name) is None]
    if missing:
        raise ConfigError(f"the report needs {' and '.join(missing)}; pip install 'sdedit-pl[evaluation]'")


def load_models(arguments: Arguments) -> tuple[dict[str, Denoiser], dict[str, Description]]:
    """The evaluated model and, if there is one, the other; Lightning's Trainer moves them to their devices.

    Raises:
        ConfigError: models for images of different sizes.
        CheckpointError: see `sdedit_pl.checkpoints.load_denoiser`.
    """
    files = {MODEL: arguments.ckpt, **({} if arguments.compare is None else {COMPARED: arguments.compare})}
    loaded = {name: load_for_editing(file, "cpu") for name, file in files.items()}
    descriptions = {name: description for name, (_, description) in loaded.items()}
    shapes = {name: description.image_shape for name, description in descriptions.items()}
    if len(set(shapes.values())) > 1:
        (channels, size), (other_channels, other_size) = shapes.values()
        raise ConfigError(
            f"ckpt and compare must be of images of one size, got {size} px with {channels} channels and "
            f"{other_size} px with {other_channels}"
        )
    return {name: denoiser for name, (denoiser, _) in loaded.items()}, descriptions


def settings_of(arguments: Arguments, description: Description) -> EvaluationSettings:
    """What is evaluated.

    Raises:
        ValueError: an argument out of range, or an unknown name.
    """
    t0 = default_t0(description.path) if arguments.t0 is None else arguments.t0
    edit = SDEdit(
        t0=t0,
        steps=arguments.steps,
        repeats=arguments.repeats,
        solver=build_unless_usual(arguments.solver),
        grid=build_unless_usual(arguments.grid),
        variant=arguments.variant,
    )
    return EvaluationSettings(
        edit=edit,
        tasks=arguments.tasks,
        baselines=arguments.baselines,
        ablations=arguments.ablations,
        values=arguments.ablation,
        seed=arguments.seed,
    )


def paired(plan: EvaluationPlan, groups: Sequence[int]) -> Partners:
    """Which image is pasted on which, where the plan pastes at all."""
    pastes = any(task.pastes for task in plan.inputs.values())
    return partners(groups, plan.settings.seed) if pastes else Partners([], [])


def check_counts(arguments: Arguments, plan: EvaluationPlan, store: ImageStore, groups: Sequence[int]) -> None:
    """Refuses sets that are too small to be measured, before anything is edited.

    Raises:
        ConfigError: fewer images, or groups of images, than a metric needs; it says how many are needed.
    """
    needed = max(LEAST_IMAGES, arguments.kid_subset or 0)
    if store.count < needed:
        raise ConfigError(
            f"{'kid_subset' if needed > LEAST_IMAGES else 'an evaluation'} needs at least {needed} images, and there "
            f"are {store.count} with split={arguments.split} and images={arguments.images}; give more images, "
            "split=all if training has seen none of them, or a smaller kid_subset"
        )
    for found, whose in ((groups, "images"), (store.partners.groups, "pairs of groups that are pasted on each other")):
        count = len(set(found))
        if found and count < LEAST_GROUPS:
            raise ConfigError(
                f"KID needs at least {LEAST_GROUPS} groups of {whose}, and the {store.count} images have {count}; give "
                f"more images" + (", or tasks without compositing" if whose != "images" else "")
            )


def record_of(
    arguments: Arguments,
    plan: EvaluationPlan,
    images: ChosenImages,
    groups: Sequence[int],
    descriptions: Mapping[str, Description],
    computing: ComputeSettings,
) -> EvaluationRecord:
    """What the images are made of."""
    originals = {
        "images": f"{len(images)} with names of sha256 {digest_of(images.names)}",
        "format": "{} channels, {} px".format(*descriptions[MODEL].image_shape),
    }
    identities = {name: fingerprint(description.path) + computing.recipe for name, description in descriptions.items()}
    return EvaluationRecord(originals, plan.recipes(identities, digest_of([str(group) for group in groups])))


def build_lpips(arguments: Arguments, plan: EvaluationPlan, store: ImageStore) -> tuple[MaskedLPIPS | None, list[str]]:
    """What measures kept pixels, or None, and then why, where it is wanted and cannot be had."""
    if arguments.lpips == "none" or not any(plan.inputs[task].masked for task in plan.tables):
        return None, []
    if store.format.size < SMALLEST:
        return None, [f"There is no masked LPIPS: it needs images of at least {SMALLEST} px."]
    try:
        return MaskedLPIPS(arguments.lpips, arguments.lpips_weights), []
    except WeightsUnavailable as error:
        reason = str(error).replace(" weights=", " lpips_weights=")
        if speaks():
            logger.warning("masked LPIPS is left out: %s", reason)
        return None, [f"There is no masked LPIPS: {reason}."]


def first_process(out: Path) -> AbstractContextManager[Path | None]:
    """Where the report is written by the first process; nothing for the others."""
    return ResultFolder(out) if speaks() else nullcontext()


def facts(
    arguments: Arguments,
    words: Sequence[str],
    models: Mapping[str, Denoiser],
    descriptions: Mapping[str, Description],
    evaluation: Measurement,
) -> dict[str, Any]:
    """What the numbers are of."""
    plan, store = evaluation.plan, evaluation.store
    edit, sde = plan.settings.edit, models[MODEL].sde
    level = sde.noise_level(torch.tensor(start_time(edit.t0, sde), dtype=torch.float64))
    told_edit = {"t0": edit.t0, "noise_level": level.item(), "steps": edit.step_count, "all": repr(edit)}
    inputs = {ORIGINAL: store.originals, **{name: store.pictures(f"{name}/{GUIDE}") for name in plan.inputs}}
    return {
        **{name: identity(models[name], descriptions[name]) for name in models},
        "settings": {**{key: value for key, value in as_data(arguments).items() if key not in FREE}, "edit": told_edit},
        "command": f"sdedit evaluate {shlex.join(kept for kept in words if kept.partition('=')[0] not in FREE)}",
        "images": {
            "count": store.count,
            "size": store.format.size,
            "groups": len(set(evaluation.groups)),
            "digests": {name: pictures.digest() for name, pictures in inputs.items()},
        },
        "features": {"name": arguments.features.name, "identity": evaluation.instruments.features.identity},
        "versions": {"sdedit_pl": version("sdedit_pl"), "torch": str(torch.__version__)},
    }


def identity(denoiser: Denoiser, description: Description) -> dict[str, Any]:
    """Which model it was."""
    return {
        "file": str(description.path),
        "sha256": fingerprint(description.path),
        "parameters": description.parameters,
        "sde": repr(denoiser.sde),
    }


def summary(numbers: Mapping[str, Any]) -> str:
    """KID and L2 of each task's methods, a line each."""
    return "\n".join(
        f"{task}, {method}: KID {found['kid']:.4f}, L2 {found['squared_l2']:.2f}"
        for task, methods in numbers["tasks"].items()
        for method, found in methods.items()
    )
