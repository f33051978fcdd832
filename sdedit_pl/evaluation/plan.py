"""What an evaluation consists of: sets of inputs, and columns, which are a way applied to a set of inputs.

A plan is made of settings alone, before anything is read or edited. What ablations share with each other and with the
tables is one column and is made once. Each folder of the plan has a recipe, a text that says all that its images
depend on; a folder that was made by another recipe cannot be gone on with.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from sdedit_pl.denoiser import Denoiser
from sdedit_pl.editing import SDEdit
from sdedit_pl.evaluation.ablations import ABLATIONS, MODEL, AblationValues, Variant
from sdedit_pl.evaluation.tasks import TASKS, StrokeSynthesis, Task
from sdedit_pl.evaluation.ways import BASELINES, Edit, Way

ORIGINAL = "original"
"""The folder of the validation images."""
GUIDE, MASK, OURS = "guide", "mask", "sdedit"
SAMPLES = "samples"
"""The folder of the unconditional samples; they have no guide, and only their shape is taken of the originals."""
STROKES = "stroke_synthesis"


@dataclass(frozen=True)
class Column:
    """A way applied to a set of inputs.

    Args:
        inputs: name of the set, `ORIGINAL` for the validation images themselves.
        way: the way.
        model: which model.
    """

    inputs: str
    way: Way
    model: str = MODEL


@dataclass(frozen=True)
class Settings:
    """What is evaluated.

    Args:
        edit: SDEdit as it is judged.
        tasks: names in `TASKS`.
        baselines: names in `BASELINES`.
        ablations: names in `ABLATIONS`.
        values: of the ablations.
        seed: of inputs; edit number n has the seed `seed` + n.
    """

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
                    raise ValueError(f"{name} are of {', '.join(table)}, got {entry!r}")
            if len(set(chosen)) < len(chosen):
                raise ValueError(f"{name} names one twice: {', '.join(chosen)}")
        if not self.tasks and not self.ablations:
            raise ValueError("there is nothing to evaluate: give tasks= or ablations=")


@dataclass(frozen=True)
class Plan:
    """What an evaluation makes.

    Args:
        settings: what it was made of.
        inputs: name of a set of inputs -> the task that makes it.
        columns: folder, INPUTS/NAME -> what is made there.
        tables: name of a task -> the methods of its table, each with images in the folder TASK/METHOD.
        ablations: name of an ablation -> its variants with their folders.
    """

    settings: Settings
    inputs: Mapping[str, Task]
    columns: Mapping[str, Column]
    tables: Mapping[str, Sequence[str]]
    ablations: Mapping[str, Sequence[tuple[Variant, str]]]

    def check(self, models: Mapping[str, Denoiser]) -> None:
        """Raises ValueError if something of the plan cannot be done; the message names it."""
        for folder, column in self.columns.items():
            try:
                column.way.check(models[column.model])
            except ValueError as error:
                raise ValueError(f"{folder}: {error}") from error

    def recipes(self, identities: Mapping[str, str], groups: str) -> dict[str, str]:
        """Folder -> what its images depend on besides the validation images.

        Args:
            identities: hashes of the models.
            groups: a hash of the images' groups, on which composites depend.
        """
        seed = self.settings.seed
        inputs = {
            f"{name}/{GUIDE}": f"{task!r}, seed={seed}" + (f", groups={groups}" if task.pastes else "")
            for name, task in self.inputs.items()
        }
        columns = {
            folder: f"{column.way!r}, seed={seed}, model={identities[column.model]}"
            for folder, column in self.columns.items()
        }
        return {**inputs, **columns}


def make_plan(settings: Settings) -> Plan:
    """The plan of an evaluation."""
    # Written out, so that an ablation over steps finds the edits of the tables.
    edit = replace(settings.edit, steps=settings.edit.step_count)
    inputs: dict[str, Task] = {name: TASKS[name]() for name in settings.tasks}
    columns: dict[str, Column] = {}
    tables: dict[str, list[str]] = {}
    for name in settings.tasks:
        columns[f"{name}/{OURS}"] = Column(name, Edit(edit))
        tables[name] = [GUIDE, OURS]
        for baseline in settings.baselines:
            found = BASELINES[baseline]
            if not found.fits(inputs[name]):
                continue
            tables[name].append(baseline)
            way = found.way(edit.t0, edit.step_count)
            folder = SAMPLES if found.nearest else f"{name}/{baseline}"
            columns[folder] = Column(ORIGINAL if found.nearest else name, way)
    ablations: dict[str, list[tuple[Variant, str]]] = {}
    for name in settings.ablations:
        ablations[name] = []
        for value in getattr(settings.values, name):
            for variant in ABLATIONS[name].variants(edit, value):
                folder = _folder_of(variant, edit)
                source = folder.partition("/")[0]
                inputs.setdefault(source, variant.task)
                columns.setdefault(folder, Column(source, Edit(variant.edit), variant.model))
                ablations[name].append((variant, folder))
    return Plan(settings, inputs, columns, tables, ablations)


def _folder_of(variant: Variant, edit: SDEdit) -> str:
    """The folder of a variant; that of the table's edits where it is the same."""
    same_task = variant.task == StrokeSynthesis()
    source = STROKES if same_task else f"{STROKES}_{variant.task.colours}_colours"
    if variant.model == MODEL and variant.edit == edit:
        return f"{source}/{OURS}"
    name = f"{OURS}_{variant.label}" + ("" if variant.model == MODEL else f"_{variant.model}")
    return f"{source}/{re.sub(r'[^A-Za-z0-9.=+-]+', '_', name)}"
