"""The plan of an evaluation: sets of inputs, and columns, each a method applied to a set of inputs.

It depends only on the settings. An edit that ablations share with each other or the tables is one column, made once. A
folder's recipe is a text that states everything its images depend on; images of another recipe are not reused.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from sdedit_pl.denoiser import Denoiser
from sdedit_pl.editing import SDEdit
from sdedit_pl.evaluation.ablations import ABLATIONS, MODEL, AblationValues, AblationVariant
from sdedit_pl.evaluation.editing_tasks import TASKS, EditingTask, StrokeSynthesis
from sdedit_pl.evaluation.methods import BASELINES, Method, SDEditMethod

ORIGINAL = "original"

GUIDE, MASK, OURS = "guide", "mask", "sdedit"
SAMPLES = "samples"
"""The folder of the unconditional samples, which have the shape of the originals and no guide."""
STROKE_TASK = "stroke_synthesis"


@dataclass(frozen=True)
class Column:
    """A method applied to a set of inputs; the set `ORIGINAL` holds the validation images themselves."""

    inputs: str
    method: Method
    model: str = MODEL


@dataclass(frozen=True)
class EvaluationPlan:
    """The images that an evaluation makes.

    Args:
        inputs: name of a set of inputs -> the task that makes it.
        columns: folder INPUTS/NAME -> the column whose images it holds.
        tables: task -> methods of its table, whose images are in the folder TASK/METHOD.
        ablations: name of an ablation -> its variants with their folders.
    """

    edit: SDEdit
    seed: int
    inputs: Mapping[str, EditingTask]
    columns: Mapping[str, Column]
    tables: Mapping[str, Sequence[str]]
    ablations: Mapping[str, Sequence[tuple[AblationVariant, str]]]

    def check(self, models: Mapping[str, Denoiser]) -> None:
        """Raises ValueError, which names the folder, for a column that cannot be made."""
        for folder, column in self.columns.items():
            try:
                column.method.check(models[column.model])
            except ValueError as error:
                raise ValueError(f"{folder}: {error}") from error

    def recipes(self, identities: Mapping[str, str], groups: str) -> dict[str, str]:
        """Folder -> its recipe: what its images depend on besides the validation images.

        `identities` maps model names to hashes; `groups` is a hash of the images' groups, on which composites depend.
        """
        inputs = {
            f"{name}/{GUIDE}": f"{task!r}, seed={self.seed}" + (f", groups={groups}" if task.pastes else "")
            for name, task in self.inputs.items()
        }
        columns = {
            folder: f"{column.method!r}, seed={self.seed}, model={identities[column.model]}"
            for folder, column in self.columns.items()
        }
        return {**inputs, **columns}


def make_plan(
    edit: SDEdit,
    tasks: Sequence[str] = tuple(TASKS),
    baselines: Sequence[str] = tuple(BASELINES),
    ablations: Sequence[str] = (),
    values: AblationValues | None = None,
    seed: int = 0,
) -> EvaluationPlan:
    """The plan for entries of `TASKS`, `BASELINES` and `ABLATIONS`; edit number n has the seed `seed` + n."""
    # With an explicit number of steps, so that an ablation over steps shares the edits of the tables.
    base = replace(edit, steps=edit.step_count)
    inputs: dict[str, EditingTask] = {name: TASKS[name]() for name in tasks}
    columns: dict[str, Column] = {}
    tables: dict[str, list[str]] = {}
    for name in tasks:
        columns[f"{name}/{OURS}"] = Column(name, SDEditMethod(base))
        tables[name] = [GUIDE, OURS]
        for baseline in baselines:
            found = BASELINES[baseline]
            if not found.fits(inputs[name]):
                continue
            tables[name].append(baseline)
            method = found.method(base.t0, base.step_count)
            folder = SAMPLES if found.nearest else f"{name}/{baseline}"
            columns[folder] = Column(ORIGINAL if found.nearest else name, method)
    varied: dict[str, list[tuple[AblationVariant, str]]] = {}
    for name in ablations:
        varied[name] = []
        for value in getattr(values or AblationValues(), name):
            for variant in ABLATIONS[name].variants(base, value):
                folder = _folder_of(variant, base)
                source = folder.partition("/")[0]
                inputs.setdefault(source, variant.task)
                columns.setdefault(folder, Column(source, SDEditMethod(variant.edit), variant.model))
                varied[name].append((variant, folder))
    return EvaluationPlan(edit, seed, inputs, columns, tables, varied)


def _folder_of(variant: AblationVariant, edit: SDEdit) -> str:
    same_task = variant.task == StrokeSynthesis()
    source = STROKE_TASK if same_task else f"{STROKE_TASK}_{variant.task.colours}_colours"
    if variant.model == MODEL and variant.edit == edit:
        return f"{source}/{OURS}"
    name = f"{OURS}_{variant.label}" + ("" if variant.model == MODEL else f"_{variant.model}")
    return f"{source}/{re.sub(r'[^A-Za-z0-9.=+-]+', '_', name)}"
