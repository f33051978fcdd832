"""The paper's evaluation of a model of any domain: tasks, what it is compared with, ablations, and the report."""

from __future__ import annotations

from sdedit_pl.evaluation.ablations import ABLATIONS, AblationValues
from sdedit_pl.evaluation.plan import Settings, make_plan
from sdedit_pl.evaluation.tasks import TASKS
from sdedit_pl.evaluation.ways import BASELINES

__all__ = ["ABLATIONS", "BASELINES", "TASKS", "AblationValues", "Settings", "make_plan"]
