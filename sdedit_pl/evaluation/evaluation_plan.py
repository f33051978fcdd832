"""The plan of an evaluation: sets of inputs, and columns, each a method applied to a set of inputs.

It depends only on the settings. An edit that ablations share with each other or with the tables is one column and is
made once. A folder's recipe is a text of everything its images depend on; images of another recipe are not reused.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

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
class EvaluationSettings:
    """Edit number n has the seed `seed` + n. Raises ValueError for bad names, or neither tasks nor ablations."""

    edit: SDEdit
    tasks: Sequence[str] = tuple(TASKS)
    baselines: Sequence[str] = tuple(BASELINES)
    ablations: Sequence[str] = ()
    values: AblationValues = field(default_factory=AblationValues)
    seed: int = 0

    def __post_init__(self) -> None:
        for name, table in (("tasks", TASKS), ("baselines", BASELINES), ("ablations", ABLATIONS)):
            chosen = getattr(self, name)
            for entry in chosen:
                if entry not in table:
                    raise ValueError(f"{name} must be some of {', '.join(table)}, got {entry!r}")
            if len(set(chosen)) < len(chosen):
                raise ValueError(f"{name} names an entry twice: {', '.join(chosen)}")
        if not self.tasks and not self.ablations:
            raise ValueError("there is nothing to evaluate: give tasks= or ablations=")


@dataclass(frozen=True)
class EvaluationPlan:
    """The images that an evaluation makes.

    Args:
        inputs: name of a set of inputs -> the task that makes it.
        columns: folder INPUTS/NAME -> the column whose images it holds.
        tables: task -> methods of its table, whose images are in the folder TASK/METHOD.
        ablations: name of an ablation -> its variants with their folders.
    """

    settings: EvaluationSettings
    inputs: Mapping[str, EditingTask]
    columns: Mapping[str, Column]
    tables: Mapping[str, Sequence[str]]
    ablations: Mapping[str, Sequence[tuple[AblationVariant, str]]]

    def check(self, models: Mapping[str, Denoiser]) -> None:
        """Raises ValueError with a column's folder if the column cannot be made."""
        for folder, column in self.columns.items():
            try:
                column.method.check(models[column.model])
            except ValueError as error:
                raise ValueError(f"{folder}: {error}") from error

    def recipes(self, identities: Mapping[str, str], groups: str) -> dict[str, str]:
        """Folder -> a text of everything its images depend on besides the validation images.

        `identities` are hashes of the models by name, `groups` of the images' groups, on which composites depend.
        """
        seed = self.settings.seed
        inputs = {
            f"{name}/{GUIDE}": f"{task!r}, seed={seed}" + (f", groups={groups}" if task.pastes else "")
            for name, task in self.inputs.items()
        }
        columns = {
            folder: f"{column.method!r}, seed={seed}, model={identities[column.model]}"
            for folder, column in self.columns.items()
        }
        return {**inputs, **columns}


def make_plan(settings: EvaluationSettings) -> EvaluationPlan:
    # With an explicit number of steps, so that an ablation over steps shares the edits of the tables.
    edit = replace(settings.edit, steps=settings.edit.step_count)
    inputs: dict[str, EditingTask] = {name: TASKS[name]() for name in settings.tasks}
    columns: dict[str, Column] = {}
    tables: dict[str, list[str]] = {}
    for name in settings.tasks:
        columns[f"{name}/{OURS}"] = Column(name, SDEditMethod(edit))
        tables[name] = [GUIDE, OURS]
        for baseline in settings.baselines:
            found = BASELINES[baseline]
            if not found.fits(inputs[name]):
                continue
            tables[name].append(baseline)
            method = found.method(edit.t0, edit.step_count)
            folder = SAMPLES if found.nearest else f"{name}/{baseline}"
            columns[folder] = Column(ORIGINAL if found.nearest else name, method)
    ablations: dict[str, list[tuple[AblationVariant, str]]] = {}
    for name in settings.ablations:
        ablations[name] = []
        for value in getattr(settings.values, name):
            for variant in ABLATIONS[name].variants(edit, value):
                folder = _folder_of(variant, edit)
                source = folder.partition("/")[0]
                inputs.setdefault(source, variant.task)
                columns.setdefault(folder, Column(source, SDEditMethod(variant.edit), variant.model))
                ablations[name].append((variant, folder))
    return EvaluationPlan(settings, inputs, columns, tables, ablations)


def _folder_of(variant: AblationVariant, edit: SDEdit) -> str:
    same_task = variant.task == StrokeSynthesis()
    source = STROKE_TASK if same_task else f"{STROKE_TASK}_{variant.task.colours}_colours"
    if variant.model == MODEL and variant.edit == edit:
        return f"{source}/{OURS}"
    name = f"{OURS}_{variant.label}" + ("" if variant.model == MODEL else f"_{variant.model}")
    return f"{source}/{re.sub(r'[^A-Za-z0-9.=+-]+', '_', name)}"
