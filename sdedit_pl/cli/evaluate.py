"""`sdedit evaluate`: the paper's evaluation of a model, on a user's own images."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from contextlib import nullcontext
from pathlib import Path
from typing import Any

from sdedit_pl.build.component import build_unless_default
from sdedit_pl.checkpoints import describe
from sdedit_pl.checkpoints.guidance_settings import GuidanceSettings, load_guided
from sdedit_pl.cli import is_first_process, say
from sdedit_pl.configuration.schema import Command
from sdedit_pl.edit_runs.edit_plan import default_t0
from sdedit_pl.editing import SDEdit
from sdedit_pl.evaluation.ablations import COMPARED, MODEL
from sdedit_pl.evaluation.evaluation_arguments import UNRECORDED_KEYS, EvaluationArguments
from sdedit_pl.evaluation.image_store import check_place
from sdedit_pl.evaluation.report_document import METRICS_FILE, REPORT_HTML, REPORT_MARKDOWN, log_to_wandb
from sdedit_pl.evaluation.run_evaluation import EvaluatedModel, run_evaluation
from sdedit_pl.result_folder import files_recorded_in, refuse_others, result_folder

USAGE = """sdedit evaluate ckpt=FILE data=FOLDER|SHARDS [key=value ...]

Makes the inputs of the SDEdit paper's tasks from validation images, edits them, measures the edits and the baselines,
and writes report.html, report.md and metrics.json to `out`, with all images. The same command resumes an interrupted
evaluation; other tasks, baselines, ablations or outputs are added to it."""

COMMAND = Command(
    USAGE,
    EvaluationArguments,
    first=(
        *("ckpt", "data", "out", "images", "tasks", "baselines"),
        *("ablations", "outputs", "t0", "compare", "split", "lpips"),
    ),
    examples=(
        "sdedit evaluate ckpt=runs/mine data=photos/ out=outputs/evaluation",
        "sdedit evaluate ckpt=runs/mine data=new/ split=all tasks=[stroke_editing] ablations=[t0,steps]",
        "sdedit evaluate ckpt=runs/mine data=photos/ outputs.theirs=their_edits/",
    ),
)


def run(words: list[str]) -> None:
    arguments = COMMAND.parse(words)
    out = Path(arguments.out)
    check_place(out)
    arguments = arguments.for_edits(describe(arguments.ckpt))
    models = load_models(arguments)
    shown = [word for word in words if word.partition("=")[0] not in UNRECORDED_KEYS]
    # Only the first process writes the report.
    replaced: set[str] = set()
    with result_folder(out, replaced=replaced) if is_first_process() else nullcontext() as results:
        replaced |= files_recorded_in(out / METRICS_FILE)
        refuse_others(out, {METRICS_FILE, REPORT_HTML, REPORT_MARKDOWN} - replaced)
        command = f"sdedit evaluate {shlex.join(shown)}"
        found = run_evaluation(arguments, edit_of(arguments, models[MODEL]), models, command)
        if found is None or results is None:
            return
        numbers, report = found
        report.write(results, numbers)
    if arguments.wandb is not None:
        log_to_wandb(report, arguments.wandb, out, numbers)
    say(f"{metrics_summary(numbers)}\nthe report: {out / REPORT_HTML}")


def load_models(arguments: EvaluationArguments) -> dict[str, EvaluatedModel]:
    """The evaluated model and, if given, the compared one, on the CPU; raises ValueError if image shapes differ."""
    files = {MODEL: arguments.ckpt, **({} if arguments.compare is None else {COMPARED: arguments.compare})}
    models = {}
    for name, file in files.items():
        guidance = arguments if name == MODEL else GuidanceSettings(guidance=None).for_edits(describe(file))
        denoiser, description = load_guided(file, "cpu", guidance)
        models[name] = EvaluatedModel(denoiser, description, guidance.recipe(description.path))
    shapes = [model.description.image for model in models.values()]
    if len(set(shapes)) > 1:
        raise ValueError(f"ckpt and compare must have images of one size, got {' and '.join(map(str, shapes))}")
    return models


def edit_of(arguments: EvaluationArguments, model: EvaluatedModel) -> SDEdit:
    return SDEdit(
        t0=default_t0(model.description.path) if arguments.t0 is None else arguments.t0,
        steps=arguments.steps,
        repeats=arguments.repeats,
        solver=build_unless_default(arguments.solver),
        grid=build_unless_default(arguments.grid),
        variant=arguments.variant,
    )


def metrics_summary(numbers: Mapping[str, Any]) -> str:
    return "\n".join(
        f"{task}, {method}: KID {found['kid']:.4f}, L2 {found['squared_l2']:.2f}"
        for task, methods in numbers["tasks"].items()
        for method, found in methods.items()
    )
