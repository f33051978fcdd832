"""Which edits `solvers.py` compares, and in which order: what a stopped run should have measured comes first."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from mixture import affordable, all_solvers
from solvers_report import REFERENCES

from sdedit_pl.editing import SDEdit
from sdedit_pl.sde import SDE

EARLY_SOLVERS = ("sde_dpm_solver_2m", "euler_maruyama", "edm_heun", "ancestral", "dpm_solver_2m")
EARLY_EVALUATIONS = (10, 15, 20, 25)
"""What is measured first, on the uniform grid: the best on a Gaussian mixture, and an ODE solver."""


@dataclass(frozen=True)
class Cell:
    """One way to edit all guides of a kind.

    Args:
        t0: how far guides are noised.
        colours: of the guides.
        solver: a name in `all_solvers()`, or "paper".
        grid: a name in `GRIDS`.
        allowed: how often the network may be called for an edit.
    """

    t0: float | str
    colours: int
    solver: str
    grid: str
    allowed: int

    @property
    def block(self) -> str:
        """Shared with what it may be compared with."""
        return f"t0 {self.t0}, {self.colours} colours"

    @property
    def name(self) -> str:
        """Its own."""
        return f"{self.block}, {self.solver}, {self.grid}, {self.allowed}"

    @property
    def file(self) -> str:
        """Of its sums and images."""
        return self.name.replace(", ", "-").translate(str.maketrans(" :", "__")) + ".safetensors"

    def is_reference(self, steps: int) -> bool:
        """Whether it is a run of `steps` that others are compared with."""
        return self.solver in REFERENCES and self.grid == "uniform" and self.allowed == steps

    @property
    def early(self) -> bool:
        """Whether it is among the cells that are measured first."""
        return self.grid == "uniform" and self.solver in EARLY_SOLVERS and self.allowed in EARLY_EVALUATIONS

    def edit(self, sde: SDE) -> SDEdit | None:
        """What it runs; None where solver or grid refuse it."""
        if self.solver == "paper":
            return SDEdit(self.t0, self.allowed, variant="paper")
        return affordable(sde, self.t0, all_solvers()[self.solver], self.grid, self.allowed)


def planned(settings: Mapping[str, Any], sde: SDE) -> list[Cell]:
    """All cells asked for that can be run: references and promising ones before the others."""
    early, late = [], []
    for colours in settings["colours"]:
        for t0 in settings["t0"]:
            early += [
                Cell(t0, colours, name, "uniform", settings["reference_steps"]) for name in settings["references"]
            ]
            cells = [
                Cell(t0, colours, solver, grid, count)
                for grid in settings["grids"]
                for solver in settings["solvers"]
                for count in settings["evaluations"]
            ]
            early += [cell for cell in cells if cell.early]
            late += [cell for cell in cells if not cell.early]
    return [cell for cell in dict.fromkeys([*early, *late]) if cell.edit(sde) is not None]


def evaluations_of(cell: Cell, sde: SDE) -> int:
    """How often a cell of a plan calls the network for each image."""
    edit = cell.edit(sde)
    assert edit is not None
    per_step = 1 if cell.solver == "paper" else all_solvers()[cell.solver].evaluations_per_step
    return (edit.step_count - 1) * per_step + 1
