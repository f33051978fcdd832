"""Ablations of an edit: one setting varied at a time, on simulated strokes.

Source: Meng et al., "SDEdit", ICLR 2022, figure 3 (t0), table 4 (guide quality), section 4 and appendix C (VP and VE).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple, TypeAlias

from sdedit_pl.editing import SDEdit
from sdedit_pl.editing.sdedit import DEFAULT_SOLVER
from sdedit_pl.evaluation.editing_tasks import StrokeSynthesis
from sdedit_pl.grids import start_number
from sdedit_pl.solvers import SOLVERS

AblationValue: TypeAlias = int | float | str

MODEL, COMPARED = "ckpt", "compare"
"""The evaluated model and the one it is compared with, under the names of their command line keys."""


@dataclass
class AblationValues:
    """The values of each ablation; only those named in `ablations` are used.

    Args:
        t0: times or noise levels.
        colours: numbers of colours of the simulated strokes.
        repeats: numbers of repeats of the edit, K.
        steps: numbers of solver steps.
        solver: solvers, with their default settings.
        sde: noise levels at which both models edit, as sigma / alpha on images in [-1, 1].
    """

    t0: tuple[float | str, ...] = (0.2, 0.3, 0.4, 0.5, 0.6, 0.7)
    colours: tuple[int, ...] = (3, 6, 16, 30, 50)
    repeats: tuple[int, ...] = (1, 2, 3)
    steps: tuple[int, ...] = (10, 20, 50, 100, 200)
    solver: tuple[str, ...] = ("ancestral", "ddim", "sde_dpm_solver_2m", "er_sde")
    sde: tuple[float, ...] = (0.5, 1.0, 2.0, 4.0)

    def __post_init__(self) -> None:
        for name, ablation in ABLATIONS.items():
            values = getattr(self, name)
            if not values:
                raise ValueError(f"{name} needs at least one value; leave it out of ablations= to skip it")
            if len(set(values)) < len(values):
                raise ValueError(f"{name} holds a value twice: {list(values)}")
            for value in values:
                ablation.variants(SDEdit(), value)


class AblationVariant(NamedTuple):
    """One edit of an ablation; `label` is its name in tables and plots, `task` makes its guides."""

    label: str
    edit: SDEdit
    task: StrokeSynthesis = StrokeSynthesis()
    model: str = MODEL


@dataclass(frozen=True)
class Ablation:
    """A setting that is varied; `variants` lists the edits for one value, by both models if `compares` is set."""

    title: str
    variants: Callable[[SDEdit, AblationValue], Sequence[AblationVariant]]
    compares: bool = False


def _with_colours(edit: SDEdit, value: AblationValue) -> list[AblationVariant]:
    if not 2 <= int(value) <= 256:
        raise ValueError(f"a stroke painting has 2 to 256 colours, got {value}; the paper uses 6")
    return [AblationVariant(f"{value} colours", edit, StrokeSynthesis(int(value)))]


def _solved_by(edit: SDEdit, value: AblationValue) -> list[AblationVariant]:
    if value not in SOLVERS:
        raise ValueError(f"solver must be one of {', '.join(SOLVERS)}, got {value!r}")
    # None for the default, as in the edits of the tables, so that both are one column.
    solver = None if value == DEFAULT_SOLVER else SOLVERS[str(value)]()
    return [AblationVariant(str(value), replace(edit, solver=solver))]


def _at_noise_level(edit: SDEdit, value: AblationValue) -> list[AblationVariant]:
    t0 = f"sigma:{value:g}" if isinstance(value, int | float) else value
    start_number(t0)
    return [AblationVariant(t0, replace(edit, t0=t0), model=model) for model in (MODEL, COMPARED)]


ABLATIONS: dict[str, Ablation] = {
    "t0": Ablation("how far guides are noised", lambda edit, t0: [AblationVariant(f"t0={t0}", replace(edit, t0=t0))]),
    "colours": Ablation("the quality of guides", _with_colours),
    "repeats": Ablation(
        "how often the edit is repeated", lambda edit, k: [AblationVariant(f"K={k}", replace(edit, repeats=int(k)))]
    ),
    "steps": Ablation(
        "the number of solver steps", lambda edit, n: [AblationVariant(f"{n} steps", replace(edit, steps=int(n)))]
    ),
    "solver": Ablation("the solver", _solved_by),
    "sde": Ablation("two models at the same noise level", _at_noise_level, compares=True),
}
